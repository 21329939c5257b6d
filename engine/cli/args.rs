//! The command line: commands, arguments and options. Comments are the text of `--help`.

mod cluster;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use paraloom_exec::Shard;

use crate::commands::{Format, age};

pub(crate) use cluster::{ClusterArgs, Engine};

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
    Runs(StoreArgs),
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

#[derive(Debug, ClapArgs)]
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

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

#[derive(Debug, ClapArgs)]
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
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<u32>,
    /// Nodes that compute at once.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) jobs: usize,
    /// How far apart the checkpoints of a training are: what a kill costs at most. 0 is one
    /// after every step. The results are the same.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) checkpoint_every: Duration,
    /// When a node fails, go on with all nodes that do not depend on it.
    #[arg(long)]
    pub(crate) keep_going: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// Which worker this is of how many, from 0 on: with what it begins. It goes on with what the others have not done.
    #[arg(long, value_name = "I/N", default_value = "0/1")]
    pub(crate) shard: Shard,
}

#[derive(Debug, ClapArgs)]
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

#[derive(Debug, ClapArgs)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The other store, a directory or the address of a bucket.
    #[arg(long, value_name = "PLACE")]
    pub(crate) from: PathBuf,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().map_err(|_| "write a number of seconds")?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

#[derive(Debug, ClapArgs)]
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

#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// Print the errors as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The table: NODE for its first table, or NODE.PORT.
    pub(crate) node: String,
    /// One JSON object a line.
    #[arg(long, conflicts_with = "csv")]
    pub(crate) json: bool,
    /// CSV.
    #[arg(long)]
    pub(crate) csv: bool,
    /// Only rows that meet this condition, such as `stsb < 4`.
    #[arg(long = "where", value_name = "EXPR")]
    pub(crate) condition: Option<String>,
    /// At most this many rows; 20 in a table, all as JSON or CSV, if left out.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Pass over this many rows first.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) offset: u64,
    /// The last rows, this many.
    #[arg(long, value_name = "N", conflicts_with_all = ["offset", "limit"])]
    pub(crate) tail: Option<u64>,
    /// In the order of a column, such as `stsb` or `stsb:desc`: the first 10,000 rows at most. Missing values come last.
    #[arg(long, value_name = "COLUMN[:desc]", conflicts_with = "tail")]
    pub(crate) sort: Option<String>,
    /// Only these columns, in this order.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// As this run left it, whatever has become of the pipeline and its files since; the start of its name is enough.
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The table: NODE for its first table, or NODE.PORT.
    pub(crate) node: String,
    /// Compare with what it is with this variable; it has to have been run so.
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_value, conflicts_with = "run")]
    pub(crate) before: Vec<(String, String)>,
    /// Compare with what this run has left; without --run and --before, the newest run that has left another table. Enough
    /// of its name to tell it from others.
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
    /// One JSON object a line, for all rows that differ.
    #[arg(long)]
    pub(crate) json: bool,
    /// Rows to show of each kind.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) limit: usize,
    /// Of rows that are gone or new only these columns, in this order.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TryArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The map node.
    pub(crate) node: String,
    /// What the node's text column is to hold.
    pub(crate) sentence: String,
    /// The column, if the node's input has several text columns.
    #[arg(long, value_name = "NAME")]
    pub(crate) column: Option<String>,
    /// Other columns of the row.
    #[arg(long = "with", value_name = "COLUMN=VALUE", value_parser = name_value)]
    pub(crate) with: Vec<(String, String)>,
    /// A setting of the node that is to be another one this time, such as `seed=7` or `temperature=0.7`: those that requests
    /// to `serve` may change.
    #[arg(long = "parameter", short = 'P', value_name = "NAME=VALUE", value_parser = name_value)]
    pub(crate) parameters: Vec<(String, String)>,
    /// One JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The map node whose rows come back. Rows go through all map nodes before it too.
    pub(crate) node: String,
    /// Begin at this node, not at the first map node.
    #[arg(long, value_name = "NODE")]
    pub(crate) from: Option<String>,
    /// Where to listen: an address or a name with a port; port 0 is any that is free.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) bind: String,
    /// A file with the token that clients must send: `Authorization: Bearer TOKEN`, or as the password that a browser asks
    /// for. `PARALOOM_TOKEN` if left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Let whoever reaches the address use it without a token, if they call it by an IP address, by `localhost` or by a name
    /// given with `--host`.
    #[arg(long)]
    pub(crate) insecure_no_token: bool,
    /// Another name of this server, which clients without a token may call it by.
    #[arg(long = "host", value_name = "NAME")]
    pub(crate) hosts: Vec<String>,
    /// Connections at most. Beyond them, those that wait for nothing are closed, or the new one is told to try again;
    /// health checks are always answered.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) max_connections: u32,
    /// How long a connection may wait for its next request.
    #[arg(long, value_name = "SECONDS", default_value = "75", value_parser = seconds)]
    pub(crate) keep_alive: Duration,
    /// Rows that may wait; who comes then is asked to try again.
    #[arg(long, value_name = "ROWS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) queue: u32,
    /// Rows that are mapped at once. Longer requests are mapped in pieces, in turns with others.
    #[arg(long, value_name = "ROWS", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) max_batch_rows: u32,
    /// Tokens that are mapped at once, which bounds memory: a text counts as many as it has bytes. A row with more is
    /// refused.
    #[arg(long, value_name = "TOKENS", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub(crate) max_batch_tokens: u32,
    /// How long an answer may take.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// How long to accept connections after a signal came, while `/readyz` says that it ends: as long as a load balancer
    /// takes to notice.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub(crate) lame_duck: Duration,
    /// How long to go on with what was asked before.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) drain_timeout: Duration,
    /// Tell of each request who asked for what, and how it went; texts are never part of it. Health checks are left out.
    #[arg(long, value_enum, default_value_t = AccessFormat::Line)]
    pub(crate) log: AccessFormat,
    /// Compute threads; the number of cores if left out.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<u32>,
}

