//! The side of the stage: a process that loads one library and does as the engine says.

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
    Answer, Blobs, Command, Hello, InputKind, Note, Outcome, OutputKind, PlanEdge, PlanRequest,
    Planned, Request, ToEngine, ToStage, Work,
};
use crate::description::Description;
use crate::error::{HostError, Result};
use crate::executor::{Executor, PlannedStage, WorkInput, WorkOutput, Worker};
use crate::in_process::InProcess;
use crate::library_file::{check_is_whole, digest};
use crate::services::{Level, ServiceError, Services};

/// How long a stage may still work when the engine is gone.
const ORPHAN: Duration = Duration::from_secs(1);

/// Does what the engine at the other end of standard input says, until it hangs up.
pub fn attend() -> io::Result<()> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // A stage that reads its standard input finds nothing there.
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    // Where the system itself ends a process for want of memory, it is to be this one and not the engine.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let line = Arc::new(Line {
        stream: Mutex::new(stream.try_clone()?),
        waiting: Mutex::default(),
        number: AtomicU64::new(0),
        cancelled: AtomicBool::new(false),
    });
    let (send, commands) = mpsc::channel();
    let listener = Arc::clone(&line);
    std::thread::Builder::new().name("listen".to_owned()).spawn(move || {
        listener.listen(stream, send);
        // An idle process ends by itself now; the result of any other would have no reader.
        std::thread::sleep(ORPHAN);
        kill_all();
    })?;
    // Not in the main thread, to which the allocator gives no node.
    let work = move || {
        let mut stage = AtWork { line, worker: None, planned: None, library: None };
        for (command, blobs) in commands {
            let (done, blobs) = match stage.execute(command, &blobs) {
                Ok((outcome, blobs)) => (Ok(outcome), blobs),
                Err(error) => (Err(error.into()), Blobs::new()),
            };
            if stage.line.tell(&ToEngine::Done(done), &blobs).is_err() {
                break;
            }
        }
    };
    let engine = getppid();
    let thread = std::thread::Builder::new().name("stage".to_owned()).spawn(work)?;
    let done = thread.join().map_err(|_| io::Error::other("the engine panicked"));
    // An engine that is there ends what the stage has started once this process is gone.
    if getppid() != engine {
        kill_all();
    }
    done
}

/// Ends this process and those that the stage has started.
fn kill_all() {
    // The group is its own unless the process was started by hand.
    if getpgrp() == getpid() {
        let _ = kill_current_process_group(Signal::KILL);
    }
    let _ = kill_process(getpid(), Signal::KILL);
}

/// A library and a stage of it.
struct AtWork {
    line: Arc<Line>,
    worker: Option<Box<dyn Worker>>,
    planned: Option<Box<dyn PlannedStage>>,
    library: Option<(InProcess, Description)>,
}

