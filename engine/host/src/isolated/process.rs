//! The engine's side: a process, and what is done for the stage in it.

use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use paraloom_abi::status;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Isolation;
use super::wire::{self, Answer, Blobs, Frames, Note, Outcome, Request, ToEngine, ToStage};
use crate::error::{HostError, Result, StageFailure};
use crate::services::{Level, ServiceError, Services};
use crate::sink::Take;
use crate::work::{Batches, WorkOutput};

/// How long a stage has to stop after it was asked to, or a process to end.
const GRACE: Duration = Duration::from_secs(10);
const TO_END: Duration = Duration::from_secs(1);
/// How soon it is noticed that the work should stop.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// What a process exits with that finds no memory; see `paraloom_alloc`.
const OUT_OF_MEMORY: i32 = 11;

/// A process that works for stages of one library.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    stream: UnixStream,
    frames: Frames,
    printed: Option<Printed>,
    /// It has ended, or was ended: it answers no more.
    is_over: bool,
}

/// What is done for a stage while it works on a command.
#[derive(Default)]
pub(super) struct Desk<'a> {
    services: Option<&'a dyn Services>,
    inputs: Vec<Option<Batches>>,
    outputs: Vec<Option<(SchemaRef, Take<'a>)>>,
    /// The engine's own error, which says more than what the stage makes of it.
    error: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// When a stage that should be done is not waited for any longer.
    give_up: Option<Instant>,
}

impl<'a> Desk<'a> {
    pub(super) fn new(services: &'a dyn Services, inputs: Vec<Option<Batches>>) -> Self {
        Self { services: Some(services), inputs, ..Self::default() }
    }

    /// The work is over: there is only so much time left.
    pub(super) fn winding_up(mut self) -> Self {
        self.give_up = Some(Instant::now() + GRACE);
        self
    }

    /// Without rows, and without services where nothing is at work.
    pub(super) fn of(services: Option<&'a Arc<dyn Services>>) -> Self {
        Self { services: services.map(|services| &**services), ..Self::default() }
    }

    /// Where the rows go that the stage pushes.
    pub(super) fn outputs(&mut self, schemas: &[Option<SchemaRef>], outputs: Vec<WorkOutput<'a>>) {
        let output = |(output, schema): (WorkOutput<'a>, &Option<SchemaRef>)| match output {
            WorkOutput::Table(take) => Some((schema.clone()?, take)),
            WorkOutput::Artifact(_) => None,
        };
        self.outputs = outputs.into_iter().zip(schemas).map(output).collect();
    }

    /// What is left of the inputs.
    pub(super) fn into_rows(self) -> Vec<Option<Batches>> {
        self.inputs
    }

    fn is_cancelled(&self) -> bool {
        self.services.is_some_and(Services::is_cancelled)
    }

    fn note(&self, note: Note) {
        let Some(services) = self.services else { return };
        match note {
            Note::Log { level, message } => services.log(level, &message),
            Note::Progress { done, total, unit } => services.progress(done, total, &unit),
            Note::Metric { name, bits, step } => {
                services.metric(&name, f64::from_bits(bits), step);
            }
        }
    }

    fn answer(&mut self, request: Request, blobs: &Blobs) -> Result<(Answer, Blobs), ServiceError> {
        let services = self.services.ok_or_else(|| ServiceError::new("nothing is at work"))?;
        let answer = match request {
            Request::LatestCheckpoint => Answer::Checkpoint(services.checkpoint_latest()?),
            Request::BeginCheckpoint(step) => Answer::Dir(services.checkpoint_begin(step)?),
            Request::CommitCheckpoint(step) => {
                services.checkpoint_commit(step)?;
                Answer::Done
            }
            Request::ScratchDir => Answer::Dir(services.scratch_dir()?),
            Request::Pull(input) => return Ok((Answer::Rows, self.pull(input)?)),
            Request::Push(output) => {
                if let Err(error) = self.push(output, blobs) {
                    let message = error.to_string();
                    self.error.get_or_insert(error);
                    return Err(ServiceError::new(message));
                }
                Answer::Done
            }
        };
        Ok((answer, Blobs::new()))
    }

