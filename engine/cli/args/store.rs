//! Arguments of the commands on a store as a whole.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{PipelineArgs, SettingArgs};
use crate::commands::age;

#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// The store: a directory or the address of a bucket.
    #[arg(long, value_name = "PLACE", default_value = ".paraloom")]
    pub(crate) store: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print JSON: one object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
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

#[derive(Debug, Args)]
pub(crate) struct UnpinArgs {
    /// Name of the pin.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
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
