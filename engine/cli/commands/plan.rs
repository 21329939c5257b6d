//! `plan`: what a run would do, and why.

use std::process::ExitCode;

use paraloom_exec::{Cancel, Job, Lookup, NodePlan, RunError, RunOptions, State, judge};
use paraloom_pipeline::{DEFAULT_DEVICE, Graph, Location, PortKind};
use paraloom_store::{Event, Logged, Store};
use petgraph::graph::NodeIndex;

use super::print;
use super::run::options;
use crate::args::{PlanArgs, StageArgs};
use crate::context::Project;
use crate::error::Result;
use crate::render::{self, Progress, bytes};
use crate::signals::Signals;

pub(crate) fn run(args: &PlanArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let (graph, host) = (&project.graph, &project.workspace.host);
    let store = project.store()?;
    if let Some(store) = store.as_ref().filter(|_| args.read)
        && let Some(exit) = read_sources(&project, store, &args.pipeline.settings.set)
    {
        return Ok(exit);
    }
    let lookup = Lookup::new(graph, host, store.as_ref())?;
    let plan = paraloom_exec::plan(graph, graph.order(), &lookup)?;
    if args.json {
        print(&serde_json::to_string_pretty(&plan).unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    }
    let width = plan.nodes.iter().map(|node| node.node.len()).max().unwrap_or(0);
    for node in &plan.nodes {
        let line = format!("{:width$}  {:12} {}", node.node, node.stage, describe(node));
        print(line.trim_end())?;
    }
    for unmet in unmet(graph, &lookup)? {
        print(&format!("not as expected: {unmet}"))?;
    }
    let is_left = |node: &NodeIndex| lookup.complete(*node).is_none();
    if plan.is_done() {
        print("nothing to do")?;
    } else if store.is_some() && !args.read && sources(graph).iter().any(is_left) {
        print("`plan --read` reads the files that have changed and counts their new rows")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the tables that are there should be, and are not.
pub(crate) fn unmet(graph: &Graph, lookup: &Lookup) -> Result<Vec<String>> {
    let verdicts = judge(graph, graph.order(), lookup.results())?;
    Ok(verdicts.into_iter().filter_map(|verdict| Some(verdict.unmet?.message)).collect())
}

/// The nodes that read files on this machine, and nothing else.
fn sources(graph: &Graph) -> Vec<NodeIndex> {
    let is_source = |index: &NodeIndex| {
        let node = graph.node(*index);
        graph.inputs(*index).is_empty()
            && node.stage.outputs.iter().all(|port| port.kind == PortKind::Table)
            && node.paths.iter().all(|used| !matches!(used.location, Location::Hub(_)))
    };
    graph.order().iter().copied().filter(is_source).collect()
}

/// Reads files that have changed into the store, as a run would, so that the plan can say how many rows are new. It is
/// no run: no log tells of it. An exit code if somebody asks to stop.
fn read_sources(project: &Project, store: &Store, set: &[(String, String)]) -> Option<ExitCode> {
    let (graph, host) = (&project.graph, &project.workspace.host);
    let nodes = sources(graph);
    let cancel = Cancel::default();
    let signals = Signals::listen(&cancel.flag());
    let progress = Progress::new();
    let observer = |logged: &Logged| {
        if !matches!(logged.event, Event::NodeCached { .. }) {
            progress.show(&logged.event);
        }
    };
    let job = Job { graph, nodes: &nodes, host, store, text: &project.workspace.text, set };
    let options = RunOptions { is_logged: false, keep_going: true, ..options(None, 1) };
    match paraloom_exec::run(&job, &options, &cancel, &observer) {
        Err(RunError::Stopped) => Some(ExitCode::from(signals.exit_code())),
        // The run will report the same failure; the plan goes on with the other nodes.
        Err(error) => {
            render::note(&format!("not read: {error}"));
            None
        }
        Ok(_) => None,
    }
}

pub(crate) fn describe(node: &NodePlan) -> String {
    let needs = node.memory_bytes.map(|needed| {
        let free =
            paraloom_alloc::free().filter(|free| node.device == DEFAULT_DEVICE && *free < needed);
        let free = free.map(|free| format!(" of memory, and {} are free", bytes(free)));
        format!("; needs about {}{}", bytes(needed), free.unwrap_or_default())
    });
    state(node) + &needs.unwrap_or_default()
}

fn state(node: &NodePlan) -> String {
    match (node.state, node.parts) {
        (State::Cached, _) => match node.rows {
            Some(rows) => format!("cached   {rows} rows"),
            None => "cached".to_owned(),
        },
        (State::Partial, Some((there, all))) => {
            format!("partial  {there} of {all} parts are there; {}", node.reason)
        }
        _ => format!("run      {}", node.reason),
    }
}