    fn pull(&mut self, input: usize) -> Result<Blobs, ServiceError> {
        let said = |error: arrow::error::ArrowError| ServiceError::new(error.to_string());
        let batches = self.inputs.get_mut(input).and_then(Option::as_mut);
        let rows = batches.and_then(Iterator::next).transpose().map_err(said)?;
        let encode = |rows: RecordBatch| wire::encode(&rows.schema(), Some(&rows));
        Ok(Vec::from_iter(rows.map(encode).transpose().map_err(said)?))
    }

    fn push(
        &mut self,
        output: usize,
        blobs: &Blobs,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let place = self.outputs.get_mut(output).and_then(Option::as_mut);
        let (schema, take) = place.ok_or("rows for an output that is no table")?;
        let rows = wire::rows(blobs)?;
        if rows.schema().fields() != schema.fields() {
            return Err("rows of other columns than its plan promised".into());
        }
        take(rows.with_schema(Arc::clone(schema))?)
    }
}

impl Process {
    /// Starts the program. What it prints is logged by `services`, or else goes to stderr.
    pub(super) fn start(
        isolation: &Isolation,
        services: Option<&Arc<dyn Services>>,
    ) -> io::Result<Self> {
        let (stream, theirs) = UnixStream::pair()?;
        let mut command = std::process::Command::new(&isolation.program);
        // Ctrl-C in a terminal is for the engine, which then asks the stage to stop.
        command.args(&isolation.arguments).stdin(OwnedFd::from(theirs)).process_group(0);
        let printed = match services {
            Some(services) => {
                let (reader, writer) = io::pipe()?;
                command.stdout(writer.try_clone()?).stderr(writer);
                Some(Printed::follow(reader, Arc::clone(services))?)
            }
            None => {
                command.stdout(io::stderr().as_fd().try_clone_to_owned()?).stderr(Stdio::inherit());
                None
            }
        };
        let child = command.spawn()?;
        // The command has copies of what the process writes to.
        drop(command);
        Ok(Self { child, stream, frames: Frames::default(), printed, is_over: false })
    }

    /// The process, if it can be told more.
    pub(super) fn if_alive(self) -> Option<Self> {
        Some(self).filter(|process| !process.is_over)
    }

    /// Tells the process what to do, and does what its stage asks for until that is done.
    pub(super) fn command(
        &mut self,
        command: &wire::Command,
        blobs: &Blobs,
        desk: &mut Desk,
    ) -> Result<(Outcome, Blobs)> {
        let done = self.tell(&ToStage::Command(command), blobs).and_then(|()| self.talk(desk));
        self.is_over = !matches!(done, Ok(Talk::Done(..)));
        if let Some(error) = desk.error.take() {
            return Err(HostError::Engine(error));
        }
        match done {
            Ok(Talk::Done(outcome, blobs)) => Ok((outcome.map_err(HostError::from)?, blobs)),
            Ok(Talk::Stuck) => Err(self.kill(desk)),
            Ok(Talk::Over) => Err(self.farewell(None)),
            Err(error) => Err(self.farewell(Some(&error))),
        }
    }

    fn tell(&mut self, message: &ToStage<&wire::Command>, blobs: &Blobs) -> io::Result<()> {
        wire::write(&mut self.stream, message, blobs)
    }

