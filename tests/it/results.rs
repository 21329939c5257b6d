//! What is done with results: rows are shown, exported and traced; what nobody needs goes, and what is pinned stays.

use crate::common::{Project, tiny};
use serde_json::Value;

/// Ten rows, in parts of three, and those of them that pass.
fn project() -> Project {
    let project = Project::new(
        "paraloom: 1\nname: notes\npart_rows: 3\nvars: { least: 3 }\nnodes:\n  \
         rows: { stage: load, with: { from: rows.csv } }\n  \
         many: { stage: threshold, inputs: { rows: rows }, with: { keep: 'n >= ${least}' } }\n",
    );
    let line = |n: u32| format!("{n},word {n}\n");
    let rows: String = (0..10).map(line).collect();
    project.write("rows.csv", &format!("n,text\n{rows}"));
    project.ok(&["run", "p.yaml"]);
    project
}

#[test]
fn any_rows_and_columns_can_be_shown() {
    let project = project();
    let numbers = |args: &[&str]| {
        let show = [&["show", "p.yaml", "rows", "--csv", "--columns", "n"], args].concat();
        project.ok(&show).lines().skip(1).collect::<Vec<_>>().join(" ")
    };
    let cases: [(&[&str], &str); 8] = [
        (&[], "0 1 2 3 4 5 6 7 8 9"),
        (&["--limit", "4"], "0 1 2 3"),
        (&["--offset", "7"], "7 8 9"),
        (&["--offset", "2", "--limit", "5"], "2 3 4 5 6"),
        (&["--offset", "99"], ""),
        (&["--tail", "2"], "8 9"),
        // The condition is on a column that is not shown.
        (&["--where", "text != 'word 5'", "--offset", "4", "--limit", "3"], "4 6 7"),
        (&["--where", "length(text) = 6 and n < 5", "--tail", "2"], "3 4"),
    ];
    for (args, rows) in cases {
        assert_eq!(numbers(args), rows, "{args:?}");
    }
    let sorted: [(&[&str], &str); 5] = [
        (&["--sort", "n:desc"], "9 8 7 6 5 4 3 2 1 0"),
        (&["--sort", "n:desc", "--offset", "2", "--limit", "3"], "7 6 5"),
        (&["--sort", "text", "--limit", "2"], "0 1"),
        (&["--sort", "text:desc", "--where", "n < 4"], "3 2 1 0"),
        (&["--sort", "n", "--offset", "99"], ""),
    ];
    for (args, rows) in sorted {
        assert_eq!(numbers(args), rows, "{args:?}");
    }
    let refused =
        project.transcript(&["show", "p.yaml", "rows", "--sort", "n", "--limit", "10001"]);
    assert!(
        refused.starts_with("exit 2") && refused.contains("the first 10000 rows at most"),
        "{refused}"
    );
    let unknown = project.transcript(&["show", "p.yaml", "rows", "--sort", "m:desc"]);
    assert!(unknown.contains("there is no column `m`"), "{unknown}");
    assert_eq!(project.ok(&["show", "p.yaml", "rows", "--csv", "--limit", "0"]), "_id,n,text\n");
    let table = project.ok(&["show", "p.yaml", "rows", "--columns", "text,n", "--limit", "20000"]);
    assert_eq!(table.lines().count(), 12, "{table}");
    assert!(table.lines().next().is_some_and(|head| head.starts_with("text    n")), "{table}");
}

