//! The engine's side of an isolated process: commands, and the answers to its requests.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use paraloom_abi::status;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::GRACE;
use super::frames::{self, Frames};
use super::handler::Handler;
use super::printed::Printed;
use super::source::Isolation;
use super::wire::{self, Blobs, Hello, Notice, Outcome, PROTOCOL, ToEngine, ToStage};
use crate::error::{HostError, Result, StageFailure};
use crate::services::Level;

/// How long a process has to end after its socket was closed.
const TO_END: Duration = Duration::from_secs(1);
/// How often cancellation and deadlines are looked at.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// What a process exits with that finds no memory; see `paraloom_alloc`.
const OUT_OF_MEMORY: i32 = 11;

/// An isolated process for the stages of one library.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    stream: UnixStream,
    frames: Frames,
    printed: Printed,
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
    /// Starts the program. What it prints goes to `log`, line by line.
    pub(super) fn start(
        isolation: &Isolation,
        log: impl Fn(&str) + Send + 'static,
    ) -> io::Result<Self> {
        let (stream, theirs) = UnixStream::pair()?;
        let mut command = std::process::Command::new(&isolation.program);
        // A Ctrl-C in the terminal reaches the engine only, which then asks the stage to stop.
        command.args(&isolation.arguments).stdin(OwnedFd::from(theirs)).process_group(0);
        let (reader, writer) = io::pipe()?;
        command.stdout(writer.try_clone()?).stderr(writer);
        let printed = Printed::follow(reader, log)?;
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

    /// Sends a command and answers the requests of the stage until it is done.
    pub(super) fn command(
        &mut self,
        command: &wire::Command,
        blobs: &Blobs,
        handler: &mut Handler,
    ) -> Result<(Outcome, Blobs)> {
        let late = handler.limit.map(|limit| Instant::now() + limit);
        let tell = self.send(&ToStage::Command(command), blobs, handler, late);
        let done = match tell.and_then(|()| self.answer_until_done(handler, late)) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let is_late = late.is_some_and(|late| Instant::now() > late);
                Ok(if is_late { CommandEnd::Late } else { CommandEnd::Stuck })
            }
            done => done,
        };
        self.is_over = !matches!(done, Ok(CommandEnd::Done(..)));
        if let Some(error) = handler.error.take() {
            return Err(error);
        }
        match done {
            Ok(CommandEnd::Done(outcome, blobs)) => Ok((outcome.map_err(HostError::from)?, blobs)),
            Ok(CommandEnd::Stuck) => Err(self.end_stuck(handler)),
            Ok(CommandEnd::Late) => {
                // It may have ended by itself meanwhile.
                let _ = self.child.kill();
                let during = std::mem::take(&mut handler.during);
                Err(HostError::Late { during, limit: handler.limit.unwrap_or_default() })
            }
            Ok(CommandEnd::Foreign(Hello { protocol, program })) => {
                let what = format!(
                    "its process ({program:?}) speaks version {protocol} of the stage protocol, this engine {PROTOCOL}"
                );
                Err(HostError::Engine(what.into()))
            }
            Ok(CommandEnd::Over) => Err(self.ended(None, handler)),
            Err(error) => Err(self.ended(Some(&error), handler)),
        }
    }

    /// Sends a message. A process that does not read is waited for no longer than one that does not answer.
    fn send(
        &mut self,
        message: &ToStage<&wire::Command>,
        blobs: &Blobs,
        handler: &mut Handler,
        late: Option<Instant>,
    ) -> io::Result<()> {
        let pid = self.child.id();
        let Self { stream, frames, owes_cancel, .. } = self;
        frames::write(
            &mut LimitedWrite { stream, frames, owes_cancel, pid, handler, late },
            message,
            blobs,
        )
    }

    /// Answers the requests of the stage until the command is done; not beyond `late`.
    fn answer_until_done(
        &mut self,
        handler: &mut Handler,
        late: Option<Instant>,
    ) -> io::Result<CommandEnd> {
        loop {
            while let Some((message, blobs)) = self.frames.next()? {
                match message {
                    ToEngine::Hello(hello) if hello.protocol != PROTOCOL => {
                        return Ok(CommandEnd::Foreign(hello));
                    }
                    ToEngine::Hello(_) => self.greeted = true,
                    _ if !self.greeted => {
                        let what = "it did not begin with a hello";
                        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                    }
                    ToEngine::Notice(note) => handler.notice(note),
                    ToEngine::Request(number, request) => {
                        let (answer, blobs) = match handler.answer(request, &blobs) {
                            Ok((answer, blobs)) => (Ok(answer), blobs),
                            Err(error) => (Err(error), Blobs::new()),
                        };
                        self.send(&ToStage::Answer(number, answer), &blobs, handler, late)?;
                    }
                    ToEngine::Done(outcome) => return Ok(CommandEnd::Done(outcome, blobs)),
                }
            }
            handler.report_if_slow();
            if late.is_some_and(|late| Instant::now() > late) {
                return Ok(CommandEnd::Late);
            }
            if std::mem::take(&mut self.owes_cancel) {
                self.send(&ToStage::Cancel, &Blobs::new(), handler, late)?;
            }
            match handler.give_up {
                None if handler.is_cancelled() => {
                    handler.give_up = Some(Instant::now() + GRACE);
                    self.owes_cancel = true;
                    continue;
                }
                Some(end) if Instant::now() > end => return Ok(CommandEnd::Stuck),
                _ => {}
            }
            let mut ready = [PollFd::new(&self.stream, PollFlags::IN)];
            match poll(&mut ready, Some(&LOOK)) {
                // A process that it has started may keep the socket open.
                Ok(0) if has_exited(self.child.id()) => return Ok(CommandEnd::Over),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) if !self.frames.read(&mut self.stream)? => return Ok(CommandEnd::Over),
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends a process whose stage does not stop.
    fn end_stuck(&mut self, handler: &Handler) -> HostError {
        let seconds = GRACE.as_secs();
        let message = format!("it did not stop within {seconds} s, so its process was ended");
        handler.notice(Notice::Log { level: Level::Warn, message: message.clone() });
        // It may have ended by itself meanwhile.
        let _ = self.child.kill();
        HostError::Stage(StageFailure { status: status::CANCELLED, message, ..Default::default() })
    }

    /// Why a process does not answer.
    fn ended(&mut self, error: Option<&io::Error>, handler: &mut Handler) -> HostError {
        let how = match (self.end(), error) {
            (Ok(status), _) if status.code() == Some(OUT_OF_MEMORY) => {
                return HostError::Stage(self.out_of_memory());
            }
            (Ok(status), Some(error)) if error.kind() == io::ErrorKind::InvalidData => {
                format!("it sent an invalid message: {error}; {status}")
            }
            (Ok(status), _) => status.to_string(),
            (Err(error), _) => error.to_string(),
        };
        let during = std::mem::take(&mut handler.during);
        HostError::Crashed { how, during, stderr_tail: self.stderr_tail() }
    }

    /// The error that `paraloom_alloc` printed before it ended the process.
    fn out_of_memory(&mut self) -> StageFailure {
        let words = self.stderr_tail();
        let after = |mark: &str| words.iter().find_map(|line| Some(line.split_once(mark)?.1));
        let message = match after("out of memory") {
            Some(how) => format!("out of memory{how}"),
            None => "out of memory".to_owned(),
        };
        let hint = after("hint: ").map(str::to_owned);
        StageFailure { status: status::RESOURCE, message, hint, ..Default::default() }
    }

    fn stderr_tail(&mut self) -> Vec<String> {
        self.printed.last()
    }

    /// Disconnects, waits for the process to end, and kills it and its group if it does not.
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
struct LimitedWrite<'a, 'd> {
    stream: &'a UnixStream,
    frames: &'a mut Frames,
    owes_cancel: &'a mut bool,
    pid: u32,
    handler: &'a mut Handler<'d>,
    late: Option<Instant>,
}

impl Write for LimitedWrite<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
            self.handler.report_if_slow();
            let now = Instant::now();
            if self.late.is_some_and(|late| now > late)
                || self.handler.give_up.is_some_and(|end| now > end)
            {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if self.handler.give_up.is_none() && self.handler.is_cancelled() {
                self.handler.give_up = Some(now + GRACE);
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

enum CommandEnd {
    /// It speaks another version of the protocol.
    Foreign(Hello),
    Done(Result<Outcome, wire::Failure>, Blobs),
    /// The process has ended, or has disconnected.
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
            tell: |_| {},
        };
        let mut process = Process::start(&isolation, |_| {}).expect("there is a shell");
        let limit = Duration::from_millis(300);
        let mut handler = Handler::default();
        handler.limit = Some(limit);
        let rows = vec![vec![0; 8 << 20]];
        let error =
            process.command(&wire::Command::Map, &rows, &mut handler).expect_err("it is deaf");
        assert!(matches!(error, HostError::Late { .. }), "{error}");
        assert!(process.if_alive().is_none());
    }
}
