//! The messages between the engine and the process of a stage, as docs/stage-protocol.md describes them for other
//! programs that speak the protocol.

use std::path::PathBuf;

use paraloom_pipeline::PlanInput;
use serde::{Deserialize, Serialize};

use crate::description::Description;
use crate::error::{HostError, StageFailure};
use crate::executor::{WorkOutput, WorkSettings};
use crate::services::{Level, ServiceError};

/// Version of the protocol: of the messages, and of what they mean. Changed with anything that a program of before would not
/// understand.
pub(super) const PROTOCOL: u32 = 1;

/// The first message in each direction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// What [`PROTOCOL`] is there.
    pub(super) protocol: u32,
    /// Name and version, for messages.
    pub(super) program: String,
}

impl Hello {
    /// Of this program.
    pub(super) fn ours() -> Self {
        let program = concat!("paraloom ", env!("CARGO_PKG_VERSION")).to_owned();
        Self { protocol: PROTOCOL, program }
    }
}

/// Schemas or batches that go with a message.
pub(super) type Blobs = Vec<Vec<u8>>;

/// What the engine says to a stage's process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToStage<C = Command> {
    /// Comes first.
    Hello(Hello),
    /// Answered by [`ToEngine::Done`]; one at a time.
    Command(C),
    /// To [`ToEngine::Request`]. Rows are in a blob.
    Answer(u64, Result<Answer, ServiceError>),
    /// The work should stop.
    Cancel,
}

