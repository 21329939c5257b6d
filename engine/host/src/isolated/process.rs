//! The engine's side: a process, and the conversation with it.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use paraloom_abi::status;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::GRACE;
use super::desk::Desk;
use super::frames::{self, Frames};
use super::printed::Printed;
use super::source::Isolation;
use super::wire::{self, Blobs, Hello, Note, Outcome, PROTOCOL, ToEngine, ToStage};
use crate::error::{HostError, Result, StageFailure};
use crate::services::{Level, Services};

/// How long a process has to end after its socket was closed.
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
    /// It speaks the protocol of this engine.
    greeted: bool,
    /// It is still to be told that the work should stop.
    owes_cancel: bool,
    /// How it ended, once it was waited for.
    status: Option<ExitStatus>,
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
        // What cannot be told is noticed when an answer is waited for.
        let _ = frames::write(
            &mut &stream,
            &ToStage::<wire::Command>::Hello(Hello::ours()),
            &Blobs::new(),
        );
        // It is waited for with a limit, in both directions.
        stream.set_nonblocking(true)?;
        Ok(Self {
            child,
            stream,
            frames: Frames::default(),
            printed,
            is_over: false,
            greeted: false,
            owes_cancel: false,
            status: None,
        })
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
        let late = desk.limit.map(|limit| Instant::now() + limit);
        let tell = self.tell(&ToStage::Command(command), blobs, desk, late);
        let done = match tell.and_then(|()| self.talk(desk, late)) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let is_late = late.is_some_and(|late| Instant::now() > late);
                Ok(if is_late { Talk::Late } else { Talk::Stuck })
            }
            done => done,
        };
        self.is_over = !matches!(done, Ok(Talk::Done(..)));
        if let Some(error) = desk.error.take() {
            return Err(error);
        }
        match done {
            Ok(Talk::Done(outcome, blobs)) => Ok((outcome.map_err(HostError::from)?, blobs)),
            Ok(Talk::Stuck) => Err(self.kill(desk)),
            Ok(Talk::Late) => {
                // It may have ended by itself meanwhile.
                let _ = self.child.kill();
                let during = std::mem::take(&mut desk.during);
                Err(HostError::Late { during, limit: desk.limit.unwrap_or_default() })
            }
            Ok(Talk::Foreign(Hello { protocol, program })) => {
                let what = format!(
                    "its process ({program:?}) speaks version {protocol} of the stage protocol, this engine {PROTOCOL}"
                );
                Err(HostError::Engine(what.into()))
            }
            Ok(Talk::Over) => Err(self.ended(None, desk)),
            Err(error) => Err(self.ended(Some(&error), desk)),
        }
    }

    /// Sends a message. A process that does not read is waited for no longer than one that does not answer.
    fn tell(
        &mut self,
        message: &ToStage<&wire::Command>,
        blobs: &Blobs,
        desk: &mut Desk,
        late: Option<Instant>,
    ) -> io::Result<()> {
        let pid = self.child.id();
        let Self { stream, frames, owes_cancel, .. } = self;
        frames::write(&mut Patient { stream, frames, owes_cancel, pid, desk, late }, message, blobs)
    }

    /// Does what the stage asks for until it is done; not beyond `late`.
    fn talk(&mut self, desk: &mut Desk, late: Option<Instant>) -> io::Result<Talk> {
        loop {
            while let Some((message, blobs)) = self.frames.next()? {
                match message {
                    ToEngine::Hello(hello) if hello.protocol != PROTOCOL => {
                        return Ok(Talk::Foreign(hello));
                    }
                    ToEngine::Hello(_) => self.greeted = true,
                    _ if !self.greeted => {
                        let what = "it did not begin with a hello";
                        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                    }
                    ToEngine::Said(note) => desk.note(note),
                    ToEngine::Asked(number, request) => {
                        let (answer, blobs) = match desk.answer(request, &blobs) {
                            Ok((answer, blobs)) => (Ok(answer), blobs),
                            Err(error) => (Err(error), Blobs::new()),
                        };
                        self.tell(&ToStage::Answer(number, answer), &blobs, desk, late)?;
                    }
                    ToEngine::Done(outcome) => return Ok(Talk::Done(outcome, blobs)),
                }
            }
            desk.tell_if_slow();
            if late.is_some_and(|late| Instant::now() > late) {
                return Ok(Talk::Late);
            }
            if std::mem::take(&mut self.owes_cancel) {
                self.tell(&ToStage::Cancel, &Blobs::new(), desk, late)?;
            }
            match desk.give_up {
                None if desk.is_cancelled() => {
                    desk.give_up = Some(Instant::now() + GRACE);
                    self.owes_cancel = true;
                    continue;
                }
                Some(end) if Instant::now() > end => return Ok(Talk::Stuck),
                _ => {}
            }
            let mut ready = [PollFd::new(&self.stream, PollFlags::IN)];
            match poll(&mut ready, Some(&LOOK)) {
                // A process that it has started may still have the other end.
                Ok(0) if has_exited(self.child.id()) => return Ok(Talk::Over),
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
    fn ended(&mut self, error: Option<&io::Error>, desk: &mut Desk) -> HostError {
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
        let during = std::mem::take(&mut desk.during);
        HostError::Crashed { how, during, last_words: self.last_words() }
    }

    /// The allocator's message from before it ended the process.
    fn out_of_memory(&mut self) -> StageFailure {
        let words = self.last_words();
        let after = |mark: &str| words.iter().find_map(|line| Some(line.split_once(mark)?.1));
        let message = match after("out of memory") {
            Some(how) => format!("out of memory{how}"),
            None => "out of memory".to_owned(),
        };
        let hint = after("hint: ").map(str::to_owned);
        StageFailure { status: status::RESOURCE, message, hint, ..Default::default() }
    }

    fn last_words(&mut self) -> Vec<String> {
        self.printed.as_mut().map(Printed::last).unwrap_or_default()
    }

    /// Lets go of the process and of those that it has started, and waits until it is gone.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let started = Instant::now();
        while !has_exited(self.child.id()) && started.elapsed() < TO_END {
            std::thread::sleep(Duration::from_millis(2));
        }
        // It leads a group of its own, whose number is not given to others before it is waited for.
        if let Some(group) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        self.child.kill()?;
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }
}

/// Whether a child has ended; it is not waited for here.
fn has_exited(pid: u32) -> bool {
    let Some(pid) = Pid::from_raw(pid as i32) else { return true };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None) | Err(rustix::io::Errno::INTR))
}

