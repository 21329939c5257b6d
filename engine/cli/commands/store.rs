//! `verify`, `gc`, `pin`, `unpin` and `runs`: the store itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;
use paraloom_exec::{Found, Lookup};
use paraloom_store::{Key, Pin, Store};
use serde_json::json;

use super::gc::unfinished;
use super::print;
use super::status::{ended, outcome, started};
use crate::args::{PinArgs, PipelineArgs, RunsArgs, StageArgs, StoreArgs, UnpinArgs};
use crate::context::Project;
use crate::error::{CliError, Result};
use crate::out::Out;
use crate::{place, render};

pub(super) fn open(path: &Path) -> Result<Store> {
    place::open(&place::of(Some(path), path))?
        .ok_or_else(|| CliError::usage(format!("there is no store at {}", path.display())))
}

pub(crate) fn verify(args: &StoreArgs) -> Result<ExitCode> {
    let store = open(&args.store)?;
    let _lock = store.lock_shared()?;
    let (files, damage) = store.verify(|_| {})?;
    for found in &damage {
        print(&found.error.to_string())?;
    }
    if damage.is_empty() {
        render::note(&format!("{files} files are what their records say"));
        return Ok(ExitCode::SUCCESS);
    }
    let message = format!("{} of {files} files are damaged", damage.len());
    Err(CliError::new(7, message).hint("`paraloom run` makes them again"))
}

/// The keys of all results of a pipeline, finished or begun.
fn keys(args: &PipelineArgs, project: &Project, store: &Store) -> Result<BTreeSet<Key>> {
    let lookup = Lookup::new(&project.graph, &project.workspace.host, Some(store))?;
    let key = |index: &_| match lookup.found(*index) {
        Found::Complete(result) => Ok(result.key.clone()),
        Found::Partial { key, .. } => Ok(key.clone()),
        Found::Unknown { .. } => {
            let node = &project.graph.node(*index).name;
            Err(unfinished(args, node).hint("finish it with `paraloom run` first"))
        }
    };
    project.graph.order().iter().map(key).collect()
}

pub(crate) fn pin(args: &PinArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let store = project.need_store()?;
    // Holds the lock, so that `gc` does not remove these results meanwhile.
    let _lock = store.lock_shared()?;
    let pipeline = project.graph.name.clone();
    let name = args.name.as_ref().unwrap_or(&pipeline);
    if name.is_empty() {
        return Err(CliError::usage(
            "the pipeline has no name that its results could be pinned by",
        )
        .hint("name the pin: `--as NAME`"));
    }
    let results = keys(&args.pipeline, &project, &store)?;
    let count = results.len();
    match store.pinned(name)? {
        Some((pin, since)) if pin.results != results && !args.replace => {
            return Err(pinned_already(name, &pin, since, &results));
        }
        _ => store.pin(name, &Pin { pipeline: pipeline.clone(), results })?,
    }
    let of = render::of_pipeline(&pipeline);
    render::note(&format!("pinned {count} results{of} as `{name}`"));
    Ok(ExitCode::SUCCESS)
}

/// Other results are pinned under a name.
fn pinned_already(
    name: &str,
    pin: &Pin,
    since: Option<Timestamp>,
    results: &BTreeSet<Key>,
) -> CliError {
    let since = since
        .map_or_else(String::new, |time| format!(" since {}", time.strftime("%Y-%m-%d %H:%M")));
    let (count, same) = (pin.results.len(), pin.results.intersection(results).count());
    CliError::usage(format!(
        "`{name}` pins other results{since}: {count} of `{}`, of which {same} are among these {}",
        pin.pipeline,
        results.len()
    ))
    .hint("give these a name of their own with --as, or let --replace take the place of those")
}

pub(crate) fn unpin(args: &UnpinArgs) -> Result<ExitCode> {
    let store = open(&args.store.store)?;
    if store.unpin(&args.name)? {
        render::note(&format!("`{}` is no longer pinned", args.name));
        return Ok(ExitCode::SUCCESS);
    }
    let message = format!("nothing is pinned as `{}`", args.name);
    Err(CliError::usage(message).hint("`paraloom runs` lists the pins"))
}

pub(crate) fn runs(args: &RunsArgs) -> Result<ExitCode> {
    let store = open(&args.store.store)?;
    if args.json {
        return runs_as_json(&store);
    }
    for run in store.runs()? {
        let (pipeline, set) = started(&run).unwrap_or_default();
        let set: Vec<_> = set.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let line = format!("{}  {pipeline:16} {}  {}", run.id, outcome(&run), set.join(" "));
        print(line.trim_end())?;
    }
    for (name, pin) in store.pins()? {
        print(&format!("pinned as {name}: {} results of {}", pin.results.len(), pin.pipeline))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Each run and each pin as an object.
fn runs_as_json(store: &Store) -> Result<ExitCode> {
    let mut out = Out::stdout();
    for run in store.runs()? {
        let (pipeline, set) = started(&run).unzip();
        let begun = run.events.first().map(|line| line.time);
        // Of a run that is at work, or was cut short, there is no end.
        let (end, ms) = ended(&run).unzip();
        let line = json!({
            "run": run.id, "pipeline": pipeline, "set": set.unwrap_or_default(), "started": begun,
            "outcome": end, "ms": ms, "message": outcome(&run),
        });
        out.line(&line.to_string())?;
    }
    for (name, pin) in store.pins()? {
        let line = json!({ "pin": name, "pipeline": pin.pipeline, "results": pin.results.len() });
        out.line(&line.to_string())?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
