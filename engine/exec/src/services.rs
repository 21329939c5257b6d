//! What a stage at work gets from a run.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use paraloom_host::{Level, ServiceError, Services};
use paraloom_store::{Entry, Event, LogLevel, StoreError};
use tempfile::TempDir;

/// Rejected rows of a node that are told one by one.
const MOST_REJECTED: u64 = 1000;

/// The services of one node. Events go through a channel, since a stage may keep its
/// services longer than the observer is borrowed.
pub(crate) struct NodeServices {
    node: String,
    entry: Option<Entry>,
    events: Mutex<Sender<Event>>,
    stop: Arc<AtomicBool>,
    checkpoint_every: Duration,
    checkpoint: Mutex<Option<PathBuf>>,
    made: Mutex<Vec<PathBuf>>,
    /// Directories of work that is not kept.
    scratch: Mutex<Vec<TempDir>>,
    /// Rows that were rejected.
    rejected: AtomicU64,
}

impl NodeServices {
    /// Without an entry there are no checkpoints: for work that is not kept.
    pub(crate) fn new(
        node: &str,
        entry: Option<Entry>,
        events: Sender<Event>,
        stop: Arc<AtomicBool>,
        checkpoint_every: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            node: node.to_owned(),
            entry,
            events: Mutex::new(events),
            stop,
            checkpoint_every,
            checkpoint: Mutex::default(),
            made: Mutex::default(),
            scratch: Mutex::default(),
            rejected: AtomicU64::new(0),
        })
    }

    pub(crate) fn send(&self, event: Event) {
        // The receiver is gone once the run is over.
        let _ = self.events.lock().unwrap_or_else(PoisonError::into_inner).send(event);
    }

    /// Tells that a row was rejected. A table may consist of such rows, so of many only the first are told.
    pub(crate) fn row_rejected(&self, id: String, message: String) {
        let node = self.node.clone();
        match self.rejected.fetch_add(1, Ordering::Relaxed) {
            0..MOST_REJECTED => self.send(Event::RowRejected { node, id, message }),
            MOST_REJECTED => {
                let message = format!(
                    "more than {MOST_REJECTED} rows are rejected; the table `rejected` has them all"
                );
                self.send(Event::Log { node, level: LogLevel::Warn, message });
            }
            _ => {}
        }
    }

    fn entry(&self) -> Result<&Entry, ServiceError> {
        let missing = || ServiceError::new("there are no directories for work that is not kept");
        self.entry.as_ref().ok_or_else(missing)
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

/// What a stage is told of trouble with the store.
fn refused(error: StoreError) -> ServiceError {
    let is_resource = matches!(error, StoreError::Full { .. });
    ServiceError { message: error.to_string(), is_resource }
}

impl Services for NodeServices {
    fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Error => LogLevel::Error,
            Level::Warn => LogLevel::Warn,
            Level::Info => LogLevel::Info,
            Level::Debug => LogLevel::Debug,
            Level::Trace => LogLevel::Trace,
        };
        self.send(Event::Log { node: self.node.clone(), level, message: message.to_owned() });
    }

    fn progress(&self, done: u64, total: u64, unit: &str) {
        let unit = unit.to_owned();
        self.send(Event::Progress { node: self.node.clone(), done, total, unit });
    }

    fn metric(&self, name: &str, value: f64, step: u64) {
        let (name, value) = (name.to_owned(), Some(value).filter(|value| value.is_finite()));
        self.send(Event::Metric { node: self.node.clone(), name, value, step });
    }

    fn is_cancelled(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn checkpoint_latest(&self) -> Result<Option<(PathBuf, u64)>, ServiceError> {
        match &self.entry {
            Some(entry) => entry.latest_checkpoint().map_err(refused),
            None => Ok(None),
        }
    }

    fn checkpoint_begin(&self, _step: u64) -> Result<PathBuf, ServiceError> {
        let dir = self.entry()?.begin_checkpoint().map_err(refused)?;
        self.remember(&dir);
        *self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(dir.clone());
        Ok(dir)
    }

    fn checkpoint_commit(&self, step: u64) -> Result<(), ServiceError> {
        let dir = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).take();
        let dir =
            dir.ok_or_else(|| ServiceError::new("checkpoint_commit without checkpoint_begin"))?;
        self.entry()?.commit_checkpoint(&dir, step).map_err(refused)
    }

    fn scratch_dir(&self) -> Result<PathBuf, ServiceError> {
        let Some(entry) = &self.entry else {
            let dir = tempfile::tempdir()
                .map_err(|error| ServiceError::new(format!("no scratch space: {error}")))?;
            let path = dir.path().to_owned();
            self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(dir);
            return Ok(path);
        };
        let dir = entry.scratch().map_err(refused)?;
        self.remember(&dir);
        Ok(dir)
    }

    fn checkpoint_interval(&self) -> Duration {
        self.checkpoint_every
    }
}
