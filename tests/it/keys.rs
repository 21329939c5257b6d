//! What decides a result and is in its key, and what does not: clocks, time zones and times of files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::common::{MODELS, Project, TABLES, results, tiny, tiny_with};
use paraloom_store::{Pin, Preimage, Store};
use serde_json::{Value, json};

/// The files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for item in std::fs::read_dir(dir).expect("readable") {
            let path = item.expect("readable").path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

/// What the key of each result of a store is the hash of, by stage.
fn preimages(project: &Project) -> BTreeMap<String, Vec<Value>> {
    let mut preimages = BTreeMap::<String, Vec<Value>>::new();
    for path in files(&project.file(".paraloom/results")) {
        if path.ends_with("key.json") {
            let text = std::fs::read_to_string(path).expect("it is there");
            let line = text.lines().next().expect("a line");
            let preimage: Value = serde_json::from_str(line).expect("JSON");
            let stage = preimage["stage"].as_str().expect("text").to_owned();
            preimages.entry(stage).or_default().push(preimage);
        }
    }
    preimages
}

/// The names of an object's members, sorted.
fn names(object: &Value) -> String {
    let mut names: Vec<_> = object.as_object().expect("an object").keys().cloned().collect();
    names.sort();
    names.join(" ")
}

/// `docs/resuming.md` lists what is in a key; this is the list.
#[test]
fn a_key_holds_what_decides_and_nothing_else() {
    let project = tiny();
    project.ok(&["run", "p.yaml", "--until", "qualified"]);
    let found = preimages(&project);
    let inputs = |preimage: &Value| -> Vec<String> {
        preimage["inputs"].as_array().expect("a list").iter().map(names).collect()
    };
    let (artifact, table) = ("artifact label port", "label port table");
    // A whole stage that makes a table cuts it into parts; the rows of a map stage are not in its key, but in the parts'.
    for (stage, members, ports) in [
        ("load", "config fingerprint inputs part_rows stage version", &[][..]),
        ("model", "config inputs seed stage version", &[table]),
        ("finetune", "config fingerprint inputs part_rows seed stage version", &[artifact, table]),
        ("generate", "config fingerprint inputs seed stage version", &[artifact]),
        ("score-cola", "config fingerprint inputs stage version", &[artifact]),
        ("threshold", "config inputs stage version", &[]),
    ] {
        for preimage in &found[stage] {
            assert_eq!(names(preimage), members, "{stage}");
            assert_eq!(inputs(preimage), ports, "{stage}");
        }
    }
    // Of a file, what it holds.
    let contents = found["load"].iter().map(|preimage| names(&preimage["config"]["from"]));
    assert_eq!(contents.collect::<Vec<_>>(), ["content", "content"]);
}

/// As version 1 of keys had it: every default is written out, and inputs stand in the order of the file.
fn older(preimage: &Preimage) -> Preimage {
    let defaults = match preimage.get("stage").and_then(Value::as_str) {
        Some("load") => json!({"skip": 0, "limit": null, "keep": null, "header": true}),
        Some("finetune") => json!({"label_smoothing": 0.0, "source": null, "tasks": {}}),
        Some("generate") => json!({"beam": null, "no_repeat_ngram_size": 0, "into": "paraphrase"}),
        _ => json!({}),
    };
    let members = preimage.members().iter().map(|(name, value)| {
        let mut value = value.clone();
        match (name.as_str(), &mut value) {
            ("config", Value::Object(config)) => {
                for (name, default) in defaults.as_object().into_iter().flatten() {
                    config.entry(name.clone()).or_insert_with(|| default.clone());
                }
            }
            ("inputs", Value::Array(edges)) => edges.reverse(),
            _ => {}
        }
        (name, value)
    });
    members.fold(Preimage::default(), |preimage, (name, value)| preimage.with(name, value))
}

/// A store from before keys left the defaults out: what is in it stays warm, a pin holds, and `plan` knows its history.
#[test]
fn results_of_an_earlier_version_move_to_their_new_keys() {
    let project = tiny();
    project.ok(&["run", "p.yaml"]);
    let expected = results(&project, &TABLES, &MODELS);
    let store = Store::open(&project.file(".paraloom")).expect("it is sound").expect("it is there");
    let keys = || -> BTreeSet<_> {
        store.entries().expect("readable").into_iter().map(|(key, _)| key).collect()
    };
    let new = keys();
    store.rekey(99, &older).expect("writable");
    std::fs::remove_file(project.file(".paraloom/keys.json")).expect("it was written");
    let old = keys();
    assert!(old.len() == new.len() && old.difference(&new).count() > 4, "{old:?}");
    store.pin("kept", &Pin { pipeline: "tiny".to_owned(), results: old }).expect("writable");
    // What only looks says so too.
    assert!(project.ok(&["plan", "p.yaml"]).contains("nothing to do"));
    assert_eq!(worked(&project), [""; 0]);
    assert_eq!(keys(), new);
    assert!(results(&project, &TABLES, &MODELS) == expected);
    project.ok(&["verify"]);
    let (_, pin) = store.pins().expect("sound").remove(0);
    assert!(new.is_subset(&pin.results));
    project.write("p.yaml", &crate::common::TINY.replace("top_p: 0.95", "top_p: 0.9"));
    let plan = project.ok(&["plan", "p.yaml"]);
    assert!(plan.contains("sample.top_p 0.95 -> 0.9"), "{plan}");
}

