//! What a process of a stage prints: each line goes to a log, and the last ones are kept for the error of a crash.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How many lines are kept for the error of a crash, and how much of a line, in bytes.
const LAST: usize = 5;
const LINE: usize = 4096;
/// What is read at once, and at most once the process has ended: more than a pipe holds.
const CHUNK: usize = 64 << 10;
const REST: usize = 1 << 20;

/// Follows what a process prints.
#[derive(Debug)]
pub(super) struct Printed {
    last: Arc<Mutex<Vec<String>>>,
    /// Dropped to have the thread read what is there and end: a process that the stage has started may keep the pipe.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Printed {
    pub(super) fn follow(
        pipe: PipeReader,
        log: impl Fn(&str) + Send + 'static,
    ) -> io::Result<Self> {
        let (stopped, stop) = io::pipe()?;
        let last = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&last);
        let line = move |line: String| {
            log(&line);
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == LAST {
                kept.remove(0);
            }
            kept.push(line);
        };
        let thread = std::thread::Builder::new().name("printed".to_owned());
        let thread = thread.spawn(move || read(pipe, &stopped, Lines::new(line)))?;
        Ok(Self { last, stop: Some(stop), thread: Some(thread) })
    }

    /// The last lines of a process that has ended; all that it printed has been logged then.
    pub(super) fn last(&mut self) -> Vec<String> {
        self.stop();
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reads `pipe` until its end, or until `stopped` is closed and what was there then is read.
fn read<F: FnMut(String)>(mut pipe: PipeReader, stopped: &PipeReader, mut lines: Lines<F>) {
    let mut bytes = vec![0; CHUNK];
    let mut rest = None;
    loop {
        let mut ready = [PollFd::new(&pipe, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut ready, rest.is_some().then_some(&at_once)) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
            Ok(_) => {}
        }
        let (has_more, is_stopped) =
            (!ready[0].revents().is_empty(), !ready[1].revents().is_empty());
        if is_stopped && rest.is_none() {
            rest = Some(REST);
        }
        match (has_more, &mut rest) {
            (false, Some(_)) | (_, Some(0)) => break,
            (false, None) => continue,
            (true, _) => {}
        }
        match pipe.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => {
                lines.add(&bytes[..read]);
                rest = rest.map(|rest| rest.saturating_sub(read));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    lines.end();
}

/// Lines out of bytes that come in pieces. Of a line that is too long only the beginning is kept.
struct Lines<F> {
    line: Vec<u8>,
    left_out: usize,
    take: F,
}

impl<F: FnMut(String)> Lines<F> {
    fn new(take: F) -> Self {
        Self { line: Vec::new(), left_out: 0, take }
    }

    fn add(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = LINE - self.line.len();
            self.line.extend(&text[..text.len().min(room)]);
            self.left_out += text.len().saturating_sub(room);
            if ends {
                self.end();
            }
        }
    }

    fn end(&mut self) {
        let mut line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        if self.left_out > 0 {
            line.push_str(&format!(" ... {} bytes left out", self.left_out));
        }
        self.line.clear();
        self.left_out = 0;
        if !line.is_empty() {
            (self.take)(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let long = "x".repeat(LINE + 7);
        let text = format!("one\n\ntwo  \r\n{long}\nlast");
        let expected = [
            "one".to_owned(),
            "two".to_owned(),
            format!("{} ... 7 bytes left out", "x".repeat(LINE)),
            "last".to_owned(),
        ];
        for piece in [1, 3, 4096, text.len()] {
            let mut found = Vec::new();
            let mut lines = Lines::new(|line| found.push(line));
            text.as_bytes().chunks(piece).for_each(|piece| lines.add(piece));
            lines.end();
            assert_eq!(found, expected, "{piece}");
        }
    }
}