    fn talk(&mut self, desk: &mut Desk) -> io::Result<Talk> {
        loop {
            while let Some((message, blobs)) = self.frames.next()? {
                match message {
                    ToEngine::Said(note) => desk.note(note),
                    ToEngine::Asked(number, request) => {
                        let (answer, blobs) = match desk.answer(request, &blobs) {
                            Ok((answer, blobs)) => (Ok(answer), blobs),
                            Err(error) => (Err(error), Blobs::new()),
                        };
                        self.tell(&ToStage::Answer(number, answer), &blobs)?;
                    }
                    ToEngine::Done(outcome) => return Ok(Talk::Done(outcome, blobs)),
                }
            }
            match desk.give_up {
                None if desk.is_cancelled() => {
                    self.tell(&ToStage::Cancel, &Blobs::new())?;
                    desk.give_up = Some(Instant::now() + GRACE);
                }
                Some(end) if Instant::now() > end => return Ok(Talk::Stuck),
                _ => {}
            }
            let mut ready = [PollFd::new(&self.stream, PollFlags::IN)];
            match poll(&mut ready, Some(&LOOK)) {
                // A process that it has started may still have the other end.
                Ok(0) if self.child.try_wait()?.is_some() => return Ok(Talk::Over),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) if !self.frames.read(&mut self.stream)? => return Ok(Talk::Over),
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends a process whose stage does not stop.
    fn kill(&mut self, desk: &Desk) -> HostError {
        let seconds = GRACE.as_secs();
        let message = format!("it did not stop within {seconds} s, so its process was ended");
        desk.note(Note::Log { level: Level::Warn, message: message.clone() });
        // It may have ended by itself meanwhile.
        let _ = self.child.kill();
        HostError::Stage(StageFailure { status: status::CANCELLED, message, ..Default::default() })
    }

    /// Why a process does not answer.
    fn farewell(&mut self, error: Option<&io::Error>) -> HostError {
        let how = match (self.end(), error) {
            (Ok(status), _) if status.code() == Some(OUT_OF_MEMORY) => {
                return HostError::Stage(self.out_of_memory());
            }
            (Ok(status), Some(error)) if error.kind() == io::ErrorKind::InvalidData => {
                format!("it sent what makes no sense: {error}; {status}")
            }
            (Ok(status), _) => status.to_string(),
            (Err(error), _) => error.to_string(),
        };
        HostError::Crashed { how, last_words: self.last_words() }
    }

    /// What the allocator said before it ended the process.
    fn out_of_memory(&self) -> StageFailure {
        let words = self.last_words();
        let after = |mark: &str| words.iter().find_map(|line| Some(line.split_once(mark)?.1));
        let message = match after("out of memory") {
            Some(how) => format!("out of memory{how}"),
            None => "out of memory".to_owned(),
        };
        let hint = after("hint: ").map(str::to_owned);
        StageFailure { status: status::RESOURCE, message, hint, ..Default::default() }
    }

    fn last_words(&self) -> Vec<String> {
        self.printed.as_ref().map(Printed::last).unwrap_or_default()
    }

    /// Lets go of the process, and waits until it is gone.
    fn end(&mut self) -> io::Result<ExitStatus> {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let started = Instant::now();
        while started.elapsed() < TO_END {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

enum Talk {
    Done(Result<Outcome, wire::Failure>, Blobs),
    /// The process has ended, or wants no more.
    Over,
    /// The stage does not stop.
    Stuck,
}

/// What a process prints, line by line.
#[derive(Debug)]
struct Printed {
    kept: Arc<Mutex<Kept>>,
    over: mpsc::Receiver<()>,
}

struct Kept {
    /// None once nothing is at work: a process that the stage has started may print for ever.
    services: Option<Arc<dyn Services>>,
    /// The last lines.
    words: Vec<String>,
}

/// How much is kept for the day of a crash, and what is a line at most.
const LAST: usize = 5;
const LINE: u64 = 4096;

impl Printed {
    fn follow(pipe: PipeReader, services: Arc<dyn Services>) -> io::Result<Self> {
        let kept = Kept { services: Some(services), words: Vec::new() };
        let (kept, (end, over)) = (Arc::new(Mutex::new(kept)), mpsc::channel());
        let following = Arc::clone(&kept);
        let follow = move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while let Ok(1..) = pipe.by_ref().take(LINE).read_until(b'\n', &mut line) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if !text.is_empty() {
                    following.lock().unwrap_or_else(PoisonError::into_inner).add(text);
                }
            }
            let _ = end.send(());
        };
        std::thread::Builder::new().name("printed".to_owned()).spawn(follow)?;
        Ok(Self { kept, over })
    }

    /// The last lines of a process that has ended.
    fn last(&self) -> Vec<String> {
        let _ = self.over.recv_timeout(TO_END);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).words.clone()
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        // What was printed before the end is logged before anybody hears of it.
        let _ = self.over.recv_timeout(TO_END);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).services = None;
    }
}

impl Kept {
    fn add(&mut self, line: String) {
        if let Some(services) = &self.services {
            services.log(Level::Info, &line);
        }
        if self.words.len() == LAST {
            self.words.remove(0);
        }
        self.words.push(line);
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.words.fmt(f)
    }
}
