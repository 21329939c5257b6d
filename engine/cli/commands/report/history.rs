//! What the logs of runs tell: when each result was made, how long it took, how much memory it needed.

use std::collections::HashMap;

use jiff::Timestamp;
use paraloom_store::{Environment, Event, Key, RunSummary, Store};

use super::super::status::{outcome, started};
use crate::error::Result;
use crate::render::duration;

/// Steps between the ticks of a timeline, in milliseconds.
const STEPS: [u64; 19] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000,
    900_000, 3_600_000, 21_600_000,
];

/// The runs of a store.
pub(super) struct History {
    by_key: HashMap<Key, Made>,
    /// The run that the report is about: the newest of this pipeline, unless it names one.
    run: Option<RunSummary>,
    /// When each run began, by its name.
    began: HashMap<String, Timestamp>,
}

/// How a result was made.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) ms: u64,
    pub(super) peak_memory: Option<u64>,
    /// The name of the run.
    pub(super) run: String,
    /// Rows, or else parts, that were there already.
    pub(super) found: u64,
    /// Rows of the result.
    pub(super) rows: Option<u64>,
}

/// The work of a node in the run, in milliseconds from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: u64,
    pub(super) ms: u64,
}

impl History {
    /// Reads the logs of a store; `pipeline` names the pipeline that the report is about. If it is about one run, what came
    /// later is left out.
    pub(super) fn of(store: &Store, pipeline: &str, run: Option<&str>) -> Result<Self> {
        let mut runs = store.runs()?;
        runs.retain(|other| run.is_none_or(|run| other.id.as_str() <= run));
        let mut by_key = HashMap::new();
        for run in &runs {
            for line in &run.events {
                let Event::NodeFinished {
                    key,
                    ms,
                    peak_memory,
                    found,
                    rows_found,
                    rows,
                    computed,
                    ..
                } = &line.event
                else {
                    continue;
                };
                // A run that had all parts and only put them together says nothing of the work.
                if *computed == 0 && by_key.contains_key(key) {
                    continue;
                }
                let made = Made {
                    ms: *ms,
                    peak_memory: *peak_memory,
                    run: run.id.clone(),
                    found: rows_found.unwrap_or(*found),
                    rows: *rows,
                };
                by_key.insert(key.clone(), made);
            }
        }
        let began = runs.iter().filter_map(|run| Some((run.id.clone(), run.events.first()?.time)));
        let began = began.collect();
        let is_it = |other: &RunSummary| match run {
            Some(run) => other.id == run,
            None => started(other).is_some_and(|(of, _)| of == pipeline),
        };
        let run = runs.into_iter().rfind(is_it);
        Ok(Self { by_key, run, began })
    }

    /// How the result with this key was made.
    pub(super) fn made(&self, key: &Key) -> Option<&Made> {
        self.by_key.get(key)
    }

