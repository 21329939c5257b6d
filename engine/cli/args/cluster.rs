//! Options of `run --on`.

use clap::{Args as ClapArgs, ValueEnum};

/// Where a pipeline runs, if not here.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "On a cluster")]
pub(crate) struct ClusterArgs {
    /// Run workers on a cluster, against a store that it can reach, and wait until all is done.
    #[arg(long, value_name = "ENGINE", requires = "store", conflicts_with_all = ["until", "json"])]
    pub(crate) on: Option<Engine>,
    /// The address of the cluster's dashboard, such as `http://HEAD:8265`. A token is taken from `RAY_AUTH_TOKEN`, or the
    /// file that `RAY_AUTH_TOKEN_PATH` names, or `~/.ray/auth_token`.
    #[arg(long, value_name = "URL", requires = "on")]
    pub(crate) address: Option<String>,
    /// Workers; as many as fit if left out.
    #[arg(long, value_name = "N", requires = "on")]
    pub(crate) workers: Option<u32>,
    /// CPUs that a worker asks for; it computes with as many threads.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "on")]
    pub(crate) worker_cpus: u32,
    /// GPUs that a worker asks for.
    #[arg(long, value_name = "N", default_value_t = 0.0, requires = "on")]
    pub(crate) worker_gpus: f32,
    /// The Python of the cluster's nodes, which has Ray.
    #[arg(long, value_name = "PROGRAM", default_value = "python", requires = "on")]
    pub(crate) python: String,
}

/// Something that runs workers.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Engine {
    /// A Ray cluster, through its Jobs API.
    Ray,
}
