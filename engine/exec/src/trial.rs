//! A whole stage at work on what its sources have made, without keeping what comes out: for tests of the stage.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use paraloom_host::{Batches, Level, ServiceError, Services, WorkInput, WorkOutput};
use paraloom_store::{DigestCache, Event};
use petgraph::graph::NodeIndex;

use crate::context::NodeContext;
use crate::error::{Result, RunError};
use crate::input::ReadError;
use crate::lookup::Lookup;
use crate::run::{Cancel, Job, RunOptions};
use crate::services::NodeServices;

/// How a stage is tried.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// Rows of each table that it reads.
    pub rows: usize,
    /// Rows of a batch; as they are kept if it is left out.
    pub batch_rows: Option<usize>,
    /// Asks it to stop once it has committed a checkpoint.
    pub stop_at_checkpoint: bool,
    /// Where its checkpoints, artifacts and other files go. With the checkpoints of an earlier trial there, it goes on
    /// from the newest.
    pub dir: &'a Path,
}

/// What came out of one port.
#[derive(Clone, Debug)]
pub enum TrialOutput {
    /// The rows that were pushed.
    Table(RecordBatch),
    /// The directory that was filled.
    Artifact(PathBuf),
}

impl Trial<'_> {
    /// Runs the whole stage of a node of `job`: one output per port. `events` takes what the stage says.
    ///
    /// # Errors
    /// What the stage says; [`RunError::Stopped`] if it stopped at a checkpoint.
    pub fn run(
        &self,
        job: &Job,
        index: NodeIndex,
        options: &RunOptions,
        cancel: &Cancel,
        events: &Sender<Event>,
    ) -> Result<Vec<TrialOutput>> {
        let node = job.graph.node(index);
        let lookup = Lookup::new(job.graph, job.host, Some(job.store))?;
        let output = |from| lookup.output(from).cloned();
        let digests = DigestCache::load(job.store);
        let bound = NodeContext::bind(job.graph, job.host, index, output, &digests)?;
        let context = bound.map_err(|missing| RunError::Missing {
            node: node.name.clone(),
            input: job.graph.node(missing[0]).name.clone(),
        })?;
        let failed = |error: std::io::Error| RunError::Output {
            node: node.name.clone(),
            what: format!("cannot try it in {}: {error}", self.dir.display()),
        };
        let flag = cancel.flag();
        let services =
            NodeServices::new(&node.name, None, events.clone(), flag, options.checkpoint_every);
        let services = Arc::new(TrialServices {
            services,
            dir: self.dir.to_owned(),
            stop_at_checkpoint: self.stop_at_checkpoint,
            committed: AtomicU64::new(0),
            count: AtomicU64::new(0),
        });

        let mut planned = context.plan()?;
        let schemas = planned.output().outputs.clone();
        let read_error = ReadError::default();
        let inputs = context.work_inputs(&read_error)?.into_iter();
        let inputs = inputs.map(|input| self.cut(input)).collect();
        let tables: Vec<_> = schemas.iter().map(|_| Mutex::new(Vec::new())).collect();
        let (mut outputs, mut dirs) = (Vec::new(), Vec::new());
        for (schema, table) in schemas.iter().zip(&tables) {
            let dir = services.fresh("artifact").map_err(failed)?;
            outputs.push(match schema {
                Some(_) => WorkOutput::Table(Box::new(|rows| {
                    table.lock().unwrap_or_else(PoisonError::into_inner).push(rows);
                    Ok(())
                })),
                None => WorkOutput::Artifact(dir.clone()),
            });
            dirs.push(dir);
        }
        let ran = planned.run(&context.settings(options), services, inputs, outputs);
        ran.map_err(|error| read_error.or(&node.name, error))?;
        let output = |((schema, table), dir): ((_, Mutex<Vec<RecordBatch>>), PathBuf)| match schema
        {
            Some(schema) => {
                let batches = table.into_inner().unwrap_or_else(PoisonError::into_inner);
                let rows = concat_batches(&schema, &batches);
                let bad = |error: arrow::error::ArrowError| RunError::Output {
                    node: node.name.clone(),
                    what: error.to_string(),
                };
                Ok(TrialOutput::Table(rows.map_err(bad)?))
            }
            None => Ok(TrialOutput::Artifact(dir)),
        };
        schemas.into_iter().zip(tables).zip(dirs).map(output).collect()
    }

    /// The first rows of a table, in batches of the size that is tried.
    fn cut(&self, input: WorkInput) -> WorkInput {
        let WorkInput::Table(schema, batches) = input else { return input };
        let (mut left, size) = (self.rows, self.batch_rows);
        let first = batches.map_while(move |batch| {
            let batch = match batch {
                Ok(batch) if left > 0 => batch.slice(0, left.min(batch.num_rows())),
                Ok(_) => return None,
                error => return Some(error),
            };
            left -= batch.num_rows();
            Some(Ok(batch))
        });
        let pieces = first.flat_map(move |batch| -> Batches {
            let Ok(batch) = batch else { return Box::new(std::iter::once(batch)) };
            let rows = batch.num_rows();
            let size = size.unwrap_or(rows).max(1);
            let starts = (0..rows).step_by(size);
            Box::new(starts.map(move |start| Ok(batch.slice(start, size.min(rows - start)))))
        });
        WorkInput::Table(schema, Box::new(pieces))
    }
}

