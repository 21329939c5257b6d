//! The log of a run: JSON lines, one event each, in `runs/<id>/events.jsonl`.
//!
//! The log is for people and programs that watch; the store does not depend on it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::Store;
use crate::error::Result;
use crate::event::Logged;

/// Lines at the end of a log that are always read.
const RECENT_LINES: usize = 40;

/// An open log.
#[derive(Debug)]
pub struct RunLog {
    id: String,
    dir: PathBuf,
    file: Mutex<File>,
}

/// What the log of a run says in short.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// Name of the run.
    pub id: String,
    /// Its directory.
    pub dir: PathBuf,
    /// The events, but for the counts and metrics of a node at work: of those, only the
    /// newest are here.
    pub events: Vec<Logged>,
}

impl RunLog {
    /// Starts the log of a new run of the given pipeline text.
    pub fn create(store: &Store, pipeline: &str) -> Result<Self> {
        let now = jiff::Timestamp::now();
        let id = format!("{}-{:05}", now.strftime("%Y%m%dT%H%M%S%3fZ"), std::process::id());
        let dir = store.runs_dir().join(&id);
        store.disk.create_dir_all(&dir)?;
        store.disk.write_atomic(&dir.join("pipeline.yaml"), pipeline.as_bytes())?;
        let path = dir.join("events.jsonl");
        let file = store.disk.open_to_append(&path)?;
        Ok(Self { id, dir, file: Mutex::new(file) })
    }

    /// The run's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Appends a line. A full disk must not stop a run that can go on, so failures are ignored.
    pub fn write(&self, line: &Logged) {
        if let Ok(mut file) = self.file.lock() {
            let _ = file.write_all(format!("{}\n", line.line()).as_bytes());
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Copies it to the bucket that the store is in. A log that is not there is missed by who looks, and that is all.
    pub fn publish(&self, store: &Store) {
        let Some(remote) = &store.remote else { return };
        for name in FILES {
            if let Ok(Some(bytes)) = store.disk.read_if_exists(&self.dir.join(name)) {
                let _ = remote.put(&format!("runs/{}/{name}", self.id), &bytes);
            }
        }
    }
}

/// The files of a run but for the record of its results, which is a note.
const FILES: [&str; 2] = ["pipeline.yaml", "events.jsonl"];

impl Store {
    /// The runs against this store, oldest first.
    pub fn runs(&self) -> Result<Vec<RunSummary>> {
        if let Some(remote) = &self.remote {
            for id in remote.list_dirs("runs/")? {
                for name in FILES {
                    self.pull(&format!("runs/{id}/{name}"))?;
                }
            }
        }
        let mut runs = Vec::new();
        for dir in self.disk.list(&self.runs_dir())? {
            let Some(id) = dir.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
                continue;
            };
            let bytes = self.disk.read_if_exists(&dir.join("events.jsonl"))?.unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<_> = text.lines().collect();
            // A training run logs thousands of these, and only the newest are shown.
            let is_count = |line: &str| {
                line.contains("\"event\":\"metric\"") || line.contains("\"event\":\"progress\"")
            };
            let recent = lines.len().saturating_sub(RECENT_LINES);
            let wanted =
                lines.iter().enumerate().filter(|(at, line)| *at >= recent || !is_count(line));
            let events = wanted.filter_map(|(_, line)| Logged::parse(line)).collect();
            runs.push(RunSummary { id, dir, events });
        }
        Ok(runs)
    }
}
