//! Stages that work in processes of their own, so that a crash, a call of `exit`, a hang or memory without end is an
//! error of one node and not the end of the engine.
//!
//! One process per library describes its stages and plans; each node at work has another, which plans anew and then
//! works. In it runs the same code as in the engine's own process (`child.rs`): what a stage asks of its host, the rows
//! that it reads and those that it pushes go through a socket (`wire.rs`) to the engine (`process.rs`).

mod child;
mod process;
mod wire;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use paraloom_pipeline::{PlanInput, PlanOutput};

pub use child::attend;
use process::{Desk, Process};
use wire::{Blobs, Command, Described, InputKind, Outcome, OutputKind, PlanRequest, Shape};

use crate::error::{HostError, Result};
use crate::services::Services;
use crate::work::{Batches, WorkInput, WorkOutput, WorkSettings};

/// The program that a stage works in: it calls [`attend`] with its standard input.
#[derive(Clone, Debug)]
pub struct Isolation {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// A library that is never loaded into this process.
#[derive(Debug)]
pub(crate) struct Isolated {
    isolation: Isolation,
    path: PathBuf,
    /// Of the file as it was when the engine first saw it.
    digest: String,
    /// The process that describes and plans; none after it has crashed.
    planner: Mutex<Option<Process>>,
}

impl Isolated {
    /// Has the library at `path` loaded by another process, and says what it is.
    pub(crate) fn load(
        isolation: &Isolation,
        path: &Path,
        digest: &str,
    ) -> Result<(Arc<Self>, Described)> {
        let library = Self {
            isolation: isolation.clone(),
            path: path.to_owned(),
            digest: digest.to_owned(),
            planner: Mutex::default(),
        };
        let (process, described) = library.start(None)?;
        *library.planner.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        Ok((Arc::new(library), described))
    }

    /// A process that has loaded the library. What it prints is logged by `services`, or else goes to stderr.
    fn start(&self, services: Option<&Arc<dyn Services>>) -> Result<(Process, Described)> {
        let refuse = |reason: String| HostError::Load { path: self.path.clone(), reason };
        let mut process = Process::start(&self.isolation, services)
            .map_err(|error| refuse(format!("cannot start a process for it: {error}")))?;
        let load = Command::Load { path: self.path.clone(), digest: self.digest.clone() };
        match process.command(&load, &Blobs::new(), &mut Desk::of(services)) {
            Ok((Outcome::Described(described), _)) => Ok((process, described)),
            Ok(_) => Err(refuse(OUT_OF_TURN.to_owned())),
            Err(HostError::Crashed { how, .. }) => {
                Err(refuse(format!("the process that loaded it has ended ({how})")))
            }
            Err(error) => Err(error),
        }
    }

    fn plan(&self, request: &PlanRequest, schemas: &Blobs) -> Result<PlanOutput> {
        let mut planner = self.planner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut process = match planner.take() {
            Some(process) => process,
            None => self.start(None)?.0,
        };
        let planned = ask_plan(&mut process, request, schemas, &mut Desk::default());
        *planner = process.if_alive();
        planned
    }
}

const OUT_OF_TURN: &str = "its process answered what was not asked";

/// Has the stage of a process plan.
fn ask_plan(
    process: &mut Process,
    request: &PlanRequest,
    schemas: &Blobs,
    desk: &mut Desk,
) -> Result<PlanOutput> {
    let broken = |what: String| HostError::Broken { stage: request.stage.clone(), what };
    let plan = Command::Plan(request.clone());
    let (Outcome::Planned(planned), schemas) = process.command(&plan, schemas, desk)? else {
        return Err(broken(OUT_OF_TURN.to_owned()));
    };
    let mut schemas = schemas.iter();
    let outputs = planned.tables.iter().map(|is_table| {
        let Some(schema) = is_table.then(|| schemas.next()).flatten() else { return Ok(None) };
        wire::decode(schema).map(|(schema, _)| Some(schema))
    });
    let outputs = outputs.collect::<Result<_, _>>().map_err(|error| broken(error.to_string()))?;
    let wire::Planned { fingerprint, notes, memory, .. } = planned;
    Ok(PlanOutput { outputs, fingerprint, notes, memory })
}

/// What a stage is to do, ready to be told to a process of its own.
#[derive(Clone)]
pub(crate) struct Plan {
    library: Arc<Isolated>,
    request: PlanRequest,
    schemas: Blobs,
    outputs: Vec<Option<SchemaRef>>,
}

impl Plan {
    /// Asks the stage `stage` what comes out.
    pub(crate) fn new(
        library: &Arc<Isolated>,
        stage: &str,
        node: &str,
        config: &serde_json::Value,
        inputs: &[PlanInput],
    ) -> Result<(Self, PlanOutput)> {
        let schemas = inputs.iter().filter_map(|input| input.schema.as_ref());
        let schemas = schemas.map(|schema| wire::encode(schema, None)).collect::<Result<_, _>>();
        let schemas = schemas.map_err(|error| HostError::Engine(error.into()))?;
        let request = PlanRequest {
            stage: stage.to_owned(),
            node: node.to_owned(),
            config: config.clone(),
            inputs: inputs.iter().map(wire::PlanEdge::from).collect(),
        };
        let said = library.plan(&request, &schemas)?;
        let outputs = said.outputs.clone();
        Ok((Self { library: Arc::clone(library), request, schemas, outputs }, said))
    }

