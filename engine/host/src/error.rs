//! What can go wrong between the engine and a stage.

use std::path::PathBuf;

use paraloom_abi::{self as abi, status};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The result of everything that the host does.
pub type Result<T, E = HostError> = std::result::Result<T, E>;

/// Why a library or a stage could not be used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The library was refused.
    #[error("cannot load {}: {reason}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Two libraries offer the same stage.
    #[error("stage `{stage}` is offered by {first} and by {second}")]
    Twice {
        /// The stage.
        stage: String,
        /// The library that was loaded first.
        first: String,
        /// The other one.
        second: String,
    },
    /// No library computes with this backend.
    #[error("there is no backend `{backend}` here")]
    NoBackend {
        /// What was asked for.
        backend: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The library of a backend cannot be loaded.
    #[error("the backend `{backend}` cannot be used: {reason}")]
    Backend {
        /// The backend.
        backend: String,
        /// Why not.
        reason: String,
    },
    /// No library offers the stage.
    #[error("no library offers the stage `{0}`")]
    Missing(String),
    /// The stage itself says what is wrong.
    #[error("{}", .0.message)]
    Stage(StageFailure),
    /// The stage broke the rules of the ABI.
    #[error("stage `{stage}` broke the stage ABI: {what}")]
    Broken {
        /// The stage.
        stage: String,
        /// Which rule.
        what: String,
    },
    /// The process that the stage worked in is gone.
    #[error("the stage crashed: its process ended before the work was done ({how})")]
    Crashed {
        /// The signal, or the exit status.
        how: String,
        /// The last lines that it printed.
        last_words: Vec<String>,
    },
    /// What a sink or a stream of the engine reported; not the stage's fault.
    #[error("{0}")]
    Engine(Box<dyn std::error::Error + Send + Sync>),
}

impl HostError {
    /// The way out, or what helps to find one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Stage(failure) => failure.hint.clone(),
            Self::Crashed { last_words, .. } if !last_words.is_empty() => {
                Some(format!("the last that it printed: {}", last_words.join("\n")))
            }
            _ => None,
        }
    }
}

/// What a stage says is wrong.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StageFailure {
    /// Status code of the ABI.
    pub status: u32,
    /// One line.
    pub message: String,
    /// JSON pointer into the configuration.
    pub pointer: Option<String>,
    /// The input port at fault.
    pub input: Option<String>,
    /// The way out.
    pub hint: Option<String>,
    /// Source file and line of a panic.
    pub location: Option<String>,
    /// The same call may succeed when it is made again.
    pub retryable: bool,
}

impl StageFailure {
    /// Whether the stage stopped because it was asked to.
    pub fn is_cancelled(&self) -> bool {
        self.status == status::CANCELLED
    }

    /// Whether memory, disk or device memory ran out.
    pub fn is_resource(&self) -> bool {
        self.status == status::RESOURCE
    }
}

/// Calls into a stage and reads what it says if it fails.
pub(crate) fn call(body: impl FnOnce(*mut abi::Error) -> u32) -> Result<(), StageFailure> {
    let mut error = abi::Error::empty();
    let code = body(&raw mut error);
    if code == status::OK {
        return Ok(());
    }
    // SAFETY: the stage filled the texts; they live until release.
    let (message, detail) = unsafe { (error.message.to_text(), error.detail.to_text()) };
    if let Some(release) = error.release {
        // SAFETY: release runs once.
        unsafe { release(&raw mut error) };
    }
    let detail: Value = serde_json::from_str(&detail).unwrap_or_default();
    let member = |name: &str| detail.get(name).and_then(Value::as_str).map(str::to_owned);
    let message = if message.is_empty() { format!("failed with status {code}") } else { message };
    Err(StageFailure {
        status: code,
        message,
        pointer: member("pointer"),
        input: member("input"),
        hint: member("hint"),
        location: member("location"),
        retryable: error.flags & abi::ERROR_RETRYABLE != 0,
    })
}

/// Fills an error of the ABI on the host's side, for a stage that calls us.
pub(crate) fn fill(out: *mut abi::Error, message: String) {
    unsafe extern "C" fn release(error: *mut abi::Error) {
        // SAFETY: `fill` leaked the string into private_data; release runs once.
        unsafe {
            drop(Box::from_raw((*error).private_data.cast::<String>()));
            (*error).release = None;
            (*error).message = abi::Str::EMPTY;
        }
    }
    // SAFETY: the stage passes a valid error or null.
    let Some(out) = (unsafe { out.as_mut() }) else { return };
    let message = Box::new(message);
    out.message = abi::Str::new(&message);
    out.private_data = Box::into_raw(message).cast();
    out.release = Some(release);
}
