//! What the check needs to know of stages, and asks of the world.

use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

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
    /// Reads its inputs whole.
    Whole,
    /// Output parts depend on one input part each.
    Map,
}

/// What a stage says becomes of each row of its first table input, for the engine to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowAccount {
    /// It does not say.
    #[default]
    Any,
    /// Every table output has it once.
    Kept,
    /// One of the table outputs has it, once.
    Divided,
    /// At least one row of a table output comes of it.
    Covered,
}

/// What a stage says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageInfo {
    /// What pipelines write.
    pub name: String,
    /// Version of what it computes.
    pub version: String,
    /// One line on what it does.
    pub doc: String,
    /// The library that offers it.
    pub library: String,
    /// What computes, where a stage can be had for several backends: `torch`, ...; empty for the
    /// one that is always there.
    pub backend: String,
    /// JSON Schema of its configuration.
    pub config_schema: serde_json::Value,
    /// Input ports, in order.
    pub inputs: Vec<PortInfo>,
    /// Output ports, in order.
    pub outputs: Vec<PortInfo>,
    /// Whole or map.
    pub shape: Shape,
    /// The result depends on the seed.
    pub uses_seed: bool,
    /// Commits checkpoints.
    pub resumable: bool,
    /// A row's result does not depend on its neighbours.
    pub batch_invariant: bool,
    /// What becomes of the rows that it reads.
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
    /// What the stage that makes an artifact says of it; empty for a table.
    pub note: String,
}

/// What a stage's plan says.
#[derive(Clone, Debug)]
pub struct PlanOutput {
    /// One entry per output port: the schema of a table, `None` for an artifact.
    pub outputs: Vec<Option<SchemaRef>>,
    /// What enters the key beside configuration, inputs and version.
    pub fingerprint: String,
    /// Per output port: what is known of an artifact before it is there.
    pub notes: Vec<String>,
    /// Bytes of memory that the work is likely to take, if that is known.
    pub memory: Option<u64>,
}

/// Why a stage could not be planned.
#[derive(Clone, Debug, Default)]
pub struct PlanFailure {
    /// What is wrong, in the user's words.
    pub message: String,
    /// JSON pointer into the configuration.
    pub pointer: Option<String>,
    /// The input port at fault.
    pub input: Option<String>,
    /// The way out.
    pub hint: Option<String>,
}

impl PlanFailure {
    /// That `message` is so.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// With the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What a path in a pipeline means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file or directory on this machine: its absolute path.
    Local(PathBuf),
    /// The files that a pattern matches, in order: their absolute paths.
    Files(Vec<PathBuf>),
    /// Something that a hub has.
    Hub(HubPlace),
}

/// Something that a hub has, and this machine perhaps too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubPlace {
    /// The reference without its revision: what stays the same when a branch moves.
    pub reference: String,
    /// The commit that the revision was when the hub was last asked, if it ever was.
    pub commit: Option<String>,
    /// Where it is on this machine: the directory of a model, the files of a data set in
    /// order. `None` if it has to be fetched first.
    pub paths: Option<Vec<PathBuf>>,
}

/// The stages that there are, and the questions that only the world can answer.
pub trait Catalog {
    /// The stage called `name`, as `backend` computes it. Stages that do not compute are the same for all backends.
    /// `None`: there is no such stage; an error: there is no such backend here.
    fn stage(&self, name: &str, backend: &str) -> Result<Option<&StageInfo>, PlanFailure>;

    /// The names of all stages.
    fn names(&self) -> Vec<&str>;

    /// Asks the stage what comes out, given configuration and input schemas.
    fn plan(
        &self,
        stage: &StageInfo,
        node: &str,
        config: &serde_json::Value,
        inputs: &[PlanInput],
    ) -> Result<PlanOutput, PlanFailure>;

    /// What `text` in the pipeline file means. An error says what was looked for, and the
    /// way out.
    fn resolve_path(&self, text: &str) -> Result<Place, PlanFailure>;
}
