//! Killed anywhere, nothing lost: the tables and models are the same bytes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{Lots, Project, tiny};

fn results(project: &Project) -> BTreeMap<String, Vec<u8>> {
    crate::common::results(project, &crate::common::TABLES, &crate::common::MODELS)
}

fn finished() -> (BTreeMap<String, Vec<u8>>, Duration) {
    let project = tiny();
    let started = Instant::now();
    project.ok(&["run", "p.yaml"]);
    let took = started.elapsed();
    (results(&project), took)
}

/// Several kills hit one project, so that what a kill left is killed again; then a run finishes it. Training keeps each of
/// its steps, so that the next kill hits later work, or the writing of a checkpoint. Each kill comes at a random instant of
/// a span that follows the machine: about one in six comes too late, so they hit everywhere. `PARALOOM_KILLS` counts those
/// that hit a run at work.
#[test]
#[expect(clippy::print_stdout, reason = "the count belongs to the figures of a nightly run")]
fn killed_at_any_moment_and_run_again_gives_the_same_bytes() {
    let (expected, mut span) = finished();
    let mut lots = Lots::new();
    let kills = crate::common::scale("PARALOOM_KILLS", 12);
    let (mut hits, mut misses) = (0, 0);
    while hits < kills {
        let project = tiny();
        let mut moments = Vec::new();
        while hits < kills && moments.len() < 6 {
            let moment = span.mul_f64(lots.share());
            moments.push(moment);
            let args = ["run", "p.yaml", "--checkpoint-every", "0"];
            let mut command = project.command(&args);
            let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn();
            let child = child.as_mut().expect("the binary runs");
            std::thread::sleep(moment);
            child.kill().expect("it is ours");
            let status = child.wait().expect("it was started");
            if status.success() {
                misses += 1;
                span = span.mul_f64(0.9);
                break;
            }
            assert_eq!(status.signal(), Some(libc::SIGKILL), "nothing else ends it");
            hits += 1;
            span = span.mul_f64(1.02);
        }
        project.ok(&["run", "p.yaml"]);
        assert!(results(&project) == expected, "killed after {moments:?}");
        assert_clean(&project.file(".paraloom"));
        assert!(misses <= kills + 30, "{misses} kills came too late, {hits} hit");
    }
    println!("{hits} kills hit a run at work, {misses} came too late");
}

/// A run that ended well leaves nothing of an earlier, killed one in the way.
fn assert_clean(store: &Path) {
    let names: Vec<_> = std::fs::read_dir(store)
        .expect("the store is there")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("text"))
        .collect();
    for name in names {
        assert!(
            ["FORMAT", "lock", "results", "runs", "tmp", "digests.json", "keys.json"]
                .contains(&name.as_str()),
            "{name}"
        );
    }
}

#[test]
fn a_finished_run_does_nothing_and_a_moved_threshold_runs_what_hangs_on_it() {
    let project = tiny();
    project.ok(&["run", "p.yaml"]);
    let again = project.transcript(&["run", "p.yaml"]);
    assert!(again.contains("nothing to do: all 9 nodes are done"), "{again}");
    let text = crate::common::TINY.replace("cola_p > 0.0 and", "cola_p > 0.0 and stsb >= 0.0 and");
    project.write("p.yaml", &text);
    let plan = project.ok(&["plan", "p.yaml"]);
    insta::assert_snapshot!(plan);
}

