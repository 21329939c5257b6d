//! How a stage is planned and run, wherever it works: the interface between the engine and the implementations
//! `in_process` and `isolated`. A test can bring another with [`Host::insert`](crate::Host::insert).

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use paraloom_pipeline::{PlanInput, PlanOutput, StageInfo};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::services::Services;

/// Runs stages of one library. Called from any thread, by several at a time.
pub trait Executor: Debug + Send + Sync {
    /// Asks `stage` which outputs a node with this configuration and these inputs has.
    ///
    /// # Errors
    /// What the stage says is wrong, or that it could not be asked.
    fn plan(
        &self,
        stage: &StageInfo,
        node: &str,
        config: &serde_json::Value,
        inputs: &[PlanInput],
    ) -> Result<Box<dyn PlannedStage>>;
}

/// A stage with a configuration: its outputs are known, and it can be put to work.
pub trait PlannedStage: Send {
    /// What the plan says comes out.
    fn output(&self) -> &PlanOutput;

    /// Runs a whole stage; returns when it is done. `inputs` and `outputs` are as planned.
    ///
    /// # Errors
    /// What the stage or an output reported, or that the stage broke the rules or crashed.
    fn run(
        &mut self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
        outputs: Vec<WorkOutput<'_>>,
    ) -> Result<()>;

    /// Loads what a map stage needs. The batches of the mapped table stay unread: its rows come through
    /// [`Worker::map`]. The worker keeps what it needs of this plan, so either may be dropped first.
    ///
    /// # Errors
    /// As for [`PlannedStage::run`].
    fn open(
        &mut self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
    ) -> Result<Box<dyn Worker>>;
}

/// A map stage with everything loaded. Dropping it closes the stage.
pub trait Worker: Send {
    /// Works on all rows of one part; `outputs` has one entry per output port.
    ///
    /// # Errors
    /// As for [`PlannedStage::run`].
    fn map(&mut self, rows: &RecordBatch, outputs: Vec<WorkOutput<'_>>) -> Result<()>;
}

/// Takes the batches that a stage pushes to one output.
pub type RowSink<'a> = Box<
    dyn FnMut(RecordBatch) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>
        + Send
        + 'a,
>;

/// The batches of a table.
pub type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, ArrowError>> + Send>;

/// What enters one edge of a node at work.
pub enum WorkInput {
    /// A table: its batches. For the mapped table of a map stage they stay unread.
    Table(SchemaRef, Batches),
    /// A directory.
    Artifact(PathBuf),
}

/// Where one output of a node goes.
pub enum WorkOutput<'a> {
    /// A table.
    Table(RowSink<'a>),
    /// An empty directory to fill.
    Artifact(PathBuf),
}

/// How a node is to work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkSettings {
    /// Compute threads that the stage may use.
    pub threads: u32,
    /// The node's seed.
    pub seed: u64,
    /// Where to compute.
    pub device: String,
    /// How long a call of [`Worker::map`] may take. A stage in an isolated process is ended then, and opened anew for the
    /// next rows; in this process nothing can end it.
    #[serde(skip)]
    pub map_limit: Option<Duration>,
}
