//! The workers of a run: threads that take tasks from the [`Schedule`] until nothing is left.
//!
//! Only what has been made is shared, never rows, so nothing here is bounded and nothing can deadlock with the locks that
//! other processes hold. A worker waits without a time limit: every change of the schedule wakes it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

// The tests have the order chosen in which threads come, and try many.
#[cfg(test)]
use shuttle::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(test))]
use std::sync::{Condvar, Mutex, MutexGuard};

use paraloom_pipeline::Endpoint;
use paraloom_store::{Entry, Key, PartFile};
use petgraph::graph::NodeIndex;

use crate::lookup::{NodeResult, PortResult, Results};
use crate::schedule::{Event, Schedule, Task};

/// What the workers of a run share. `P` is the state of a parked node.
pub(crate) struct Crew<P> {
    shared: Mutex<Shared<P>>,
    changed: Condvar,
    /// Set when the nodes should stop; the stages look at it too.
    stop: Arc<AtomicBool>,
    keep_going: bool,
}

struct Shared<P> {
    schedule: Schedule,
    /// The tables of nodes at work, part by part, and the results that they belong to.
    tables: HashMap<Endpoint, (Entry, Vec<PartFile>)>,
    results: Results,
    parked: HashMap<NodeIndex, P>,
    /// Workers that wait for something to do.
    idle: usize,
}

impl<P> Crew<P> {
    /// With `keep_going` a node that fails stops only what reads it.
    pub(crate) fn new(schedule: Schedule, keep_going: bool) -> Self {
        let (tables, results) = (HashMap::new(), Results::default());
        let shared = Shared { schedule, tables, results, parked: HashMap::new(), idle: 0 };
        let (shared, changed) = (Mutex::new(shared), Condvar::new());
        Self { shared, changed, stop: Arc::default(), keep_going }
    }

    fn shared(&self) -> MutexGuard<'_, Shared<P>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change and wakes as many workers as have something to do now; all of them once nothing is left.
    fn change<T>(&self, change: impl FnOnce(&mut Shared<P>) -> T) -> T {
        let mut shared = self.shared();
        let changed = change(&mut shared);
        let ready = shared.schedule.ready().min(shared.idle);
        if shared.schedule.is_over() {
            self.changed.notify_all();
        } else {
            (0..ready).for_each(|_| self.changed.notify_one());
        }
        changed
    }

    // ---- for workers ----

    /// Waits for a task, with the state of its node if that was parked; none once there will be no more.
    pub(crate) fn next(&self) -> Option<(Task, Option<P>)> {
        let mut shared = self.shared();
        loop {
            if self.should_stop() {
                return None;
            }
            if let Some(task) = shared.schedule.next() {
                let begun = shared.parked.remove(&task.node);
                return Some((task, begun));
            }
            if shared.schedule.is_over() {
                // The other waiting workers have to end, too.
                self.changed.notify_all();
                return None;
            }
            shared.idle += 1;
            shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
            shared.idle -= 1;
        }
    }

    /// What a node that has done what it was given has to do now.
    pub(crate) fn more(&self, node: NodeIndex) -> Option<Task> {
        if self.should_stop() { None } else { self.shared().schedule.more(node) }
    }

    /// A node says under which key its result will be; it is given back unless another node of that key is at work.
    pub(crate) fn claim(&self, node: NodeIndex, key: &Key, begun: P) -> Option<P> {
        let mut shared = self.shared();
        if shared.schedule.claim(node, key) {
            return Some(begun);
        }
        shared.parked.insert(node, begun);
        None
    }

    /// Parks a node until more of its input is there.
    pub(crate) fn park(&self, node: NodeIndex, begun: P) {
        self.change(|shared| {
            shared.parked.insert(node, begun);
            shared.schedule.apply(Event::Parked(node));
        });
    }

    /// Parks a node whose result another process computes.
    pub(crate) fn locked(&self, node: NodeIndex, begun: P) {
        self.change(|shared| {
            shared.parked.insert(node, begun);
            shared.schedule.apply(Event::Locked(node));
        });
    }

    /// A table of a node at work has one more part.
    pub(crate) fn part_made(&self, from: Endpoint, entry: &Entry, part: PartFile) {
        self.change(|shared| {
            shared.tables.entry(from).or_insert_with(|| (entry.clone(), Vec::new())).1.push(part);
            shared.schedule.apply(Event::PartMade(from));
        });
    }

    /// A node has mapped the part that it was given.
    pub(crate) fn part_mapped(&self, node: NodeIndex) {
        self.change(|shared| shared.schedule.apply(Event::PartMapped(node)));
    }

    /// A node is done.
    pub(crate) fn done(&self, node: NodeIndex, result: NodeResult) {
        let parts = result.ports.iter().map(|port| match port {
            PortResult::Table(table) => table.parts.len(),
            PortResult::Artifact { .. } => 0,
        });
        let parts = parts.collect();
        self.change(|shared| {
            for port in 0..result.ports.len() {
                shared.tables.remove(&Endpoint { node, port });
            }
            shared.results.insert(node, result);
            shared.schedule.apply(Event::Done(node, parts));
        });
    }

    /// A node failed. Unless the others are to keep going, they stop at their next safe point.
    pub(crate) fn failed(&self, node: NodeIndex) {
        if !self.keep_going {
            self.stop();
        }
        self.change(|shared| shared.schedule.apply(Event::Failed(node)));
    }

    /// The parked nodes, once no worker will resume them.
    pub(crate) fn take_parked(&self) -> Vec<P> {
        self.shared().parked.drain().map(|(_, begun)| begun).collect()
    }

    // ---- for all ----

    /// Has the workers stop after what they are at.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // A worker holds the lock from its look at the flag until it waits, so no wake-up is lost.
        drop(self.shared());
        self.changed.notify_all();
    }

    /// Whether the work should stop: it was requested, or a node failed.
    pub(crate) fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The flag behind [`Crew::should_stop`], for stages.
    pub(crate) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Looks again after the results that other processes compute; to be called now and then.
    pub(crate) fn tick(&self) {
        if self.shared().schedule.has_locked() {
            self.change(|shared| shared.schedule.retry_locked());
        }
    }

    /// What an output holds, if its node is done.
    pub(crate) fn output(&self, from: Endpoint) -> Option<PortResult> {
        self.shared().results.output(from).cloned()
    }

    /// A part of a table, of a node that is done or at work.
    pub(crate) fn part(&self, from: Endpoint, index: usize) -> Option<(Entry, PartFile)> {
        let shared = self.shared();
        if let Some(PortResult::Table(table)) = shared.results.output(from) {
            return Some((table.entry.clone(), *table.parts.get(index)?));
        }
        let (entry, parts) = shared.tables.get(&from)?;
        Some((entry.clone(), *parts.get(index)?))
    }

    /// Whether a node at work has made a part of a table.
    pub(crate) fn has_parts(&self, node: NodeIndex) -> bool {
        self.shared().tables.keys().any(|from| from.node == node)
    }

    /// The results of the nodes that are done.
    pub(crate) fn results(&self) -> Results {
        self.shared().results.clone()
    }
}

#[cfg(test)]
mod tests;
