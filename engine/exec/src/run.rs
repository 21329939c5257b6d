//! Runs what is left of a pipeline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use paraloom_host::Host;
use paraloom_pipeline::Graph;
use paraloom_store::{DigestCache, RunLog, Store, StoreError};
use petgraph::graph::NodeIndex;

use crate::board::Board;
use crate::error::{Result, RunError};
use crate::event::{Event, Observer};
use crate::expect::{Verdict, judge};
use crate::lookup::{Lookup, PortResult, Results};
use crate::node::NodeRun;
use crate::record::RunRecord;

/// Asks a run to stop at its next safe point. Cheap to clone; may be set from a signal
/// handler.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether somebody asked.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The flag itself, for a signal handler.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// How a run is to work.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Compute threads of one node.
    pub threads: u32,
    /// Nodes that compute at once.
    pub jobs: usize,
    /// How far apart the checkpoints of a training are; zero means one after every step.
    /// Not in any key: it does not decide the result.
    pub checkpoint_every: Duration,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Name of the run; `None` if there was nothing to do.
    pub run: Option<String>,
    /// Nodes whose results were there.
    pub cached: usize,
    /// Nodes that worked.
    pub worked: usize,
    /// How long it took.
    pub ms: u64,
    /// The results of all nodes of the job, as this run found or made them. The files that they came of may have changed
    /// since.
    pub results: Results,
    /// What the pipeline expects of them.
    pub verdicts: Vec<Verdict>,
}

/// Damage that is found on the way is repaired by computing again; more often than this
/// it is the disk that is broken.
const REPAIRS: usize = 3;

/// Everything that the nodes of a run share.
pub(crate) struct Shared<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) host: &'a Host,
    pub(crate) store: &'a Store,
    pub(crate) options: &'a RunOptions,
    pub(crate) board: Board<'a>,
    /// Set when the nodes should stop; the stages look at it.
    pub(crate) stop: Arc<AtomicBool>,
}

/// What to work on: some nodes of a graph.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The pipeline.
    pub graph: &'a Graph,
    /// The nodes, in order.
    pub nodes: &'a [NodeIndex],
    /// The stages.
    pub host: &'a Host,
    /// Where results are.
    pub store: &'a Store,
    /// The text of the pipeline, for the log.
    pub text: &'a str,
    /// The values that variables were given, for the log.
    pub set: &'a [(String, String)],
}

/// Does what is left of a job, whose nodes are there with all that they need. What is there already is not done again; what a kill has
/// cut short goes on.
pub fn run(
    job: &Job,
    options: &RunOptions,
    cancel: &Cancel,
    observer: Observer,
) -> Result<Summary> {
    let Job { graph, nodes, host, store, text, .. } = *job;
    let started = Instant::now();
    let _lock = store.lock_shared()?;
    let mut log: Option<RunLog> = None;
    for attempt in 0.. {
        let lookup = Lookup::new(graph, host, Some(store))?;
        let left: Vec<_> =
            nodes.iter().copied().filter(|node| lookup.complete(*node).is_none()).collect();
        if log.is_none() && !left.is_empty() {
            log = Some(RunLog::create(store, text)?);
        }
        let emit = |event: &Event| {
            if let Some(log) = &log {
                log_event(log, event);
            }
            observer(event);
        };
        if let Some(log) = log.as_ref().filter(|_| attempt == 0) {
            emit(&Event::RunStarted {
                run: log.id().to_owned(),
                pipeline: graph.name.clone(),
                nodes: nodes.len(),
                set: job.set.iter().cloned().collect(),
            });
        }
        let (results, outcome) = if left.is_empty() {
            (lookup.results().clone(), Ok(()))
        } else {
            work(job, &left, &lookup, options, cancel, &emit)
        };
        if let Err(RunError::Store(error @ StoreError::Damaged { .. })) = &outcome
            && attempt < REPAIRS
        {
            emit(&Event::Damaged { message: error.to_string() });
            continue;
        }
        let run = log.as_ref().map(|log| log.id().to_owned());
        if let Some(run) = &run {
            // What a failed run has left counts too. Without a record its results cannot be looked at later, and that is all.
            let record = RunRecord::new(graph, nodes, &results);
            let _ = record.and_then(|record| record.write(store, run));
        }
        let verdicts = outcome.and_then(|()| verdicts(job, &results, &emit));
        let is_met = |verdict: &Verdict| verdict.unmet.is_none();
        let ms = milliseconds(started);
        let outcome = match &verdicts {
            Ok(verdicts) if verdicts.iter().all(is_met) => "done",
            Ok(_) => "unmet",
            Err(RunError::Stopped) => "stopped",
            Err(_) => "failed",
        };
        emit(&Event::RunFinished { outcome, ms });
        let (cached, worked) = (nodes.len() - left.len(), left.len());
        return verdicts.map(|verdicts| Summary { run, cached, worked, ms, results, verdicts });
    }
    Err(RunError::Internal { what: "a run ended without an outcome".to_owned() })
}

