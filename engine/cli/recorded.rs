//! Results of an earlier run, found by the record of that run; the pipeline and its files are not read.

use paraloom_exec::{Content, NodeRecord, OutputRecord, PortResult, RunRecord, TableRef};
use paraloom_pipeline::Graph;
use paraloom_store::Store;

use crate::args::PipelineArgs;
use crate::commands::started;
use crate::error::{CliError, NODE_FAILED, Result};
use crate::{place, render};

/// The store of a pipeline, and the run in it whose name is `run` or begins with it.
pub(crate) fn open(args: &PipelineArgs, run: &str) -> Result<(Store, String)> {
    if let Some((name, _)) = args.settings.set.first() {
        let message = format!("`--set {name}=…` cannot change what a run has left");
        return Err(CliError::usage(message)
            .hint("the variables are those of the run; leave `--set` out, or `--run`"));
    }
    let store = store(args)?;
    let id = find_run(&store, run)?;
    Ok((store, id))
}

/// The store of a pipeline, whose file may be missing or invalid.
fn store(args: &PipelineArgs) -> Result<Store> {
    let path = place::of(args.store.as_deref(), &args.pipeline);
    place::open(&path)?
        .ok_or_else(|| CliError::usage(format!("there is no store at {}", path.display())))
}

/// The run whose name is `id` or begins with it.
pub(crate) fn find_run(store: &Store, id: &str) -> Result<String> {
    let runs = store.runs()?;
    let found: Vec<_> = runs.iter().map(|run| &run.id).filter(|run| run.starts_with(id)).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            Err(CliError::usage(format!("there is no run `{id}`"))
                .hint("`paraloom runs` lists them"))
        }
        several if several.iter().any(|run| *run == id) => Ok(id.to_owned()),
        several => {
            let names: Vec<_> = several.iter().map(|run| run.as_str()).take(5).collect();
            Err(CliError::usage(format!("{} runs begin with `{id}`", several.len()))
                .hint(format!("write more of one: {}", names.join(", "))))
        }
    }
}

/// Warns where a run was not of the pipeline called `name`: several may share a store.
pub(crate) fn warn_of_another(store: &Store, run: &str, name: &str) -> Result<()> {
    let run = store.runs()?.into_iter().find(|found| found.id == run);
    if let Some((of, _)) = run.as_ref().and_then(started)
        && of != name
        && let Some(run) = run
    {
        let told =
            format!("warning: run {} is of the pipeline `{of}`, and this is `{name}`", run.id);
        render::note(&render::printable(&told));
    }
    Ok(())
}

/// The results of the run called `run`.
pub(crate) fn record(store: &Store, run: &str) -> Result<RunRecord> {
    RunRecord::read(store, run)?.ok_or_else(|| {
        CliError::usage(format!("run {run} has no record of its results"))
            .hint("it was cut short, or is of an earlier version of paraloom")
    })
}

/// The table called `name` in the results of the run called `run`.
pub(crate) fn table(store: &Store, run: &str, name: &str) -> Result<TableRef> {
    let is_table = |content: &Content| matches!(content, Content::Table { .. });
    match output(store, run, name, is_table)? {
        PortResult::Table(table) => Ok(table),
        PortResult::Artifact { .. } => {
            Err(CliError::usage(format!("`{name}` is a directory, not a table")))
        }
    }
}

/// The graph that the run called `run` was of.
pub(crate) fn graph(store: &Store, run: &str) -> Result<Graph> {
    RunRecord::graph(store, run)?.ok_or_else(|| {
        CliError::usage(format!("run {run} has no record of its pipeline")).hint(
            "it is of an earlier version of paraloom; `show --run` and `export --run` need none",
        )
    })
}

/// The variables that a run was given, and the text of its pipeline.
pub(crate) fn pipeline(store: &Store, run: &str) -> Result<(Vec<(String, String)>, String)> {
    let found = store.runs()?.into_iter().find(|found| found.id == run);
    let set = found.as_ref().and_then(started).map(|(_, set)| set).unwrap_or_default();
    let text =
        found.and_then(|found| std::fs::read_to_string(found.dir.join("pipeline.yaml")).ok());
    Ok((set.into_iter().collect(), text.unwrap_or_default()))
}

/// The first output called `name` that `fits`, in the results of the run called `run`.
pub(crate) fn output(
    store: &Store,
    run: &str,
    name: &str,
    fits: impl Fn(&Content) -> bool,
) -> Result<PortResult> {
    let record = record(store, run)?;
    let (node, output): (&NodeRecord, &OutputRecord) =
        record.output(name, fits).map_err(|what| CliError::usage(format!("{what} (run {run})")))?;
    if !node.is_there(store)? {
        let message =
            format!("what run {run} left of `{}` is not in the store any more", node.node);
        return Err(
            CliError::new(NODE_FAILED, message).hint("`gc` removed it; `pin` keeps results")
        );
    }
    Ok(node.result(store, output)?)
}
