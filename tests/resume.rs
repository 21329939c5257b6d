//! Killed anywhere, nothing lost: the tables and models are the same bytes.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Project, tiny};

/// Digest-named results of a finished pipeline: every table as text, every model's bytes.
fn results(project: &Project) -> BTreeMap<String, Vec<u8>> {
    let mut results = BTreeMap::new();
    for table in [
        "pairs",
        "corpus",
        "t5p.metrics",
        "paraphrases",
        "grammar",
        "qualified",
        "qualified.rejected",
        "custom.metrics",
    ] {
        results.insert(
            table.to_owned(),
            project.ok(&["show", "p.yaml", table, "--json"]).into_bytes(),
        );
    }
    for model in ["t5p", "custom"] {
        let to = project.file(&format!("out-{model}"));
        project.ok(&["export", "p.yaml", model, "--to", to.to_str().expect("text")]);
        for file in ["model.safetensors", "config.json", "tokenizer.json"] {
            results.insert(
                format!("{model}/{file}"),
                std::fs::read(to.join(file)).expect("it was written"),
            );
        }
        std::fs::remove_dir_all(&to).expect("it was written");
    }
    results
}

fn finished() -> (BTreeMap<String, Vec<u8>>, Duration) {
    let project = tiny();
    let started = Instant::now();
    project.ok(&["run", "p.yaml"]);
    let took = started.elapsed();
    (results(&project), took)
}

#[test]
fn killed_at_any_moment_and_run_again_gives_the_same_bytes() {
    let (expected, took) = finished();
    let kills =
        std::env::var("PARALOOM_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(6);
    for kill in 0..kills {
        let project = tiny();
        // Spread over the run, and never twice at the same instant.
        let moment = took.mul_f64((f64::from(kill) + 0.5) / f64::from(kills));
        let mut child = project.command(&["run", "p.yaml"]).spawn().expect("the binary runs");
        std::thread::sleep(moment);
        child.kill().expect("it is ours");
        child.wait().expect("it was started");
        project.ok(&["run", "p.yaml"]);
        assert!(results(&project) == expected, "killed after {moment:?}");
        assert_clean(&project.file(".paraloom"));
    }
}

/// A run that ended well leaves nothing of an earlier, killed one in the way.
fn assert_clean(store: &Path) {
    let names: Vec<_> = std::fs::read_dir(store)
        .expect("the store is there")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("text"))
        .collect();
    for name in names {
        assert!(
            ["FORMAT", "lock", "results", "runs", "tmp", "digests.json"].contains(&name.as_str()),
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
    let text = common::TINY.replace("cola_p > 0.0 and", "cola_p > 0.0 and stsb >= 0.0 and");
    project.write("p.yaml", &text);
    let plan = project.ok(&["plan", "p.yaml"]);
    insta::assert_snapshot!(plan);
}

#[test]
fn a_flipped_bit_is_found_and_only_that_part_is_made_again() {
    let project = tiny();
    project.ok(&["run", "p.yaml"]);
    let before = results(&project);
    let part = find(&project.file(".paraloom/results"), "parquet");
    let mut bytes = std::fs::read(&part).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).expect("it is ours");
    let verify = project.run(&["verify"]);
    assert_eq!(verify.status.code(), Some(7), "{}", String::from_utf8_lossy(&verify.stderr));
    let name = part.file_name().expect("a file").to_str().expect("text");
    assert!(String::from_utf8_lossy(&verify.stdout).contains(name));
    project.ok(&["run", "p.yaml"]);
    assert!(results(&project) == before);
    assert!(project.run(&["verify"]).status.success());
}

fn find(dir: &Path, extension: &str) -> std::path::PathBuf {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                return path;
            }
        }
    }
    panic!("no .{extension} file");
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_and_run_goes_on() {
    let (expected, _) = finished();
    let project = tiny();
    let mut child = project.command(&["run", "p.yaml"]).spawn().expect("the binary runs");
    std::thread::sleep(Duration::from_millis(300));
    let pid = i32::try_from(child.id()).expect("a pid");
    #[expect(unsafe_code, reason = "there is no safe way to send a signal")]
    // SAFETY: the process is ours and not waited for yet.
    let sent = unsafe { libc::kill(pid, libc::SIGINT) };
    assert_eq!(sent, 0);
    let status = child.wait().expect("it was started");
    assert!(matches!(status.code(), Some(130 | 0)), "{status:?}");
    project.ok(&["run", "p.yaml"]);
    assert!(results(&project) == expected);
}
