//! Why a run did not finish.

use paraloom_host::{HostError, StageFailure};
use paraloom_hub::{HubError, Reference};
use paraloom_pipeline::RowAccount;
use paraloom_store::StoreError;

/// The result of planning and running.
pub type Result<T, E = RunError> = std::result::Result<T, E>;

/// Why a run did not finish.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stage failed.
    #[error("node `{node}`: {}", failure.message)]
    Stage {
        /// The node.
        node: String,
        /// What the stage says.
        failure: StageFailure,
    },
    /// A stage could not be called.
    #[error("node `{node}`: {source}")]
    Host {
        /// The node.
        node: String,
        /// Why not.
        source: HostError,
    },
    /// There is no thread to work in.
    #[error("cannot start a thread: {source}")]
    Thread {
        /// The system's error.
        source: std::io::Error,
    },
    /// A configuration names something that has to be fetched first.
    #[error("node `{node}`: `{text}` is not on this machine")]
    NotFetched {
        /// The node.
        node: String,
        /// What the pipeline names.
        text: String,
    },
    /// Something that a node reads has not been made.
    #[error("node `{node}` reads `{input}`, which has no result yet")]
    Missing {
        /// The node.
        node: String,
        /// The node that it reads.
        input: String,
    },
    /// Something could not be fetched from a hub.
    #[error("cannot fetch `{reference}`: {source}")]
    Hub {
        /// What the pipeline names.
        reference: String,
        /// Why not.
        source: HubError,
    },
    /// The run was asked to stop. What was committed stays.
    #[error("stopped")]
    Stopped,
    /// A file that a node reads changed while it was read: what came of it is of no key.
    #[error("node `{node}`: what it reads changed while it was read")]
    InputChanged {
        /// The node.
        node: String,
    },
    /// A stage that reads no file of its own planned something else than when the pipeline was checked.
    #[error(
        "node `{node}`: plan() of stage `{stage}` returned other columns, or another fingerprint, than when the pipeline was checked"
    )]
    PlanChanged {
        /// The node.
        node: String,
        /// Its stage.
        stage: String,
    },
    /// What the pipeline expects of a table cannot be told.
    #[error("cannot tell whether `{table}` is as expected: {what}")]
    Expectation {
        /// The table.
        table: String,
        /// Why not.
        what: String,
    },
    /// The stage does not work with the settings that a request asks for.
    #[error("node `{node}`: {what}")]
    Refused {
        /// The node.
        node: String,
        /// What is wrong with them.
        what: String,
    },
    /// Several nodes failed, in a run that kept going.
    #[error("{} nodes failed{}", .0.len(), list(.0))]
    Several(Vec<RunError>),
    /// A state that is impossible unless the engine has a bug.
    #[error("internal error: {what}")]
    Internal {
        /// What was found.
        what: String,
    },
    /// A whole stage made an output that the engine cannot keep.
    #[error("node `{node}`: {what}")]
    Output {
        /// The node.
        node: String,
        /// What is wrong.
        what: String,
    },
}

/// One line for each error, with its way out.
fn list(errors: &[RunError]) -> String {
    let line = |error: &RunError| match error.hint() {
        Some(hint) => format!("\n  {error} ({hint})"),
        None => format!("\n  {error}"),
    };
    errors.iter().map(line).collect()
}

impl RunError {
    /// How to fix it, if that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Stage { failure, .. } => failure.hint.clone(),
            Self::Host { source, .. } => source.hint(),
            Self::Hub { source, .. } => crate::remotes::near(source).or_else(|| source.hint()),
            Self::Thread { .. } => Some("allow more memory or processes".to_owned()),
            Self::InputChanged { .. } => {
                Some("run again once the file is at rest; what is done stays".to_owned())
            }
            Self::PlanChanged { .. } => Some(
                "a plan may depend on the settings, the inputs' columns and the files that the settings name, and on nothing else"
                    .to_owned(),
            ),
            Self::Internal { .. } => Some(
                "this is a bug of paraloom: please report it with the command and the pipeline"
                    .to_owned(),
            ),
            Self::NotFetched { .. } => Some("run again: it is fetched then".to_owned()),
            Self::Missing { input, .. } => {
                Some(format!("`paraloom run PIPELINE --until {input}` makes it"))
            }
            _ => None,
        }
    }

    /// Whether the same call may succeed when it is made again.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self, Self::Stage { failure, .. } if failure.retryable)
    }

    /// What the stage says, without the name of its node.
    pub(crate) fn of_the_stage(&self) -> String {
        match self {
            Self::Stage { failure, .. } => failure.message.clone(),
            Self::Host { source, .. } => source.to_string(),
            Self::Output { what, .. } => what.clone(),
            other => other.to_string(),
        }
    }

    /// A stage has not done with its rows what it declares.
    pub(crate) fn miscounted(node: &str, account: RowAccount, what: String) -> Self {
        let declared = match account {
            RowAccount::Any => "",
            RowAccount::Kept => "; it declares that every output has each row once",
            RowAccount::Divided => "; it declares that each row is in one of its outputs",
            RowAccount::Covered => "; it declares that of each row comes at least one",
        };
        Self::Output {
            node: node.to_owned(),
            what: format!("the stage miscounts its rows: {what}{declared}"),
        }
    }

    pub(crate) fn from_hub(reference: &Reference, source: HubError) -> Self {
        match source {
            HubError::Stopped => Self::Stopped,
            source => Self::Hub { reference: reference.to_string(), source },
        }
    }

    /// Rows that cannot be kept are the stage's fault; anything else is not.
    pub(crate) fn from_store(node: &str, error: StoreError) -> Self {
        match error {
            StoreError::Rows { .. } => {
                Self::Output { node: node.to_owned(), what: error.to_string() }
            }
            error => Self::Store(error),
        }
    }

    pub(crate) fn from_host(node: &str, error: HostError) -> Self {
        match error {
            HostError::Stage(failure) if failure.is_cancelled() => Self::Stopped,
            HostError::Stage(failure) => Self::Stage { node: node.to_owned(), failure },
            HostError::Engine(source) => match source.downcast::<Self>() {
                Ok(error) => *error,
                Err(source) => match source.downcast::<StoreError>() {
                    Ok(error) => Self::from_store(node, *error),
                    Err(source) => {
                        Self::Host { node: node.to_owned(), source: HostError::Engine(source) }
                    }
                },
            },
            source => Self::Host { node: node.to_owned(), source },
        }
    }
}
