//! Dynamic batching: requests that arrive while a batch is computed form the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::error::ArrowError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::metrics::Metrics;
use crate::{Mapped, Mapper};

/// The outputs of one request, one table per port.
pub(crate) type Answer = Result<Vec<RecordBatch>, String>;

/// Rows of a request that wait to be mapped.
struct Job {
    rows: RecordBatch,
    reply: oneshot::Sender<Answer>,
    /// Holds its rows' permits of the queue until it is dropped.
    _place: OwnedSemaphorePermit,
}

/// Why a request was not processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The queue is full.
    Full,
    /// The worker thread has ended.
    Closed,
}

/// The queue of requests.
#[derive(Clone)]
pub(crate) struct Queue {
    jobs: Sender<Job>,
    places: Arc<Semaphore>,
    size: usize,
    /// When the current batch was started.
    busy: Busy,
}

type Busy = Arc<Mutex<Option<Instant>>>;

impl Queue {
    /// A queue for `size` rows, and its other end.
    pub(crate) fn new(size: usize) -> (Self, Waiting) {
        // A job holds one row at least, so that there are never more jobs than places.
        let (jobs, waiting) = channel(size.max(1));
        let places = Arc::new(Semaphore::new(size));
        let busy = Busy::default();
        let waiting = Waiting { jobs: waiting, next: None, busy: Arc::clone(&busy) };
        (Self { jobs, places, size, busy }, waiting)
    }

    /// Rows that wait or are being mapped.
    pub(crate) fn length(&self) -> usize {
        self.size - self.places.available_permits()
    }

    /// How long the current batch has been running.
    pub(crate) fn busy_for(&self) -> Duration {
        let since = *self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether the worker has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.jobs.is_closed()
    }

    /// Maps rows; fails at once if the queue is full.
    pub(crate) fn push(&self, rows: RecordBatch) -> Result<oneshot::Receiver<Answer>, Refused> {
        let count = u32::try_from(rows.num_rows()).map_err(|_| Refused::Full)?;
        let places = Arc::clone(&self.places).try_acquire_many_owned(count);
        let (reply, answer) = oneshot::channel();
        let job = Job { rows, reply, _place: places.map_err(|_| Refused::Full)? };
        match self.jobs.try_send(job) {
            Ok(()) => Ok(answer),
            Err(_) => Err(Refused::Closed),
        }
    }
}

/// The receiving end of the queue, which forms batches.
pub(crate) struct Waiting {
    jobs: Receiver<Job>,
    /// A job that did not fit into the last batch.
    next: Option<Job>,
    busy: Busy,
}

/// Jobs that are mapped together.
struct Batch {
    jobs: Vec<Job>,
    /// Index of the distinct row by id.
    rows: HashMap<String, usize>,
    /// Per job and row, the index of its distinct row.
    of_jobs: Vec<Vec<usize>>,
    /// Per distinct row, the job and the row where it occurs first.
    places: Vec<(usize, usize)>,
}

impl Batch {
    fn new() -> Self {
        Self { jobs: Vec::new(), rows: HashMap::new(), of_jobs: Vec::new(), places: Vec::new() }
    }

    /// Adds a job, sharing equal rows. Returns the job if one of its ids belongs to a different row.
    fn add(&mut self, job: Job) -> Result<(), Job> {
        let ids = ids(&job.rows);
        let is_another = |(row, id): (usize, &String)| {
            self.rows.get(id).is_some_and(|known| {
                let (other, at) = self.places[*known];
                self.jobs[other].rows.slice(at, 1) != job.rows.slice(row, 1)
            })
        };
        if ids.iter().enumerate().any(is_another) {
            return Err(job);
        }
        let number = self.jobs.len();
        let place = |(row, id)| {
            *self.rows.entry(id).or_insert_with(|| {
                self.places.push((number, row));
                self.places.len() - 1
            })
        };
        self.of_jobs.push(ids.into_iter().enumerate().map(place).collect());
        self.jobs.push(job);
        Ok(())
    }

    /// The distinct rows.
    fn rows(&self) -> Result<RecordBatch, ArrowError> {
        let starts: Vec<_> = self
            .jobs
            .iter()
            .scan(0, |end, job| {
                let start = *end;
                *end += job.rows.num_rows();
                Some(start)
            })
            .collect();
        let all: Vec<_> = self.jobs.iter().map(|job| job.rows.clone()).collect();
        let schema = self.jobs[0].rows.schema();
        let indices = self.places.iter().map(|(job, row)| (starts[*job] + row) as u32);
        take_record_batch(&concat_batches(&schema, &all)?, &indices.collect::<UInt32Array>())
    }