#[test]
fn a_flipped_bit_is_found_and_only_that_part_is_made_again() {
    let project = tiny();
    project.ok(&["run", "p.yaml"]);
    let before = results(&project);
    // A part of a whole stage and one of a map stage: a manifest names the one, a log the other.
    for record in ["manifest.json", "parts.log"] {
        let records = find(&project.file(".paraloom/results"), record).into_iter();
        // A model has a manifest too, and no part.
        let mut parts =
            records.flat_map(|record| find(record.parent().expect("a result"), ".parquet"));
        let part = parts.next().expect("a result has parts");
        let mut bytes = std::fs::read(&part).expect("it is there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&part, bytes).expect("it is ours");
        let verify = project.run(&["verify"]);
        assert_eq!(verify.status.code(), Some(7), "{}", String::from_utf8_lossy(&verify.stderr));
        let name = part.file_name().expect("a file").to_str().expect("text");
        assert!(String::from_utf8_lossy(&verify.stdout).contains(name));
        project.ok(&["verify"]);
        project.ok(&["run", "p.yaml"]);
        assert!(results(&project) == before);
        assert!(part.exists());
        project.ok(&["verify"]);
    }
}

/// The files below a directory whose names end so, in the order of their names.
fn find(dir: &Path, end: &str) -> Vec<PathBuf> {
    let (mut dirs, mut found) = (vec![dir.to_owned()], Vec::new());
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_str().is_some_and(|path| path.ends_with(end)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A training that is killed goes on from its newest checkpoint: at most one interval is done again.
fn kill_training(project: impl Fn() -> Project) {
    let args = ["run", "p.yaml", "--until", "t5p", "--json", "--checkpoint-every"];
    let losses = |log: &str| log.matches("\"name\":\"loss\"").count() as u64;
    let straight = project();
    let steps = losses(&straight.ok(&[&args[..], &["3600"]].concat()));
    let expected = crate::common::results(&straight, &["t5p.metrics"], &["t5p"]);
    let mut lots = Lots::new();
    let mut resumed = 0;
    for _ in 0..crate::common::scale("PARALOOM_TRAINING_KILLS", 6) {
        let project = project();
        let killed_after = 1 + lots.below(steps as usize - 2) as u64;
        let mut command = project.command(&[&args[..], &["0"]].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("the binary runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut seen = 0;
        // Read to the end: events may be there that were sent before the kill.
        for line in lines {
            let line = line.expect("text");
            if losses(&line) > 0 {
                seen += 1;
                if seen == killed_after {
                    child.kill().expect("it is ours");
                }
            }
        }
        child.wait().expect("it was started");
        let log = project.ok(&[&args[..], &["3600"]].concat());
        if let Some((_, step)) = log.split_once("goes on from step ") {
            let step: u64 = step.split('"').next().and_then(|step| step.parse().ok()).expect("one");
            // The step whose loss was told may not have been kept yet; the one before it was.
            assert!(step + 1 >= seen, "{step} of {seen} steps were kept");
            assert_eq!(losses(&log), steps - step, "no other step is done again");
            resumed += 1;
        } else {
            let done = seen == steps;
            assert!(done || seen == 1, "{seen} steps are lost");
        }
        assert!(crate::common::results(&project, &["t5p.metrics"], &["t5p"]) == expected);
    }
    assert!(resumed > 0, "no kill hit a training");
}

#[test]
fn a_killed_training_repeats_at_most_one_checkpoint_interval() {
    kill_training(tiny);
}

/// Batches that differ from epoch to epoch, and a model that is kept for what it writes.
#[test]
fn a_killed_training_by_recipe_ends_with_the_same_bytes() {
    let plain = "epochs: 6, batch_size: 4, learning_rate: 0.01";
    let recipe = "epochs: 6, batch_tokens: 160, learning_rate: 0.01, validation_split: 0.2, validate_every: 2, \
                  keep_best: { metric: chrf, max_new_tokens: 8 }, patience: 9";
    kill_training(|| crate::common::tiny_with(plain, recipe));
}

/// Other bytes of the same length, with the old time: the digest that was remembered is not used.
#[test]
fn a_restored_time_does_not_deceive() {
    let project = tiny();
    // Older than the time in which a digest is not yet remembered.
    std::thread::sleep(Duration::from_secs(5));
    project.ok(&["run", "p.yaml", "--until", "corpus"]);
    assert!(project.file(".paraloom/digests.json").exists(), "the digest is remembered");
    let path = project.file("corpus.csv");
    let time = std::fs::metadata(&path).and_then(|found| found.modified()).expect("it has one");
    let text = std::fs::read_to_string(&path).expect("it is there");
    project.write("corpus.csv", &text.replacen("sales rose", "sales fell", 1));
    let file = std::fs::File::options().append(true).open(&path).expect("it is ours");
    file.set_modified(time).expect("it is ours");
    project.ok(&["run", "p.yaml", "--until", "corpus"]);
    let rows = project.ok(&["show", "p.yaml", "corpus", "--json"]);
    assert!(rows.contains("sales fell 20 percent"), "{rows}");
}

#[test]
fn with_keep_going_all_that_does_not_need_a_failed_node_is_done() {
    let pipeline = "\
paraloom: 1
nodes:
  rows: { stage: load, with: { from: rows.csv } }
  n: { stage: unruly, inputs: { rows: rows }, with: { how: abort, when: map } }
  after: { stage: unruly, inputs: { rows: n } }
  m: { stage: unruly, inputs: { rows: rows }, with: { how: exit, when: map } }
  kept: { stage: threshold, inputs: { rows: rows }, with: { keep: length(text) > 2 } }
  last: { stage: threshold, inputs: { rows: kept }, with: { keep: length(text) > 2 } }
";
    let project = crate::common::Project::new(pipeline);
    project.write("rows.csv", "text\none\ntwo\n");
    crate::common::c_library(&project, "unruly");
    let run = ["run", "p.yaml", "--stages", "libunruly.so", "--jobs", "1"];
    let failed = project.run(&[&run[..], &["--keep-going"]].concat());
    let said = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(said.contains("2 nodes failed"), "{said}");
    assert!(said.contains("node `n`: the stage crashed"), "{said}");
    assert!(said.contains("node `m`: the stage crashed"), "{said}");
    let status = project.ok(&["status", "p.yaml", "--stages", "libunruly.so"]);
    assert!(status.starts_with("3 of 6 nodes are done"), "{status}");
    // Without it the first failure ends the run.
    let again = project.run(&run);
    let said = String::from_utf8_lossy(&again.stderr);
    assert_eq!(said.matches("the stage crashed").count(), 1, "{said}");
}
