//! Arguments of the commands that show what a run has left.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{PipelineArgs, name_value};
use crate::commands::Format;

#[derive(Debug, Args)]
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
    #[arg(long = "where", value_name = "EXPR", allow_hyphen_values = true)]
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

#[derive(Debug, Args)]
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

#[derive(Debug, Args)]
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

#[derive(Debug, Args)]
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

#[derive(Debug, Args)]
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

#[derive(Debug, Args)]
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
