//! An [`Error`] is what a stage tells the person who runs it.

use std::fmt;
use std::ops::Range;

use paraloom_abi::status;
use serde_json::{Map, Value, json};

/// The result of everything that a stage does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is; decides who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// The configuration is wrong; the user must change it.
    Config = status::CONFIG,
    /// An input's schema does not fit.
    Schema = status::SCHEMA,
    /// A row or a file holds bad data.
    Data = status::DATA,
    /// A named file, model or port is missing.
    NotFound = status::NOT_FOUND,
    /// The operating system refused a read or a write.
    Io = status::IO,
    /// Memory, disk or device memory ran out.
    Resource = status::RESOURCE,
    /// The host asked the stage to stop; not a failure.
    Cancelled = status::CANCELLED,
    /// The stage cannot do this.
    Unsupported = status::UNSUPPORTED,
    /// A bug in the stage.
    Internal = status::INTERNAL,
    /// A bug in the stage: it panicked.
    Panic = status::PANIC,
}

impl Status {
    /// Reads a status code; a code that this side does not know is `Internal`.
    pub fn from_code(code: u32) -> Self {
        [
            Self::Config,
            Self::Schema,
            Self::Data,
            Self::NotFound,
            Self::Io,
            Self::Resource,
            Self::Cancelled,
            Self::Unsupported,
            Self::Panic,
        ]
        .into_iter()
        .find(|status| *status as u32 == code)
        .unwrap_or(Self::Internal)
    }
}

/// A failure with its place and the way out.
///
/// ```
/// use paraloom_sdk::Error;
/// let error = Error::config("epochs must be at least 1").at("/epochs").hint("leave it out for 1");
/// assert_eq!(error.to_string(), "epochs must be at least 1");
/// ```
#[derive(Clone, Debug)]
pub struct Error {
    pub(crate) status: Status,
    pub(crate) message: String,
    pub(crate) detail: Map<String, Value>,
    pub(crate) retryable: bool,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $status:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(Status::$status, message)
        }
    )*};
}

impl Error {
    /// An error of any status.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), detail: Map::new(), retryable: false }
    }

    constructors! {
        /// The configuration is wrong.
        config => Config;
        /// An input's schema does not fit.
        schema => Schema;
        /// A row or a file holds bad data.
        data => Data;
        /// A named thing is missing.
        not_found => NotFound;
        /// A read or a write failed.
        io => Io;
        /// Memory or disk ran out.
        resource => Resource;
        /// The stage cannot do this.
        unsupported => Unsupported;
        /// A bug in the stage.
        internal => Internal;
    }

    /// What [`crate::Services::check_cancelled`] returns once the host asks to stop.
    pub fn cancelled() -> Self {
        Self::new(Status::Cancelled, "stopped")
    }

    /// The place in the configuration, as a JSON pointer such as `/columns/text`.
    #[must_use]
    pub fn at(self, pointer: impl Into<String>) -> Self {
        self.with("pointer", pointer.into())
    }

    /// The input port at fault.
    #[must_use]
    pub fn input(self, port: &str) -> Self {
        self.with("input", port)
    }

    /// The way out, in one line.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        self.with("hint", hint.into())
    }

    /// Tells one more error in the text that [`Error::at`] names, such as an expression: the range of its bytes, what is wrong
    /// there, and the way out. With them the engine shows each error at its place in the pipeline; the message of the whole is
    /// for where there is no such place, and has to tell all of them.
    #[must_use]
    pub fn span(mut self, bytes: Range<usize>, message: &str, hint: Option<&str>) -> Self {
        let span =
            json!({"start": bytes.start, "end": bytes.end, "message": message, "hint": hint});
        let spans = self.detail.entry("spans").or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(spans) = spans {
            spans.push(span);
        }
        self
    }

    /// The same call may succeed when it is made again.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Replaces the message.
    #[must_use]
    pub fn renamed(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// Puts what was tried in front of the message.
    #[must_use]
    pub fn prefixed(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// What kind of failure it is.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The detail of that name, if it was given.
    pub fn detail(&self, name: &str) -> Option<&str> {
        self.detail.get(name).and_then(Value::as_str)
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }
}

/// Bytes that are free where `path` is or is to be, for the message of a file that found no room.
pub fn free_bytes(path: &std::path::Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::data(error.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{FileTooLarge, NotFound, OutOfMemory, QuotaExceeded, StorageFull};
        let status = match error.kind() {
            NotFound => Status::NotFound,
            StorageFull | QuotaExceeded | FileTooLarge | OutOfMemory => Status::Resource,
            _ => Status::Io,
        };
        Self::new(status, error.to_string())
    }
}
