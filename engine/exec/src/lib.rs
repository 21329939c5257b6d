//! Planning and running a pipeline.
//!
//! [`Workspace`] brings together a pipeline file, the stages and a store. [`plan()`] says
//! what a run would do and why; [`run()`] does it. Both look at the store in the same way,
//! so there is no separate way to resume: a run does what the plan says is left. What a
//! pipeline takes from a hub is brought here first ([`Workspace::check_fetched`]).

mod account;
mod chain;
mod commits;
mod context;
mod crew;
mod error;
mod event;
mod expect;
mod fetch;
mod graph_record;
mod input;
mod keys;
mod locate;
mod lookup;
mod map;
mod memory;
mod pattern;
mod peaks;
mod plan;
mod reason;
mod record;
mod remotes;
mod retry;
mod reuse;
mod rows;
mod run;
mod schedule;
mod services;
mod share;
mod slice;
mod trial;
mod whole;
mod worker;
mod workspace;

pub use chain::{Chain, Changes, Mapped, Mark, Parameter, Parameters, chain_of, with_model};
pub use error::{Result, RunError};
pub use event::Observer;
pub use expect::{Verdict, judge};
pub use fetch::Variables;
pub use keys::rekey;
pub use lookup::{Found, Lookup, NodeResult, PortResult, Results, TableRef};
pub use plan::{NodePlan, Plan, State, plan};
pub use record::{Content, NodeRecord, OutputRecord, RunRecord};
pub use remotes::Remotes;
pub use run::{Cancel, Job, RunOptions, Summary, run};
pub use share::Shard;
pub use trial::{Trial, TrialOutput};
pub use workspace::Workspace;
