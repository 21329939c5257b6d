//! The isolated process: it loads one library and executes the commands of the engine.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use paraloom_pipeline::PlanInput;
use rustix::process::{Signal, getpgrp, getpid, getppid, kill_current_process_group, kill_process};

use super::frames::{self, Frames};
use super::ipc;
use super::wire::{
    Answer, Blobs, Command, Hello, InputKind, Notice, Outcome, OutputKind, PlanEdge, PlanRequest,
    Planned, Request, ToEngine, ToStage, Work,
};
use crate::description::Description;
use crate::error::{HostError, Result};
use crate::executor::{Executor, PlannedStage, WorkInput, WorkOutput, Worker};
use crate::in_process::InProcess;
use crate::library_file::{check_is_whole, digest};
use crate::services::{Level, ServiceError, Services};

/// How long a command may go on after the engine has disconnected.
const ORPHAN: Duration = Duration::from_secs(1);

/// Executes the commands that the engine sends over standard input, until it disconnects.
///
/// # Errors
/// Standard input is no socket, or the thread of the stage panicked.
pub fn run_stage_process() -> io::Result<()> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Standard input is empty for the stage.
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    // The OOM killer prefers this process to the engine.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let connection = Arc::new(Connection {
        stream: Mutex::new(stream.try_clone()?),
        waiting: Mutex::default(),
        number: AtomicU64::new(0),
        cancelled: AtomicBool::new(false),
    });
    let (send, commands) = mpsc::channel();
    let listener = Arc::clone(&connection);
    std::thread::Builder::new().name("listen".to_owned()).spawn(move || {
        listener.receive(stream, send);
        // An idle process ends by itself now; one that is still at work is killed.
        std::thread::sleep(ORPHAN);
        kill_all();
    })?;
    // The allocator attributes no node to the main thread.
    let work = move || {
        let mut stage = StageServer { connection, worker: None, planned: None, library: None };
        for (command, blobs) in commands {
            let (done, blobs) = match stage.dispatch(command, &blobs) {
                Ok((outcome, blobs)) => (Ok(outcome), blobs),
                Err(error) => (Err(error.into()), Blobs::new()),
            };
            if stage.connection.send(&ToEngine::Done(done), &blobs).is_err() {
                break;
            }
        }
    };
    let engine = getppid();
    let thread = std::thread::Builder::new().name("stage".to_owned()).spawn(work)?;
    let done = thread.join().map_err(|_| io::Error::other("the stage process panicked"));
    // A living engine kills the rest of the process group once this process has ended.
    if getppid() != engine {
        kill_all();
    }
    done
}

/// Kills this process and those that the stage has started.
fn kill_all() {
    // It leads a process group unless it was started by hand.
    if getpgrp() == getpid() {
        let _ = kill_current_process_group(Signal::KILL);
    }
    let _ = kill_process(getpid(), Signal::KILL);
}

/// A library and a stage of it.
struct StageServer {
    connection: Arc<Connection>,
    worker: Option<Box<dyn Worker>>,
    planned: Option<Box<dyn PlannedStage>>,
    library: Option<(InProcess, Description)>,
}

impl StageServer {
    fn dispatch(&mut self, command: Command, blobs: &Blobs) -> Result<(Outcome, Blobs)> {
        let out_of_order = || HostError::Engine("the engine sent a command out of order".into());
        match command {
            Command::Load { path, digest } => {
                let described = self.load(path, &digest)?;
                return Ok((Outcome::Described(described), Blobs::new()));
            }
            Command::Plan(request) => return self.plan(request, blobs),
            Command::Run(work) => {
                let planned = self.planned.as_mut().ok_or_else(out_of_order)?;
                let services = EngineServices::new(&self.connection, &work);
                let inputs = self.connection.inputs(work.inputs, blobs)?;
                let outputs = self.connection.outputs(work.outputs);
                planned.run(&work.settings, Arc::new(services), inputs, outputs)?;
            }
            Command::Open(work) => {
                let planned = self.planned.as_mut().ok_or_else(out_of_order)?;
                let services = EngineServices::new(&self.connection, &work);
                let inputs = self.connection.inputs(work.inputs, blobs)?;
                self.worker = Some(planned.open(&work.settings, Arc::new(services), inputs)?);
            }
            Command::Map => {
                let rows = ipc::rows(blobs).map_err(engine)?;
                let planned = self.planned.as_ref().ok_or_else(out_of_order)?;
                let outputs = planned.output().outputs.iter().map(|_| OutputKind::Table).collect();
                let worker = self.worker.as_mut().ok_or_else(out_of_order)?;
                worker.map(&rows, self.connection.outputs(outputs))?;
            }
            Command::Close => self.worker = None,
        }
        Ok((Outcome::Worked, Blobs::new()))
    }

