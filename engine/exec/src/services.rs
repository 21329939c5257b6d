//! What a stage at work gets from a run.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use paraloom_host::{Level, Services};
use paraloom_store::Entry;

use crate::event::Event;

/// The services of one node. Events go through a channel, since a stage may keep its
/// services longer than the observer is borrowed.
pub(crate) struct NodeServices {
    node: String,
    entry: Option<Entry>,
    events: Mutex<Sender<Event>>,
    stop: Arc<AtomicBool>,
    checkpoint: Mutex<Option<PathBuf>>,
    made: Mutex<Vec<PathBuf>>,
}

impl NodeServices {
    /// Without an entry there are no checkpoints: for work that is not kept.
    pub(crate) fn new(
        node: &str,
        entry: Option<Entry>,
        events: Sender<Event>,
        stop: Arc<AtomicBool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            node: node.to_owned(),
            entry,
            events: Mutex::new(events),
            stop,
            checkpoint: Mutex::default(),
            made: Mutex::default(),
        })
    }

    fn send(&self, event: Event) {
        // Nobody listens any more once the run is over.
        let _ = self.events.lock().unwrap_or_else(PoisonError::into_inner).send(event);
    }

    fn entry(&self) -> Result<&Entry, String> {
        self.entry
            .as_ref()
            .ok_or_else(|| "there are no directories for work that is not kept".to_owned())
    }

    /// Removes the directories that were handed out and not committed.
    pub(crate) fn clean_up(&self) {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(entry) = &self.entry {
            // What cannot be removed now is garbage for `gc`.
            made.iter().for_each(|dir| drop(entry.discard(dir)));
        }
    }

    fn remember(&self, dir: &Path) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(dir.to_owned());
    }
}

impl Services for NodeServices {
    fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        self.send(Event::Log { node: self.node.clone(), level, message: message.to_owned() });
    }

    fn progress(&self, done: u64, total: u64, unit: &str) {
        let unit = unit.to_owned();
        self.send(Event::Progress { node: self.node.clone(), done, total, unit });
    }

    fn metric(&self, name: &str, value: f64, step: u64) {
        let name = name.to_owned();
        self.send(Event::Metric { node: self.node.clone(), name, value, step });
    }

    fn is_cancelled(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn checkpoint_latest(&self) -> Result<Option<(PathBuf, u64)>, String> {
        match &self.entry {
            Some(entry) => entry.latest_checkpoint().map_err(|error| error.to_string()),
            None => Ok(None),
        }
    }

    fn checkpoint_begin(&self, _step: u64) -> Result<PathBuf, String> {
        let dir = self.entry()?.begin_checkpoint().map_err(|error| error.to_string())?;
        self.remember(&dir);
        *self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(dir.clone());
        Ok(dir)
    }

    fn checkpoint_commit(&self, step: u64) -> Result<(), String> {
        let dir = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).take();
        let dir = dir.ok_or_else(|| "checkpoint_commit without checkpoint_begin".to_owned())?;
        self.entry()?.commit_checkpoint(&dir, step).map_err(|error| error.to_string())
    }

    fn scratch_dir(&self) -> Result<PathBuf, String> {
        let dir = self.entry()?.scratch().map_err(|error| error.to_string())?;
        self.remember(&dir);
        Ok(dir)
    }
}
