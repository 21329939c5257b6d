//! Logs of runs: what was written can be read, in short.

mod common;

use common::scratch;
use paraloom_store::{RunLog, Store};
use serde_json::{Value, json};

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
    log.write("run_started", json!({"pipeline": "sample"}));
    log.write("run_finished", json!({}));
    let runs = store.runs().expect("no trouble");
    let [run] = &runs[..] else { panic!("{runs:?}") };
    assert_eq!((run.id.as_str(), run.dir.as_path()), (log.id(), log.dir()));
    let [started, finished] = &run.events[..] else { panic!("{run:?}") };
    assert_eq!((&started["v"], &started["event"]), (&json!(1), &json!("run_started")));
    assert_eq!(
        (&started["pipeline"], &finished["event"]),
        (&json!("sample"), &json!("run_finished"))
    );
    assert!(started["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{started}");
}

/// Of the counts and metrics of a node at work only the newest; of all else, all.
#[test]
fn a_long_log_is_read_in_short() {
    let dir = scratch();
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    let log = RunLog::create(&store, "").expect("no trouble");
    for number in 0..50 {
        log.write("metric", json!({"number": number}));
        log.write("progress", json!({"number": number}));
        if number % 10 == 0 {
            log.write("part", json!({"number": number}));
        }
    }
    let events = store.runs().expect("no trouble").remove(0).events;
    let numbers = |kind: &str| -> Vec<u64> {
        let of_kind = events.iter().filter(|event| event["event"] == kind);
        of_kind.filter_map(|event: &Value| event["number"].as_u64()).collect()
    };
    assert_eq!(numbers("part"), [0, 10, 20, 30, 40]);
    // The last 40 lines, two of which are of parts.
    assert_eq!(numbers("progress"), (31..50).collect::<Vec<_>>());
    assert_eq!(numbers("metric"), (31..50).collect::<Vec<_>>());
}
