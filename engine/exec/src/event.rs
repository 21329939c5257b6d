//! What happens during a run, for the log and for whoever watches.

use std::collections::BTreeMap;

use serde::Serialize;

/// Receives events, from any thread.
pub type Observer<'a> = &'a (dyn Fn(&Event) + Sync);

/// One thing that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are named by what they hold")]
pub enum Event {
    /// A download from a hub began. Downloads come before the run itself.
    FetchStarted { reference: String, commit: String },
    /// So many of the bytes that a reference needs are here.
    Fetch { reference: String, done: u64, total: u64 },
    /// Everything that a reference needs is here.
    FetchFinished { reference: String, ms: u64 },
    /// Something about a hub that its user should know.
    HubNotice { reference: String, message: String },
    /// The run began; `set` are the values that variables were given.
    RunStarted { run: String, pipeline: String, nodes: usize, set: BTreeMap<String, String> },
    /// A node's result was there already.
    NodeCached { node: String, key: String, rows: Option<u64> },
    /// A node began to work: `done` of `parts` parts were there already.
    NodeStarted { node: String, key: String, stage: String },
    /// Another process computes this result.
    NodeWaiting { node: String, holder: String },
    /// A map stage committed a part; `reused` of its rows were known from other parts.
    Part { node: String, rows: u64, reused: u64 },
    /// A map stage found a part that was committed before.
    PartFound { node: String, rows: u64 },
    /// A stage says how far it is.
    Progress { node: String, done: u64, total: u64, unit: String },
    /// One value of a metric.
    Metric { node: String, name: String, value: f64, step: u64 },
    /// A stage says something.
    Log { node: String, level: &'static str, message: String },
    /// A node is done. `computed` of its parts or outputs were made in this run; `rows_found` of the rows that a map
    /// stage read had been mapped before.
    NodeFinished {
        node: String,
        key: String,
        rows: Option<u64>,
        computed: u64,
        found: u64,
        rows_found: Option<u64>,
        ms: u64,
    },
    /// A node failed.
    NodeFailed { node: String, message: String, hint: Option<String> },
    /// A file was damaged; what it held is computed again.
    Damaged { message: String },
    /// A table was held against what the pipeline expects of it; `message` says what is not so.
    Expectation { table: String, met: bool, message: Option<String>, hint: Option<String> },
    /// The run ended: `done`; `unmet`, if it is done and a table is not as expected; `stopped` or `failed`.
    RunFinished { outcome: &'static str, ms: u64 },
}
