//! What happens during a run: the lines of its log, which are also what `run --json` prints.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::key::Key;

/// The version of the log's format.
const FORMAT: u64 = 1;

/// A line of a log: an event, when it happened, and in which run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// The version of the format.
    v: u64,
    /// When it happened.
    pub time: Timestamp,
    /// The run; none of what happens before there is one, such as downloads. Logs of earlier versions do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

impl Logged {
    /// Something that happens now.
    pub fn now(run: Option<&str>, event: Event) -> Self {
        Self { v: FORMAT, time: Timestamp::now(), run: run.map(str::to_owned), event }
    }

    /// The line, without its end.
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a line; none of one that is torn, or that a later version wrote and this one does not know.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Outcome {
    Done,
    /// All is done, and something is not as the pipeline expects.
    Unmet,
    Stopped,
    Failed,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Done => "done",
            Self::Unmet => "unmet",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        })
    }
}

/// How much a record of a stage matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl std::fmt::Display for LogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

/// Where and how a run works.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// The version of paraloom.
    pub version: String,
    /// The command line, program first.
    pub command: Vec<String>,
    /// Operating system and architecture, such as `linux x86_64`.
    pub system: String,
    /// What the processor calls itself; empty where nobody says.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: u32,
    /// Bytes of memory of the machine; none where nobody says.
    pub memory: Option<u64>,
    /// Compute threads of one node.
    pub threads: u32,
    /// Nodes that compute at once.
    pub jobs: usize,
}

/// One thing that happened. Times are in milliseconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    RunStarted {
        pipeline: String,
        nodes: usize,
        #[serde(default)]
        set: BTreeMap<String, String>,
    },
    /// Where and how the run works. It decides no result.
    RunEnvironment(Environment),
    /// A node's result was there already.
    NodeCached { node: String, key: Key, rows: Option<u64> },
    /// A node began to work.
    NodeStarted { node: String, key: Key, stage: String },
    /// Another process computes this result.
    NodeWaiting { node: String, holder: String },
    /// A map stage committed a part; `reused` of its rows were known from other parts.
    Part { node: String, rows: u64, reused: u64 },
    /// A map stage found a part that was committed before.
    PartFound { node: String, rows: u64 },
    /// A stage says how far it is.
    Progress { node: String, done: u64, total: u64, unit: String },
    /// One value of a metric; none where it is not a finite number.
    Metric { node: String, name: String, value: Option<f64>, step: u64 },
    /// A stage says something.
    Log { node: String, level: LogLevel, message: String },
    /// A call of a stage failed in a way that may pass, and is made again.
    Retry { node: String, attempt: u32, wait_ms: u64, message: String },
    /// A row made the stage fail, and went to the node's table of rejected rows.
    RowRejected { node: String, id: String, message: String },
    /// A node is done. `computed` of its parts or outputs were made in this run; `rows_found` of the rows that a map
    /// stage read had been mapped before.
    NodeFinished {
        node: String,
        key: Key,
        rows: Option<u64>,
        computed: u64,
        found: u64,
        rows_found: Option<u64>,
        ms: u64,
        /// The most memory that the run's process had while this node was at work, other nodes at work included. Logs of
        /// earlier versions, and of systems that do not say, have none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peak_memory: Option<u64>,
    },
    /// A node failed.
    NodeFailed { node: String, message: String, hint: Option<String> },
    /// A file was damaged; what it held is computed again.
    Damaged { message: String },
    /// A table was compared with what the pipeline expects of it; `message` says what is not so.
    Expectation { table: String, met: bool, message: Option<String>, hint: Option<String> },
    /// The run is over.
    RunFinished { outcome: Outcome, ms: u64 },
}

