//! Commits that are under way while the next part is computed.
//!
//! A commit computes little and waits for the disk, or for a bucket, several times; so up to [`MOST`] are made at once, each by
//! a thread of its own. What one does, and in which order, is what it would do alone. Readers are told of it once it is over,
//! and in the order of the parts.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;

// The tests have the order chosen in which threads come, and try many.
#[cfg(test)]
use shuttle::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(test))]
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::error::{Result, RunError};
use crate::worker::panicked;

/// File systems make the changes of all who wait durable at once, so many take hardly longer than one.
const MOST: usize = 16;

/// The most bytes of rows in all commits under way; one of more is waited for.
const MOST_BYTES: usize = 32 << 20;

/// The commits of a node, whose outcomes are `T`.
pub(crate) struct Commits<'l, 'j, T> {
    line: &'l Line<'j, T>,
    /// Told of every outcome, in order.
    publish: &'l (dyn Fn(&T) + Sync),
    /// Starts a thread that [works](Line::work), if it can.
    grow: &'l dyn Fn() -> bool,
}

/// What the threads share.
struct Line<'j, T> {
    node: &'j str,
    state: Mutex<State<'j, T>>,
    /// There is a job, or there will be none any more.
    jobs: Condvar,
    /// A commit is over.
    over: Condvar,
}

struct State<'j, T> {
    jobs: VecDeque<Job<'j, T>>,
    /// The outcomes from the first on that was not published, as far as they are known.
    outcomes: VecDeque<Option<T>>,
    /// The number of the first of them.
    first: usize,
    published: Vec<T>,
    /// The first error to happen.
    error: Option<RunError>,
    under_way: usize,
    bytes: usize,
    idle: usize,
    is_closed: bool,
}

struct Job<'j, T> {
    number: usize,
    bytes: usize,
    commit: Box<dyn FnOnce() -> Result<T> + Send + 'j>,
}

/// Lets a node commit. All that it has begun to commit is over when this returns, whatever became of the node.
pub(crate) fn committing<'j, T: Send, R>(
    node: &'j str,
    publish: &(dyn Fn(&T) + Sync),
    act: impl FnOnce(&Commits<'_, 'j, T>) -> R,
) -> R {
    let line = Line::new(node);
    std::thread::scope(|scope| {
        let grow = || {
            // Its name says for whom it works if it finds no memory.
            let thread = std::thread::Builder::new().name(node.to_owned());
            thread.spawn_scoped(scope, || line.work(publish)).is_ok()
        };
        let _closed_at_the_end = Closing(&line);
        act(&Commits { line: &line, publish, grow: &grow })
    })
}

struct Closing<'l, 'j, T>(&'l Line<'j, T>);

impl<T> Drop for Closing<'_, '_, T> {
    fn drop(&mut self) {
        self.0.state().is_closed = true;
        self.0.jobs.notify_all();
    }
}

impl<'j, T> Commits<'_, 'j, T> {
    /// Has something committed that holds so many bytes, after a wait for room if there is none.
    pub(crate) fn start(&self, bytes: usize, commit: impl FnOnce() -> Result<T> + Send + 'j) {
        let mut state = self.line.state();
        while !state.has_room(bytes) {
            state = self.line.over.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let number = state.first + state.outcomes.len();
        state.outcomes.push_back(None);
        state.under_way += 1;
        state.bytes += bytes;
        state.jobs.push_back(Job { number, bytes, commit: Box::new(commit) });
        if bytes > MOST_BYTES || (state.idle < state.jobs.len() && !(self.grow)()) {
            // Alone in the line, or without a thread of its own.
            if let Some(job) = state.jobs.pop_back() {
                drop(state);
                self.line.run(job, self.publish);
            }
            return;
        }
        drop(state);
        self.line.jobs.notify_one();
    }

    /// Whether a commit has failed: then nothing more needs to be computed.
    pub(crate) fn has_failed(&self) -> bool {
        self.line.state().error.is_some()
    }

    /// Adds something that was committed before.
    pub(crate) fn put(&self, outcome: T) {
        let mut state = self.line.state();
        state.outcomes.push_back(Some(outcome));
        state.publish(self.publish);
    }

    /// What was published since it was last asked.
    pub(crate) fn published(&self) -> Vec<T> {
        std::mem::take(&mut self.line.state().published)
    }

    /// The same once nothing is under way.
    ///
    /// # Errors
    /// A commit has failed; it is told of once.
    pub(crate) fn wait(&self) -> Result<Vec<T>> {
        let mut state = self.line.state();
        while state.under_way > 0 {
            state = self.line.over.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let published = std::mem::take(&mut state.published);
        state.error.take().map_or(Ok(published), Err)
    }
}

impl<'j, T> Line<'j, T> {
    fn new(node: &'j str) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            outcomes: VecDeque::new(),
            first: 0,
            published: Vec::new(),
            error: None,
            under_way: 0,
            bytes: 0,
            idle: 0,
            is_closed: false,
        };
        Self { node, state: Mutex::new(state), jobs: Condvar::new(), over: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<'j, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits until nothing will come any more.
    fn work(&self, publish: &(dyn Fn(&T) + Sync)) {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                self.run(job, publish);
                state = self.state();
            } else if state.is_closed {
                return;
            } else {
                state.idle += 1;
                state = self.jobs.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }

    fn run(&self, job: Job<'j, T>, publish: &(dyn Fn(&T) + Sync)) {
        let Job { number, bytes, commit } = job;
        let outcome = catch_unwind(AssertUnwindSafe(commit));
        let outcome = outcome.unwrap_or_else(|panic| Err(panicked(self.node, &*panic)));
        let mut state = self.state();
        state.under_way -= 1;
        state.bytes -= bytes;
        match outcome {
            Ok(outcome) => {
                let at = number - state.first;
                state.outcomes[at] = Some(outcome);
                state.publish(publish);
            }
            // Its place stays empty, and nothing behind it is published.
            Err(error) => drop(state.error.get_or_insert(error)),
        }
        drop(state);
        self.over.notify_one();
    }
}

impl<T> State<'_, T> {
    fn has_room(&self, bytes: usize) -> bool {
        self.under_way == 0
            || (self.under_way < MOST && self.bytes.saturating_add(bytes) <= MOST_BYTES)
    }

    fn publish(&mut self, publish: &(dyn Fn(&T) + Sync)) {
        while let Some(outcome) = self.outcomes.pop_front_if(|outcome| outcome.is_some()).flatten()
        {
            publish(&outcome);
            self.first += 1;
            self.published.push(outcome);
        }
    }
}

#[cfg(test)]
mod tests;
