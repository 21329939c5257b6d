//! The board on which nodes say what they have finished, and wait for each other.
//!
//! Tables grow part by part, so that a map stage starts while its input is still made.
//! Nothing is bounded here: only names of parts are on the board, never rows, and an
//! unbounded board cannot deadlock with the locks that other processes hold.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

// The tests have the order chosen in which threads come, and try many.
#[cfg(test)]
use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic::AtomicBool, atomic::Ordering};
#[cfg(not(test))]
use std::sync::{Condvar, Mutex, MutexGuard, atomic::AtomicBool, atomic::Ordering};

use paraloom_pipeline::Endpoint;
use paraloom_store::{Entry, PartFile};
use petgraph::graph::NodeIndex;

use crate::error::{Result, RunError};
use crate::lookup::{NodeResult, PortResult, Results};
use crate::run::Cancel;

/// How often a waiting node looks whether the run was stopped.
const TICK: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Progress {
    /// Parts per output port, while the node works, and the result that they belong to.
    parts: HashMap<usize, (Entry, Vec<PartFile>)>,
    done: Option<NodeResult>,
}

pub(crate) struct Board<'a> {
    nodes: Mutex<HashMap<NodeIndex, Progress>>,
    changed: Condvar,
    failed: AtomicBool,
    cancel: &'a Cancel,
    permits: Mutex<usize>,
    freed: Condvar,
}

impl<'a> Board<'a> {
    /// At most `jobs` nodes compute at once.
    pub(crate) fn new(jobs: usize, cancel: &'a Cancel) -> Self {
        Self {
            nodes: Mutex::default(),
            changed: Condvar::new(),
            failed: AtomicBool::new(false),
            cancel,
            permits: Mutex::new(jobs.max(1)),
            freed: Condvar::new(),
        }
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeIndex, Progress>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn permits(&self) -> MutexGuard<'_, usize> {
        self.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the work should stop: asked to, or another node failed.
    pub(crate) fn should_stop(&self) -> bool {
        self.cancel.is_set() || self.failed.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.should_stop() { Err(RunError::Stopped) } else { Ok(()) }
    }

    /// A node failed: the others stop at their next safe point.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        // Whoever has looked and not begun to wait yet holds the lock; after it he hears the call.
        drop(self.nodes());
        self.changed.notify_all();
        drop(self.permits());
        self.freed.notify_all();
    }

    pub(crate) fn publish_part(&self, from: Endpoint, entry: &Entry, part: PartFile) {
        let mut nodes = self.nodes();
        let progress = nodes.entry(from.node).or_default();
        let port = progress.parts.entry(from.port);
        port.or_insert_with(|| (entry.clone(), Vec::new())).1.push(part);
        self.changed.notify_all();
    }

    /// The results of the nodes that are done.
    pub(crate) fn results(&self) -> Results {
        let mut results = Results::default();
        for (node, progress) in self.nodes().iter() {
            if let Some(result) = &progress.done {
                results.insert(*node, result.clone());
            }
        }
        results
    }

    pub(crate) fn publish(&self, node: NodeIndex, result: NodeResult) {
        *self.nodes().entry(node).or_default() =
            Progress { parts: HashMap::new(), done: Some(result) };
        self.changed.notify_all();
    }

    /// Waits until `look` finds something.
    fn wait<T>(
        &self,
        mut look: impl FnMut(&HashMap<NodeIndex, Progress>) -> Option<T>,
    ) -> Result<T> {
        let mut nodes = self.nodes();
        loop {
            if let Some(found) = look(&nodes) {
                return Ok(found);
            }
            self.check()?;
            let waited = self.changed.wait_timeout(nodes, TICK);
            nodes = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(guard, _)| guard);
        }
    }

    /// Waits until the node of `from` is done.
    pub(crate) fn output(&self, from: Endpoint) -> Result<PortResult> {
        self.wait(|nodes| nodes.get(&from.node)?.done.as_ref()?.ports.get(from.port).cloned())
    }

    /// Waits for part number `index` of a table; `None` if there are no more.
    pub(crate) fn part(&self, from: Endpoint, index: usize) -> Result<NextPart> {
        self.wait(|nodes| next_part(nodes, from, index))
    }

    /// The same without waiting: nothing if it is not known yet.
    pub(crate) fn part_now(&self, from: Endpoint, index: usize) -> Option<NextPart> {
        next_part(&self.nodes(), from, index)
    }

    /// Waits for the right to compute; it is given back when the permit is dropped.
    pub(crate) fn permit(&self) -> Result<Permit<'_>> {
        let mut free = self.permits();
        loop {
            self.check()?;
            if *free > 0 {
                *free -= 1;
                return Ok(Permit { board: self });
            }
            let waited = self.freed.wait_timeout(free, TICK);
            free = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(guard, _)| guard);
        }
    }
}

