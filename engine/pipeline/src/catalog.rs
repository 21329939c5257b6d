//! The interface to what is outside the pipeline file: stages and files.

use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

/// Marks, in the schema of its configuration, a whole stage that compares rows of which those of one request are enough.
const PER_REQUEST_KEYWORD: &str = "x-paraloom-per-request";

/// What a port carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    /// Arrow record batches.
    Table,
    /// An immutable directory.
    Artifact,
}

/// A named input or output of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// Its name.
    pub name: String,
    /// One line on what it carries.
    pub doc: String,
    /// Table or artifact.
    pub kind: PortKind,
    /// May be left unconnected.
    pub optional: bool,
    /// Takes several labelled edges.
    pub many: bool,
}

/// How a stage works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A blocking operator: starts when all of its inputs are complete, and reads them as streams.
    Whole,
    /// A per-batch operator: each output part depends on one part of the mapped input only.
    Map,
}

/// What a stage guarantees about each row of its first table input; the engine checks it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowAccount {
    /// No guarantee.
    #[default]
    Any,
    /// The row is in every table output, once.
    Kept,
    /// The row is in exactly one of the table outputs, once.
    Divided,
    /// At least one row of a table output is derived from it.
    Covered,
}

/// Description of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageInfo {
    /// Name, as in `stage:` of a pipeline.
    pub name: String,
    /// Semantic version of what it computes; part of the key.
    pub version: String,
    /// One line on what it does.
    pub doc: String,
    /// The library that offers it.
    pub library: String,
    /// Backend that this implementation is for: `torch`, ...; empty for the built-in CPU one, and for stages that do
    /// not compute.
    pub backend: String,
    /// JSON Schema of its configuration.
    pub config_schema: serde_json::Value,
    /// Input ports, in order.
    pub inputs: Vec<PortInfo>,
    /// Output ports, in order.
    pub outputs: Vec<PortInfo>,
    /// How the engine calls it.
    pub shape: Shape,
    /// The result depends on the seed.
    pub uses_seed: bool,
    /// Commits checkpoints.
    pub resumable: bool,
    /// A row's result does not depend on its neighbours.
    pub batch_invariant: bool,
    /// Guarantee about its input rows.
    #[serde(default)]
    pub rows: RowAccount,
    /// Rows per part that suit the stage, where the pipeline does not say.
    #[serde(default)]
    pub part_rows: Option<u32>,
}

impl StageInfo {
    /// Index of the first table input: where the rows come from.
    pub fn rows_input(&self) -> Option<usize> {
        self.inputs.iter().position(|port| port.kind == PortKind::Table)
    }

    /// Whether a whole stage can work on the rows of one request alone: it says so by `x-paraloom-per-request` in the schema of its
    /// configuration, and all that comes of them are rows.
    pub fn works_per_request(&self) -> bool {
        self.shape == Shape::Whole
            && self.config_schema.get(PER_REQUEST_KEYWORD) == Some(&serde_json::Value::Bool(true))
            && self.rows == RowAccount::Divided
            && self.rows_input().is_some()
            && self.outputs.iter().all(|port| port.kind == PortKind::Table)
    }

    /// Index of the mapped input: the first table port of a map stage.
    pub fn mapped_input(&self) -> Option<usize> {
        (self.shape == Shape::Map).then(|| self.rows_input()).flatten()
    }
}

/// One edge into a node that is being planned.
#[derive(Clone, Debug)]
pub struct PlanInput {
    /// Index of the input port.
    pub port: usize,
    /// Label of the edge, empty unless the port takes many.
    pub label: String,
    /// Schema of a table; `None` for an artifact.
    pub schema: Option<SchemaRef>,
    /// Metadata of an artifact from the plan of its stage; empty for a table.
    pub note: String,
}

/// Result of a stage's plan.
#[derive(Clone, Debug)]
pub struct PlanOutput {
    /// One entry per output port: the schema of a table, `None` for an artifact.
    pub outputs: Vec<Option<SchemaRef>>,
    /// Enters the key beside configuration, inputs and version.
    pub fingerprint: String,
    /// Per output port: metadata of an artifact that is known before it is computed.
    pub notes: Vec<String>,
    /// Estimated peak memory of the work in bytes, if the stage gives an estimate.
    pub memory: Option<u64>,
}

/// Why a stage could not be planned, or a path not be resolved.
#[derive(Clone, Debug, Default)]
pub struct PlanFailure {
    /// What is wrong, in the user's words.
    pub message: String,
    /// JSON pointer to the setting at fault.
    pub pointer: Option<String>,
    /// The input port at fault.
    pub input: Option<String>,
    /// How to fix it.
    pub hint: Option<String>,
    /// The errors one by one, in the text that `pointer` names; the message tells all of them.
    pub spans: Vec<FailureSpan>,
}

/// An error within a text of the configuration, such as an expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureSpan {
    /// First byte of the text that it is about.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// What is wrong, in the user's words.
    pub message: String,
    /// How to fix it.
    #[serde(default)]
    pub hint: Option<String>,
}

impl PlanFailure {
    /// A failure with a message only.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// Adds how to fix it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What a path in a pipeline resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file or directory on this machine: its absolute path.
    Local(PathBuf),
    /// The files that a pattern matches, in order: their absolute paths.
    Files(Vec<PathBuf>),
    /// A model or data set of a hub.
    Hub(HubLocation),
}

/// A model or data set of a hub, which may be in the local cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubLocation {
    /// The reference without its revision, which does not change when a branch moves.
    pub reference: String,
    /// The commit that the revision resolved to when the hub was last asked; `None` if it was never asked.
    pub commit: Option<String>,
    /// Local paths: the directory of a model, or the files of a data set in order. `None` if it has to be fetched
    /// first.
    pub paths: Option<Vec<PathBuf>>,
}

/// Stages, and the resolution of paths: all that the check needs from outside.
pub trait Catalog {
    /// The stage called `name` in its implementation for `backend`; stages that do not compute are the same for all.
    /// `Ok(None)` if there is no such stage, an error if the backend is not installed.
    fn stage(&self, name: &str, backend: &str) -> Result<Option<&StageInfo>, PlanFailure>;

    /// The names of all stages.
    fn names(&self) -> Vec<&str>;

    /// Output schemas and the rest of the plan, for a configuration and the schemas of the inputs.
    fn plan(
        &self,
        stage: &StageInfo,
        node: &str,
        config: &serde_json::Value,
        inputs: &[PlanInput],
    ) -> Result<PlanOutput, PlanFailure>;

    /// Resolves a path of the pipeline file. The error names what was searched, and how to fix it.
    fn resolve_path(&self, text: &str) -> Result<Location, PlanFailure>;
}
