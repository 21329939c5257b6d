//! Who used which result last, as the logs of runs say.
//!
//! A result does not know its name: it may be of several nodes of several pipelines. The events of a run name the key of
//! each node that it made, began or found.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;

use crate::event::Event;
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
    pub set: BTreeMap<String, String>,
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
                if let Some((node, key)) = event.event.result() {
                    usage.newest.insert(key.clone(), Use { run: number, node: node.to_owned() });
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
        let mut info = Self { id: run.id.clone(), ..Self::default() };
        for line in &run.events {
            info.time = Some(line.time);
            match &line.event {
                Event::RunStarted { pipeline, set, .. } => {
                    info.pipeline.clone_from(pipeline);
                    info.set.clone_from(set);
                }
                Event::RunFinished { .. } => info.is_over = true,
                _ => {}
            }
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Logged, Outcome};

    fn run(id: &str, events: &[(Event, &str)]) -> RunSummary {
        let line = |(event, time): &(Event, &str)| {
            let mut line = Logged::now(Some(id), event.clone());
            line.time = time.parse().expect("a time");
            line
        };
        let events = events.iter().map(line).collect();
        RunSummary { id: id.to_owned(), dir: "runs".into(), events }
    }

    #[test]
    fn the_newest_use_of_a_result_is_known() {
        let [one, other] = ["1", "2"].map(|digit| Key::parse(&digit.repeat(64)).expect("a key"));
        let early = "2026-11-28T19:26:00Z";
        let started = |pipeline: &str, set: &[(&str, &str)]| {
            let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let event =
                Event::RunStarted { pipeline: pipeline.to_owned(), nodes: 1, set: set.collect() };
            (event, early)
        };
        let found = |node: &str, key: &Key| {
            (Event::NodeCached { node: node.to_owned(), key: key.clone(), rows: None }, early)
        };
        let (node, stage) = ("z".to_owned(), "s".to_owned());
        let begun = Event::NodeStarted { node: node.clone(), key: other.clone(), stage };
        let failed = Event::NodeFailed { node, message: String::new(), hint: None };
        let over = Event::RunFinished { outcome: Outcome::Failed, ms: 1 };
        let runs = [
            run("a", &[started("p", &[]), found("x", &one)]),
            run("b", &[started("q", &[]), found("y", &one)]),
            run(
                "c",
                &[
                    started("p", &[("lr", "1e-3")]),
                    (begun, early),
                    (failed, early),
                    (over, "2026-11-28T19:26:13.5Z"),
                ],
            ),
        ];
        let usage = Usage::of(&runs);
        let newest = |key: &Key| {
            let (found, run) = usage.newest(key)?;
            Some(format!("{} of {} in {}", found.node, run.pipeline, run.id))
        };
        assert_eq!(newest(&one).as_deref(), Some("y of q in b"));
        assert_eq!(newest(&other).as_deref(), Some("z of p in c"));
        assert_eq!(newest(&Key::parse(&"3".repeat(64)).expect("a key")), None);
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
