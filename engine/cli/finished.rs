//! A pipeline with its results: as its files and variables are now, or as a run left it.

use paraloom_exec::{Lookup, RunRecord, TableRef};
use paraloom_host::Host;
use paraloom_pipeline::Graph;
use paraloom_store::Store;

use crate::args::{PipelineArgs, StageArgs};
use crate::commands::find_table;
use crate::context::Project;
use crate::error::Result;
use crate::{recorded, render};

/// Nodes that a warning names.
const NAMED: usize = 5;

/// A pipeline with its results.
pub(crate) struct Finished {
    pub(crate) graph: Graph,
    pub(crate) store: Store,
    /// The text of the pipeline.
    pub(crate) text: String,
    /// The values that variables are given.
    pub(crate) set: Vec<(String, String)>,
    source: Source,
}

/// How results are found.
enum Source {
    /// By their keys, which the stages and files decide.
    Now(Host),
    /// By the record of a run.
    Run { id: String, record: RunRecord },
}

impl Finished {
    /// The pipeline as it is now, or as the run left it whose name is `run` or begins with it. For a run neither the
    /// pipeline's file nor any that it names is read.
    pub(crate) fn open(args: &PipelineArgs, stages: &StageArgs, run: Option<&str>) -> Result<Self> {
        let Some(run) = run else {
            let project = Project::open(args, stages)?;
            let store = project.need_store()?;
            let Project { workspace, graph, .. } = project;
            let (set, source) = (args.settings.set.clone(), Source::Now(workspace.host));
            return Ok(Self { graph, store, text: workspace.text, set, source });
        };
        let (store, id) = recorded::open(args, run)?;
        let (graph, record) = (recorded::graph(&store, &id)?, recorded::record(&store, &id)?);
        let (set, text) = recorded::pipeline(&store, &id)?;
        warn_of_what_is_gone(&store, &record, &id)?;
        Ok(Self { graph, store, text, set, source: Source::Run { id, record } })
    }

    /// The run that it is as of; none if it is as of now.
    pub(crate) fn run(&self) -> Option<&str> {
        match &self.source {
            Source::Now(_) => None,
            Source::Run { id, .. } => Some(id),
        }
    }

    /// The results.
    pub(crate) fn lookup(&self) -> Result<Lookup<'_>> {
        Ok(match &self.source {
            Source::Now(host) => Lookup::new(&self.graph, host, Some(&self.store))?,
            Source::Run { record, .. } => Lookup::recorded(&self.graph, record, &self.store)?,
        })
    }

    /// The finished table that `name` means.
    pub(crate) fn table(&self, lookup: &Lookup, name: &str) -> Result<TableRef> {
        match &self.source {
            Source::Now(_) => find_table(&self.graph, lookup, name),
            Source::Run { id, .. } => recorded::table(&self.store, id, name),
        }
    }
}

fn warn_of_what_is_gone(store: &Store, record: &RunRecord, run: &str) -> Result<()> {
    let mut gone = Vec::new();
    for node in &record.nodes {
        if !node.is_there(store)? {
            gone.push(format!("`{}`", node.node));
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
    let more = if gone.len() > NAMED { ", …" } else { "" };
    let names = gone.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    let told = format!("warning: `gc` has removed what run {run} left of {names}{more}");
    render::note(&render::printable(&told));
    Ok(())
}
