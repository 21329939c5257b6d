//! A worker at a task.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use paraloom_host::Host;
use paraloom_pipeline::Graph;
use paraloom_store::{DigestCache, Entry, Event, Lock, Store, StoreError};
use petgraph::graph::NodeIndex;

use crate::context::NodeContext;
use crate::crew::Crew;
use crate::error::{Result, RunError};
use crate::lookup::{NodeResult, rows_of};
use crate::map::MapState;
use crate::run::RunOptions;
use crate::schedule::{Task, Work};
use crate::services::NodeServices;

/// What the workers of a run have in common.
pub(crate) struct Run<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) host: &'a Host,
    pub(crate) store: &'a Store,
    pub(crate) options: &'a RunOptions,
    pub(crate) digests: &'a DigestCache,
    pub(crate) crew: Crew<Begun<'a>>,
    /// In the order in which they came.
    pub(crate) errors: Mutex<Vec<RunError>>,
    /// The nodes that workers are at.
    pub(crate) busy: Mutex<Vec<NodeIndex>>,
}

/// A node that has begun.
pub(crate) struct Begun<'a> {
    pub(crate) context: NodeContext<'a>,
    pub(crate) entry: Entry,
    pub(crate) services: Arc<NodeServices>,
    /// Of a map node: what it has done so far.
    pub(crate) map: Option<MapState>,
    /// Whether it was told that another process computes the result.
    told_waiting: bool,
}

/// The result's lock, or who has it.
pub(crate) enum Taken {
    Lock(Lock),
    By(String),
}

impl Begun<'_> {
    pub(crate) fn send(&self, event: Event) {
        self.services.send(event);
    }

    pub(crate) fn name(&self) -> String {
        self.context.node.name.clone()
    }

    /// Takes the right to compute the result.
    pub(crate) fn lock(&self) -> Result<Taken> {
        Self::taken(self.entry.lock())
    }

    /// The same for a map node, whose parts are committed one by one: alone among the processes of this machine, or beside
    /// others.
    pub(crate) fn lock_parts(&self, is_shared: bool) -> Result<Taken> {
        Self::taken(if is_shared { self.entry.lock_shared() } else { self.entry.lock_here() })
    }

    fn taken(lock: paraloom_store::Result<Lock>) -> Result<Taken> {
        match lock {
            Err(StoreError::Locked { holder, .. }) => Ok(Taken::By(holder)),
            taken => Ok(Taken::Lock(taken?)),
        }
    }

    pub(crate) fn started(&self) -> Event {
        let (key, stage) = (self.context.key.clone(), self.context.node.stage.name.clone());
        Event::NodeStarted { node: self.name(), key, stage }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        // The stage is closed before its directories go.
        self.map = None;
        self.services.clean_up();
    }
}

impl<'a> Run<'a> {
    /// Works until there is nothing more to do.
    pub(crate) fn work(&self, events: &Sender<Event>) {
        while let Some((task, begun)) = self.crew.next() {
            let name = &self.graph.node(task.node).name;
            let _at_work = paraloom_alloc::at_work(name);
            self.busy().push(task.node);
            let outcome = catch_unwind(AssertUnwindSafe(|| self.task(task, begun, events)));
            self.busy().retain(|node| *node != task.node);
            let outcome = outcome.unwrap_or_else(|panic| Err(panicked(name, &*panic)));
            if let Err(error) = outcome {
                self.failed(task.node, error, events);
            }
        }
        drop(self.crew.take_parked());
    }

    pub(crate) fn busy(&self) -> MutexGuard<'_, Vec<NodeIndex>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, node: NodeIndex, error: RunError, events: &Sender<Event>) {
        let node_name = self.graph.node(node).name.clone();
        if !matches!(error, RunError::Stopped | RunError::Store(StoreError::Damaged { .. })) {
            let (message, hint) = (error.to_string(), error.hint());
            // The receiver lives as long as the workers.
            let _ = events.send(Event::NodeFailed { node: node_name, message, hint });
        }
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).push(error);
        self.crew.failed(node);
    }

    fn task(&self, task: Task, begun: Option<Begun<'a>>, events: &Sender<Event>) -> Result<()> {
        let begun = match begun {
            Some(begun) => begun,
            None => self.begin(task.node, events)?,
        };
        let key = begun.context.key.clone();
        let Some(begun) = self.crew.claim(task.node, &key, begun) else { return Ok(()) };
        match task.work {
            Work::Whole => self.whole(begun),
            Work::Part(_) | Work::Finish => self.map(begun, task),
        }
    }

    fn begin(&self, node: NodeIndex, events: &Sender<Event>) -> Result<Begun<'a>> {
        let output = |from| self.crew.output(from);
        let context = NodeContext::bind(self.graph, self.host, node, output, self.digests)?;
        let name = &self.graph.node(node).name;
        let context = context.map_err(|_| RunError::Internal {
            what: format!("`{name}` was begun before all that it reads was there"),
        })?;
        let entry = self.store.entry(&context.key);
        let (stop, every) = (self.crew.stop_flag(), self.options.checkpoint_every);
        let services = NodeServices::new(name, Some(entry.clone()), events.clone(), stop, every);
        Ok(Begun { context, entry, services, map: None, told_waiting: false })
    }

    /// Parks a node until the process that computes its result is done.
    pub(crate) fn wait_for(&self, holder: String, mut begun: Begun<'a>) {
        if !std::mem::replace(&mut begun.told_waiting, true) {
            begun.send(Event::NodeWaiting { node: begun.name(), holder });
        }
        self.crew.locked(begun.context.index, begun);
    }

    /// A node is done: `computed` of its parts or outputs were made now, `found` were there.
    pub(crate) fn finish(
        &self,
        begun: Begun<'a>,
        result: NodeResult,
        (computed, found, rows_found): (u64, u64, Option<u64>),
        started: Instant,
    ) {
        begun.send(Event::NodeFinished {
            node: begun.name(),
            key: result.key.clone(),
            rows: rows_of(&result.ports),
            computed,
            found,
            rows_found,
            ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            peak_memory: None,
        });
        let index = begun.context.index;
        drop(begun);
        self.crew.done(index, result);
    }
}

pub(crate) fn panicked(node: &str, panic: &(dyn std::any::Any + Send)) -> RunError {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    RunError::Internal { what: format!("the engine panicked at `{node}`: {text}") }
}