/// Services whose directories are those of a trial; a checkpoint is due after every step.
struct TrialServices {
    services: Arc<NodeServices>,
    dir: PathBuf,
    stop_at_checkpoint: bool,
    /// Checkpoints of this trial.
    committed: AtomicU64,
    /// Directories that were made.
    count: AtomicU64,
}

impl TrialServices {
    /// A new directory, whose name begins with `kind`.
    fn fresh(&self, kind: &str) -> std::io::Result<PathBuf> {
        loop {
            let number = self.count.fetch_add(1, Ordering::Relaxed);
            let dir = self.dir.join(format!("{kind}-{number}"));
            match std::fs::create_dir_all(&self.dir).and_then(|()| std::fs::create_dir(&dir)) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| dir),
            }
        }
    }

    fn checkpoint(&self, step: u64) -> PathBuf {
        self.dir.join(format!("checkpoint-at-{step}"))
    }
}

fn told(error: std::io::Error) -> ServiceError {
    ServiceError::new(error.to_string())
}

impl Services for TrialServices {
    fn log(&self, level: Level, message: &str) {
        self.services.log(level, message);
    }

    fn progress(&self, _: u64, _: u64, _: &str) {}

    fn metric(&self, _: &str, _: f64, _: u64) {}

    fn is_cancelled(&self) -> bool {
        let stops = self.stop_at_checkpoint && self.committed.load(Ordering::Acquire) > 0;
        stops || self.services.is_cancelled()
    }

    fn checkpoint_latest(&self) -> Result<Option<(PathBuf, u64)>, ServiceError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            entries => entries.map_err(told)?,
        };
        let step = |entry: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
            entry.ok()?.file_name().to_str()?.strip_prefix("checkpoint-at-")?.parse().ok()
        };
        let newest = entries.filter_map(step).max();
        Ok(newest.map(|step| (self.checkpoint(step), step)))
    }

    fn checkpoint_begin(&self, step: u64) -> Result<PathBuf, ServiceError> {
        let dir = self.dir.join(format!("begun-{step}"));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).map_err(told)?;
        Ok(dir)
    }

    fn checkpoint_commit(&self, step: u64) -> Result<(), ServiceError> {
        let _ = std::fs::remove_dir_all(self.checkpoint(step));
        let begun = self.dir.join(format!("begun-{step}"));
        std::fs::rename(begun, self.checkpoint(step)).map_err(told)?;
        self.committed.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn scratch_dir(&self) -> Result<PathBuf, ServiceError> {
        self.fresh("scratch").map_err(told)
    }

    fn checkpoint_interval(&self) -> Duration {
        Duration::ZERO
    }
}
