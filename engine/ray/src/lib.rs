//! Workers on a Ray cluster.
//!
//! Ray is asked through its Jobs API, over plain HTTP, so neither Python nor a Ray library is needed here. What travels is a
//! [`Package`], by digest: the binary, the stage libraries, the pipeline and its files, and a driver of a page of Python, which
//! starts the workers. They divide the work through the store ([`DRIVER`]).

mod cluster;
mod package;

pub use cluster::{Cluster, JobStatus, Submission};
pub use package::Package;

/// The program that runs on the cluster and starts the workers there.
pub const DRIVER: &str = include_str!("driver.py");
/// Its name in the package.
pub const DRIVER_NAME: &str = "driver.py";

/// What a cluster refused, or that it cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum RayError {
    /// No answer.
    #[error("the Ray cluster at {address} cannot be reached: {reason}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// Why not.
        reason: String,
    },
    /// It wants another token, or one at all.
    #[error("the Ray cluster at {address} wants {}token", if *has_token { "another " } else { "a " })]
    Token {
        /// Where it is.
        address: String,
        /// Whether one was sent.
        has_token: bool,
    },
    /// Whatever is there does not answer as Ray does.
    #[error("what is at {address} is no Ray cluster with a Jobs API: {reason}")]
    Other {
        /// Where it was looked for.
        address: String,
        /// What it said.
        reason: String,
    },
    /// It does not do what was asked.
    #[error("the Ray cluster does not {action}: {reason}")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// Why not.
        reason: String,
    },
    /// It has been started just now, and starts no jobs yet.
    #[error("the Ray cluster starts no job yet: {reason}")]
    NotYet {
        /// What it said.
        reason: String,
    },
    /// A file that was to travel.
    #[error("cannot pack {}: {source}", path.display())]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// More than Ray takes.
    #[error("the files that would travel to the cluster are too large: {bytes} bytes packed, and Ray takes {most}; the largest is {}", largest.display())]
    TooLarge {
        /// Length of the package.
        bytes: u64,
        /// How long it may be.
        most: u64,
        /// The file that is most of it.
        largest: std::path::PathBuf,
    },
}

/// The result of what is asked of a cluster.
pub type Result<T, E = RayError> = std::result::Result<T, E>;
