//! `status`: what is done, what is left, and how the newest run went.

use std::process::ExitCode;

use paraloom_exec::State;
use paraloom_store::RunSummary;
use serde_json::{Value, json};

use super::plan::{describe, unmet};
use super::print;
use crate::args::{PlanArgs, StageArgs};
use crate::context::Project;
use crate::error::Result;
use crate::render::duration;

pub(crate) fn run(args: &PlanArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let (graph, host) = (&project.graph, &project.workspace.host);
    let store = project.store()?;
    let plan = paraloom_exec::plan(graph, graph.order(), host, store.as_ref())?;
    let is_ours =
        |run: &RunSummary| run.events.iter().any(|event| event["pipeline"] == graph.name.as_str());
    let newest = match &store {
        Some(store) => store.runs()?.into_iter().rfind(is_ours),
        None => None,
    };
    let unmet = unmet(graph, host, store.as_ref())?;
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

/// How a run ended, or how far it is.
pub(crate) fn outcome(run: &RunSummary) -> String {
    let last = run.events.last();
    let named = |name: &str| run.events.iter().rev().find(move |event| event["event"] == name);
    if let Some(end) = named("run_finished") {
        let took = duration(end["ms"].as_u64().unwrap_or(0));
        let why =
            named("node_failed").and_then(|event| event["message"].as_str()).unwrap_or_default();
        let outcome = end["outcome"].as_str().unwrap_or("ended");
        let unmet = |event: &&Value| event["event"] == "expectation" && event["met"] == false;
        let unmet = run.events.iter().find(unmet).and_then(|event| event["message"].as_str());
        return match outcome {
            "failed" => format!("failed after {took}: {why}"),
            "unmet" => {
                format!("done in {took}, not as expected: {}", unmet.unwrap_or_default())
            }
            _ => format!("{outcome} in {took}"),
        };
    }
    let when = last.and_then(|event| event["time"].as_str()).unwrap_or("never");
    let node = last.and_then(|event| event["node"].as_str()).unwrap_or_default();
    let progress = named("progress").filter(|event| event["node"] == node);
    let count = progress.map_or(String::new(), |event| {
        let number = |name: &str| event.get(name).and_then(Value::as_u64).unwrap_or(0);
        format!(
            ", {} of {} {}",
            number("done"),
            number("total"),
            event["unit"].as_str().unwrap_or_default()
        )
    });
    format!("running or cut short; last sign of life {when} from `{node}`{count}")
}