    fn load(&mut self, path: PathBuf, expected: &str) -> Result<Description> {
        let refuse = |reason: String| HostError::Load { path: path.clone(), reason };
        let found = digest(&path).map_err(|error| refuse(error.to_string()))?;
        if found != expected {
            return Err(refuse("it was changed while it was in use; run again".to_owned()));
        }
        check_is_whole(&path).map_err(refuse)?;
        let (_, description) = self.library.insert(InProcess::load(&path)?);
        Ok(description.clone())
    }

    fn plan(&mut self, request: PlanRequest, schemas: &Blobs) -> Result<(Outcome, Blobs)> {
        let missing = || HostError::Missing(request.stage.clone());
        let (library, description) = self.library.as_ref().ok_or_else(missing)?;
        let stage = description.stages.iter().find(|stage| stage.name == request.stage);
        let stage = stage.ok_or_else(missing)?;
        let mut schemas = schemas.iter();
        let input = |edge: PlanEdge| {
            let schema = edge.is_table.then(|| schemas.next()).flatten();
            let schema = schema.map(|schema| ipc::decode(schema).map(|(schema, _)| schema));
            let (port, label, note) = (edge.port, edge.label, edge.note);
            Ok(PlanInput { port, label, schema: schema.transpose().map_err(engine)?, note })
        };
        let inputs = request.inputs.into_iter().map(input).collect::<Result<Vec<_>>>()?;
        // There is one plan at a time.
        (self.worker, self.planned) = (None, None);
        let planned = library.plan(stage, &request.node, &request.config, &inputs)?;
        let output = planned.output();
        let schemas = output.outputs.iter().flatten().map(|schema| ipc::encode(schema, None));
        let schemas = schemas.collect::<Result<_, _>>().map_err(engine)?;
        let answer = Planned {
            tables: output.outputs.iter().map(Option::is_some).collect(),
            fingerprint: output.fingerprint.clone(),
            notes: output.notes.clone(),
            memory: output.memory,
        };
        self.planned = Some(planned);
        Ok((Outcome::Planned(answer), schemas))
    }
}

fn engine(error: ArrowError) -> HostError {
    HostError::Engine(error.into())
}

type Answered = (Result<Answer, ServiceError>, Blobs);

/// The connection to the engine. Any thread of a stage may ask for something.
struct Connection {
    stream: Mutex<UnixStream>,
    waiting: Mutex<HashMap<u64, mpsc::Sender<Answered>>>,
    number: AtomicU64,
    cancelled: AtomicBool,
}

