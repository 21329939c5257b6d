//! One stage with a configuration: planned, then put to work, in this process or in one of its own.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use paraloom_pipeline::{PlanInput, PlanOutput};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::library::{LoadedStage, Place};
use crate::services::Services;
use crate::sink::Take;
use crate::{in_process, isolated};

/// Takes the rows that a stage pushes to one output.
pub type RowSink<'a> = Take<'a>;

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
}

/// A planned stage: what comes out of it is known, and it can be put to work.
pub struct PlannedStage {
    said: PlanOutput,
    plan: Plan,
}

enum Plan {
    InProcess(in_process::Plan),
    Isolated(isolated::Plan),
}

impl PlannedStage {
    pub(crate) fn plan(
        stage: &LoadedStage,
        node: &str,
        config: &serde_json::Value,
        inputs: &[PlanInput],
    ) -> Result<Self> {
        match &stage.place {
            Place::InProcess(table) => {
                let (plan, said) =
                    in_process::Plan::new(&stage.info, *table, node, config, inputs)?;
                Ok(Self { said, plan: Plan::InProcess(plan) })
            }
            Place::Isolated(library) => {
                let (plan, said) =
                    isolated::Plan::new(library, &stage.info.name, node, config, inputs)?;
                Ok(Self { said, plan: Plan::Isolated(plan) })
            }
        }
    }

    /// What the stage says comes out.
    pub fn said(&self) -> &PlanOutput {
        &self.said
    }

    /// Runs a whole stage; returns when it is done. `inputs` are as planned.
    pub fn run(
        &mut self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
        outputs: Vec<WorkOutput>,
    ) -> Result<()> {
        match &mut self.plan {
            Plan::InProcess(plan) => plan.run(settings, services, inputs, outputs),
            Plan::Isolated(plan) => plan.run(settings, services, inputs, outputs),
        }
    }

    /// Loads what a map stage needs. The mapped table is not among `inputs`' streams.
    pub fn open(
        &mut self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
    ) -> Result<Worker> {
        Ok(Worker(match &mut self.plan {
            Plan::InProcess(plan) => Opened::InProcess(plan.open(settings, services, inputs)?),
            Plan::Isolated(plan) => {
                Opened::Isolated(Box::new(plan.open(settings, services, inputs)?))
            }
        }))
    }
}

/// A map stage with everything loaded.
pub struct Worker(Opened);

enum Opened {
    InProcess(in_process::Worker),
    Isolated(Box<isolated::Worker>),
}

impl Worker {
    /// Works on all rows of one part; `sinks` has one entry per output port.
    pub fn map<'a>(&mut self, rows: &RecordBatch, sinks: Vec<WorkOutput<'a>>) -> Result<()> {
        match &mut self.0 {
            Opened::InProcess(worker) => worker.map(rows, sinks),
            Opened::Isolated(worker) => worker.map(rows, sinks),
        }
    }
}
