//! Two runs on one store compute each result once; and the same files give the same bytes, however they are computed.

use std::process::{Output, Stdio};
use std::time::Duration;

use crate::common::{Lots, MODELS, TABLES, results, tiny};

/// Rows that a run computed in map stages, and whole nodes that it began.
fn computed(output: &Output) -> (u64, usize) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut rows, mut wholes) = (0, 0);
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON lines");
        let number = |name: &str| event[name].as_u64().unwrap_or_default();
        match event["event"].as_str() {
            Some("part") => rows += number("rows") - number("reused"),
            // Map nodes begin, and then find what is there.
            Some("node_started") => {
                let stage = event["stage"].as_str().unwrap_or_default();
                wholes += usize::from(["load", "model", "finetune"].contains(&stage));
            }
            _ => {}
        }
    }
    (rows, wholes)
}

#[test]
fn two_runs_at_once_compute_each_result_once() {
    let straight = tiny();
    let alone = straight.run(&["run", "p.yaml", "--json"]);
    let (alone, expected) = (computed(&alone), results(&straight, &TABLES, &MODELS));
    let (mut lots, mut waits) = (Lots::new(), 0);
    for _ in 0..crate::common::scale("PARALOOM_PAIRS", 6) {
        let project = tiny();
        let start = || {
            let mut command = project.command(&["run", "p.yaml", "--json"]);
            let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("the binary runs")
        };
        let first = start();
        std::thread::sleep(Duration::from_millis(lots.draw() % 80));
        let second = start();
        let process = format!("process {}", first.id());
        let ends = [first, second].map(|child| child.wait_with_output().expect("it ends"));
        let [one, two] = ends.each_ref().map(computed);
        assert_eq!((one.0 + two.0, one.1 + two.1), alone, "each once");
        assert!(results(&project, &TABLES, &MODELS) == expected);
        let said = String::from_utf8_lossy(&ends[1].stdout).into_owned();
        if let Some((_, waiting)) = said.split_once("\"event\":\"node_waiting\"") {
            waits += u32::from(waiting.contains(&process));
        }
    }
    assert!(waits > 0, "no run said whom it waited for");
}

#[test]
fn the_same_from_nothing_and_with_any_number_of_threads() {
    let made =
        [&[][..], &[], &["--threads", "1"], &["--threads", "2", "--jobs", "1"]].map(|more| {
            let project = tiny();
            project.ok(&[&["run", "p.yaml"], more].concat());
            results(&project, &TABLES, &MODELS)
        });
    for (at, results) in made.iter().enumerate() {
        assert!(*results == made[0], "run {at}");
    }
}
