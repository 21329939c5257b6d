//! A stage that is planned, run and opened in isolated processes.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::util::display::array_value_to_string;
use paraloom_pipeline::{ID_COLUMN, PlanOutput, StageInfo};

use super::handler::Handler;
use super::ipc;
use super::process::Process;
use super::source::{Source, ask_plan};
use super::wire::{self, Blobs, Command, InputKind, OutputKind, PlanRequest};
use crate::error::{HostError, Result};
use crate::executor::{Batches, PlannedStage, WorkInput, WorkOutput, WorkSettings, Worker};
use crate::services::Services;

/// A plan, which the isolated process makes once more before it works.
pub(super) struct Plan {
    work: Work,
    output: PlanOutput,
}

/// What a process needs to plan the same.
#[derive(Clone)]
struct Work {
    source: Source,
    stage: Arc<StageInfo>,
    request: PlanRequest,
    schemas: Blobs,
    outputs: Vec<Option<SchemaRef>>,
}

impl Plan {
    /// What `stage` said of `request` comes out; the schemas of the tables among its inputs are `schemas`.
    pub(super) fn new(
        source: &Source,
        stage: &StageInfo,
        request: PlanRequest,
        schemas: Blobs,
        output: PlanOutput,
    ) -> Self {
        let (source, outputs) = (source.clone(), output.outputs.clone());
        let stage = Arc::new(stage.clone());
        Self { work: Work { source, stage, request, schemas, outputs }, output }
    }
}

impl Work {
    /// A process whose stage has planned the same.
    fn start(&self, services: &Arc<dyn Services>) -> Result<Process> {
        let (mut process, _) = self.source.start(Some(services))?;
        let handler = &mut Handler::of(Some(services));
        handler.slow = self.source.slow_plan(Some(services), &self.request);
        let output = ask_plan(&mut process, &self.request, &self.schemas, handler)?;
        if output.outputs != self.outputs {
            let what = "it planned other columns the second time".to_owned();
            return Err(HostError::Broken { stage: self.request.stage.clone(), what });
        }
        Ok(process)
    }

    /// What is told of edges, the schemas of the tables among them, and their rows.
    fn command(
        settings: &WorkSettings,
        services: &dyn Services,
        inputs: Vec<WorkInput>,
        outputs: Vec<OutputKind>,
    ) -> Result<(wire::Work, Blobs, Vec<Option<Batches>>)> {
        let (mut kinds, mut schemas, mut rows) = (Vec::new(), Blobs::new(), Vec::new());
        for input in inputs {
            match input {
                WorkInput::Table(schema, batches) => {
                    let schema = ipc::encode(&schema, None);
                    schemas.push(schema.map_err(|error| HostError::Engine(error.into()))?);
                    kinds.push(InputKind::Table);
                    rows.push(Some(batches));
                }
                WorkInput::Artifact(dir) => {
                    kinds.push(InputKind::Artifact(dir));
                    rows.push(None);
                }
            }
        }
        let checkpoint_ms = services.checkpoint_interval().as_millis();
        let work = wire::Work {
            settings: settings.clone(),
            checkpoint_ms: u64::try_from(checkpoint_ms).unwrap_or(u64::MAX),
            inputs: kinds,
            outputs,
        };
        Ok((work, schemas, rows))
    }
}

impl PlannedStage for Plan {
    fn output(&self) -> &PlanOutput {
        &self.output
    }

    fn run(
        &mut self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
        outputs: Vec<WorkOutput<'_>>,
    ) -> Result<()> {
        let mut process = self.work.start(&services)?;
        let kinds = outputs.iter().map(OutputKind::from).collect();
        let (work, schemas, rows) = Work::command(settings, &*services, inputs, kinds)?;
        let mut handler = Handler::new(&*services, rows);
        handler.outputs(&self.work.stage, &self.work.outputs, outputs);
        handler.during = " in run()".to_owned();
        process.command(&Command::Run(work), &schemas, &mut handler).map(drop)
    }

    fn open(
        &mut self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
    ) -> Result<Box<dyn Worker>> {
        let kinds = self.work.outputs.iter().map(|_| OutputKind::Table).collect();
        let (command, schemas, rows) = Work::command(settings, &*services, inputs, kinds)?;
        let work = self.work.clone();
        let limit = settings.map_limit;
        let command = Command::Open(command);
        let mut worker =
            OpenWorker { work, services, command, limit, schemas, rows, process: None };
        worker.process = Some(worker.start()?);
        Ok(Box::new(worker))
    }
}

/// A map stage that is open in an isolated process.
struct OpenWorker {
    work: Work,
    services: Arc<dyn Services>,
    /// Opens the stage.
    command: Command,
    /// Of a call of map().
    limit: Option<Duration>,
    schemas: Blobs,
    /// Of the tables; the mapped one has none here.
    rows: Vec<Option<Batches>>,
    /// None after a crash: the next rows start another one, so that a server outlives its stages.
    process: Option<Process>,
}

impl OpenWorker {
    fn start(&mut self) -> Result<Process> {
        let mut process = self.work.start(&self.services)?;
        let mut handler = Handler::new(&*self.services, std::mem::take(&mut self.rows));
        handler.during = " in open()".to_owned();
        let opened = process.command(&self.command, &self.schemas, &mut handler);
        self.rows = handler.into_rows();
        opened.map(|_| process)
    }
}

impl Worker for OpenWorker {
    fn map(&mut self, rows: &RecordBatch, outputs: Vec<WorkOutput<'_>>) -> Result<()> {
        let mut process = match self.process.take() {
            Some(process) => process,
            // What it has read of other tables does not come twice.
            None if self.rows.iter().flatten().count() > 1 => {
                let how = "at an earlier part".to_owned();
                let (during, stderr_tail) = (String::new(), Vec::new());
                return Err(HostError::Crashed { how, during, stderr_tail });
            }
            None => self.start()?,
        };
        let encoded = ipc::encode(&rows.schema(), Some(rows));
        let encoded = vec![encoded.map_err(|error| HostError::Engine(error.into()))?];
        let mut handler = Handler::new(&*self.services, std::mem::take(&mut self.rows));
        handler.outputs(&self.work.stage, &self.work.outputs, outputs);
        handler.during = format!(" in map(), over {}", told(rows));
        handler.limit = self.limit;
        let mapped = process.command(&Command::Map, &encoded, &mut handler);
        self.rows = handler.into_rows();
        self.process = process.if_alive();
        mapped.map(drop)
    }
}

impl Drop for OpenWorker {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let handler = Handler::new(&*self.services, std::mem::take(&mut self.rows));
            // A failure to close changes no result.
            let _ = process.command(&Command::Close, &Blobs::new(), &mut handler.closing());
        }
    }
}

/// Some rows, for the error of a crash.
fn told(rows: &RecordBatch) -> String {
    let count = match rows.num_rows() {
        1 => "1 row".to_owned(),
        count => format!("{count} rows"),
    };
    let ids = rows.column_by_name(ID_COLUMN).filter(|ids| !ids.is_empty());
    let id = |row: usize| array_value_to_string(ids?, row).ok();
    match (id(0), id(rows.num_rows().saturating_sub(1))) {
        (Some(first), Some(last)) if first != last => format!("{count} (`_id` {first} to {last})"),
        (Some(first), _) => format!("{count} (`_id` {first})"),
        _ => count,
    }
}
