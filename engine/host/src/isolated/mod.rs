//! Stages that work in isolated processes, so that a crash, a call of `exit`, a hang or memory without end is an
//! error of one node and not the end of the engine.
//!
//! One process per library describes its stages and plans; each node at work has another, which plans anew and then
//! works. In it runs the same code as in the engine's own process (`child.rs`): what a stage asks of its host, the rows
//! that it reads and those that it pushes go through a socket (`frames.rs`, `wire.rs`) to the engine (`process.rs`).

mod child;
mod frames;
mod handler;
mod ipc;
mod plan;
mod printed;
mod process;
mod source;
mod wire;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use paraloom_pipeline::{PlanInput, PlanOutput, StageInfo};

pub use child::run_stage_process;
use handler::Handler;
use process::Process;
pub use source::Isolation;
use source::{Source, ask_plan};
use wire::{Blobs, PlanRequest};

use crate::description::Description;
use crate::error::{HostError, Result};
use crate::executor::{Executor, PlannedStage};

/// How long a stage has to stop after it was asked to.
const GRACE: Duration = Duration::from_secs(10);

/// A library that is never loaded into this process.
#[derive(Debug)]
pub(crate) struct Isolated {
    source: Source,
    /// The process that describes and plans; none after it has crashed.
    planner: Mutex<Option<Process>>,
}

impl Isolated {
    /// Has the library at `path` loaded by another process.
    pub(crate) fn load(
        isolation: &Isolation,
        path: &Path,
        digest: &str,
    ) -> Result<(Self, Description)> {
        let source = Source {
            isolation: isolation.clone(),
            path: path.to_owned(),
            digest: digest.to_owned(),
        };
        let (process, description) = source.start(None)?;
        Ok((Self { source, planner: Mutex::new(Some(process)) }, description))
    }

    fn ask(&self, request: &PlanRequest, schemas: &Blobs) -> Result<PlanOutput> {
        let mut planner = self.planner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut process = match planner.take() {
            Some(process) => process,
            None => self.source.start(None)?.0,
        };
        let mut handler = Handler::default();
        handler.slow = self.source.slow_plan(None, request);
        let planned = ask_plan(&mut process, request, schemas, &mut handler);
        *planner = process.if_alive();
        planned
    }
}

impl Executor for Isolated {
    fn plan(
        &self,
        stage: &StageInfo,
        node: &str,
        config: &serde_json::Value,
        inputs: &[PlanInput],
    ) -> Result<Box<dyn PlannedStage>> {
        let schemas = inputs.iter().filter_map(|input| input.schema.as_ref());
        let schemas = schemas.map(|schema| ipc::encode(schema, None)).collect::<Result<_, _>>();
        let schemas = schemas.map_err(|error| HostError::Engine(error.into()))?;
        let request = PlanRequest {
            stage: stage.name.clone(),
            node: node.to_owned(),
            config: config.clone(),
            inputs: inputs.iter().map(wire::PlanEdge::from).collect(),
        };
        let output = self.ask(&request, &schemas)?;
        Ok(Box::new(plan::Plan::new(&self.source, stage, request, schemas, output)))
    }
}
