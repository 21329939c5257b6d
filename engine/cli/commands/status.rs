//! `status`: what is done, what is left, and how the newest run went.

use std::collections::BTreeMap;
use std::process::ExitCode;

use paraloom_exec::{Lookup, State};
use paraloom_store::{Event, Outcome, RunSummary};
use serde_json::json;

use super::plan::{describe, unmet};
use super::print;
use crate::args::{StageArgs, StatusArgs};
use crate::context::Project;
use crate::error::Result;
use crate::render::duration;

pub(crate) fn run(args: &StatusArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let (graph, host) = (&project.graph, &project.workspace.host);
    let store = project.store()?;
    let lookup = Lookup::new(graph, host, store.as_ref())?;
    let plan = paraloom_exec::plan(graph, graph.order(), &lookup)?;
    let is_ours =
        |run: &RunSummary| started(run).is_some_and(|(pipeline, _)| pipeline == graph.name);
    let newest = match &store {
        Some(store) => store.runs()?.into_iter().rfind(is_ours),
        None => None,
    };
    let unmet = unmet(graph, &lookup)?;
    if args.json {
        let run = newest.as_ref().map(|run| json!({"id": run.id, "last_event": run.events.last()}));
        let status = json!({"nodes": plan.nodes, "run": run, "unmet": unmet});
        print(&serde_json::to_string_pretty(&status).unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    }
    let done = plan.nodes.iter().filter(|node| node.state == State::Cached).count();
    print(&format!("{done} of {} nodes are done", plan.nodes.len()))?;
    for node in plan.nodes.iter().filter(|node| node.state != State::Cached) {
        print(&format!("  {:14} {}", node.node, describe(node)))?;
    }
    for unmet in unmet {
        print(&format!("not as expected: {unmet}"))?;
    }
    if let Some(run) = newest {
        print(&format!("newest run {}: {}", run.id, outcome(&run)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The pipeline of a run, and what variables were set to; none if its log is cut short before that.
pub(crate) fn started(run: &RunSummary) -> Option<(String, BTreeMap<String, String>)> {
    run.events.iter().find_map(|line| match &line.event {
        Event::RunStarted { pipeline, set, .. } => Some((pipeline.clone(), set.clone())),
        _ => None,
    })
}

/// How a run ended, and how long it took.
pub(crate) fn ended(run: &RunSummary) -> Option<(Outcome, u64)> {
    run.events.iter().find_map(|line| match &line.event {
        Event::RunFinished { outcome, ms } => Some((*outcome, *ms)),
        _ => None,
    })
}

/// How a run ended, or how far it is.
pub(crate) fn outcome(run: &RunSummary) -> String {
    let mut progress = String::new();
    let (mut failed, mut unmet) = (None, None);
    for line in &run.events {
        match &line.event {
            Event::RunFinished { outcome, ms } => return ending(*outcome, *ms, failed, unmet),
            Event::NodeFailed { message, .. } => failed = Some(message.as_str()),
            Event::Expectation { met: false, message, .. } => unmet = unmet.or(message.as_deref()),
            Event::Progress { done, total, unit, .. } => {
                progress = format!(", {done} of {total} {unit}");
            }
            // The counts are those of the node of the last event.
            event if event.node().is_some() => progress.clear(),
            _ => {}
        }
    }
    let Some(last) = run.events.last() else {
        return "running or cut short; it has not said anything yet".to_owned();
    };
    let node = last.event.node().map(|node| format!(" from `{node}`")).unwrap_or_default();
    format!("running or cut short; last sign of life {}{node}{progress}", last.time)
}

fn ending(outcome: Outcome, ms: u64, failed: Option<&str>, unmet: Option<&str>) -> String {
    let took = duration(ms);
    match outcome {
        Outcome::Failed => format!("failed after {took}: {}", failed.unwrap_or_default()),
        Outcome::Unmet => {
            format!("done in {took}, not as expected: {}", unmet.unwrap_or_default())
        }
        Outcome::Done | Outcome::Stopped => format!("{outcome} in {took}"),
    }
}
