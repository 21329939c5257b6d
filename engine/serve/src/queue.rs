//! The queue of requests. Requests take turns: a long one is mapped piece by piece, so that a short one that comes later does not
//! wait for the end of it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use tokio::sync::oneshot;

use crate::{Failure, Mapped, Parameters};

/// The outputs of one request, one per port.
pub(crate) type Answer = Result<Vec<Mapped>, Failure>;

/// Rows that a request gives to a batch before it is the next one's turn.
const TURN: usize = 8;

/// How much may wait, and how much is mapped at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Rows that may wait.
    pub(crate) rows: usize,
    /// Tokens that may wait.
    pub(crate) tokens: usize,
    /// Rows of a batch.
    pub(crate) batch_rows: usize,
    /// Tokens of a batch.
    pub(crate) batch_tokens: usize,
    /// Requests may share a batch, and a request may be mapped in pieces.
    pub(crate) together: bool,
}

/// Rows of a request, ready to be mapped.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) rows: RecordBatch,
    /// Of each row: how many tokens its texts have at most.
    pub(crate) tokens: Vec<usize>,
    pub(crate) parameters: Arc<Parameters>,
    /// How many times a row's tokens are worked on.
    pub(crate) factor: usize,
}

/// A request in the queue.
pub(crate) struct Job {
    rows: RecordBatch,
    ids: Vec<String>,
    tokens: Vec<usize>,
    parameters: Arc<Parameters>,
    factor: usize,
    /// The first row that is not mapped yet.
    next: usize,
    /// What came of those before, per port.
    done: Vec<Vec<Mapped>>,
    reply: oneshot::Sender<Answer>,
    /// Counts its rows until it is dropped.
    _place: Place,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too much waits already.
    Full,
    /// Nothing is mapped any more.
    Closed,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Rows and tokens that wait or are being mapped.
    rows: usize,
    tokens: usize,
    /// When the current batch was started.
    busy: Option<Instant>,
    closed: bool,
}

struct Inner {
    state: Mutex<State>,
    more: Condvar,
    limits: Limits,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue of requests.
#[derive(Clone)]
pub(crate) struct Queue(Arc<Inner>);

/// Room for some rows.
struct Place {
    queue: Arc<Inner>,
    rows: usize,
    tokens: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.rows -= self.rows;
        state.tokens -= self.tokens;
    }
}