/// A part with the result that holds it; `None` after the last one.
type NextPart = Option<(Entry, PartFile)>;

fn next_part(
    nodes: &HashMap<NodeIndex, Progress>,
    from: Endpoint,
    index: usize,
) -> Option<NextPart> {
    let progress = nodes.get(&from.node)?;
    let done = progress.done.as_ref().and_then(|result| result.ports.get(from.port));
    if let Some(PortResult::Table(table)) = done {
        return Some(table.parts.get(index).map(|part| (table.entry.clone(), *part)));
    }
    let (entry, parts) = progress.parts.get(&from.port)?;
    Some(Some((entry.clone(), *parts.get(index)?)))
}

/// The right to compute.
pub(crate) struct Permit<'a> {
    board: &'a Board<'a>,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.board.permits() += 1;
        self.board.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;
    use paraloom_store::{Digest, Preimage, Store};
    use shuttle::sync::atomic::AtomicUsize;
    use shuttle::thread;

    use super::*;
    use crate::lookup::TableRef;

    /// Tries many orders in which the threads of some work may come. A thread that is not woken is a deadlock here: nobody
    /// looks at the clock.
    fn in_any_order(work: impl Fn(&Entry) + Send + Sync + 'static) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::create(dir.path()).expect("no trouble");
        let entry = store.entry(&Preimage::default().key());
        let orders = std::env::var("PARALOOM_ORDERS").ok().and_then(|text| text.parse().ok());
        shuttle::check_random(move || work(&entry), orders.unwrap_or(1_000));
    }

    fn table() -> Endpoint {
        Endpoint { node: NodeIndex::new(0), port: 0 }
    }

    fn part(number: u64) -> PartFile {
        PartFile { digest: Digest::of(&number.to_le_bytes()), bytes: number, rows: 1 }
    }

    fn done(entry: &Entry, parts: Vec<PartFile>) -> NodeResult {
        let schema = Arc::new(Schema::empty());
        let table = TableRef { entry: entry.clone(), schema, parts: parts.into() };
        let key = Preimage::default().key();
        NodeResult { key, ports: vec![PortResult::Table(table)], took_ms: None }
    }

    #[test]
    fn every_reader_gets_every_part_once_and_in_order() {
        in_any_order(|entry| {
            let cancel = Cancel::default();
            let board = Board::new(1, &cancel);
            let parts: Vec<_> = (0..3).map(part).collect();
            let read = || {
                let next = |index: &usize| board.part(table(), *index).expect("nobody stops");
                (0..).map_while(|index| next(&index)).map(|(_, part)| part).collect::<Vec<_>>()
            };
            thread::scope(|scope| {
                let readers = [scope.spawn(read), scope.spawn(read)];
                for part in &parts {
                    board.publish_part(table(), entry, *part);
                }
                board.publish(table().node, done(entry, parts.clone()));
                for reader in readers {
                    assert_eq!(reader.join().expect("no panic"), parts);
                }
            });
        });
    }

    #[test]
    fn no_more_compute_at_once_than_may_and_each_does_in_the_end() {
        in_any_order(|_| {
            let cancel = Cancel::default();
            let (board, at_work) = (Board::new(2, &cancel), AtomicUsize::new(0));
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let _permit = board.permit().expect("nobody stops");
                        assert!(at_work.fetch_add(1, Ordering::SeqCst) < 2);
                        thread::yield_now();
                        at_work.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            });
            assert_eq!(at_work.load(Ordering::SeqCst), 0);
        });
    }

    #[test]
    fn after_a_failure_nobody_waits() {
        in_any_order(|entry| {
            let cancel = Cancel::default();
            let board = Board::new(1, &cancel);
            let held = board.permit().expect("the first");
            board.publish_part(table(), entry, part(0));
            thread::scope(|scope| {
                let waiting = [
                    scope.spawn(|| board.part(table(), 1).map(drop)),
                    scope.spawn(|| board.output(table()).map(drop)),
                    scope.spawn(|| board.permit().map(drop)),
                ];
                board.fail();
                for waiting in waiting {
                    let outcome = waiting.join().expect("no panic");
                    assert!(matches!(outcome, Err(RunError::Stopped)));
                }
            });
            drop(held);
        });
    }
}
