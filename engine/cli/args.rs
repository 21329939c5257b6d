//! The command line: commands, arguments and options. Comments are the text of `--help`.

mod cluster;
mod results;
mod serving;
mod stages;
mod store;
mod work;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};

pub(crate) use cluster::{ClusterArgs, Engine};
pub(crate) use results::{
    DiffArgs, ExportArgs, GraphArgs, GraphFormat, ReportArgs, ShowArgs, TraceArgs,
};
pub(crate) use serving::{AccessFormat, ServeArgs, TryArgs};
pub(crate) use stages::{StagesArgs, StagesCommand, TestArgs};
pub(crate) use store::{GcArgs, PinArgs, RunsArgs, StoreArgs, UnpinArgs};
pub(crate) use work::{
    CheckArgs, InitArgs, PlanArgs, PullArgs, PushArgs, RunArgs, StatusArgs, Template, WorkArgs,
    WorkerArgs,
};

/// Weaves a small text corpus into a training set and a model: one YAML file names the
/// stages, one command runs them, and a kill at any instant costs seconds.
#[derive(Debug, Parser)]
#[command(name = "paraloom", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) stages: StageArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Stages beside those that ship with Paraloom.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct StageArgs {
    /// More stages: a library, or a directory of libraries. They may do what you may, so load
    /// only what you trust.
    #[arg(
        long = "stages",
        global = true,
        value_name = "PATH",
        env = "PARALOOM_STAGES",
        value_delimiter = ':'
    )]
    pub(crate) paths: Vec<PathBuf>,
    /// Load these libraries into this process. Otherwise each of their nodes runs in an isolated
    /// process, so that a crash is an error of that node.
    #[arg(long, global = true)]
    pub(crate) in_process: bool,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 a node failed, 2 the pipeline or the command line is wrong, 4 a table
is not as the pipeline expects, 6 the store is in use, 7 the store is damaged or of another
format, 8 a stage library was refused, 11 out of space or memory, 129, 130 and 143 stopped
by a signal; `run` goes on from there. Any other code is a failure too.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a pipeline to start from, with a corpus and a schema for editors.
    Init(InitArgs),
    /// Run a pipeline. Goes on from whatever an earlier run has left.
    Run(RunArgs),
    /// Run a pipeline together with other workers, on this machine or others, against one store: each computes what nobody
    /// has done yet, and ends when nothing is left.
    Worker(WorkerArgs),
    /// Copy the results of a pipeline from its store to another, or publish a model or a table of it on a hub.
    Push(PushArgs),
    /// Copy the results of a pipeline from another store to its own.
    Pull(PullArgs),
    /// Say what a run would do, node by node, and why.
    Plan(PlanArgs),
    /// Check a pipeline without running anything; shows all errors at once.
    Check(CheckArgs),
    /// Show rows of a table.
    Show(ShowArgs),
    /// Say what became of the rows of a table since an earlier run, or with other variables.
    Diff(DiffArgs),
    /// Send a sentence through a map node of a finished run.
    Try(TryArgs),
    /// Put map nodes behind HTTP, with a page to try them.
    Serve(ServeArgs),
    /// Show what is done, what is left, and how the newest run went.
    Status(StatusArgs),
    /// Draw the pipeline.
    Graph(GraphArgs),
    /// Write one HTML page on what came of a pipeline.
    Report(ReportArgs),
    /// Write a table as one file, by extension, or an artifact as a directory.
    Export(ExportArgs),
    /// Walk a row back to the rows that it was made from.
    Trace(TraceArgs),
    /// List the stages, or describe one.
    Stages(StagesArgs),
    /// Say what computes here, what does not, and why.
    Doctor,
    /// Print the JSON Schema of pipelines, for editors.
    Schema,
    /// Print what makes a shell complete commands and options.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Read every byte of a store; names what is damaged, so that `run` makes it again.
    Verify(StoreArgs),
    /// Show what no pipeline needs any more; with --delete, remove it.
    Gc(GcArgs),
    /// Keep the results of a pipeline as they are now, whatever `gc` is told.
    Pin(PinArgs),
    /// Let go what was pinned; `gc` can remove it again.
    Unpin(UnpinArgs),
    /// List the runs against a store, and its pins.
    Runs(RunsArgs),
    /// Load a stage library and do as the engine at the other end of stdin says.
    #[command(hide = true)]
    StageProcess,
}

/// The pipeline and its store.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct PipelineArgs {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// Where results are kept: a directory, or a bucket such as `s3://BUCKET/PREFIX` (also `gs://` and `az://`).
    /// `.paraloom` beside the pipeline if left out.
    #[arg(long, value_name = "PLACE")]
    pub(crate) store: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
}

/// Options that override what the pipeline says.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct SettingArgs {
    /// Replace a variable of the pipeline.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = name_value)]
    pub(crate) set: Vec<(String, String)>,
    /// What computes: `cpu`, `torch`, `cuda`, `wgpu`, or `auto` for what the device asks for.
    /// Instead of the pipeline's; what a node says of itself stays.
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    /// What it computes on: `cpu`, `cuda`, `cuda:0`, `wgpu`.
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,
    /// How large the pipeline file may be, in MiB. A MiB holds some 1,200 nodes.
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 16,
        env = "PARALOOM_MAX_PIPELINE",
        hide_env_values = true
    )]
    pub(crate) max_pipeline: u16,
}

fn name_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().map_err(|_| "write a number of seconds")?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}
