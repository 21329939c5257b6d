//! What can go wrong between the engine and a stage.

use std::path::PathBuf;
use std::time::Duration;

use paraloom_abi::status;
use paraloom_pipeline::FailureSpan;
use serde::{Deserialize, Serialize};

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
    /// Several libraries offer a stage, and it is not said which one is meant.
    #[error("{}", shared(stage, full_names))]
    Shared {
        /// The stage.
        stage: String,
        /// `library/stage` of each; empty if these are the same too.
        full_names: Vec<String>,
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
    #[error("the stage crashed{during}: its process ended before the work was done ({how})")]
    Crashed {
        /// The signal, or the exit status.
        how: String,
        /// Where it was: ` in map(), over 4 rows (\`_id\` a to d)`; empty if that is not known.
        during: String,
        /// The last lines that it printed.
        stderr_tail: Vec<String>,
    },
    /// A call took longer than it may, and the process that the stage worked in was ended.
    #[error("the stage did not end{during} within {} s, so its process was ended", limit.as_secs_f64())]
    Late {
        /// Where it was, as for [`HostError::Crashed`].
        during: String,
        /// How long the call could take.
        limit: Duration,
    },
    /// What a sink or a stream of the engine reported; not the stage's fault.
    #[error("{0}")]
    Engine(Box<dyn std::error::Error + Send + Sync>),
}

fn shared(stage: &str, full_names: &[String]) -> String {
    match full_names.len() {
        0 => format!("two libraries of one name offer the stage `{stage}`"),
        count => format!("{count} libraries offer the stage `{stage}`"),
    }
}

impl HostError {
    /// The way out, or what helps to find one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Stage(failure) => failure.hint.clone(),
            Self::Shared { full_names, .. } => {
                let names: Vec<_> =
                    full_names.iter().map(|name| format!("`stage: {name}`")).collect();
                match names.is_empty() {
                    true => Some("rename one of them".to_owned()),
                    false => Some(format!("say which one: {}", names.join(" or "))),
                }
            }
            Self::Crashed { how, during, stderr_tail } => {
                let printed = match stderr_tail.is_empty() {
                    true => String::new(),
                    false => format!("the last that it printed: {}\n", stderr_tail.join("\n")),
                };
                let find = match during.contains(" rows") {
                    true => "`paraloom stages test PIPELINE NODE` tries its rows one by one; ",
                    false => "",
                };
                let cause = match how.contains("SIGKILL") {
                    true => "somebody ended it, or the system did since memory ran out",
                    false => "a debugger shows the place with `--in-process`",
                };
                Some(format!("{printed}{find}{cause}"))
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
    /// The errors one by one, in the text that `pointer` names.
    #[serde(default)]
    pub spans: Vec<FailureSpan>,
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

    /// Whether the stage panicked.
    pub fn is_panic(&self) -> bool {
        self.status == status::PANIC
    }

    /// Whether memory, disk or device memory ran out.
    pub fn is_resource(&self) -> bool {
        self.status == status::RESOURCE
    }
}
