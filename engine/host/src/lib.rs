//! Finding, loading and calling stage libraries.
//!
//! A [`Host`] holds the libraries that were found; a [`PlannedStage`] is one stage with a
//! configuration, ready to work; a [`Worker`] is a map stage with its model loaded.
//! An [`Executor`] makes them: in this process, or for third-party libraries in isolated ones ([`Isolation`]).
//! Libraries are never unloaded: their threads, thread-locals and static data may
//! outlive any moment that would be safe to do it.

mod backend;
mod description;
mod error;
mod executor;
mod guarded;
mod host;
mod in_process;
mod isolated;
mod library;
mod library_file;
mod limited;
mod log_limit;
mod search;
mod services;
mod stages;

pub use error::{HostError, Result, StageFailure};
pub use executor::{
    Batches, Executor, PlannedStage, RowSink, WorkInput, WorkOutput, WorkSettings, Worker,
};
pub use host::Host;
pub use isolated::{Isolation, run_stage_process};
pub use library::{Library, LoadedStage};
pub use search::{Origin, shipped_libraries};
pub use services::{Level, ServiceError, Services};