impl Connection {
    /// Dispatches the messages of the engine, until it disconnects.
    fn receive(&self, mut stream: UnixStream, commands: mpsc::Sender<(Command, Blobs)>) {
        let mut frames = Frames::default();
        loop {
            match frames.next() {
                // An engine of another version disconnects once it has this answer.
                Ok(Some((ToStage::Hello(_), _))) => {
                    let _ = self.send(&ToEngine::Hello(Hello::ours()), &Blobs::new());
                }
                Ok(Some((ToStage::Command(command), blobs))) => {
                    let _ = commands.send((command, blobs));
                }
                Ok(Some((ToStage::Cancel, _))) => self.cancelled.store(true, Ordering::Release),
                Ok(Some((ToStage::Answer(number, answer), blobs))) => {
                    if let Some(requester) = self.waiting().remove(&number) {
                        let _ = requester.send((answer, blobs));
                    }
                }
                Ok(None) if matches!(frames.read(&mut stream), Ok(true)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        // Requests that are still open fail.
        self.waiting().clear();
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Answered>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, message: &ToEngine, blobs: &Blobs) -> io::Result<()> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        frames::write(&mut *stream, message, blobs)
    }

    fn notify(&self, notice: Notice) {
        // If the engine is gone, nobody reads it.
        let _ = self.send(&ToEngine::Notice(notice), &Blobs::new());
    }

    fn request(&self, request: Request, blobs: &Blobs) -> Result<(Answer, Blobs), ServiceError> {
        let gone = || ServiceError::new("the engine is gone");
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (send, answer) = mpsc::channel();
        self.waiting().insert(number, send);
        self.send(&ToEngine::Request(number, request), blobs).map_err(|_| gone())?;
        let (answer, blobs) = answer.recv().map_err(|_| gone())?;
        Ok((answer?, blobs))
    }

    fn inputs(self: &Arc<Self>, inputs: Vec<InputKind>, schemas: &Blobs) -> Result<Vec<WorkInput>> {
        let mut schemas = schemas.iter();
        let input = |(at, input)| match input {
            InputKind::Artifact(dir) => Ok(WorkInput::Artifact(dir)),
            InputKind::Table => {
                let missing = || HostError::Engine("a table without a schema".into());
                let schema = schemas.next().ok_or_else(missing)?;
                let (schema, _) = ipc::decode(schema).map_err(engine)?;
                let connection = Arc::clone(self);
                Ok(WorkInput::Table(
                    schema,
                    Box::new(std::iter::from_fn(move || connection.pull(at))),
                ))
            }
        };
        inputs.into_iter().enumerate().map(input).collect()
    }

    fn pull(&self, input: usize) -> Option<Result<RecordBatch, ArrowError>> {
        match self.request(Request::Pull(input), &Blobs::new()) {
            Ok((_, blobs)) if blobs.is_empty() => None,
            Ok((_, blobs)) => Some(ipc::rows(&blobs)),
            Err(error) => Some(Err(ArrowError::ExternalError(error.message.into()))),
        }
    }

    fn outputs(&self, outputs: Vec<OutputKind>) -> Vec<WorkOutput<'_>> {
        let output = |(at, output)| match output {
            OutputKind::Artifact(dir) => WorkOutput::Artifact(dir),
            OutputKind::Table => WorkOutput::Table(Box::new(move |rows: RecordBatch| {
                let rows = ipc::encode(&rows.schema(), Some(&rows))?;
                let pushed = self.request(Request::Push(at), &vec![rows]);
                pushed.map(drop).map_err(|error| error.message.into())
            })),
        };
        outputs.into_iter().enumerate().map(output).collect()
    }
}

/// Progress is sent at most this often: a stage may report it for every row.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(20);

/// The engine's services, at the other end of the connection.
struct EngineServices {
    connection: Arc<Connection>,
    checkpoint_interval: Duration,
    /// When progress was sent last.
    sent: Mutex<Option<Instant>>,
}

impl EngineServices {
    fn new(connection: &Arc<Connection>, work: &Work) -> Self {
        let checkpoint_interval = Duration::from_millis(work.checkpoint_ms);
        Self { connection: Arc::clone(connection), checkpoint_interval, sent: Mutex::default() }
    }

    fn dir(&self, request: Request) -> Result<PathBuf, ServiceError> {
        match self.connection.request(request, &Blobs::new())? {
            (Answer::Dir(dir), _) => Ok(dir),
            _ => Err(ServiceError::new("the engine answered what was not asked")),
        }
    }
}

impl Services for EngineServices {
    fn log(&self, level: Level, message: &str) {
        self.connection.notify(Notice::Log { level, message: message.to_owned() });
    }

    fn progress(&self, done: u64, total: u64, unit: &str) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if done == total || sent.is_none_or(|sent| sent.elapsed() >= PROGRESS_INTERVAL) {
            *sent = Some(Instant::now());
            self.connection.notify(Notice::Progress { done, total, unit: unit.to_owned() });
        }
    }

    fn metric(&self, name: &str, value: f64, step: u64) {
        self.connection.notify(Notice::Metric {
            name: name.to_owned(),
            bits: value.to_bits(),
            step,
        });
    }

    fn is_cancelled(&self) -> bool {
        self.connection.cancelled.load(Ordering::Acquire)
    }

    fn checkpoint_latest(&self) -> Result<Option<(PathBuf, u64)>, ServiceError> {
        match self.connection.request(Request::LatestCheckpoint, &Blobs::new())? {
            (Answer::Checkpoint(latest), _) => Ok(latest),
            _ => Err(ServiceError::new("the engine answered what was not asked")),
        }
    }

    fn checkpoint_begin(&self, step: u64) -> Result<PathBuf, ServiceError> {
        self.dir(Request::BeginCheckpoint(step))
    }

    fn checkpoint_commit(&self, step: u64) -> Result<(), ServiceError> {
        self.connection.request(Request::CommitCheckpoint(step), &Blobs::new()).map(drop)
    }

    fn scratch_dir(&self) -> Result<PathBuf, ServiceError> {
        self.dir(Request::ScratchDir)
    }

    fn checkpoint_interval(&self) -> Duration {
        self.checkpoint_interval
    }
}
