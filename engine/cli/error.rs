//! Errors of the command line, and the exit code of each.

use std::path::Path;
use std::process::ExitCode;

use paraloom_exec::RunError;
use paraloom_host::HostError;
use paraloom_serve::ServeError;
use paraloom_store::{StoreError, free_bytes};

use crate::render;

pub(crate) const NODE_FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
/// The run is complete, but an expectation of the pipeline is not met.
pub(crate) const UNEXPECTED: u8 = 4;
const STORE_IN_USE: u8 = 6;
const STORE_DAMAGED: u8 = 7;
const LIBRARY_REFUSED: u8 = 8;
const OUT_OF_SPACE: u8 = paraloom_alloc::EXIT_CODE;

pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct CliError {
    code: u8,
    message: String,
    hint: Option<String>,
    /// The error has been printed already.
    silent: bool,
}

impl CliError {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, silent: false }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// The same error, with its context: `in run …`, `with least=4.5`.
    pub(crate) fn before(mut self, when: &str) -> Self {
        self.message = format!("{when}, {}", self.message);
        self
    }

    /// Everything has been printed already.
    pub(crate) fn silent(code: u8) -> Self {
        Self { silent: true, ..Self::new(code, "") }
    }

    /// Whether there is nothing to print and nothing failed: a reader needs no more.
    pub(crate) fn is_quiet(&self) -> bool {
        self.silent && self.code == 0
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Writing to stdout failed. A closed pipe is no error: its reader needs no more.
    pub(crate) fn stdout(error: std::io::Error) -> Self {
        let message = format!("cannot write to stdout: {error}");
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::silent(0),
            _ => Self::of_system(message, &error),
        }
    }

    /// An output file could not be written.
    pub(crate) fn writing(path: &Path, error: &std::io::Error) -> Self {
        Self::of_system(format!("cannot write {}: {error}", path.display()), error)
    }

    /// The same, for a file of which `needed` bytes were to be written so far; its final size is not known.
    pub(crate) fn no_room(path: &Path, needed: u64, error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::silent(0);
        }
        let free = free_bytes(path).filter(|_| error.kind() == std::io::ErrorKind::StorageFull);
        let room = match free {
            Some(free) => format!("at least {needed} bytes are needed, {free} are free ({error})"),
            None if is_full(&error) => format!("at least {needed} bytes are needed ({error})"),
            None => error.to_string(),
        };
        Self::of_system(format!("cannot write {}: {room}", path.display()), &error)
    }

    fn of_system(message: String, error: &std::io::Error) -> Self {
        if is_full(error) {
            Self::new(OUT_OF_SPACE, message).hint(more_room(error))
        } else {
            Self::new(NODE_FAILED, message)
        }
    }

    pub(crate) fn report(self) -> ExitCode {
        if !self.silent {
            render::error(&self.message, self.hint.as_deref());
        }
        ExitCode::from(self.code)
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | FileTooLarge | QuotaExceeded)
}

/// The hint for a file for which there is no space.
fn more_room(source: &std::io::Error) -> &'static str {
    if source.kind() == std::io::ErrorKind::FileTooLarge {
        "raise the limit on the size of a file (`ulimit -f`) and run again"
    } else {
        "free some space and run again: what is done stays"
    }
}

/// The hint for an operation other than a write for which there is no space.
fn scarce(source: &std::io::Error) -> Option<(&'static str, &'static str)> {
    const TOO_MANY_OPEN_FILES: [i32; 2] = [23, 24];
    if source.kind() == std::io::ErrorKind::OutOfMemory {
        let hint = "free some memory, or raise the limit on it (`ulimit -v`), and run again: what is done stays";
        return Some(("out of memory: ", hint));
    }
    let is_of_files = source.raw_os_error().is_some_and(|code| TOO_MANY_OPEN_FILES.contains(&code));
    is_of_files.then_some((
        "",
        "raise the limit on open files (`ulimit -n`), or run fewer nodes at once (--jobs)",
    ))
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        if let StoreError::Io { source, .. } = &error
            && let Some((what, hint)) = scarce(source)
        {
            return Self::new(OUT_OF_SPACE, format!("{what}{error}")).hint(hint);
        }
        let (code, hint) = match &error {
            StoreError::Locked { .. } => (STORE_IN_USE, "wait until it is done"),
            StoreError::Damaged { .. } => {
                (STORE_DAMAGED, "`paraloom verify` finds all damage; `run` then makes it again")
            }
            StoreError::Format { .. } => (
                STORE_DAMAGED,
                "name another directory with --store, or use the engine that made it",
            ),
            StoreError::Full { source, .. } => (OUT_OF_SPACE, more_room(source)),
            StoreError::PinName { .. } => (USAGE, ""),
            StoreError::Taken { .. } => (USAGE, "name another directory with --store"),
            StoreError::NoBucket { .. } => (USAGE, "make it first, or name another one"),
            StoreError::Remote { .. } => {
                (NODE_FAILED, "what is done stays: run again once it can be reached")
            }
            StoreError::Conflict { .. } => (
                NODE_FAILED,
                "the stage gave something else on another machine: make it deterministic, or run again to go on with what is there",
            ),
            StoreError::NoConditions { .. } => (
                USAGE,
                "use a bucket that honours `If-None-Match: *` when an object is written, or a directory",
            ),
            StoreError::Io { .. } | StoreError::Rows { .. } => (NODE_FAILED, ""),
        };
        let failure = Self::new(code, error.to_string());
        if hint.is_empty() { failure } else { failure.hint(hint) }
    }
}

impl From<HostError> for CliError {
    fn from(error: HostError) -> Self {
        Self::new(LIBRARY_REFUSED, error.to_string())
    }
}

impl From<RunError> for CliError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Store(error) => error.into(),
            RunError::Stage { ref failure, .. } => {
                let code = if failure.is_resource() { OUT_OF_SPACE } else { NODE_FAILED };
                let mut message = error.to_string();
                if let Some(location) = &failure.location {
                    message = format!("{message}\n  at {location}");
                }
                let more = "free some space or memory and run again: what is done stays";
                let more = failure.is_resource().then(|| more.to_owned());
                Self { hint: failure.hint.clone().or(more), ..Self::new(code, message) }
            }
            RunError::Hub { ref source, .. } => {
                let code = match source {
                    source if source.is_full() => OUT_OF_SPACE,
                    source if source.is_wrong_name() => USAGE,
                    _ => NODE_FAILED,
                };
                Self { hint: error.hint(), ..Self::new(code, error.to_string()) }
            }
            RunError::Thread { .. } => {
                Self { hint: error.hint(), ..Self::new(OUT_OF_SPACE, error.to_string()) }
            }
            error => Self { hint: error.hint(), ..Self::new(NODE_FAILED, error.to_string()) },
        }
    }
}

impl From<ServeError> for CliError {
    fn from(error: ServeError) -> Self {
        let message = error.to_string();
        match error {
            ServeError::Open(_) => Self::usage(message).hint(
                "name a file with a token (--token-file), or say that it may be so (--insecure-no-token)",
            ),
            ServeError::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                Self::new(NODE_FAILED, message).hint("name another port with --bind")
            }
            ServeError::Unanswered => {
                Self::new(NODE_FAILED, message).hint("--drain-timeout gives them longer")
            }
            _ => Self::new(NODE_FAILED, message),
        }
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::of_system(error.to_string(), &error)
    }
}

impl From<arrow::error::ArrowError> for CliError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::new(NODE_FAILED, error.to_string())
    }
}

impl From<parquet::errors::ParquetError> for CliError {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Self::new(NODE_FAILED, error.to_string())
    }
}