    /// A process whose stage has planned the same.
    fn start(&self, services: &Arc<dyn Services>) -> Result<Process> {
        let (mut process, _) = self.library.start(Some(services))?;
        let desk = &mut Desk::of(Some(services));
        let said = ask_plan(&mut process, &self.request, &self.schemas, desk)?;
        if said.outputs != self.outputs {
            let what = "it planned other columns the second time".to_owned();
            return Err(HostError::Broken { stage: self.request.stage.clone(), what });
        }
        Ok(process)
    }

    /// What is told of edges, the schemas of the tables among them, and their rows.
    fn work(
        shape: Shape,
        settings: &WorkSettings,
        services: &dyn Services,
        inputs: Vec<WorkInput>,
        outputs: Vec<OutputKind>,
    ) -> Result<(Command, Blobs, Vec<Option<Batches>>)> {
        let (mut kinds, mut schemas, mut rows) = (Vec::new(), Blobs::new(), Vec::new());
        for input in inputs {
            match input {
                WorkInput::Table(schema, batches) => {
                    let schema = wire::encode(&schema, None);
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
        let work = Command::Work {
            shape,
            settings: settings.clone(),
            checkpoint_interval: services.checkpoint_interval(),
            inputs: kinds,
            outputs,
        };
        Ok((work, schemas, rows))
    }

    pub(crate) fn run(
        &self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
        outputs: Vec<WorkOutput>,
    ) -> Result<()> {
        let mut process = self.start(&services)?;
        let kinds = outputs.iter().map(OutputKind::from).collect();
        let (work, schemas, rows) = Self::work(Shape::Whole, settings, &*services, inputs, kinds)?;
        let mut desk = Desk::new(&*services, rows);
        desk.outputs(&self.outputs, outputs);
        process.command(&work, &schemas, &mut desk).map(drop)
    }

    pub(crate) fn open(
        &self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
    ) -> Result<Worker> {
        let kinds = self.outputs.iter().map(|_| OutputKind::Table).collect();
        let (work, schemas, rows) = Self::work(Shape::Map, settings, &*services, inputs, kinds)?;
        let plan = self.clone();
        let mut worker = Worker { plan, services, work, schemas, rows, process: None };
        worker.process = Some(worker.start()?);
        Ok(worker)
    }
}

/// A map stage that is open in a process of its own.
pub(crate) struct Worker {
    plan: Plan,
    services: Arc<dyn Services>,
    work: Command,
    schemas: Blobs,
    /// Of the tables; the mapped one has none here.
    rows: Vec<Option<Batches>>,
    /// None after a crash: the next rows start another one, so that a server outlives its stages.
    process: Option<Process>,
}

impl Worker {
    fn start(&mut self) -> Result<Process> {
        let mut process = self.plan.start(&self.services)?;
        let mut desk = Desk::new(&*self.services, std::mem::take(&mut self.rows));
        let opened = process.command(&self.work, &self.schemas, &mut desk);
        self.rows = desk.into_rows();
        opened.map(|_| process)
    }

    pub(crate) fn map(&mut self, rows: &RecordBatch, outputs: Vec<WorkOutput>) -> Result<()> {
        let mut process = match self.process.take() {
            Some(process) => process,
            // What it has read of other tables does not come twice.
            None if self.rows.iter().flatten().count() > 1 => {
                let how = "at an earlier part".to_owned();
                return Err(HostError::Crashed { how, last_words: Vec::new() });
            }
            None => self.start()?,
        };
        let encoded = wire::encode(&rows.schema(), Some(rows));
        let encoded = vec![encoded.map_err(|error| HostError::Engine(error.into()))?];
        let mut desk = Desk::new(&*self.services, std::mem::take(&mut self.rows));
        desk.outputs(&self.plan.outputs, outputs);
        let mapped = process.command(&Command::Map, &encoded, &mut desk);
        self.rows = desk.into_rows();
        self.process = process.if_alive();
        mapped.map(drop)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let desk = Desk::new(&*self.services, std::mem::take(&mut self.rows));
            // It is done either way.
            let _ = process.command(&Command::Close, &Blobs::new(), &mut desk.winding_up());
        }
    }
}