/// How requests are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccessFormat {
    /// A line for people.
    Line,
    /// A JSON object on a line.
    Json,
    /// Not at all.
    Off,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// How to draw it.
    #[arg(long, value_enum, default_value_t = GraphFormat::Terminal)]
    pub(crate) format: GraphFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum GraphFormat {
    Terminal,
    Mermaid,
    Dot,
    Svg,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The file to write; `-` is stdout.
    #[arg(long, value_name = "PATH", default_value = "report.html")]
    pub(crate) to: PathBuf,
    /// Compare with what this run left; the start of its name is enough. `paraloom runs` lists them.
    #[arg(long, value_name = "RUN")]
    pub(crate) against: Option<String>,
    /// On what this run left, whatever has become of the pipeline and its files since; the start of its name is enough.
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The output: NODE for its first one, or NODE.PORT.
    pub(crate) node: String,
    /// The file (.csv, .tsv, .jsonl, .parquet) or the directory to make; `-` is stdout.
    #[arg(long, value_name = "PATH")]
    pub(crate) to: PathBuf,
    /// How a table is written; by the extension of the file if left out, and as CSV to stdout.
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Replace what is there. A directory is replaced only if an export may have written all that it holds.
    #[arg(long)]
    pub(crate) force: bool,
    /// As this run left it, whatever has become of the pipeline and its files since; the start of its name is enough.
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The node whose row it is.
    pub(crate) node: String,
    /// The row's `_id`, or the start of it.
    pub(crate) row: String,
    /// As this run left it, whatever has become of the pipeline and its files since; the start of its name is enough.
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct StagesArgs {
    #[command(subcommand)]
    pub(crate) command: Option<StagesCommand>,
    /// Describe this stage.
    pub(crate) name: Option<String>,
    /// Print JSON.
    #[arg(long, conflicts_with = "markdown")]
    pub(crate) json: bool,
    /// Print a page of Markdown: a reference for the people who use your stages.
    #[arg(long)]
    pub(crate) markdown: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StagesCommand {
    /// Write a crate with a stage to start from, with its tests and a pipeline that uses it.
    New {
        /// Where; its last name is that of the crate and the stage.
        dir: PathBuf,
        /// The folder `engine/sdk` of Paraloom's sources; that which this binary was built from, if left out.
        #[arg(long, value_name = "DIR")]
        sdk: Option<PathBuf>,
    },
    /// Hold a map stage to what is relied on, with rows of a run: the same rows give the same, alone or together, now or
    /// when it is opened anew.
    Test(TestArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TestArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// A node of the stage. What it reads has to be there; it need not have run itself.
    pub(crate) node: String,
    /// How many rows of its input.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) rows: usize,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StoreArgs {
    /// The store: a directory or the address of a bucket.
    #[arg(long, value_name = "PLACE", default_value = ".paraloom")]
    pub(crate) store: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PinArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// Name of the pin; that of the pipeline if left out.
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Take the place of other results that are pinned under the name.
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct UnpinArgs {
    /// Name of the pin.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct GcArgs {
    /// The pipelines whose results are to stay. They need not be finished where --keep-runs or --older-than says what may go.
    #[arg(value_name = "PIPELINE", required_unless_present_any = ["keep_runs", "older_than"])]
    pub(crate) keep: Vec<PathBuf>,
    /// The store, a directory or the address of a bucket; `.paraloom` beside the first pipeline if left out.
    #[arg(long, value_name = "PLACE")]
    pub(crate) store: Option<PathBuf>,
    /// Keep what the newest runs of each pipeline made or found, this many, and their logs.
    #[arg(long, value_name = "N")]
    pub(crate) keep_runs: Option<usize>,
    /// Keep what was used since: an age such as 30d, 12h or 45m.
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) older_than: Option<Duration>,
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
    /// Remove it.
    #[arg(long)]
    pub(crate) delete: bool,
}