impl AtWork {
    fn execute(&mut self, command: Command, blobs: &Blobs) -> Result<(Outcome, Blobs)> {
        let out_of_turn = || HostError::Engine("the engine said things out of turn".into());
        match command {
            Command::Load { path, digest } => {
                let described = self.load(path, &digest)?;
                return Ok((Outcome::Described(described), Blobs::new()));
            }
            Command::Plan(request) => return self.plan(request, blobs),
            Command::Run(work) => {
                let planned = self.planned.as_mut().ok_or_else(out_of_turn)?;
                let services = Proxy::new(&self.line, &work);
                let inputs = self.line.inputs(work.inputs, blobs)?;
                let outputs = self.line.outputs(work.outputs);
                planned.run(&work.settings, Arc::new(services), inputs, outputs)?;
            }
            Command::Open(work) => {
                let planned = self.planned.as_mut().ok_or_else(out_of_turn)?;
                let services = Proxy::new(&self.line, &work);
                let inputs = self.line.inputs(work.inputs, blobs)?;
                self.worker = Some(planned.open(&work.settings, Arc::new(services), inputs)?);
            }
            Command::Map => {
                let rows = ipc::rows(blobs).map_err(engine)?;
                let planned = self.planned.as_ref().ok_or_else(out_of_turn)?;
                let outputs = planned.output().outputs.iter().map(|_| OutputKind::Table).collect();
                let worker = self.worker.as_mut().ok_or_else(out_of_turn)?;
                worker.map(&rows, self.line.outputs(outputs))?;
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
        // Two plans of one stage at a time would be one too many.
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

/// The line to the engine. Any thread of a stage may ask for something.
struct Line {
    stream: Mutex<UnixStream>,
    waiting: Mutex<HashMap<u64, mpsc::Sender<Answered>>>,
    number: AtomicU64,
    cancelled: AtomicBool,
}

impl Line {
    /// Hands on what the engine says, until it hangs up.
    fn listen(&self, mut stream: UnixStream, commands: mpsc::Sender<(Command, Blobs)>) {
        let mut frames = Frames::default();
        loop {
            match frames.next() {
                // An engine of another version hangs up, once it knows of this one.
                Ok(Some((ToStage::Hello(_), _))) => {
                    let _ = self.tell(&ToEngine::Hello(Hello::ours()), &Blobs::new());
                }
                Ok(Some((ToStage::Command(command), blobs))) => {
                    let _ = commands.send((command, blobs));
                }
                Ok(Some((ToStage::Cancel, _))) => self.cancelled.store(true, Ordering::Release),
                Ok(Some((ToStage::Answer(number, answer), blobs))) => {
                    if let Some(asker) = self.waiting().remove(&number) {
                        let _ = asker.send((answer, blobs));
                    }
                }
                Ok(None) if matches!(frames.read(&mut stream), Ok(true)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        // No more answers will come.
        self.waiting().clear();
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Answered>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, message: &ToEngine, blobs: &Blobs) -> io::Result<()> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        frames::write(&mut *stream, message, blobs)
    }

    fn say(&self, note: Note) {
        // A failure means that the engine is gone.
        let _ = self.tell(&ToEngine::Said(note), &Blobs::new());
    }

    fn ask(&self, request: Request, blobs: &Blobs) -> Result<(Answer, Blobs), ServiceError> {
        let gone = || ServiceError::new("the engine is gone");
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (send, answer) = mpsc::channel();
        self.waiting().insert(number, send);
        self.tell(&ToEngine::Asked(number, request), blobs).map_err(|_| gone())?;
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
                let line = Arc::clone(self);
                Ok(WorkInput::Table(schema, Box::new(std::iter::from_fn(move || line.pull(at)))))
            }
        };
        inputs.into_iter().enumerate().map(input).collect()
    }

    fn pull(&self, input: usize) -> Option<Result<RecordBatch, ArrowError>> {
        match self.ask(Request::Pull(input), &Blobs::new()) {
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
                let pushed = self.ask(Request::Push(at), &vec![rows]);
                pushed.map(drop).map_err(|error| error.message.into())
            })),
        };
        outputs.into_iter().enumerate().map(output).collect()
    }
}

/// Least time between two reports of progress: a stage may have one with every row.
const NEWS: Duration = Duration::from_millis(20);

/// The engine's services, at the other end of the line.
struct Proxy {
    line: Arc<Line>,
    checkpoint_interval: Duration,
    /// When progress was told last.
    told: Mutex<Option<Instant>>,
}

impl Proxy {
    fn new(line: &Arc<Line>, work: &Work) -> Self {
        let checkpoint_interval = Duration::from_millis(work.checkpoint_ms);
        Self { line: Arc::clone(line), checkpoint_interval, told: Mutex::default() }
    }

    fn dir(&self, request: Request) -> Result<PathBuf, ServiceError> {
        match self.line.ask(request, &Blobs::new())? {
            (Answer::Dir(dir), _) => Ok(dir),
            _ => Err(ServiceError::new("the engine answered what was not asked")),
        }
    }
}

impl Services for Proxy {
    fn log(&self, level: Level, message: &str) {
        self.line.say(Note::Log { level, message: message.to_owned() });
    }

    fn progress(&self, done: u64, total: u64, unit: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if done == total || told.is_none_or(|told| told.elapsed() >= NEWS) {
            *told = Some(Instant::now());
            self.line.say(Note::Progress { done, total, unit: unit.to_owned() });
        }
    }

    fn metric(&self, name: &str, value: f64, step: u64) {
        self.line.say(Note::Metric { name: name.to_owned(), bits: value.to_bits(), step });
    }

    fn is_cancelled(&self) -> bool {
        self.line.cancelled.load(Ordering::Acquire)
    }

    fn checkpoint_latest(&self) -> Result<Option<(PathBuf, u64)>, ServiceError> {
        match self.line.ask(Request::LatestCheckpoint, &Blobs::new())? {
            (Answer::Checkpoint(latest), _) => Ok(latest),
            _ => Err(ServiceError::new("the engine answered what was not asked")),
        }
    }

    fn checkpoint_begin(&self, step: u64) -> Result<PathBuf, ServiceError> {
        self.dir(Request::BeginCheckpoint(step))
    }

    fn checkpoint_commit(&self, step: u64) -> Result<(), ServiceError> {
        self.line.ask(Request::CommitCheckpoint(step), &Blobs::new()).map(drop)
    }

    fn scratch_dir(&self) -> Result<PathBuf, ServiceError> {
        self.dir(Request::ScratchDir)
    }

    fn checkpoint_interval(&self) -> Duration {
        self.checkpoint_interval
    }
}
