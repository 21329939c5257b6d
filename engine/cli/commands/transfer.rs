//! `push` and `pull`: the results of a pipeline, from store to store.

use std::path::Path;
use std::process::ExitCode;

use paraloom_exec::{Found, Lookup};
use paraloom_hub::Reference;
use paraloom_store::{Key, Store};

use super::publish;
use super::store::open;
use crate::args::{PullArgs, PushArgs, StageArgs};
use crate::context::Project;
use crate::error::{CliError, Result};
use crate::{place, render};

pub(crate) fn push(args: &PushArgs, stages: &StageArgs) -> Result<ExitCode> {
    let to = args.to.to_str().filter(|to| Reference::is_meant(to));
    match (to, &args.node) {
        (Some(to), Some(node)) => return publish::run(args, node, to, stages),
        (Some(_), None) => {
            return Err(CliError::usage("which node's model or table is to be published?")
                .hint("name it: paraloom push PIPELINE NODE --to hf://OWNER/NAME"));
        }
        (None, Some(_)) => {
            return Err(CliError::usage("a store takes the results of all nodes")
                .hint("leave the node out; or publish it with --to hf://OWNER/NAME"));
        }
        (None, None) => {}
    }
    let project = Project::open(&args.pipeline, stages)?;
    let from = project.need_store()?;
    let keys = keys(&project, &from)?;
    let to = place::create(&place::of(Some(&args.to), Path::new("")))?;
    copy(&from, &to, &keys)
}

/// Node by node: which results a node has is known once what it reads is there.
pub(crate) fn pull(args: &PullArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let from = open(&args.from)?;
    let keys = keys(&project, &from)?;
    let to = place::create(&place::of(args.pipeline.store.as_deref(), &args.pipeline.pipeline))?;
    copy(&from, &to, &keys)
}

/// The keys of what a store has of a pipeline, finished or begun.
fn keys(project: &Project, store: &Store) -> Result<Vec<Key>> {
    let lookup = Lookup::new(&project.graph, &project.workspace.host, Some(store))?;
    let key = |index: &_| match lookup.found(*index) {
        Found::Complete(result) => Some(result.key.clone()),
        Found::Partial { key, .. } => Some(key.clone()),
        Found::Unknown { .. } => None,
    };
    Ok(project.graph.order().iter().filter_map(key).collect())
}

fn copy(from: &Store, to: &Store, keys: &[Key]) -> Result<ExitCode> {
    let _locks = (from.lock_shared()?, to.lock_shared()?);
    let (mut results, mut bytes) = (0, 0);
    for key in keys {
        if let Some(copied) = from.entry(key).copy_to(&to.entry(key))? {
            results += 1;
            bytes += copied;
        }
    }
    let count = if results == 1 { "1 result".to_owned() } else { format!("{results} results") };
    render::note(&format!("copied {count}, {}; {} are there", render::bytes(bytes), keys.len()));
    Ok(ExitCode::SUCCESS)
}
