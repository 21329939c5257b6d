//! `verify`, `gc` and `runs`: the store itself.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use paraloom_exec::{Found, Lookup};
use paraloom_store::Store;

use super::print;
use super::status::outcome;
use crate::args::{GcArgs, PipelineArgs, StoreArgs};
use crate::context::{Project, store_path};
use crate::error::{CliError, Result};
use crate::render::{self, bytes};

fn open(path: &Path) -> Result<Store> {
    Store::open(path)?
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

pub(crate) fn gc(args: &GcArgs, stages: &[PathBuf]) -> Result<ExitCode> {
    let path = store_path(args.store.as_deref(), &args.keep[0]);
    let store = open(&path)?;
    let lock = store.lock_exclusive()?;
    let mut needed = HashSet::new();
    for pipeline in &args.keep {
        let pipeline = PipelineArgs {
            pipeline: pipeline.clone(),
            store: Some(path.clone()),
            set: args.set.clone(),
        };
        let project = Project::open(&pipeline, stages)?;
        let lookup = Lookup::new(&project.graph, &project.workspace.host, Some(&store))?;
        for index in project.graph.order() {
            match lookup.found(*index) {
                Found::Complete(result) => drop(needed.insert(result.key.clone())),
                Found::Partial { key, .. } => drop(needed.insert(key.clone())),
                Found::Unknown { .. } => {
                    let node = &project.graph.node(*index).name;
                    return Err(CliError::usage(format!(
                        "{} is not finished (`{node}` is unknown), so what it needs cannot be told apart",
                        pipeline.pipeline.display()
                    ))
                    .hint("finish it with `paraloom run` first"));
                }
            }
        }
    }
    let garbage = store.garbage(&needed)?;
    for item in &garbage {
        print(&format!("{:>10}  {}", bytes(item.bytes), item.path.display()))?;
    }
    let total = bytes(garbage.iter().map(|item| item.bytes).sum());
    if args.delete {
        store.remove(&garbage, &lock)?;
        render::note(&format!("removed {total}"));
    } else {
        render::note(&format!("{total} could go; --delete removes it"));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn runs(args: &StoreArgs) -> Result<ExitCode> {
    for run in open(&args.store)?.runs()? {
        let started = run.events.iter().find(|event| event["event"] == "run_started");
        let pipeline = started.and_then(|event| event["pipeline"].as_str()).unwrap_or_default();
        print(&format!("{}  {pipeline:16} {}", run.id, outcome(&run)))?;
    }
    Ok(ExitCode::SUCCESS)
}
