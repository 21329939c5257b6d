//! What a process of a stage prints: each line is logged, and the last ones are kept for the error of a crash.

use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use crate::services::{Level, Services};

/// How long the last lines of a process that has ended are waited for.
const TO_END: Duration = Duration::from_secs(1);

/// What a process prints, line by line.
#[derive(Debug)]
pub(super) struct Printed {
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
    pub(super) fn follow(pipe: PipeReader, services: Arc<dyn Services>) -> io::Result<Self> {
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
    pub(super) fn last(&self) -> Vec<String> {
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
