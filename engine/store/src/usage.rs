//! Who used which result last, as the logs of runs say.
//!
//! A result does not know its name: it may be of several nodes of several pipelines. The events of a run name the key of
//! each node that it made, began or found.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::key::Key;
use crate::run_log::RunSummary;

/// What a log says of the run as a whole.
#[derive(Clone, Debug, Default)]
pub struct RunInfo {
    /// The name of the run.
    pub id: String,
    /// The name of its pipeline.
    pub pipeline: String,
    /// What it set variables to, where the log says so.
    pub set: Map<String, Value>,
    /// When it last wrote something.
    pub time: Option<Timestamp>,
    /// Whether it came to an end, whichever.
    pub is_over: bool,
}

/// The newest use of a result.
#[derive(Clone, Debug)]
pub struct Use {
    /// The number of the run in [`Usage::runs`].
    pub run: usize,
    /// The node that it was the result of.
    pub node: String,
}

/// The uses of all results that are in logs.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// The runs, oldest first.
    pub runs: Vec<RunInfo>,
    newest: HashMap<Key, Use>,
}

impl Usage {
    /// What the logs of `runs`, oldest first, say.
    pub fn of(runs: &[RunSummary]) -> Self {
        let mut usage = Self::default();
        for (number, run) in runs.iter().enumerate() {
            usage.runs.push(RunInfo::of(run));
            for event in &run.events {
                let (Some(node), Some(key)) = (event["node"].as_str(), event["key"].as_str())
                else {
                    continue;
                };
                if let Some(key) = Key::parse(key) {
                    usage.newest.insert(key, Use { run: number, node: node.to_owned() });
                }
            }
        }
        usage
    }

    /// The newest use of a result, if a log names it.
    pub fn newest(&self, key: &Key) -> Option<(&Use, &RunInfo)> {
        let found = self.newest.get(key)?;
        Some((found, &self.runs[found.run]))
    }

    /// The numbers of the newest `count` runs of each pipeline.
    pub fn newest_runs(&self, count: usize) -> HashSet<usize> {
        let mut by_pipeline: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, run) in self.runs.iter().enumerate() {
            by_pipeline.entry(&run.pipeline).or_default().push(number);
        }
        let newest = by_pipeline.into_values().flat_map(|runs| {
            let older = runs.len().saturating_sub(count);
            runs.into_iter().skip(older)
        });
        newest.collect()
    }
}

impl RunInfo {
    fn of(run: &RunSummary) -> Self {
        let started = run.events.iter().find(|event| event["event"] == "run_started");
        let pipeline = started.and_then(|event| event["pipeline"].as_str()).unwrap_or_default();
        let set = started.and_then(|event| event["set"].as_object()).cloned();
        let time = |event: &Value| event["time"].as_str().and_then(|time| time.parse().ok());
        Self {
            id: run.id.clone(),
            pipeline: pipeline.to_owned(),
            set: set.unwrap_or_default(),
            time: run.events.iter().rev().find_map(time),
            is_over: run.events.iter().any(|event| event["event"] == "run_finished"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(id: &str, events: &[Value]) -> RunSummary {
        RunSummary { id: id.to_owned(), dir: "runs".into(), events: events.to_vec() }
    }

    #[test]
    fn the_newest_use_of_a_result_is_known() {
        let [one, other] = ["1", "2"].map(|digit| digit.repeat(64));
        let started = |pipeline: &str| json!({ "event": "run_started", "pipeline": pipeline });
        let runs = [
            run("a", &[started("p"), json!({ "event": "node_finished", "node": "x", "key": one })]),
            run("b", &[started("q"), json!({ "event": "node_cached", "node": "y", "key": one })]),
            run(
                "c",
                &[
                    json!({ "event": "run_started", "pipeline": "p", "set": { "lr": "1e-3" } }),
                    json!({ "event": "node_started", "node": "z", "key": other, "time": "2026-11-28T19:26:13.5Z" }),
                    json!({ "event": "node_failed", "node": "z", "key": "odd" }),
                    json!({ "event": "run_finished", "outcome": "failed" }),
                ],
            ),
        ];
        let usage = Usage::of(&runs);
        let newest = |key: &str| {
            let (found, run) = usage.newest(&Key::parse(key)?)?;
            Some(format!("{} of {} in {}", found.node, run.pipeline, run.id))
        };
        assert_eq!(newest(&one).as_deref(), Some("y of q in b"));
        assert_eq!(newest(&other).as_deref(), Some("z of p in c"));
        assert_eq!(newest(&"3".repeat(64)), None);
        assert_eq!(
            usage.runs.iter().map(|run| run.is_over).collect::<Vec<_>>(),
            [false, false, true]
        );
        assert_eq!(
            usage.runs[2].time.map(|time| time.to_string()).as_deref(),
            Some("2026-11-28T19:26:13.5Z")
        );
        assert_eq!(usage.runs[2].set["lr"], "1e-3");
        assert_eq!(usage.newest_runs(1), HashSet::from([1, 2]));
        assert_eq!(usage.newest_runs(2), HashSet::from([0, 1, 2]));
        assert_eq!(usage.newest_runs(0), HashSet::new());
    }
}
