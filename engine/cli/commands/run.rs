//! `run`: do what is left of a pipeline.

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use paraloom_exec::{Cancel, Job, NodeResult, PortResult, Results, RunError, RunOptions, Shard};
use paraloom_pipeline::{Graph, PortKind, nearest};
use paraloom_store::Logged;
use petgraph::graph::NodeIndex;

use super::print;
use super::show::{project, read_rows};
use crate::args::{StageArgs, WorkArgs};
use crate::context::{self, Project};
use crate::environment::environment;
use crate::error::{CliError, Result, UNEXPECTED};
use crate::render::{self, Progress, duration};
use crate::signals::Signals;

/// Alone, or as one of several workers.
pub(crate) fn run(args: &WorkArgs, share: Option<Shard>, stages: &StageArgs) -> Result<ExitCode> {
    let checked = context::check(&args.pipeline, stages)?;
    // Signals are handled from here on. Before, they end the process: there is nothing to lose, and a stage that hangs
    // while it is loaded or planned could not be cancelled.
    let cancel = Cancel::default();
    let signals = Signals::listen(&cancel.flag());
    let progress = Progress::new();
    // The run goes on if its events cannot be printed. That their reader has closed the pipe is no error in the end either.
    let unprinted = Mutex::new(None);
    let observer = |logged: &Logged| {
        if !args.json {
            progress.show(&logged.event);
        } else if let Err(error) = print(&logged.line())
            && !error.is_quiet()
        {
            unprinted.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    };
    let until = args.until.as_deref();
    let opened = Project::fetched(&args.pipeline, checked, until, &cancel, &observer);
    let Some((project_, store)) = opened? else { return Ok(stopped(&signals)) };
    let graph = &project_.graph;
    let nodes = match until {
        Some(name) => graph.ancestors(find_node(graph, name)?),
        None => graph.order().to_vec(),
    };
    let mut options = options(args.threads, args.jobs as usize);
    options.checkpoint_every = args.checkpoint_every;
    options.keep_going = args.keep_going;
    options.share = share;
    options.environment = Some(environment(&options));
    let host = &project_.workspace.host;
    let job = Job {
        graph,
        nodes: &nodes,
        host,
        store: &store,
        text: &project_.workspace.text,
        set: &args.pipeline.settings.set,
    };
    let outcome = paraloom_exec::run(&job, &options, &cancel, &observer);
    let summary = match outcome {
        Err(RunError::Stopped) => return Ok(stopped(&signals)),
        result => result?,
    };
    if let Some(error) = unprinted.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    if !args.json && summary.worked == 0 {
        render::note(&format!(
            "nothing to do: all {} nodes are done ({})",
            summary.cached,
            duration(summary.ms)
        ));
    } else if !args.json {
        report(graph, &nodes, &summary.results)?;
        render::note(&format!("done in {}", duration(summary.ms)));
    }
    let unmet: Vec<_> = summary.verdicts.into_iter().filter_map(|verdict| verdict.unmet).collect();
    if unmet.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    render::diagnostics(&args.pipeline.pipeline, &project_.workspace.text, &unmet);
    Err(CliError::silent(UNEXPECTED))
}

fn stopped(signals: &Signals) -> ExitCode {
    render::note("stopped; `paraloom run` goes on from here");
    ExitCode::from(signals.exit_code())
}

pub(crate) fn find_node(graph: &Graph, name: &str) -> Result<NodeIndex> {
    graph.find(name).ok_or_else(|| {
        let names = graph.order().iter().map(|index| graph.node(*index).name.as_str());
        let error = CliError::usage(format!("there is no node `{name}`"));
        match nearest(name, names) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`paraloom graph` shows the nodes"),
        }
    })
}

pub(crate) fn options(threads: Option<u32>, jobs: usize) -> RunOptions {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    RunOptions { threads: threads.unwrap_or(cores).max(1), jobs, ..RunOptions::default() }
}

/// The funnel, then the tables that the pipeline wants shown.
fn report(graph: &Graph, nodes: &[NodeIndex], results: &Results) -> Result<()> {
    print("")?;
    for index in nodes {
        if let Some(result) = results.node(*index) {
            print(&funnel_line(graph, *index, result, results))?;
        }
    }
    for show in &graph.show {
        let Some(PortResult::Table(table)) = results.output(show.endpoint) else { continue };
        let rows = read_rows(table, None, show.limit)?;
        let rows = project(rows, &show.columns)?;
        print(&format!("\n{} ({} rows)", show.name, table.rows()))?;
        render::print_rows(&rows)?;
    }
    Ok(())
}

/// "qualified  threshold  289 kept, 41 rejected of 330".
fn funnel_line(graph: &Graph, index: NodeIndex, result: &NodeResult, results: &Results) -> String {
    let (node, outcome) = (graph.node(index), outcome(graph, index, result, results));
    format!("{:14} {:12} {outcome}", node.name, node.stage.name)
}

/// "289 kept, 41 rejected of 330".
pub(crate) fn outcome(
    graph: &Graph,
    index: NodeIndex,
    result: &NodeResult,
    results: &Results,
) -> String {
    let node = graph.node(index);
    let ports = node.stage.outputs.iter().zip(&result.ports).enumerate();
    // Unused outputs of a stage with many, such as `split`, are left out.
    let is_told = |(number, (_, output)): &(usize, (_, &PortResult))| match output {
        PortResult::Table(table) => *number < 2 || table.rows() > 0,
        PortResult::Artifact { .. } => true,
    };
    let outputs = ports.filter(is_told).map(|(_, (port, output))| match output {
        PortResult::Table(table) => format!("{} {}", table.rows(), port.name),
        PortResult::Artifact { artifact, .. } => {
            format!("{} ({})", port.name, render::bytes(artifact.bytes()))
        }
    });
    let outputs = outputs.collect::<Vec<_>>().join(", ");
    match input_rows(graph, index, results) {
        Some(rows) if node.stage.outputs.iter().all(|port| port.kind == PortKind::Table) => {
            format!("{outputs} of {rows}")
        }
        _ => outputs,
    }
}

/// Rows of the table that a map node maps.
pub(crate) fn input_rows(graph: &Graph, index: NodeIndex, results: &Results) -> Option<u64> {
    match graph.mapped(index).and_then(|from| results.output(from)) {
        Some(PortResult::Table(table)) => Some(table.rows()),
        _ => None,
    }
}
