//! The queue of requests. Requests take turns: a long one is mapped piece by piece, so that a short one that comes later does not
//! wait for the end of it. Models take turns too, and leave room for each other.

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
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Rows that may wait.
    pub(crate) rows: usize,
    /// Tokens that may wait.
    pub(crate) tokens: usize,
    /// Rows of a batch.
    pub(crate) batch_rows: usize,
    /// Tokens of a batch.
    pub(crate) batch_tokens: usize,
    /// By model: requests may share a batch, and a request may be mapped in pieces.
    pub(crate) together: Vec<bool>,
}

impl Limits {
    /// What a model leaves to each of the others while something of its own waits, of a limit on all of them: half of an equal
    /// share, so that one alone gets most of it, and nobody is shut out by the load of another.
    fn reserve(&self, limit: usize) -> usize {
        limit / (2 * self.together.len().max(1))
    }
}

/// Rows of a request, ready to be mapped.
#[derive(Debug)]
pub(crate) struct Work {
    /// The number of the model that maps them.
    pub(crate) model: usize,
    pub(crate) rows: RecordBatch,
    /// Of each row: how many tokens its texts have at most.
    pub(crate) tokens: Vec<usize>,
    pub(crate) parameters: Arc<Parameters>,
    /// How many times a row's tokens are worked on.
    pub(crate) factor: usize,
}

/// A request in the queue.
pub(crate) struct Job {
    model: usize,
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
    /// By model: rows and tokens that wait or are being mapped.
    loads: Vec<Load>,
    /// By model: when it was its turn last, in batches.
    turns: Vec<u64>,
    batches: u64,
    /// When the current batch was started.
    busy: Option<Instant>,
    closed: bool,
}

/// Rows and tokens that wait or are being mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) rows: usize,
    pub(crate) tokens: usize,
}

impl State {
    /// Rows and tokens of all models.
    fn load(&self) -> Load {
        let sum = |sum: Load, load: &Load| Load {
            rows: sum.rows + load.rows,
            tokens: sum.tokens + load.tokens,
        };
        self.loads.iter().fold(Load::default(), sum)
    }

    /// Whose turn it is: the oldest request for the model that has waited longest for a batch of its own.
    fn next(&self) -> usize {
        let turn = |(at, job): (usize, &Job)| (self.turns[job.model], at);
        self.jobs.iter().enumerate().map(turn).min().map_or(0, |(_, at)| at)
    }

    fn turn_of(&mut self, model: usize) {
        self.batches += 1;
        self.turns[model] = self.batches;
    }

    /// Whether a request for a model would be too much.
    fn is_too_much(&self, limits: &Limits, model: usize, more: Load) -> bool {
        let (own, all) = (self.loads[model], self.load());
        let (mut rows, mut tokens) = (all.rows + more.rows, all.tokens + more.tokens);
        if own.rows > 0 {
            let others = self.loads.iter().enumerate().filter(|(other, _)| *other != model);
            for (_, load) in others {
                rows += limits.reserve(limits.rows).saturating_sub(load.rows);
                tokens += limits.reserve(limits.tokens).saturating_sub(load.tokens);
            }
        }
        rows > limits.rows || tokens > limits.tokens
    }
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
    model: usize,
    load: Load,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        let load = &mut state.loads[self.model];
        load.rows -= self.load.rows;
        load.tokens -= self.load.tokens;
    }
}