    /// When a run began, for a person.
    pub(super) fn began(&self, run: &str) -> String {
        let began = self.began.get(run);
        began.map(|time| time.strftime("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default()
    }

    /// The run that the report is about.
    pub(super) fn run(&self) -> Option<&RunSummary> {
        self.run.as_ref()
    }

    /// The run in words.
    pub(super) fn told(&self) -> Option<String> {
        let run = self.run.as_ref()?;
        // What is not as expected is told in its place.
        let outcome = outcome(run);
        let outcome =
            outcome.split_once(", not as expected").map_or(outcome.as_str(), |(done, _)| done);
        Some(format!("run of {}: {outcome}", self.began(&run.id)))
    }

    /// What was recorded of how the run worked.
    pub(super) fn environment(&self) -> Option<&Environment> {
        self.run.as_ref()?.events.iter().find_map(|line| match &line.event {
            Event::RunEnvironment(environment) => Some(environment),
            _ => None,
        })
    }

    /// When a node worked in the run.
    pub(super) fn span(&self, node: &str) -> Option<Span> {
        let run = self.run.as_ref()?;
        let begin = run.events.first()?.time;
        let since = |time: Timestamp| {
            u64::try_from(time.as_millisecond() - begin.as_millisecond()).unwrap_or(0)
        };
        let of_node = || run.events.iter().filter(|line| line.event.node() == Some(node));
        let from = of_node().find(|line| matches!(line.event, Event::NodeStarted { .. }))?;
        let to = of_node().rfind(|line| {
            matches!(line.event, Event::NodeFinished { .. } | Event::NodeFailed { .. })
        });
        let to = to.or(run.events.last())?;
        let from = since(from.time);
        Some(Span { from, ms: since(to.time).saturating_sub(from) })
    }

    /// Why a node failed in the run.
    pub(super) fn failure(&self, node: &str) -> Option<&str> {
        self.run.as_ref()?.events.iter().find_map(|line| match &line.event {
            Event::NodeFailed { node: failed, message, .. } if failed == node => {
                Some(message.as_str())
            }
            _ => None,
        })
    }

    /// How long the run took or has taken so far, in milliseconds.
    pub(super) fn length(&self) -> u64 {
        let ends =
            self.run.as_ref().and_then(|run| Some((run.events.first()?, run.events.last()?)));
        let length =
            ends.map(|(first, last)| last.time.as_millisecond() - first.time.as_millisecond());
        length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0)
    }

    /// Round times over the run: where, in percent, and how they are told.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let length = self.length();
        if length == 0 {
            return Vec::new();
        }
        let step = STEPS.into_iter().find(|step| length / step <= 5);
        let step = step.unwrap_or_else(|| (length / 5).max(1));
        let percent = |at: u64| 100.0 * at as f64 / length as f64;
        let ticks = (0..=length / step).map(|at| at * step);
        ticks.map(|at| (percent(at), tick(at))).collect()
    }
}

/// "0", "500 ms", "2 s", "3 min".
fn tick(ms: u64) -> String {
    match ms {
        0 => "0".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{} h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{} min", ms / 60_000),
        _ if ms.is_multiple_of(1_000) && ms < 120_000 => format!("{} s", ms / 1_000),
        _ => duration(ms),
    }
}

#[cfg(test)]
mod tests {
    use paraloom_store::{Logged, Outcome, Preimage, RunLog};

    use super::*;

    #[test]
    fn the_newest_work_on_a_result_is_what_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::create(&dir.path().join("store")).expect("no trouble");
        assert!(History::of(&store, "p", None).expect("no trouble").told().is_none());
        let key = Preimage::default().key();
        let log = RunLog::create(&store, "").expect("no trouble");
        let finished = |ms, computed| Event::NodeFinished {
            node: "a".to_owned(),
            key: key.clone(),
            rows: Some(5),
            computed,
            found: 0,
            rows_found: Some(2),
            ms,
            peak_memory: Some(7),
        };
        let (pipeline, set) = ("p".to_owned(), [].into_iter().collect());
        for event in [
            Event::RunStarted { pipeline, nodes: 1, set },
            Event::NodeStarted { node: "a".to_owned(), key: key.clone(), stage: "s".to_owned() },
            finished(100, 1),
            finished(300, 2),
            finished(1, 0),
            Event::NodeFailed { node: "c".to_owned(), message: "no".to_owned(), hint: None },
            Event::RunFinished { outcome: Outcome::Done, ms: 400 },
        ] {
            log.write(&Logged::now(Some(log.id()), event));
        }
        let history = History::of(&store, "p", None).expect("no trouble");
        let made = history.made(&key).expect("it was made");
        assert_eq!((made.ms, made.found, made.peak_memory), (300, 2, Some(7)));
        assert_eq!(made.run, log.id());
        assert!(history.span("a").is_some() && history.span("b").is_none());
        assert_eq!(["a", "c"].map(|node| history.failure(node)), [None, Some("no")]);
        let told = history.told().expect("a run");
        assert!(told.starts_with("run of 20") && told.ends_with("UTC: done in 400 ms"), "{told}");
        assert!(History::of(&store, "q", None).expect("no trouble").run().is_none());
    }

    #[test]
    fn times_are_told_in_their_unit() {
        let said = [0, 500, 1_000, 90_000, 120_000, 7_200_000, 1_500].map(tick);
        assert_eq!(said, ["0", "500 ms", "1 s", "90 s", "2 min", "2 h", "1.5 s"]);
    }
}