impl Queue {
    pub(crate) fn new(limits: Limits) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Inner { state, more: Condvar::new(), limits }))
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Rows that wait or are being mapped.
    pub(crate) fn length(&self) -> usize {
        self.0.state().rows
    }

    /// Tokens that wait or are being mapped.
    pub(crate) fn tokens(&self) -> usize {
        self.0.state().tokens
    }

    /// How long the current batch has been running.
    pub(crate) fn busy_for(&self) -> Duration {
        self.0.state().busy.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.state().closed
    }

    /// Whether a single row would be refused.
    pub(crate) fn is_full(&self) -> bool {
        self.0.state().rows >= self.0.limits.rows
    }

    /// Takes no more requests, and has [`Queue::take`] end.
    pub(crate) fn close(&self) {
        let mut state = self.0.state();
        state.closed = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        self.0.more.notify_all();
        // Dropping a job takes the lock.
        drop(jobs);
    }

    /// Maps rows; fails at once if too much waits.
    pub(crate) fn push(&self, work: Work) -> Result<oneshot::Receiver<Answer>, Refused> {
        let Work { rows, tokens, parameters, factor } = work;
        let (count, sum) = (rows.num_rows(), tokens.iter().sum::<usize>());
        let ids = ids(&rows);
        let (reply, answer) = oneshot::channel();
        let mut state = self.0.state();
        if state.closed {
            return Err(Refused::Closed);
        }
        let limits = &self.0.limits;
        if state.rows + count > limits.rows || state.tokens + sum > limits.tokens {
            return Err(Refused::Full);
        }
        state.rows += count;
        state.tokens += sum;
        let place = Place { queue: Arc::clone(&self.0), rows: count, tokens: sum };
        let (next, done) = (0, Vec::new());
        let job = Job { rows, ids, tokens, parameters, factor, next, done, reply, _place: place };
        state.jobs.push_back(job);
        drop(state);
        self.0.more.notify_one();
        Ok(answer)
    }

    /// What is mapped next, when there is something; none once the queue is closed.
    pub(crate) fn take(&self) -> Option<Batch> {
        let mut state = self.0.state();
        state.busy = None;
        loop {
            if state.closed {
                return None;
            }
            let jobs = std::mem::take(&mut state.jobs);
            // Nobody waits for the others. Dropping one takes the lock.
            let (wanted, gone): (VecDeque<_>, VecDeque<_>) =
                jobs.into_iter().partition(|job: &Job| job.is_wanted());
            state.jobs = wanted;
            if !gone.is_empty() {
                drop(state);
                drop(gone);
                state = self.0.state();
                continue;
            }
            if let Some(batch) = Batch::of(&mut state.jobs, &self.0.limits) {
                state.busy = Some(Instant::now());
                return Some(batch);
            }
            state = self.0.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts back a request of which not all rows are mapped; it is its turn when the others had theirs.
    pub(crate) fn put_back(&self, job: Job) {
        let mut state = self.0.state();
        if state.closed {
            drop(state);
        } else {
            state.jobs.push_back(job);
        }
    }
}

/// Some rows of a request.
pub(crate) struct Piece {
    pub(crate) job: Job,
    /// How many, from its next row on.
    pub(crate) count: usize,
    /// Of each, its number in the batch.
    pub(crate) places: Vec<usize>,
}

/// Rows that are mapped together.
pub(crate) struct Batch {
    pub(crate) pieces: Vec<Piece>,
    /// Per distinct row, the piece that has it and the row of its job.
    pub(crate) rows: Vec<(usize, usize)>,
}

impl Batch {
    /// Takes rows of requests out of the queue, in turns. They have the parameters of the first.
    fn of(jobs: &mut VecDeque<Job>, limits: &Limits) -> Option<Self> {
        if !limits.together {
            return jobs.pop_front().map(|job| Self::alone(job, usize::MAX));
        }
        let parameters = &jobs.front()?.parameters;
        let fit = jobs.iter().enumerate().filter(|(_, job)| job.parameters == *parameters);
        let mut draft = Draft::default();
        // Each is to give one row at least.
        draft.jobs = fit.take(limits.batch_rows).map(|(at, _)| at).collect();
        draft.places = vec![Vec::new(); draft.jobs.len()];
        let mut open: Vec<_> = (0..draft.jobs.len()).collect();
        let mut turn = 1;
        while !open.is_empty() {
            open.retain(|number| (0..turn).all(|_| draft.add_row(jobs, *number, limits)));
            turn = TURN;
        }
        // Those without a row stay in the queue and have no piece.
        let has_rows = |places: &Vec<usize>| usize::from(!places.is_empty());
        let before = |number: usize| draft.places[..number].iter().map(has_rows).sum();
        let rows = draft.rows.iter().map(|(number, row)| (before(*number), *row)).collect();
        // The last first, so that the places of the others stay.
        let mut pieces = Vec::new();
        for (at, places) in draft.jobs.into_iter().zip(draft.places).rev() {
            if !places.is_empty() {
                let count = places.len();
                pieces.extend(jobs.remove(at).map(|job| Piece { job, count, places }));
            }
        }
        pieces.reverse();
        Some(Self { pieces, rows })
    }

    /// The next rows of one request, `limit` at most.
    pub(crate) fn alone(job: Job, limit: usize) -> Self {
        let start = job.next;
        let count = limit.min(job.rows.num_rows() - start);
        let rows = (start..start + count).map(|row| (0, row)).collect();
        Self { pieces: vec![Piece { job, count, places: (0..count).collect() }], rows }
    }
}

/// A batch that is being formed of requests in the queue.
#[derive(Default)]
struct Draft {
    /// Their places in the queue.
    jobs: Vec<usize>,
    /// Of each, where its rows are in the batch.
    places: Vec<Vec<usize>>,
    /// Per distinct row, the number of the request and the row of its job.
    rows: Vec<(usize, usize)>,
    known: HashMap<String, usize>,
    tokens: usize,
}

impl Draft {
    /// Adds the next row of a request; an equal one counts once. False if there is none, or no room for it.
    fn add_row(&mut self, jobs: &VecDeque<Job>, number: usize, limits: &Limits) -> bool {
        let job = &jobs[self.jobs[number]];
        let row = job.next + self.places[number].len();
        let Some(id) = job.ids.get(row) else { return false };
        let place = if let Some(place) = self.known.get(id) {
            let (other, at) = self.rows[*place];
            let other = &jobs[self.jobs[other]];
            // Rows of one batch have different ids.
            if other.rows.slice(at, 1) != job.rows.slice(row, 1) {
                return false;
            }
            *place
        } else {
            let tokens = self.tokens.saturating_add(job.tokens[row].saturating_mul(job.factor));
            let is_full = self.rows.len() >= limits.batch_rows || tokens > limits.batch_tokens;
            if is_full && !self.rows.is_empty() {
                return false;
            }
            self.tokens = tokens;
            self.known.insert(id.clone(), self.rows.len());
            self.rows.push((number, row));
            self.rows.len() - 1
        };
        self.places[number].push(place);
        true
    }
}

impl Job {
    pub(crate) fn parameters(&self) -> &Arc<Parameters> {
        &self.parameters
    }

    pub(crate) fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// Whether somebody waits for the answer.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    /// Adds what came of its next `count` rows. True if these were the last.
    pub(crate) fn add(&mut self, count: usize, outputs: Vec<Mapped>) -> bool {
        self.done.resize_with(outputs.len(), Vec::new);
        for (all, more) in self.done.iter_mut().zip(outputs) {
            all.push(more);
        }
        self.next += count;
        self.next >= self.rows.num_rows()
    }

    /// Answers it with what was added.
    pub(crate) fn finish(self) {
        let joined = self
            .done
            .into_iter()
            .map(|parts| Mapped::join(parts).map_err(|error| Failure::Failed(error.to_string())));
        // The client may have disconnected.
        let _ = self.reply.send(joined.collect());
    }

    pub(crate) fn fail(self, failure: Failure) {
        let _ = self.reply.send(Err(failure));
    }
}

/// The ids of rows; they have some, since the queue takes only decoded rows.
fn ids(rows: &RecordBatch) -> Vec<String> {
    let ids = rows.column_by_name("_id").and_then(|column| column.as_string_opt::<i32>());
    ids.map_or_else(Vec::new, |ids| ids.iter().flatten().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;

    /// A request whose rows have the given ids; `{name}` says which parameters it has.
    fn rows(ids: &[&str], tokens: usize, name: &str) -> Work {
        let columns = [("_id", Arc::new(StringArray::from(ids.to_vec())) as _)];
        let parameters = Parameters::from_iter([("name".to_owned(), name.into())]);
        Work {
            rows: RecordBatch::try_from_iter(columns).expect("one column"),
            tokens: vec![tokens; ids.len()],
            parameters: Arc::new(parameters),
            factor: 1,
        }
    }

    fn limits() -> Limits {
        Limits { rows: 100, tokens: 1000, batch_rows: 12, batch_tokens: 100, together: true }
    }

    /// Maps all that waits: per batch, what of each request was in it. The jobs are put back as a worker does.
    fn batches(queue: &Queue) -> Vec<String> {
        let mut said = Vec::new();
        while queue.length() > 0 {
            let batch = queue.take().expect("it is open");
            let pieces = batch.pieces.iter().map(|piece| {
                let start = piece.job.next;
                let ids = &piece.job.ids[start..start + piece.count];
                ids.join(" ")
            });
            said.push(format!("{} ({})", pieces.collect::<Vec<_>>().join(" | "), batch.rows.len()));
            for Piece { mut job, count, .. } in batch.pieces {
                if job.add(count, Vec::new()) { job.finish() } else { queue.put_back(job) }
            }
        }
        said
    }

    #[test]
    fn a_short_request_is_not_behind_a_long_one() {
        let queue = Queue::new(limits());
        let long: Vec<String> = (0..30).map(|row| format!("l{row}")).collect();
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        let answers = [
            queue.push(rows(&long, 1, "a")).expect("room"),
            queue.push(rows(&["s"], 1, "a")).expect("room"),
            queue.push(rows(&["t", "s"], 1, "a")).expect("room"),
            queue.push(rows(&["p"], 1, "b")).expect("room"),
        ];
        assert_eq!(queue.length(), 34);
        assert_eq!(
            batches(&queue),
            [
                "l0 l1 l2 l3 l4 l5 l6 l7 l8 l9 | s | t s (12)",
                "p (1)",
                "l10 l11 l12 l13 l14 l15 l16 l17 l18 l19 l20 l21 (12)",
                "l22 l23 l24 l25 l26 l27 l28 l29 (8)",
            ]
        );
        for mut answer in answers {
            assert!(answer.try_recv().is_ok_and(|answer| answer.is_ok()));
        }
    }

    #[test]
    fn tokens_bound_a_batch_and_the_queue() {
        let queue = Queue::new(limits());
        let _answers = [
            queue.push(rows(&["a", "b", "c"], 40, "")).expect("room"),
            queue.push(rows(&["d"], 30, "")).expect("room"),
            queue.push(rows(&["e"], 500, "")).expect("room"),
        ];
        assert_eq!(queue.tokens(), 650);
        assert_eq!(queue.push(rows(&["f"], 400, "")).err(), Some(Refused::Full));
        // The first of a batch always has room.
        assert_eq!(batches(&queue), ["a | d (2)", "e (1)", "b c (2)"]);
        assert_eq!((queue.length(), queue.tokens()), (0, 0));
    }

    #[test]
    fn who_is_gone_is_not_mapped_and_who_is_too_many_is_refused() {
        let queue = Queue::new(limits());
        drop(queue.push(rows(&["a", "b"], 1, "")).expect("room"));
        let _answer = queue.push(rows(&["c"], 1, "")).expect("room");
        assert_eq!(batches(&queue), ["c (1)"]);
        let many = vec!["x"; 101];
        assert_eq!(queue.push(rows(&many, 1, "")).err(), Some(Refused::Full));
        queue.close();
        assert_eq!(queue.push(rows(&["d"], 1, "")).err(), Some(Refused::Closed));
        assert!(queue.take().is_none() && queue.is_closed());
    }

    #[test]
    fn requests_that_cannot_share_a_batch_are_whole() {
        let queue = Queue::new(Limits { together: false, batch_rows: 1, ..limits() });
        let _answers = [queue.push(rows(&["a", "b"], 1, "")), queue.push(rows(&["a"], 1, ""))];
        assert_eq!(batches(&queue), ["a b (2)", "a (1)"]);
    }
}