impl Event {
    /// The node that it is about.
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::NodeCached { node, .. }
            | Self::NodeStarted { node, .. }
            | Self::NodeWaiting { node, .. }
            | Self::Part { node, .. }
            | Self::PartFound { node, .. }
            | Self::Progress { node, .. }
            | Self::Metric { node, .. }
            | Self::Log { node, .. }
            | Self::Retry { node, .. }
            | Self::RowRejected { node, .. }
            | Self::NodeFinished { node, .. }
            | Self::NodeFailed { node, .. } => Some(node),
            Self::FetchStarted { .. }
            | Self::Fetch { .. }
            | Self::FetchFinished { .. }
            | Self::HubNotice { .. }
            | Self::RunStarted { .. }
            | Self::RunEnvironment(_)
            | Self::Damaged { .. }
            | Self::Expectation { .. }
            | Self::RunFinished { .. } => None,
        }
    }

    /// The node and the key of its result, where it names one.
    pub fn result(&self) -> Option<(&str, &Key)> {
        match self {
            Self::NodeCached { node, key, .. }
            | Self::NodeStarted { node, key, .. }
            | Self::NodeFinished { node, key, .. } => Some((node, key)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        crate::key::Preimage::default().key()
    }

    /// One of each kind.
    fn events() -> Vec<Event> {
        let text = || "a \"text\"\n".to_owned();
        let (node, reference, message) = (text, text, text);
        vec![
            Event::FetchStarted { reference: reference(), commit: text() },
            Event::Fetch { reference: reference(), done: 1, total: u64::MAX },
            Event::FetchFinished { reference: reference(), ms: 2 },
            Event::HubNotice { reference: reference(), message: message() },
            Event::RunStarted {
                pipeline: text(),
                nodes: 3,
                set: [(text(), text())].into_iter().collect(),
            },
            Event::RunEnvironment(Environment {
                command: vec![text(), text()],
                memory: Some(1),
                ..Environment::default()
            }),
            Event::NodeCached { node: node(), key: key(), rows: None },
            Event::NodeStarted { node: node(), key: key(), stage: text() },
            Event::NodeWaiting { node: node(), holder: text() },
            Event::Part { node: node(), rows: 1, reused: 0 },
            Event::PartFound { node: node(), rows: 1 },
            Event::Progress { node: node(), done: 1, total: 0, unit: text() },
            Event::Metric { node: node(), name: text(), value: Some(0.1), step: 7 },
            Event::Log { node: node(), level: LogLevel::Warn, message: message() },
            Event::Retry { node: node(), attempt: 1, wait_ms: 1000, message: message() },
            Event::RowRejected { node: node(), id: text(), message: message() },
            Event::NodeFinished {
                node: node(),
                key: key(),
                rows: Some(4),
                computed: 1,
                found: 2,
                rows_found: Some(3),
                ms: 5,
                peak_memory: Some(1 << 40),
            },
            Event::NodeFailed { node: node(), message: message(), hint: Some(text()) },
            Event::Damaged { message: message() },
            Event::Expectation { table: text(), met: false, message: None, hint: None },
            Event::RunFinished { outcome: Outcome::Unmet, ms: 9 },
        ]
    }

    #[test]
    fn an_event_is_read_as_it_was_written() {
        for event in events() {
            for run in [None, Some("20261129T012300000Z-00001")] {
                let logged = Logged::now(run, event.clone());
                let line = logged.line();
                assert!(!line.contains('\n'), "{line}");
                assert_eq!(Logged::parse(&line), Some(logged), "{line}");
            }
        }
    }

    #[test]
    fn logs_of_earlier_versions_are_read_and_what_is_unknown_is_passed_over() {
        let head = r#"{"v":1,"time":"2026-11-28T19:26:13.5Z","event":"#;
        let read = |rest: &str| Logged::parse(&format!("{head}{rest}")).map(|line| line.event);
        let started =
            Event::RunStarted { pipeline: "p".to_owned(), nodes: 2, set: BTreeMap::new() };
        assert_eq!(
            read(r#""run_started","run":"x","pipeline":"p","nodes":2}"#),
            Some(started.clone())
        );
        assert_eq!(read(r#""run_started","pipeline":"p","nodes":2,"more":[1]}"#), Some(started));
        for unknown in [r#""of_tomorrow"}"#, r#""part","node":"a"}"#, r#""part"#, ""] {
            assert_eq!(read(unknown), None, "{unknown}");
        }
    }
}
