//! `plan`: what a run would do, and why.

use std::process::ExitCode;

use paraloom_exec::{Cancel, Job, Lookup, NodePlan, State, judge};
use paraloom_host::Host;
use paraloom_pipeline::{DEFAULT_DEVICE, Graph, Node, Place, PortKind};
use paraloom_store::Store;

use super::print;
use super::run::options;
use crate::args::{PlanArgs, StageArgs};
use crate::context::Project;
use crate::error::Result;
use crate::render::bytes;

pub(crate) fn run(args: &PlanArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let (graph, host) = (&project.graph, &project.workspace.host);
    let store = project.store()?;
    if let Some(store) = &store {
        read_sources(&project, store, &args.pipeline.settings.set);
    }
    let plan = paraloom_exec::plan(graph, graph.order(), host, store.as_ref())?;
    if args.json {
        print(&serde_json::to_string_pretty(&plan).unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    }
    let width = plan.nodes.iter().map(|node| node.node.len()).max().unwrap_or(0);
    for node in &plan.nodes {
        let line = format!("{:width$}  {:12} {}", node.node, node.stage, describe(node));
        print(line.trim_end())?;
    }
    for unmet in unmet(graph, host, store.as_ref())? {
        print(&format!("not as expected: {unmet}"))?;
    }
    if plan.is_done() {
        print("nothing to do")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the tables that are there should be, and are not.
pub(crate) fn unmet(graph: &Graph, host: &Host, store: Option<&Store>) -> Result<Vec<String>> {
    if graph.expect.is_empty() {
        return Ok(Vec::new());
    }
    let lookup = Lookup::new(graph, host, store)?;
    let verdicts = judge(graph, graph.order(), lookup.results())?;
    Ok(verdicts.into_iter().filter_map(|verdict| Some(verdict.unmet?.message)).collect())
}

/// Reads files that have changed into the store, as a run would, so that the plan can say how many rows are new.
fn read_sources(project: &Project, store: &Store, set: &[(String, String)]) {
    let (graph, host) = (&project.graph, &project.workspace.host);
    let is_source = |node: &Node| {
        let tables = node.stage.outputs.iter().all(|port| port.kind == PortKind::Table);
        tables && node.paths.iter().all(|used| !matches!(used.place, Place::Hub(_)))
    };
    let sources = graph.order().iter().copied();
    let sources = sources.filter(|index| graph.inputs(*index).is_empty());
    let sources: Vec<_> = sources.filter(|index| is_source(graph.node(*index))).collect();
    let job = Job { graph, nodes: &sources, host, store, text: &project.workspace.text, set };
    // What fails here fails in the run too, which says why; the plan is then about the rest.
    let _ = paraloom_exec::run(&job, &options(None, 1), &Cancel::default(), &|_| {});
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