/// What a stage's process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Command {
    /// Load a library, if it is still the one with this digest.
    Load { path: PathBuf, digest: String },
    /// Plan; the schemas of the tables among the inputs are in blobs.
    Plan(PlanRequest),
    /// Run a whole stage; the schemas of the tables among the inputs are in blobs.
    Run(Work),
    /// Open a map stage; blobs as for `run`.
    Open(Work),
    /// Map the rows in the blob.
    Map,
    /// Close the map stage.
    Close,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PlanRequest {
    pub(super) stage: String,
    pub(super) node: String,
    pub(super) config: serde_json::Value,
    pub(super) inputs: Vec<PlanEdge>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PlanEdge {
    pub(super) port: usize,
    pub(super) label: String,
    pub(super) is_table: bool,
    pub(super) note: String,
}

impl From<&PlanInput> for PlanEdge {
    fn from(input: &PlanInput) -> Self {
        let PlanInput { port, label, schema, note } = input;
        let (label, note) = (label.clone(), note.clone());
        Self { port: *port, label, is_table: schema.is_some(), note }
    }
}

/// How a stage is to work, and on what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Work {
    pub(super) settings: WorkSettings,
    /// How far apart checkpoints are to be; 0 is after every step.
    pub(super) checkpoint_ms: u64,
    /// One for each edge, in the order of the plan.
    pub(super) inputs: Vec<InputKind>,
    /// One for each output port.
    pub(super) outputs: Vec<OutputKind>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum InputKind {
    Table,
    Artifact(PathBuf),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OutputKind {
    Table,
    Artifact(PathBuf),
}

impl From<&WorkOutput<'_>> for OutputKind {
    fn from(output: &WorkOutput) -> Self {
        match output {
            WorkOutput::Table(_) => Self::Table,
            WorkOutput::Artifact(dir) => Self::Artifact(dir.clone()),
        }
    }
}

/// What a stage's process says to the engine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToEngine {
    /// Comes first.
    Hello(Hello),
    /// Nobody waits for an answer.
    Notice(Notice),
    /// Answered by [`ToStage::Answer`] of the same number.
    Request(u64, Request),
    /// The command is done. The schemas of a plan are in blobs.
    Done(Result<Outcome, Failure>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Notice {
    Log { level: Level, message: String },
    Progress { done: u64, total: u64, unit: String },
    // JSON has no number for those that are none.
    Metric { name: String, bits: u64, step: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    LatestCheckpoint,
    BeginCheckpoint(u64),
    CommitCheckpoint(u64),
    ScratchDir,
    /// The next batch of an input.
    Pull(usize),
    /// The batch in the blob, for an output.
    Push(usize),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Done,
    Dir(PathBuf),
    Checkpoint(Option<(PathBuf, u64)>),
    /// A batch is in the blob; without one there are no more.
    Rows,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Described(Description),
    Planned(Planned),
    Worked,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Planned {
    /// By output: whether it is a table, whose schema is the next blob.
    pub(super) tables: Vec<bool>,
    pub(super) fingerprint: String,
    pub(super) notes: Vec<String>,
    pub(super) memory: Option<u64>,
}

/// A [`HostError`] on its way.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Failure {
    Load { path: PathBuf, reason: String },
    Stage(StageFailure),
    Broken { stage: String, what: String },
    Other(String),
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Load { path, reason } => Self::Load { path, reason },
            HostError::Stage(failure) => Self::Stage(failure),
            HostError::Broken { stage, what } => Self::Broken { stage, what },
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<Failure> for HostError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Load { path, reason } => Self::Load { path, reason },
            Failure::Stage(failure) => Self::Stage(failure),
            Failure::Broken { stage, what } => Self::Broken { stage, what },
            Failure::Other(what) => Self::Engine(what.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, to_value};

    use super::*;

    /// As docs/stage-protocol.md has them: other programs speak the protocol by that page.
    #[test]
    fn messages_are_as_they_are_documented() {
        let settings =
            WorkSettings { threads: 2, seed: 7, device: "cpu".to_owned(), map_limit: None };
        let inputs = vec![InputKind::Table, InputKind::Artifact("/in".into())];
        let work = Work { settings, checkpoint_ms: 10, inputs, outputs: vec![OutputKind::Table] };
        let hello = Hello { protocol: 1, program: "p 1".to_owned() };
        let (path, digest) = ("/l.so".into(), "ab".to_owned());
        let to_stage: [(ToStage, Value); 7] = [
            (
                ToStage::Hello(hello.clone()),
                json!({ "hello": { "protocol": 1, "program": "p 1" } }),
            ),
            (ToStage::Cancel, json!("cancel")),
            (
                ToStage::Command(Command::Load { path, digest }),
                json!({ "command": { "load": { "path": "/l.so", "digest": "ab" } } }),
            ),
            (ToStage::Command(Command::Map), json!({ "command": "map" })),
            (
                ToStage::Command(Command::Open(work)),
                json!({ "command": { "open": {
                    "settings": { "threads": 2, "seed": 7, "device": "cpu" }, "checkpoint_ms": 10,
                    "inputs": ["table", { "artifact": "/in" }], "outputs": ["table"] } } }),
            ),
            (ToStage::Answer(3, Ok(Answer::Rows)), json!({ "answer": [3, { "Ok": "rows" }] })),
            (
                ToStage::Answer(4, Ok(Answer::Checkpoint(Some(("/c".into(), 9))))),
                json!({ "answer": [4, { "Ok": { "checkpoint": ["/c", 9] } }] }),
            ),
        ];
        for (message, expected) in to_stage {
            assert_eq!(to_value(&message).expect("JSON"), expected);
        }
        let log = Notice::Log { level: Level::Warn, message: "m".to_owned() };
        let to_engine = [
            (ToEngine::Hello(hello), json!({ "hello": { "protocol": 1, "program": "p 1" } })),
            (
                ToEngine::Notice(log),
                json!({ "notice": { "log": { "level": "warn", "message": "m" } } }),
            ),
            (ToEngine::Request(5, Request::Pull(0)), json!({ "request": [5, { "pull": 0 }] })),
            (ToEngine::Request(6, Request::ScratchDir), json!({ "request": [6, "scratch_dir"] })),
            (
                ToEngine::Request(7, Request::CommitCheckpoint(2)),
                json!({ "request": [7, { "commit_checkpoint": 2 }] }),
            ),
            (ToEngine::Done(Ok(Outcome::Worked)), json!({ "done": { "Ok": "worked" } })),
            (
                ToEngine::Done(Err(Failure::Other("o".to_owned()))),
                json!({ "done": { "Err": { "other": "o" } } }),
            ),
        ];
        for (message, expected) in to_engine {
            assert_eq!(to_value(&message).expect("JSON"), expected);
        }
    }
}