/// The files that a run read may be gone, and the pipeline may be another.
#[test]
fn what_a_run_has_left_can_be_seen_later() {
    let project = project();
    let before = project.ok(&["show", "p.yaml", "many", "--csv"]);
    let id =
        before.lines().nth(1).and_then(|line| line.split(',').next()).expect("a row").to_owned();
    let trace = ["trace", "p.yaml", "many", &id];
    let (traced, traced_json) =
        (project.ok(&trace), project.ok(&[&trace[..], &["--json"]].concat()));
    let runs = project.ok(&["runs"]);
    let run = runs.split(' ').next().expect("its name");
    project.ok(&["run", "p.yaml", "--set", "least=5"]);
    project.write("p.yaml", "paraloom: 1\nnodes: {}\n");
    std::fs::remove_file(project.file("rows.csv")).expect("it is ours");
    assert!(project.transcript(&["show", "p.yaml", "many"]).starts_with("exit 2"));
    assert_eq!(project.ok(&["show", "p.yaml", "many", "--csv", "--run", run]), before);
    assert_eq!(project.ok(&["export", "p.yaml", "many", "--to", "-", "--run", run]), before);
    assert_eq!(project.ok(&[&trace[..], &["--run", run]].concat()), traced);
    assert_eq!(project.ok(&[&trace[..], &["--json", "--run", run]].concat()), traced_json);
    let report = project.ok(&["report", "p.yaml", "--to", "-", "--run", run]);
    assert!(report.contains("2 of 2 nodes are done") && report.contains("<code>n &gt;= 3</code>"));
    std::fs::remove_file(project.file("p.yaml")).expect("it is ours");
    assert_eq!(project.ok(&[&trace[..], &["--run", run]].concat()), traced);
    for command in [&["show", "p.yaml", "many"][..], &["report", "p.yaml"]] {
        let said = project.transcript(&[command, &["--run", run, "--set", "least=1"]].concat());
        let refused = "`--set least=…` cannot change what a run has left";
        assert!(said.starts_with("exit 2") && said.contains(refused), "{said}");
    }
    let unknown = project.transcript(&["show", "p.yaml", "many", "--run", "1999"]);
    assert!(unknown.starts_with("exit 2") && unknown.contains("no run `1999`"), "{unknown}");
}

/// What `gc` has removed is told as that, and what is left can be looked at.
#[test]
fn what_is_gone_of_a_run_is_named() {
    let project = project();
    let runs = project.ok(&["runs"]);
    let run = runs.split(' ').next().expect("its name");
    project.ok(&["run", "p.yaml", "--set", "least=5"]);
    let ids = project.ok(&["show", "p.yaml", "rows", "--csv", "--columns", "_id", "--tail", "1"]);
    let id = ids.lines().nth(1).expect("a row");
    project.ok(&["gc", "p.yaml", "--set", "least=5", "--delete"]);
    for command in [&["show", "p.yaml", "many"][..], &["trace", "p.yaml", "many", id]] {
        let said = project.transcript(&[command, &["--run", run]].concat());
        let names = format!("what run {run} left of `many` is not in the store any more");
        assert!(said.starts_with("exit 1") && said.contains(&names), "{said}");
    }
    let said = project.transcript(&["trace", "p.yaml", "rows", id, "--run", run]);
    assert!(said.starts_with("exit 0") && said.contains("`gc` has removed what run"), "{said}");
    let report = project.ok(&["report", "p.yaml", "--to", "-", "--run", run]);
    assert!(report.contains("1 of 2 nodes are done"));
}

#[test]
fn an_export_replaces_what_it_may_and_nothing_else() {
    let project = project();
    let export =
        |args: &[&str]| project.transcript(&[&["export", "p.yaml", "rows", "--to"], args].concat());
    let csv = project.ok(&["export", "p.yaml", "rows", "--to", "-"]);
    assert_eq!(csv, project.ok(&["show", "p.yaml", "rows", "--csv"]));
    let tsv = project.ok(&["export", "p.yaml", "rows", "--to", "-", "--format", "tsv"]);
    assert_eq!(tsv.replace('"', ""), csv.replace(',', "\t"));
    assert!(export(&["new/rows.csv"]).starts_with("exit 0"));
    let again = export(&["new/rows.csv"]);
    assert!(again.starts_with("exit 2") && again.contains("--force replaces it"), "{again}");
    project.write("new/rows.csv", "old");
    assert!(export(&["new/rows.csv", "--force"]).starts_with("exit 0"));
    assert_eq!(std::fs::read_to_string(project.file("new/rows.csv")).expect("it is there"), csv);
    let folder = export(&["new", "--format", "csv", "--force"]);
    assert!(folder.starts_with("exit 2") && folder.contains("new is a directory"), "{folder}");
    let unknown = export(&["rows.txt"]);
    assert!(unknown.contains("tells no format") && unknown.contains("--format"), "{unknown}");
    assert!(export(&["rows.txt", "--format", "jsonl"]).starts_with("exit 0"));
    // Neither the pipeline nor what it reads, by whatever name.
    let before = ["p.yaml", "rows.csv"].map(|name| std::fs::read(project.file(name)).expect("it"));
    for (name, what) in
        [("./p.yaml", "is the pipeline itself"), ("new/../rows.csv", "is what `rows` reads")]
    {
        let refused = export(&[name, "--format", "csv", "--force"]);
        assert!(refused.starts_with("exit 2") && refused.contains(what), "{refused}");
    }
    let after = ["p.yaml", "rows.csv"].map(|name| std::fs::read(project.file(name)).expect("it"));
    assert_eq!(before, after);

    let project = tiny();
    project.ok(&["run", "p.yaml", "--until", "blank"]);
    let export = |args: &[&str]| {
        project.transcript(&[&["export", "p.yaml", "blank", "--to"], args].concat())
    };
    assert!(export(&["model"]).starts_with("exit 0"));
    assert!(export(&["model"]).contains("--force replaces it"));
    project.write("model/model.safetensors", "half");
    assert!(export(&["model", "--force"]).starts_with("exit 0"));
    assert!(std::fs::metadata(project.file("model/model.safetensors")).expect("it is").len() > 99);
    // What may be somebody's own is never replaced.
    project.write("model/letters.txt", "dear");
    let refused = export(&["model", "--force"]);
    assert!(
        refused.starts_with("exit 2") && refused.contains("it holds `letters.txt`"),
        "{refused}"
    );
    assert!(project.file("model/letters.txt").exists());
    project.write("note.txt", "dear");
    assert!(export(&["note.txt", "--force"]).contains("it is no directory"));
    assert!(export(&["-"]).contains("stdout cannot hold"));
}

