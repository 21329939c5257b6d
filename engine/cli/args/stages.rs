//! Arguments of `stages`, its subcommands among them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::PipelineArgs;

#[derive(Debug, Args)]
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

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// A node of the stage. What it reads has to be there; it need not have run itself.
    pub(crate) node: String,
    /// How many rows of its input.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) rows: usize,
}