/// Holds the tables of a job that is done against what the pipeline expects.
fn verdicts(job: &Job, results: &Results, emit: &(dyn Fn(&Event) + Sync)) -> Result<Vec<Verdict>> {
    if let Some(missing) = job.nodes.iter().find(|node| results.node(**node).is_none()) {
        let node = &job.graph.node(*missing).name;
        return Err(RunError::Internal { what: format!("`{node}` is done and has no result") });
    }
    let verdicts = judge(job.graph, job.nodes, results)?;
    for Verdict { table, unmet } in &verdicts {
        let message = unmet.as_ref().map(|unmet| unmet.message.clone());
        let hint = unmet.as_ref().and_then(|unmet| unmet.hint.clone());
        emit(&Event::Expectation { table: table.clone(), met: unmet.is_none(), message, hint });
    }
    Ok(verdicts)
}

fn log_event(log: &RunLog, event: &Event) {
    let mut fields = serde_json::to_value(event).unwrap_or_default();
    let name = fields.get("event").and_then(|name| name.as_str()).unwrap_or_default().to_owned();
    fields.as_object_mut().map(|fields| fields.remove("event"));
    log.write(&name, fields);
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// One attempt: a thread per node that is left. The results of the nodes that are done, and the first error that is not
/// "stopped".
fn work(
    job: &Job,
    left: &[NodeIndex],
    lookup: &Lookup,
    options: &RunOptions,
    cancel: &Cancel,
    emit: &(dyn Fn(&Event) + Sync),
) -> (Results, Result<()>) {
    let Job { graph, nodes, host, store, .. } = *job;
    let board = Board::new(options.jobs, cancel);
    for node in nodes {
        if let Some(result) = lookup.complete(*node) {
            emit(&Event::NodeCached {
                node: graph.node(*node).name.clone(),
                key: result.key.to_string(),
                rows: rows(&result.ports),
            });
            board.publish(*node, result.clone());
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let shared = Shared { graph, host, store, options, board, stop: Arc::clone(&stop) };
    let (sender, receiver) = channel();
    let outcome = std::thread::scope(|scope| {
        let (mut handles, mut outcome) = (Vec::with_capacity(left.len()), Ok(()));
        for node in left {
            let (shared, sender) = (&shared, sender.clone());
            let name = &graph.node(*node).name;
            let thread = std::thread::Builder::new().name(name.clone());
            match thread.spawn_scoped(scope, move || run_node(shared, *node, &sender)) {
                Ok(handle) => handles.push(handle),
                Err(source) => {
                    shared.board.fail();
                    outcome = Err(RunError::Thread { node: name.clone(), source });
                    break;
                }
            }
        }
        drop(sender);
        pump(&receiver, &shared, emit);
        for handle in handles {
            let result = handle.join().unwrap_or_else(|_| {
                Err(RunError::Internal { what: "a node's thread panicked".to_owned() })
            });
            // The first real error counts; the others stopped because of it.
            if let Err(error) = result
                && (outcome.is_ok() || matches!(outcome, Err(RunError::Stopped)))
            {
                outcome = Err(error);
            }
        }
        outcome
    });
    (shared.board.results(), outcome)
}

/// Passes events on until all nodes have ended, and passes the wish to stop to them.
fn pump(receiver: &Receiver<Event>, shared: &Shared, emit: &(dyn Fn(&Event) + Sync)) {
    use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
    loop {
        if shared.board.should_stop() {
            shared.stop.store(true, Ordering::Release);
        }
        match receiver.recv_timeout(Duration::from_millis(50)) {
            Ok(event) => emit(&event),
            Err(Timeout) => {}
            Err(Disconnected) => return,
        }
    }
}

fn run_node(shared: &Shared, node: NodeIndex, events: &Sender<Event>) -> Result<()> {
    let _at_work = paraloom_alloc::at_work(&shared.graph.node(node).name);
    let result = NodeRun::new(shared, node, events.clone()).work();
    if let Err(error) = &result {
        shared.board.fail();
        if !matches!(error, RunError::Stopped | RunError::Store(StoreError::Damaged { .. })) {
            let name = shared.graph.node(node).name.clone();
            let (message, hint) = (error.to_string(), error.hint());
            let _ = events.send(Event::NodeFailed { node: name, message, hint });
        }
    }
    result
}

/// Rows of the first table among the outputs.
pub(crate) fn rows(ports: &[PortResult]) -> Option<u64> {
    ports.iter().find_map(|port| match port {
        PortResult::Table(table) => Some(table.rows()),
        PortResult::Artifact { .. } => None,
    })
}

/// Digests are looked up once per node; the cache is on disk.
pub(crate) fn digests(store: &Store) -> DigestCache {
    DigestCache::load(store)
}
