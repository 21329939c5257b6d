//! The board on which nodes say what they have finished, and wait for each other.
//!
//! Tables grow part by part, so that a map stage starts while its input is still made.
//! Nothing is bounded here: only names of parts are on the board, never rows, and an
//! unbounded board cannot deadlock with the locks that other processes hold.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use paraloom_pipeline::Endpoint;
use paraloom_store::{Entry, PartFile};
use petgraph::graph::NodeIndex;

use crate::error::{Result, RunError};
use crate::lookup::{NodeResult, PortResult};
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
        self.changed.notify_all();
        self.freed.notify_all();
    }

    pub(crate) fn publish_part(&self, from: Endpoint, entry: &Entry, part: PartFile) {
        let mut nodes = self.nodes();
        let progress = nodes.entry(from.node).or_default();
        let port = progress.parts.entry(from.port);
        port.or_insert_with(|| (entry.clone(), Vec::new())).1.push(part);
        self.changed.notify_all();
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
        let mut free = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            self.check()?;
            if *free > 0 {
                *free -= 1;
                return Ok(Permit { permits: &self.permits, freed: &self.freed });
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
    permits: &'a Mutex<usize>,
    freed: &'a Condvar,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.permits.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.freed.notify_one();
    }
}