impl Queue {
    pub(crate) fn new(limits: Limits) -> Self {
        let models = limits.together.len();
        let (loads, turns) = (vec![Load::default(); models], vec![0; models]);
        let state = Mutex::new(State { loads, turns, ..State::default() });
        Self(Arc::new(Inner { state, more: Condvar::new(), limits }))
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// By model: what waits or is being mapped.
    pub(crate) fn loads(&self) -> Vec<Load> {
        self.0.state().loads.clone()
    }

    /// How long the current batch has been running.
    pub(crate) fn busy_for(&self) -> Duration {
        self.0.state().busy.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.state().closed
    }

    /// Whether a single row would be refused, whichever model is to map it.
    pub(crate) fn is_full(&self) -> bool {
        let state = self.0.state();
        let row = Load { rows: 1, tokens: 1 };
        (0..state.loads.len()).all(|model| state.is_too_much(&self.0.limits, model, row))
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
        let Work { model, rows, tokens, parameters, factor } = work;
        let load = Load { rows: rows.num_rows(), tokens: tokens.iter().sum() };
        let ids = ids(&rows);
        let (reply, answer) = oneshot::channel();
        let mut state = self.0.state();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.is_too_much(&self.0.limits, model, load) {
            return Err(Refused::Full);
        }
        let own = &mut state.loads[model];
        own.rows += load.rows;
        own.tokens += load.tokens;
        let place = Place { queue: Arc::clone(&self.0), model, load };
        let (next, done) = (0, Vec::new());
        let job =
            Job { model, rows, ids, tokens, parameters, factor, next, done, reply, _place: place };
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
            let first = state.next();
            if let Some(batch) = Batch::of(&mut state.jobs, first, &self.0.limits) {
                state.turn_of(batch.model());
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
    /// Takes rows of requests out of the queue, in turns. They are for the model of the request at `first`, and have its
    /// parameters.
    fn of(jobs: &mut VecDeque<Job>, first: usize, limits: &Limits) -> Option<Self> {
        let Job { model, parameters, .. } = jobs.get(first)?;
        if !limits.together[*model] {
            return jobs.remove(first).map(|job| Self::alone(job, usize::MAX));
        }
        let is_alike = |job: &Job| job.model == *model && job.parameters == *parameters;
        let fit = jobs.iter().enumerate().skip(first).filter(|(_, job)| is_alike(job));
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

    /// The model that maps it.
    pub(crate) fn model(&self) -> usize {
        self.pieces.first().map_or(0, |piece| piece.job.model)
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
        rows_for(0, ids, tokens, name)
    }

    fn rows_for(model: usize, ids: &[&str], tokens: usize, name: &str) -> Work {
        let columns = [("_id", Arc::new(StringArray::from(ids.to_vec())) as _)];
        let parameters = Parameters::from_iter([("name".to_owned(), name.into())]);
        Work {
            model,
            rows: RecordBatch::try_from_iter(columns).expect("one column"),
            tokens: vec![tokens; ids.len()],
            parameters: Arc::new(parameters),
            factor: 1,
        }
    }

    fn limits() -> Limits {
        Limits { rows: 100, tokens: 1000, batch_rows: 12, batch_tokens: 100, together: vec![true] }
    }

    /// Maps all that waits: per batch, what of each request was in it. The jobs are put back as a worker does.
    fn batches(queue: &Queue) -> Vec<String> {
        let mut said = Vec::new();
        while length(queue) > 0 {
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

    fn length(queue: &Queue) -> usize {
        queue.0.state().load().rows
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
        assert_eq!(length(&queue), 34);
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
        assert_eq!(queue.loads(), [Load { rows: 5, tokens: 650 }]);
        assert_eq!(queue.push(rows(&["f"], 400, "")).err(), Some(Refused::Full));
        // The first of a batch always has room.
        assert_eq!(batches(&queue), ["a | d (2)", "e (1)", "b c (2)"]);
        assert_eq!(queue.loads(), [Load::default()]);
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
        let queue = Queue::new(Limits { together: vec![false], batch_rows: 1, ..limits() });
        let _answers = [queue.push(rows(&["a", "b"], 1, "")), queue.push(rows(&["a"], 1, ""))];
        assert_eq!(batches(&queue), ["a b (2)", "a (1)"]);
    }

    /// However much waits for one model, a request for another one is in the next batch but one.
    #[test]
    fn models_take_turns() {
        let queue = Queue::new(Limits { together: vec![true, false, true], ..limits() });
        let many: Vec<_> = (0..20).map(|row| format!("a{row}")).collect();
        let many: Vec<_> =
            many.iter().map(|id| queue.push(rows(&[id], 1, "")).expect("room")).collect();
        let few = [
            queue.push(rows_for(2, &["c"], 1, "")).expect("room"),
            queue.push(rows_for(1, &["b", "d"], 1, "")).expect("room"),
            queue.push(rows_for(1, &["e"], 1, "")).expect("room"),
        ];
        let said: Vec<_> = batches(&queue).iter().map(|batch| batch.replace(" | ", " ")).collect();
        assert_eq!(
            said,
            [
                "a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11 (12)",
                "c (1)",
                "b d (2)",
                "a12 a13 a14 a15 a16 a17 a18 a19 (8)",
                "e (1)",
            ]
        );
        assert!(many.into_iter().chain(few).all(|mut answer| answer.try_recv().is_ok()));
    }

    /// Of 100 rows and two models, the load of one leaves 25 to the other; what comes first may be as long as all.
    #[test]
    fn models_leave_room_for_each_other() {
        let two = || Queue::new(Limits { together: vec![true; 2], ..limits() });
        let queue = two();
        let push = |queue: &Queue, model: usize, count: usize, tokens: usize| {
            let ids: Vec<_> = (0..count).map(|row| format!("{model}.{row}")).collect();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            queue.push(rows_for(model, &ids, tokens, ""))
        };
        let _waiting =
            [push(&queue, 0, 10, 1).expect("room"), push(&queue, 0, 65, 1).expect("room")];
        assert_eq!(push(&queue, 0, 1, 1).err(), Some(Refused::Full));
        assert!(!queue.is_full(), "the other model has room");
        let _other = push(&queue, 1, 20, 1).expect("room");
        // Of its share, 5 are left.
        assert_eq!(push(&queue, 0, 1, 1).err(), Some(Refused::Full));
        let _rest = push(&queue, 1, 5, 1).expect("room");
        assert!(queue.is_full());
        let long = two();
        let _all = push(&long, 1, 100, 1).expect("a request that is as long as the queue");
        assert!(long.is_full());
        let tokens = two();
        let _waiting = [push(&tokens, 0, 1, 700).expect("room")];
        assert_eq!(push(&tokens, 0, 1, 60).err(), Some(Refused::Full));
        assert!(push(&tokens, 1, 1, 250).is_ok());
    }
}
