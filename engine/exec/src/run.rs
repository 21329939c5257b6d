//! Runs what is left of a pipeline.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use paraloom_host::Host;
use paraloom_pipeline::Graph;
use paraloom_store::{Environment, Event, LogLevel, Logged, Outcome, RunLog, Store, StoreError};
use petgraph::graph::NodeIndex;

use crate::crew::Crew;
use crate::error::{Result, RunError};
use crate::event::Observer;
use crate::expect::{Verdict, judge};
use crate::lookup::{Lookup, Results, rows_of};
use crate::peaks::Peaks;
use crate::record::RunRecord;
use crate::schedule::Schedule;
use crate::share::Shard;
use crate::worker::Run;

/// A request that a run stop at its next safe point. Cheap to clone; may be set from a signal
/// handler.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Requests cancellation.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// True once it was requested.
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
    /// Whether a node that fails stops only what reads it, and not all the others.
    pub keep_going: bool,
    /// Whether it is recorded as a run, with a log.
    pub is_logged: bool,
    /// How far apart the checkpoints of a training are; zero means one after every step.
    /// Not in any key: it does not decide the result.
    pub checkpoint_every: Duration,
    /// That several processes work on the same pipeline and store, and which this one is. Each node that reads its inputs whole
    /// is left to one of them; the parts of map nodes are divided.
    pub share: Option<Shard>,
    /// Where and how it works, for the log.
    pub environment: Option<Environment>,
    /// How long a call of `map()` may take before the stage's process is ended, if it has one of its own.
    pub map_limit: Option<Duration>,
}

impl Default for RunOptions {
    /// One thread, one job, checkpoints ten seconds apart.
    fn default() -> Self {
        let checkpoint_every = Duration::from_secs(10);
        let (threads, jobs) = (1, 1);
        let (keep_going, is_logged, share, map_limit) = (false, true, None, None);
        let environment = None;
        Self {
            threads,
            jobs,
            keep_going,
            is_logged,
            checkpoint_every,
            share,
            environment,
            map_limit,
        }
    }
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
        lookup.digests().save(store);
        let left: Vec<_> =
            nodes.iter().copied().filter(|node| lookup.complete(*node).is_none()).collect();
        if log.is_none() && !left.is_empty() && options.is_logged {
            log = Some(RunLog::create(store, text)?);
        }
        let emit = |event: Event| {
            let logged = Logged::now(log.as_ref().map(RunLog::id), event);
            if let Some(log) = &log {
                log.write(&logged);
            }
            observer(&logged);
        };
        if log.is_some() && attempt == 0 {
            emit(Event::RunStarted {
                pipeline: graph.name.clone(),
                nodes: nodes.len(),
                set: job.set.iter().cloned().collect(),
            });
            if let Some(environment) = &options.environment {
                emit(Event::RunEnvironment(environment.clone()));
            }
        }
        let (results, outcome) = if left.is_empty() {
            (lookup.results().clone(), Ok(()))
        } else {
            work(job, &left, &lookup, options, cancel, &emit)
        };
        if let Err(RunError::Store(error @ StoreError::Damaged { .. })) = &outcome
            && attempt < REPAIRS
        {
            emit(Event::Damaged { message: error.to_string() });
            continue;
        }
        let run = log.as_ref().map(|log| log.id().to_owned());
        if let Some(run) = &run {
            // What a failed run has left counts too. Without a record its results cannot be looked at later, and that is all.
            let record = RunRecord::new(graph, nodes, &results);
            let _ = record.and_then(|record| record.write(graph, store, run));
        }
        let verdicts = outcome.and_then(|()| verdicts(job, &results, &emit));
        let is_met = |verdict: &Verdict| verdict.unmet.is_none();
        let ms = milliseconds(started);
        let outcome = match &verdicts {
            Ok(verdicts) if verdicts.iter().all(is_met) => Outcome::Done,
            Ok(_) => Outcome::Unmet,
            Err(RunError::Stopped) => Outcome::Stopped,
            Err(_) => Outcome::Failed,
        };
        emit(Event::RunFinished { outcome, ms });
        if let Some(log) = &log {
            log.publish(store);
        }
        let (cached, worked) = (nodes.len() - left.len(), left.len());
        return verdicts.map(|verdicts| Summary { run, cached, worked, ms, results, verdicts });
    }
    Err(RunError::Internal { what: "a run ended without an outcome".to_owned() })
}