/// What cannot be a value of its column is an error, and no missing value.
/// Directories are not replaced by pages and tables, and a name that does not fit is told, not guessed at.
#[test]
fn odd_arguments_are_refused_and_cost_nothing() {
    let project = project();
    std::fs::create_dir_all(project.file("folder/within")).expect("it is ours");
    std::fs::create_dir_all(project.file("page.html.part")).expect("it is ours");
    let cases: [(&[&str], &str); 9] = [
        (&["report", "p.yaml", "--to", "folder"], "folder is a directory"),
        (&["report", "p.yaml", "--to", "."], ". is a directory"),
        (
            &["export", "p.yaml", "rows", "--to", "folder", "--format", "csv", "--force"],
            "folder is a directory",
        ),
        (&["show", "p.yaml", "rows", "--columns", "n,n"], "the column `n` is named twice"),
        (&["show", "p.yaml", "rows", "--columns", "other"], "there is `_id`, `n`, `text`"),
        (&["run", "p.yaml", "--store", "p.yaml"], "p.yaml is a file, and a store is a directory"),
        (
            &["status", "p.yaml", "--store", "p.yaml"],
            "p.yaml is a file, and a store is a directory",
        ),
        (&["push", "p.yaml", "--to", "p.yaml"], "p.yaml is a file, and a store is a directory"),
        (&["runs", "--store", "p.yaml"], "p.yaml is a file, and a store is a directory"),
    ];
    for (args, what) in cases {
        let said = project.transcript(args);
        assert!(said.starts_with("exit 2") && said.contains(what), "{args:?}: {said}");
    }
    assert!(project.file("folder/within").is_dir());
    project.ok(&["report", "p.yaml", "--to", "page.html"]);
    assert!(project.file("page.html.part").is_dir());
    let beyond = project.transcript(&["show", "p.yaml", "rows", "--offset", "99"]);
    assert!(beyond.contains("the table has 10 rows"), "{beyond}");
}

/// A disk that is full is told with its exit code whatever is printed, and the run is done all the same.
#[test]
fn what_cannot_be_printed_is_told() {
    let project = project();
    for args in [
        &["run", "p.yaml", "--json", "--set", "least=5"][..],
        &["runs", "--json"],
        &["--help"],
        &["show", "--help"],
        &["--version"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("there is one");
        let output = project.command(args).stdout(full).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(11), "{args:?}: {said}");
        assert!(said.contains("cannot write to stdout: No space left"), "{args:?}: {said}");
    }
    let again = project.transcript(&["run", "p.yaml", "--set", "least=5"]);
    assert!(again.contains("nothing to do"), "{again}");
}

#[test]
fn runs_and_pins_are_objects_for_programs() {
    let project = project();
    project.ok(&["run", "p.yaml", "--set", "least=5"]);
    project.ok(&["pin", "p.yaml", "--as", "kept"]);
    let printed = project.ok(&["runs", "--json"]);
    let lines: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[0]["pipeline"], &lines[0]["outcome"]), (&"notes".into(), &"done".into()));
    assert_eq!(lines[1]["set"]["least"], "5");
    assert!(lines[1]["ms"].is_u64() && lines[1]["started"].is_string(), "{printed}");
    assert_eq!((&lines[2]["pin"], &lines[2]["results"]), (&"kept".into(), &2.into()));
    // Another pipeline that shares the store.
    let id = lines[0]["run"].as_str().expect("a name");
    let text = std::fs::read_to_string(project.file("p.yaml")).expect("it is there");
    project.write("q.yaml", &text.replace("name: notes", "name: others"));
    for args in
        [&["diff", "q.yaml", "rows", "--run", id][..], &["report", "q.yaml", "--against", id]]
    {
        let said = project.transcript(args);
        let warning = format!("run {id} is of the pipeline `notes`, and this is `others`");
        assert!(said.starts_with("exit 0") && said.contains(&warning), "{said}");
        assert!(
            !project.transcript(&[&[args[0], "p.yaml"], &args[2..]].concat()).contains("warning")
        );
    }
}