    /// Splits the results by job; `None` if rows cannot be attributed to jobs.
    fn split(&self, outputs: &[Mapped]) -> Option<Result<Vec<Vec<RecordBatch>>, ArrowError>> {
        let whole = |outputs: &[Mapped]| outputs.iter().map(|output| output.rows.clone()).collect();
        if self.jobs.len() == 1 {
            return Some(Ok(vec![whole(outputs)]));
        }
        let mut by_row = Vec::with_capacity(outputs.len());
        for output in outputs {
            let mut rows = vec![Vec::new(); self.places.len()];
            for (row, origin) in output.origins.as_ref()?.iter().enumerate() {
                rows.get_mut(*origin)?.push(row as u32);
            }
            by_row.push(rows);
        }
        let of_job = |job: &Vec<usize>| {
            let ports = outputs.iter().zip(&by_row).map(|(output, by_row)| {
                let rows = job.iter().flat_map(|row| by_row[*row].iter().copied());
                take_record_batch(&output.rows, &rows.collect::<UInt32Array>())
            });
            ports.collect()
        };
        Some(self.of_jobs.iter().map(of_job).collect())
    }
}

/// The ids of rows; they have some, since the queue takes only decoded rows.
fn ids(rows: &RecordBatch) -> Vec<String> {
    let ids = rows.column_by_name("_id").and_then(|column| column.as_string_opt::<i32>());
    ids.map_or_else(Vec::new, |ids| ids.iter().flatten().map(str::to_owned).collect())
}

impl Waiting {
    /// Maps batches until all senders are dropped. `together`: requests may share a batch, of `limit` rows at most.
    pub(crate) fn work(
        mut self,
        mapper: &mut dyn Mapper,
        together: bool,
        limit: usize,
        metrics: &Metrics,
    ) {
        while let Some(batch) = self.batch(together, limit) {
            let set = |since| {
                *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = since;
            };
            set(Some(Instant::now()));
            compute(mapper, batch, metrics);
            set(None);
        }
    }

    /// The next batch; `None` when all senders are dropped.
    fn batch(&mut self, together: bool, limit: usize) -> Option<Batch> {
        let mut batch = Batch::new();
        loop {
            let waiting = self.next.take().or_else(|| {
                let wait = batch.jobs.is_empty();
                if wait { self.jobs.blocking_recv() } else { self.jobs.try_recv().ok() }
            });
            let Some(job) = waiting else { break };
            // The client has disconnected.
            if job.reply.is_closed() {
                continue;
            }
            let is_full = batch.places.len() + job.rows.num_rows() > limit;
            if !batch.jobs.is_empty() && (!together || is_full) {
                self.next = Some(job);
                break;
            }
            if let Err(job) = batch.add(job) {
                self.next = Some(job);
                break;
            }
        }
        (!batch.jobs.is_empty()).then_some(batch)
    }
}

/// Maps a batch and answers its jobs. If the batch fails, its jobs are mapped one by one, so that a job fails only by its own
/// rows.
fn compute(mapper: &mut dyn Mapper, batch: Batch, metrics: &Metrics) {
    let started = Instant::now();
    let outputs = batch
        .rows()
        .map_err(|error| error.to_string())
        .and_then(|rows| mapper.map(&rows).inspect(|_| metrics.batch(rows.num_rows(), started)));
    let answers = match outputs {
        Ok(outputs) => batch.split(&outputs).map(|all| all.map_err(|error| error.to_string())),
        Err(_) if batch.jobs.len() > 1 => None,
        Err(what) => Some(Err(what)),
    };
    match answers {
        Some(Ok(answers)) => {
            // The client may have disconnected.
            for (job, answer) in batch.jobs.into_iter().zip(answers) {
                let _ = job.reply.send(Ok(answer));
            }
        }
        Some(Err(what)) => {
            for job in batch.jobs {
                let _ = job.reply.send(Err(what.clone()));
            }
        }
        None => {
            // The request may have timed out.
            for job in batch.jobs.into_iter().filter(|job| !job.reply.is_closed()) {
                let mut alone = Batch::new();
                if alone.add(job).is_ok() {
                    compute(mapper, alone, metrics);
                }
            }
        }
    }
}