/// Writes to a process that may read nothing, or only once what it sends is read: what comes meanwhile is kept in `frames`.
struct Patient<'a, 'd> {
    stream: &'a UnixStream,
    frames: &'a mut Frames,
    owes_cancel: &'a mut bool,
    pid: u32,
    desk: &'a mut Desk<'d>,
    late: Option<Instant>,
}

impl Write for Patient<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
            self.desk.tell_if_slow();
            let now = Instant::now();
            if self.late.is_some_and(|late| now > late)
                || self.desk.give_up.is_some_and(|end| now > end)
            {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if self.desk.give_up.is_none() && self.desk.is_cancelled() {
                self.desk.give_up = Some(now + GRACE);
                // Not in the middle of this message.
                *self.owes_cancel = true;
            }
            let mut ready = [PollFd::new(self.stream, PollFlags::IN | PollFlags::OUT)];
            match poll(&mut ready, Some(&LOOK)) {
                Ok(0) if has_exited(self.pid) => return Err(io::ErrorKind::BrokenPipe.into()),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) if ready[0].revents().contains(PollFlags::IN) => {
                    if !self.frames.read(&mut &*self.stream)? {
                        return Err(io::ErrorKind::BrokenPipe.into());
                    }
                }
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

enum Talk {
    /// It speaks another version of the protocol.
    Foreign(Hello),
    Done(Result<Outcome, wire::Failure>, Blobs),
    /// The process has ended, or wants no more.
    Over,
    /// The stage does not stop.
    Stuck,
    /// The command took too long.
    Late,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It has sent its hello, and reads nothing more than fits into the socket.
    #[test]
    fn a_process_that_does_not_read_is_not_waited_for() {
        let message = r#"{"hello":{"protocol":1,"program":"deaf"}}"#;
        let hello =
            format!("printf '\\{:03o}\\0\\0\\0\\0\\0\\0\\0%s' '{message}' >&0", message.len());
        let isolation = Isolation {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), format!("{hello}; exec sleep 60").into()],
            still_waiting: |_| {},
        };
        let mut process = Process::start(&isolation, None).expect("there is a shell");
        let limit = Duration::from_millis(300);
        let mut desk = Desk::default();
        desk.limit = Some(limit);
        let rows = vec![vec![0; 8 << 20]];
        let error = process.command(&wire::Command::Map, &rows, &mut desk).expect_err("it is deaf");
        assert!(matches!(error, HostError::Late { .. }), "{error}");
        assert!(process.if_alive().is_none());
    }
}
