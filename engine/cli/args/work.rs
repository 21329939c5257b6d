//! Arguments of the commands that write, check and run a pipeline, and that copy its results.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use paraloom_exec::Shard;

use super::{ClusterArgs, PipelineArgs, seconds};

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The directory; it is made if it is not there. Nothing in it is overwritten.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// What to start from.
    #[arg(long, value_enum, default_value_t = Template::Paraphrase)]
    pub(crate) template: Template,
}

/// What `init` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Template {
    /// The pipeline of the article, from T5 and PAWS on the hub, with a corpus to fill in.
    Paraphrase,
    /// The same in small, with its base model and texts: it runs offline, in minutes.
    Quickstart,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WorkArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// Run only this node and what it needs.
    #[arg(long, value_name = "NODE")]
    pub(crate) until: Option<String>,
    /// Print the events of the run as JSON lines.
    #[arg(long)]
    pub(crate) json: bool,
    /// Compute threads of one node; the number of cores if left out. Results can differ in
    /// the last digits between thread counts.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) threads: Option<u32>,
    /// Nodes that compute at once.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) jobs: u32,
    /// How far apart the checkpoints of a training are: what a kill costs at most. 0 is one
    /// after every step. The results are the same.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) checkpoint_every: Duration,
    /// When a node fails, go on with all nodes that do not depend on it.
    #[arg(long)]
    pub(crate) keep_going: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// Which worker this is of how many, from 0 on: with what it begins. It goes on with what the others have not done.
    #[arg(long, value_name = "I/N", default_value = "0/1")]
    pub(crate) shard: Shard,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// Read files that have changed into the store, as a run would, to say how many rows are new. Without it nothing is
    /// written.
    #[arg(long)]
    pub(crate) read: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// Print the errors as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// What to publish on a hub: the model or the table of this node, or `NODE.PORT`.
    pub(crate) node: Option<String>,
    /// The other store, a directory or the address of a bucket; it is made if there is none. Or where to publish: `hf://OWNER/NAME` for a
    /// model, `hf://datasets/OWNER/NAME/SPLIT` for a table, with `@BRANCH` after the name. The token is that of HF_TOKEN or of `hf auth login`.
    #[arg(long, value_name = "PLACE")]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) publish: crate::commands::PublishArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The other store, a directory or the address of a bucket.
    #[arg(long, value_name = "PLACE")]
    pub(crate) from: PathBuf,
}
