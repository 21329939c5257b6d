//! `plan`: what a run would do, and why.

use std::path::PathBuf;
use std::process::ExitCode;

use paraloom_exec::{NodePlan, State};

use super::print;
use crate::args::PlanArgs;
use crate::context::Project;
use crate::error::Result;

pub(crate) fn run(args: &PlanArgs, stages: &[PathBuf]) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let (graph, host) = (&project.graph, &project.workspace.host);
    let plan = paraloom_exec::plan(graph, graph.order(), host, project.store()?.as_ref())?;
    if args.json {
        print(&serde_json::to_string_pretty(&plan).unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    }
    let width = plan.nodes.iter().map(|node| node.node.len()).max().unwrap_or(0);
    for node in &plan.nodes {
        let line = format!("{:width$}  {:12} {}", node.node, node.stage, describe(node));
        print(line.trim_end())?;
    }
    if plan.is_done() {
        print("nothing to do")?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn describe(node: &NodePlan) -> String {
    match (node.state, node.parts) {
        (State::Cached, _) => match node.rows {
            Some(rows) => format!("cached   {rows} rows"),
            None => "cached".to_owned(),
        },
        (State::Partial, Some((there, all))) => {
            format!("partial  {there} of {all} parts; {}", node.reason)
        }
        _ => format!("run      {}", node.reason),
    }
}