#[test]
fn values_that_are_tried_fit_their_columns() {
    let project = Project::new(
        "paraloom: 1\nname: t\nnodes:\n  rows: { stage: load, with: { from: rows.csv } }\n  \
         more: { stage: derive, inputs: { rows: rows }, with: { columns: { m: n + 1 } } }\n",
    );
    project.write("rows.csv", "text,n,other\na,1,b\n");
    project.ok(&["run", "p.yaml"]);
    let tried =
        |args: &[&str]| project.transcript(&[&["try", "p.yaml", "more", "x"], args].concat());
    let ok = tried(&["--with", "n=2", "--json"]);
    assert!(
        ok.contains(r#""n":2,"other":"","m":3"#) && ok.contains("--with other=TEXT fills the rest"),
        "{ok}"
    );
    for (args, what) in [
        (&["--with", "n=two"][..], "`n` is a whole number, which `two` is not"),
        (&["--column", "n"], "`n` is a whole number, which `x` is not"),
    ] {
        let refused = tried(args);
        assert!(refused.starts_with("exit 2") && refused.contains(what), "{refused}");
    }
}

#[test]
fn a_trace_says_what_each_step_added_and_by_which_model() {
    let project = tiny();
    project.ok(&["run", "p.yaml"]);
    let ids = project.ok(&["show", "p.yaml", "grammar", "--csv", "--columns", "_id"]);
    let ids: Vec<&str> = ids.lines().skip(1).collect();
    let trace = |args: &[&str]| project.ok(&[&["trace", "p.yaml", "grammar"], args].concat());
    let steps: Vec<Value> = serde_json::from_str(&trace(&[ids[1], "--json"])).expect("steps");
    let nodes: Vec<_> =
        steps.iter().map(|step| step["node"].as_str().unwrap_or_default()).collect();
    assert_eq!(nodes, ["grammar", "similarity", "paraphrases", "corpus"]);
    let row: Value = project
        .ok(&["show", "p.yaml", "grammar", "--json", "--offset", "1", "--limit", "1"])
        .parse()
        .expect("a row");
    assert_eq!(steps[0]["row"], row, "numbers are numbers");
    let model = &steps[2]["models"][0];
    assert_eq!((model["port"].as_str(), model["node"].as_str()), (Some("model"), Some("t5p")));
    assert_eq!(model["key"].as_str().map(str::len), Some(64));
    assert_eq!((&steps[2]["seed"], &steps[0]["seed"]), (&Value::from(7), &Value::Null));

    let text = trace(&[ids[1]]);
    let of =
        |name: &str| text.lines().filter(|line| line.starts_with(&format!("    {name}: "))).count();
    for column in ["source", "paraphrase", "candidate", "stsb", "cola_p"] {
        assert_eq!(of(column), 1, "{column} is told where it was added: {text}");
    }
    assert_eq!(text.matches("by model `t5p`, result ").count(), 1, "{text}");
    assert_eq!(text.matches("by model `blank`, result ").count(), 2, "{text}");
    assert!(
        text.contains("    seed 7\n") && text.contains("\"prefix\":\"paraphrase: \""),
        "{text}"
    );

    // Twelve ids begin with sixteen digits, so there is one with which two begin, or nearly so; nothing begins all.
    let ambiguous = project.transcript(&["trace", "p.yaml", "grammar", ""]);
    assert!(
        ambiguous.starts_with("exit 2") && ambiguous.contains("12 rows of `grammar`"),
        "{ambiguous}"
    );
    assert!(ambiguous.contains(&format!("they are `{}`, `{}`", ids[0], ids[1])), "{ambiguous}");
    let unique = (1..24).map(|end| &ids[0][..end]);
    let unique = unique
        .into_iter()
        .find(|start| ids.iter().filter(|id| id.starts_with(*start)).count() == 1);
    assert_eq!(trace(&[unique.expect("ids differ")]), trace(&[ids[0]]));
    let none = project.transcript(&["trace", "p.yaml", "grammar", "no such id"]);
    assert!(
        none.starts_with("exit 2") && none.contains("no row whose `_id` starts with"),
        "{none}"
    );
}

#[test]
fn what_can_go_is_told_in_the_words_of_who_made_it() {
    let project = project();
    project.ok(&["run", "p.yaml", "--set", "least=5"]);
    let gc = |args: &[&str]| project.transcript(&[&["gc"], args].concat());
    let told = gc(&["p.yaml"]);
    assert!(told.contains("`many` (threshold) of `notes`"), "{told}");
    assert!(told.contains("last used 20") && told.contains(", with keep: \"n >= 5\""), "{told}");
    assert_eq!(told.lines().filter(|line| line.contains("threshold")).count(), 1, "{told}");
    // A pipeline whose keys are not all known, since what it reads is not there yet.
    let text = std::fs::read_to_string(project.file("p.yaml")).expect("it is there");
    let text = text.replace("rows.csv", "more.csv").replace("name: notes", "name: more");
    project.write("q.yaml", &text);
    project.write("more.csv", "n,text\n1,a\n");
    let refused = gc(&["q.yaml"]);
    assert!(refused.starts_with("exit 2") && refused.contains("--older-than"), "{refused}");
    let old = gc(&["q.yaml", "--older-than", "30d"]);
    assert!(old.contains("0 bytes could go"), "nothing is as old as that: {old}");
    let newest = gc(&["q.yaml", "--keep-runs", "1"]);
    assert!(newest.contains("keep: \"n >= 3\"") && !newest.contains("n >= 5"), "{newest}");
    assert!(newest.contains("log of run") && newest.contains("could go"), "{newest}");
    assert!(gc(&["--keep-runs", "2"]).contains("0 bytes could go"));
    assert!(gc(&[]).starts_with("exit 2"));
    assert!(gc(&["--keep-runs", "1", "--delete"]).contains("removed "));
    assert!(gc(&["--keep-runs", "1"]).contains("0 bytes could go"));
    assert_eq!(project.ok(&["runs"]).lines().count(), 1);
    project.ok(&["show", "p.yaml", "many", "--set", "least=5"]);
    assert!(project.transcript(&["show", "p.yaml", "many"]).starts_with("exit 1"));
    assert!(gc(&["--older-than", "0s", "--delete"]).contains("removed "));
    assert!(project.transcript(&["show", "p.yaml", "rows"]).starts_with("exit 1"));
}

/// The log of a run that was killed goes, unless it is the newest of its pipeline: it may be looked at.
#[test]
fn logs_of_killed_runs_do_not_stay_for_ever() {
    let project = project();
    let runs = project.file(".paraloom/runs");
    for id in ["20200101T000000000Z-00001", "20990101T000000000Z-00002"] {
        std::fs::create_dir(runs.join(id)).expect("a new folder");
        let line = "{\"v\":1,\"time\":\"2020-01-01T00:00:00Z\",\"event\":\"run_started\",\"pipeline\":\"notes\",\"nodes\":1}\n";
        std::fs::write(runs.join(id).join("events.jsonl"), line).expect("a new file");
    }
    let told = project.ok(&["gc", "p.yaml"]);
    assert!(
        told.contains("log of run 20200101T000000000Z-00001 of `notes`, which was cut short"),
        "{told}"
    );
    assert!(!told.contains("20990101"), "{told}");
    project.ok(&["gc", "p.yaml", "--delete"]);
    assert_eq!(std::fs::read_dir(&runs).expect("it is there").count(), 2);
}

#[test]
fn a_pin_is_not_replaced_by_accident() {
    let project = project();
    project.ok(&["pin", "p.yaml"]);
    project.ok(&["pin", "p.yaml"]);
    project.ok(&["run", "p.yaml", "--set", "least=5"]);
    let pin = |args: &[&str]| {
        project.transcript(&[&["pin", "p.yaml", "--set", "least=5"], args].concat())
    };
    let refused = pin(&[]);
    assert!(refused.starts_with("exit 2"), "{refused}");
    assert!(refused.contains("`notes` pins other results since 20"), "{refused}");
    assert!(refused.contains("2 of `notes`, of which 1 are among these 2"), "{refused}");
    assert!(pin(&["--as", "five"]).starts_with("exit 0"));
    assert!(pin(&["--replace"]).starts_with("exit 0"));
    let told = project.ok(&["gc", "p.yaml", "--set", "least=5"]);
    assert!(told.contains("n >= 3"), "the first is not kept any more: {told}");
}

/// All files below a directory, with what is in them.
fn files(dir: &std::path::Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let (mut files, mut dirs) = (std::collections::BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("it is ours").flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("it is ours");
                files.insert(path, bytes);
            }
        }
    }
    files
}

