//! The two shapes of work: a [`Stage`] sees its inputs whole, a [`MapStage`] part by part.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use paraloom_abi::PORT_TABLE;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::port::{PlanInputs, Port};
use crate::run::{Emit, Run};
use crate::{
    Result, STAGE_BATCH_INVARIANT, STAGE_COVERS_ROWS, STAGE_DIVIDES_ROWS, STAGE_KEEPS_ROWS,
    STAGE_RESUMABLE, STAGE_USES_SEED,
};

/// What a stage says of itself.
#[derive(Clone, Debug)]
pub struct About {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    pub(crate) flags: u32,
    pub(crate) part_rows: u32,
}

impl About {
    /// `name` is what pipelines write (`[a-z][a-z0-9-]*`); `version` is the semantic
    /// version of what the stage computes, and expires old results; `doc` is one line.
    pub const fn new(name: &'static str, version: &'static str, doc: &'static str) -> Self {
        Self { name, version, doc, inputs: Vec::new(), outputs: Vec::new(), flags: 0, part_rows: 0 }
    }

    /// Adds an input port. The first table input of a map stage is the mapped one.
    #[must_use]
    pub fn input(mut self, port: Port) -> Self {
        self.inputs.push(port);
        self
    }

    /// Adds an output port.
    #[must_use]
    pub fn output(mut self, port: Port) -> Self {
        self.outputs.push(port);
        self
    }

    /// The result depends on the seed.
    #[must_use]
    pub const fn uses_seed(mut self) -> Self {
        self.flags |= STAGE_USES_SEED;
        self
    }

    /// The stage commits checkpoints and goes on from the newest.
    #[must_use]
    pub const fn resumable(mut self) -> Self {
        self.flags |= STAGE_RESUMABLE;
        self
    }

    /// Every table output has each row of the first table input once, such as with a score. The engine counts, and fails
    /// the node where it is not so.
    #[must_use]
    pub const fn keeps_rows(mut self) -> Self {
        self.flags |= STAGE_KEEPS_ROWS;
        self
    }

    /// Each row of the first table input is in one of the table outputs, once: kept, say, or rejected with a reason. The
    /// engine counts, and fails the node where it is not so.
    #[must_use]
    pub const fn divides_rows(mut self) -> Self {
        self.flags |= STAGE_DIVIDES_ROWS;
        self
    }

    /// Of each row of the first table input comes a row of a table output, or several, such as texts written from it. The
    /// engine counts, and fails the node where it is not so.
    #[must_use]
    pub const fn covers_rows(mut self) -> Self {
        self.flags |= STAGE_COVERS_ROWS;
        self
    }

    /// The port whose rows a map stage maps: its first table input.
    pub(crate) fn mapped_input(&self) -> Option<&'static str> {
        let port = self.inputs.iter().find(|port| port.kind == PORT_TABLE);
        port.map(|port| port.name)
    }

    /// How many rows of a part suit the stage, where the pipeline does not say. A hint: parts may have any size.
    #[must_use]
    pub const fn part_rows(mut self, rows: u32) -> Self {
        self.part_rows = rows;
        self
    }

    /// A row's result does not depend on the rows beside it.
    #[must_use]
    pub const fn batch_invariant(mut self) -> Self {
        self.flags |= STAGE_BATCH_INVARIANT;
        self
    }
}

/// The outcome of planning: the stage ready to work, and what comes out of it.
#[derive(Debug)]
pub struct Planned<S> {
    pub(crate) stage: S,
    pub(crate) outputs: Vec<Option<SchemaRef>>,
    pub(crate) fingerprint: String,
    pub(crate) notes: Vec<String>,
    pub(crate) memory: u64,
}

impl<S> Planned<S> {
    /// `outputs` has one entry per output port, in order: the schema of a table,
    /// `None` for an artifact.
    pub fn new(stage: S, outputs: impl IntoIterator<Item = Option<SchemaRef>>) -> Self {
        let outputs: Vec<_> = outputs.into_iter().collect();
        let notes = vec![String::new(); outputs.len()];
        Self { stage, outputs, fingerprint: String::new(), notes, memory: 0 }
    }

    /// What enters the key beside configuration, inputs and version: a backend's name,
    /// say, or the precision it computes in.
    #[must_use]
    pub fn fingerprint(mut self, fingerprint: impl Into<String>) -> Self {
        self.fingerprint = fingerprint.into();
        self
    }

    /// What can be said of the artifact of an output port, by its index, before it is there, for the plans of the stages
    /// that read it ([`PlanInputs::note`]). It enters no key.
    #[must_use]
    pub fn note(mut self, port: usize, note: impl Into<String>) -> Self {
        if let Some(place) = self.notes.get_mut(port) {
            *place = note.into();
        }
        self
    }

    /// Bytes of memory that the work is likely to take, which `paraloom plan` tells.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }
}

/// A stage that reads its inputs whole, in its own order.
pub trait Stage: Sized + Send + Sync + 'static {
    /// The `with:` block. Its doc comments become the reference and the editor's help.
    type Config: DeserializeOwned + JsonSchema;

    /// Name, version, ports and flags.
    fn about() -> About;

    /// Checks configuration and input schemas; says what comes out. Cheap, no effects.
    fn plan(config: Self::Config, inputs: &PlanInputs) -> Result<Planned<Self>>;

    /// Does the work; returns when it is done.
    fn run(&self, run: &mut Run) -> Result<()>;
}

/// A stage whose output rows depend on the rows of one part alone.
pub trait MapStage: Sized + Send + Sync + 'static {
    /// The `with:` block. Its doc comments become the reference and the editor's help.
    type Config: DeserializeOwned + JsonSchema;
    /// What is loaded once and used for every part, such as a model.
    type Worker: Send + 'static;

    /// Name, version, ports and flags.
    fn about() -> About;

    /// Checks configuration and input schemas; says what comes out. Cheap, no effects.
    fn plan(config: Self::Config, inputs: &PlanInputs) -> Result<Planned<Self>>;

    /// Loads what the work needs.
    fn open(&self, run: &Run) -> Result<Self::Worker>;

    /// Works on all rows of one part.
    fn map(worker: &mut Self::Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()>;
}
