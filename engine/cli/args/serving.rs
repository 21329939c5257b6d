//! Arguments of the commands that send rows through the nodes of a finished run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{PipelineArgs, name_value, seconds};

#[derive(Debug, Args)]
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

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The map node whose rows come back. Rows go through all map nodes before it too. Of several nodes each is a model that
    /// requests choose by its name.
    #[arg(required = true, value_name = "NODE")]
    pub(crate) nodes: Vec<String>,
    /// Serve the node with this model, in the place of the one that its first node reads. Several, as `a,b` or by several
    /// options, stand side by side: requests choose one by its name, and get the first without one.
    #[arg(long = "model", value_name = "NODE", value_delimiter = ',')]
    pub(crate) models: Vec<String>,
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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
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