const TWO: &str = "\
paraloom: 1
name: two
nodes:
  rows: { stage: load, with: { from: d.csv } }
  kept: { stage: threshold, inputs: { rows: rows }, with: { keep: n > 1 } }
expect: [ { node: kept, least: 1 } ]
";

#[test]
fn plan_and_status_write_nothing() {
    let project = Project::new(TWO);
    project.write("d.csv", "text,n\na,1\nb,2\n");
    for command in ["plan", "status"] {
        project.ok(&[command, "p.yaml"]);
        assert!(!project.file(".paraloom").exists(), "{command} made a store");
    }
    project.ok(&["run", "p.yaml"]);
    project.write("d.csv", "text,n\na,1\nb,2\nc,3\n");
    // A file is known by its digest once its last change is some seconds ago.
    let old = std::time::SystemTime::now() - std::time::Duration::from_mins(1);
    let file = std::fs::File::options().write(true).open(project.file("d.csv"));
    file.and_then(|file| file.set_modified(old)).expect("it is ours");
    let before = files(&project.file(".paraloom"));
    for command in [&["plan", "p.yaml"][..], &["plan", "p.yaml", "--json"], &["status", "p.yaml"]] {
        let said = project.ok(command);
        assert!(said.contains("rows"), "{said}");
        assert!(files(&project.file(".paraloom")) == before, "{command:?} wrote something");
    }
    let plan = project.ok(&["plan", "p.yaml"]);
    assert!(plan.contains("`plan --read` reads the files that have changed"), "{plan}");
}

