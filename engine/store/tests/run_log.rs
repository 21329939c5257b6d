//! Logs of runs: what was written can be read, in short.

mod common;

use common::scratch;
use paraloom_store::{Event, Logged, Outcome, RunLog, Store};

#[test]
fn a_log_is_where_logs_are_and_says_what_was_written() {
    let dir = scratch();
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    assert!(store.runs().expect("no trouble").is_empty());
    let log = RunLog::create(&store, "name: sample").expect("no trouble");
    assert_eq!(log.dir(), store.root().join("runs").join(log.id()));
    assert_eq!(store.runs_dir(), store.root().join("runs"));
    let text = std::fs::read_to_string(log.dir().join("pipeline.yaml"));
    assert_eq!(text.expect("it is there"), "name: sample");
    let (pipeline, set) = ("sample".to_owned(), [("a".to_owned(), "b".to_owned())]);
    let started = Event::RunStarted { pipeline, nodes: 3, set: set.into_iter().collect() };
    let finished = Event::RunFinished { outcome: Outcome::Done, ms: 12 };
    let lines = [started, finished].map(|event| Logged::now(Some(log.id()), event));
    lines.iter().for_each(|line| log.write(line));
    let runs = store.runs().expect("no trouble");
    let [run] = &runs[..] else { panic!("{runs:?}") };
    assert_eq!((run.id.as_str(), run.dir.as_path()), (log.id(), log.dir()));
    assert_eq!(run.events, lines);
}

/// Of the counts and metrics of a node at work only the newest; of all else, all.
#[test]
fn a_long_log_is_read_in_short() {
    let dir = scratch();
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    let log = RunLog::create(&store, "").expect("no trouble");
    let node = || "n".to_owned();
    for number in 0..50 {
        let (name, value, step) = ("loss".to_owned(), Some(0.5), number);
        let metric = Event::Metric { node: node(), name, value, step };
        let (total, unit) = (50, "rows".to_owned());
        let progress = Event::Progress { node: node(), done: number, total, unit };
        let part = Event::Part { node: node(), rows: number, reused: 0 };
        let count = if number % 10 == 0 { 3 } else { 2 };
        let lines = [metric, progress, part].into_iter().take(count);
        lines.for_each(|event| log.write(&Logged::now(None, event)));
    }
    let events = store.runs().expect("no trouble").remove(0).events;
    let numbers = |of: fn(&Event) -> Option<u64>| -> Vec<u64> {
        events.iter().filter_map(|line| of(&line.event)).collect()
    };
    let part =
        |event: &Event| if let Event::Part { rows, .. } = event { Some(*rows) } else { None };
    assert_eq!(numbers(part), [0, 10, 20, 30, 40]);
    // The last 40 lines, two of which are of parts.
    let progress =
        |event: &Event| if let Event::Progress { done, .. } = event { Some(*done) } else { None };
    assert_eq!(numbers(progress), (31..50).collect::<Vec<_>>());
    let metric =
        |event: &Event| if let Event::Metric { step, .. } = event { Some(*step) } else { None };
    assert_eq!(numbers(metric), (31..50).collect::<Vec<_>>());
}
