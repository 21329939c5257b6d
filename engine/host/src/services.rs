//! What the engine offers to a stage at work.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How much a log record matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Why the engine could not do what a stage asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceError {
    /// One line.
    pub message: String,
    /// Disk or memory ran out.
    pub is_resource: bool,
}

impl ServiceError {
    /// Any other failure than that something ran out.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_resource: false }
    }
}

/// What the engine does for a stage at work. Called from any thread.
pub trait Services: Send + Sync {
    /// A log record.
    fn log(&self, level: Level, message: &str);
    /// Work done so far, of `total` (0 = unknown).
    fn progress(&self, done: u64, total: u64, unit: &str);
    /// One value of a metric.
    fn metric(&self, name: &str, value: f64, step: u64);
    /// Whether the work should stop.
    fn is_cancelled(&self) -> bool;
    /// The newest committed checkpoint.
    fn checkpoint_latest(&self) -> Result<Option<(PathBuf, u64)>, ServiceError>;
    /// An empty directory for the next checkpoint.
    fn checkpoint_begin(&self, step: u64) -> Result<PathBuf, ServiceError>;
    /// Makes the directory of the last `checkpoint_begin` the newest checkpoint.
    fn checkpoint_commit(&self, step: u64) -> Result<(), ServiceError>;
    /// A private directory.
    fn scratch_dir(&self) -> Result<PathBuf, ServiceError>;
    /// How far apart checkpoints are to be; zero means one after every step.
    fn checkpoint_interval(&self) -> Duration;
}