/// The nodes that a run worked at.
fn worked(project: &Project) -> Vec<String> {
    let log = project.ok(&["run", "p.yaml", "--json"]);
    let events = log.lines().map(|line| serde_json::from_str(line).expect("JSON lines"));
    let started = events.filter(|event: &Value| event["event"] == "node_started");
    let mut nodes: Vec<_> =
        started.map(|event| event["node"].as_str().expect("text").to_owned()).collect();
    nodes.sort();
    nodes
}

const RANDOM_OR_NOT: &str = "\
paraloom: 1
seed: 7
nodes:
  corpus: { stage: load, with: { from: corpus.csv, columns: { text: source } } }
  kept: { stage: threshold, inputs: { rows: corpus }, with: { keep: 'length(source) > 0' } }
  blank:
    stage: model
    inputs: { texts: [kept] }
    with: { new: { vocabulary: 100, d_model: 8, d_ff: 8, layers: 1, heads: 1 } }
  grammar: { stage: score-cola, inputs: { model: blank, rows: kept }, with: { text: source } }
";

#[test]
fn another_seed_makes_random_stages_run_again_and_no_others() {
    let project = tiny_with(crate::common::TINY, RANDOM_OR_NOT);
    assert_eq!(worked(&project), ["blank", "corpus", "grammar", "kept"]);
    let seven = results(&project, &["kept", "grammar"], &["blank"]);
    project.write("p.yaml", &RANDOM_OR_NOT.replace("seed: 7", "seed: 8"));
    // The scores are not random, but of another model.
    assert_eq!(worked(&project), ["blank", "grammar"]);
    let eight = results(&project, &["kept", "grammar"], &["blank"]);
    let differs = |name: &str| seven[name] != eight[name];
    assert!(differs("blank/model.safetensors") && differs("grammar") && !differs("kept"));
    // Back to the first: all of it is there.
    project.write("p.yaml", RANDOM_OR_NOT);
    assert_eq!(worked(&project), [""; 0]);
    assert!(results(&project, &["kept", "grammar"], &["blank"]) == seven);
}

fn set_time(path: &Path, time: SystemTime) {
    let file = std::fs::File::open(path).expect("it is there");
    file.set_modified(time).expect("it is ours");
}

/// As after a clock that was wrong by years was set right, and a journey.
#[test]
fn clocks_and_time_zones_mean_nothing() {
    let year = Duration::from_hours(365 * 24);
    let now = SystemTime::now();
    let expected = {
        let project = tiny();
        project.ok(&["run", "p.yaml"]);
        results(&project, &TABLES, &MODELS)
    };
    let project = tiny();
    let run = |zone: &str, args: &[&str]| {
        let output = project.command(args).env("TZ", zone).output().expect("the binary runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let inputs = ["pairs.tsv", "corpus.csv"].map(|name| project.file(name));
    let times = [now + 10 * year, SystemTime::UNIX_EPOCH + year, now - year];
    // Half of the work, then a journey through time, then the rest.
    run("Pacific/Kiritimati", &["run", "p.yaml", "--until", "paraphrases"]);
    for (path, time) in
        files(&project.file(".paraloom")).iter().chain(&inputs).zip(times.iter().cycle())
    {
        set_time(path, *time);
    }
    let rest = run("America/Los_Angeles", &["run", "p.yaml"]);
    assert!(rest.contains("done in") && !rest.contains("t5p "), "{rest}");
    for (at, time) in times.iter().enumerate() {
        inputs
            .iter()
            .chain(&files(&project.file(".paraloom")))
            .for_each(|path| set_time(path, *time));
        let again = run(["UTC", "Asia/Kathmandu", "nonsense"][at], &["run", "p.yaml"]);
        assert!(again.contains("nothing to do"), "{again}");
    }
    assert!(results(&project, &TABLES, &MODELS) == expected);
    project.ok(&["verify"]);
    // A change counts whatever the time that the file has then.
    for (time, verb) in times.into_iter().zip(["dropped", "jumped", "stayed"]) {
        let text = std::fs::read_to_string(&inputs[1]).expect("it is there");
        project.write("corpus.csv", &text.replacen("sales ", &format!("sales {verb} "), 1));
        set_time(&inputs[1], time);
        run("UTC", &["run", "p.yaml", "--until", "corpus"]);
        let rows = project.ok(&["show", "p.yaml", "corpus", "--json"]);
        assert!(rows.contains(verb), "{rows}");
    }
}

/// The name of a file is in no key, but for the folders that become columns.
#[test]
fn a_folder_that_a_pattern_stands_for_decides() {
    let project = Project::new(
        "paraloom: 1\nnodes:\n  rows: { stage: load, with: { from: 'data/*/a.csv' } }\n",
    );
    let write = |folder: &str| {
        std::fs::create_dir_all(project.file(&format!("data/{folder}"))).expect("it is ours");
        project.write(&format!("data/{folder}/a.csv"), "text\nx\n");
        let said = project.transcript(&["run", "p.yaml", "--json"]);
        let shown = project.ok(&["show", "p.yaml", "rows", "--csv", "--columns", "text,year"]);
        std::fs::remove_dir_all(project.file(&format!("data/{folder}"))).expect("it is ours");
        (said.contains("node_finished"), shown)
    };
    assert_eq!(write("year=2024"), (true, "text,year\nx,2024\n".to_owned()));
    assert_eq!(write("year=2025"), (true, "text,year\nx,2025\n".to_owned()));
    assert_eq!(write("year=2024"), (false, "text,year\nx,2024\n".to_owned()));
}