#[test]
fn what_plan_reads_is_no_run() {
    let project = Project::new(TWO);
    project.write("d.csv", "text,n\na,1\nb,2\n");
    project.ok(&["run", "p.yaml"]);
    project.write("d.csv", "text,n\na,1\nb,2\nc,3\n");
    let plan = project.ok(&["plan", "p.yaml", "--read"]);
    assert!(plan.contains("1 new row"), "{plan}");
    assert_eq!(project.ok(&["runs"]).lines().count(), 1);
    // A file that cannot be read any more is told, and the rest is planned.
    project.write("d.csv", "text,n\na,1\nb,2\nc,3\n");
    let again = project.run(&["plan", "p.yaml", "--read"]);
    assert!(!String::from_utf8_lossy(&again.stderr).contains("done"), "nothing is read twice");
}

#[test]
fn the_events_that_run_prints_are_its_log() {
    let project = Project::new(TWO);
    project.write("d.csv", "text,n\na,1\nb,2\n");
    let printed = project.ok(&["run", "p.yaml", "--json"]);
    let runs = std::fs::read_dir(project.file(".paraloom/runs")).expect("there is a run");
    let [run] = &runs.flatten().collect::<Vec<_>>()[..] else { panic!("one run") };
    let log = std::fs::read_to_string(run.path().join("events.jsonl")).expect("it has a log");
    assert_eq!(printed, log);
    let id = run.file_name().into_string().expect("it is text");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
        assert_eq!(line["run"], id.as_str(), "{line}");
        assert!(line["time"].is_string() && line["event"].is_string(), "{line}");
    }
    assert!(log.contains(r#""event":"expectation","table":"kept","met":true"#), "{log}");
}

/// A pipeline need not have a name, and then nothing is called by it.
#[test]
fn a_pipeline_without_a_name_is_pinned_by_another() {
    let project =
        Project::new("paraloom: 1\nnodes:\n  rows: { stage: load, with: { from: rows.csv } }\n");
    project.write("rows.csv", "n\n1\n");
    project.ok(&["run", "p.yaml"]);
    let told = project.transcript(&["pin", "p.yaml"]);
    assert!(told.contains("no name") && told.contains("`--as NAME`"), "{told}");
    let told = project.transcript(&["pin", "p.yaml", "--as", "kept"]);
    assert!(told.contains("pinned 1 results as `kept`"), "{told}");
    project.ok(&["unpin", "kept"]);
    let told = project.transcript(&["gc", "--older-than", "0s"]);
    assert!(told.contains("`rows` (load)") && !told.contains("``"), "{told}");
}