/// Holds the tables of a job that is done against what the pipeline expects.
fn verdicts(job: &Job, results: &Results, emit: &(dyn Fn(Event) + Sync)) -> Result<Vec<Verdict>> {
    if let Some(missing) = job.nodes.iter().find(|node| results.node(**node).is_none()) {
        let node = &job.graph.node(*missing).name;
        return Err(RunError::Internal { what: format!("`{node}` is done and has no result") });
    }
    let verdicts = judge(job.graph, job.nodes, results)?;
    for Verdict { table, unmet } in &verdicts {
        let message = unmet.as_ref().map(|unmet| unmet.message.clone());
        let hint = unmet.as_ref().and_then(|unmet| unmet.hint.clone());
        emit(Event::Expectation { table: table.clone(), met: unmet.is_none(), message, hint });
    }
    Ok(verdicts)
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// One attempt. The results of the nodes that are done, and the first error.
fn work(
    job: &Job,
    left: &[NodeIndex],
    lookup: &Lookup,
    options: &RunOptions,
    cancel: &Cancel,
    emit: &(dyn Fn(Event) + Sync),
) -> (Results, Result<()>) {
    let Job { graph, nodes, host, store, .. } = *job;
    let schedule = Schedule::of(graph, nodes);
    let schedule = if options.share.is_some() { schedule.awaiting_tables() } else { schedule };
    let crew = Crew::new(schedule, options.keep_going);
    for node in nodes {
        if let Some(result) = lookup.complete(*node) {
            let (node_name, key) = (graph.node(*node).name.clone(), result.key.clone());
            emit(Event::NodeCached { node: node_name, key, rows: rows_of(&result.ports) });
            crew.done(*node, result.clone());
        }
    }
    let (digests, errors, busy) = (lookup.digests(), Mutex::default(), Mutex::default());
    let run = Run { graph, host, store, options, digests, crew, errors, busy };
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        let mut workers = 0;
        for number in 0..options.jobs.clamp(1, left.len()) {
            let (run, sender) = (&run, sender.clone());
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            match thread.spawn_scoped(scope, move || run.work(&sender)) {
                Ok(_) => workers += 1,
                // Fewer do as well.
                Err(_) if workers > 0 => break,
                Err(source) => {
                    let error = RunError::Thread { source };
                    run.errors.lock().unwrap_or_else(PoisonError::into_inner).push(error);
                }
            }
        }
        drop(sender);
        follow(&receiver, &run, cancel, emit);
    });
    let errors = run.errors.into_inner().unwrap_or_else(PoisonError::into_inner);
    let results = run.crew.results();
    let is_done = left.iter().all(|node| results.node(*node).is_some());
    let outcome = match summed_up(errors, options.keep_going) {
        Some(error) => Err(error),
        None if !is_done && cancel.is_set() => Err(RunError::Stopped),
        None => Ok(()),
    };
    (results, outcome)
}

/// The first real error; what stopped because of it says nothing. All of them in a run that kept going, unless one is
/// damage, which is mended first.
fn summed_up(errors: Vec<RunError>, keep_going: bool) -> Option<RunError> {
    let is_damage = |error: &RunError| matches!(error, RunError::Store(StoreError::Damaged { .. }));
    let (mut real, stopped): (Vec<_>, Vec<_>) =
        errors.into_iter().partition(|error| !matches!(error, RunError::Stopped));
    if !keep_going || real.len() < 2 || real.iter().any(is_damage) {
        let at = real.iter().position(|error| keep_going && is_damage(error)).unwrap_or(0);
        return real.drain(..).nth(at).or(stopped.into_iter().next());
    }
    Some(RunError::Several(real))
}

/// How often a request to stop is noticed, and whether another process is done with what is waited for.
const TICK: Duration = Duration::from_millis(50);

/// How long a node may go on after a request to stop, until it is said what is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Of each node that does not stop: what the user can do.
fn still_at_work(run: &Run) -> Vec<Event> {
    let message = "still at work after it was asked to stop; a second signal ends the run at once, \
                   and what is committed stays";
    let told = |node: &NodeIndex| Event::Log {
        node: run.graph.node(*node).name.clone(),
        level: LogLevel::Warn,
        message: message.to_owned(),
    };
    run.busy().iter().map(told).collect()
}

/// Passes events on until all workers have ended, and passes a request to stop to them.
fn follow(receiver: &Receiver<Event>, run: &Run, cancel: &Cancel, emit: &(dyn Fn(Event) + Sync)) {
    let mut peaks = Peaks::default();
    let (mut asked, mut told) = (None, false);
    loop {
        if cancel.is_set() {
            run.crew.stop();
            let asked = asked.get_or_insert_with(Instant::now);
            if asked.elapsed() > PATIENCE && !std::mem::replace(&mut told, true) {
                still_at_work(run).into_iter().for_each(emit);
            }
        }
        let received = receiver.recv_timeout(TICK);
        peaks.measure();
        match received {
            Ok(mut event) => {
                peaks.note(&mut event);
                emit(event);
            }
            Err(RecvTimeoutError::Timeout) => run.crew.tick(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
