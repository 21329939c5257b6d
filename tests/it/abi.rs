//! Stage libraries that are not ours: some in C, and files that are no libraries at all.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use paraloom_host::{
    Host, HostError, Isolation, Level, Origin, ServiceError, Services, WorkInput, WorkOutput,
    WorkSettings,
};
use paraloom_pipeline::PlanInput;
use serde_json::json;

use crate::common::{Project, c_library};

#[test]
fn a_stage_in_c() {
    let project = Project::new(
        "paraloom: 1\nname: c\npart_rows: 10\nnodes:\n  n: { stage: count, with: { rows: 25 } }\n  \
         odd: { stage: threshold, inputs: { rows: n }, with: { keep: 'n % 2 = 1 and n > 20' } }\n",
    );
    let library = c_library(&project, "count");
    let stages = library.to_str().expect("text");
    project.ok(&["run", "p.yaml", "--stages", stages]);
    let rows =
        project.ok(&["show", "p.yaml", "odd", "--csv", "--columns", "n", "--stages", stages]);
    assert_eq!(rows, "n\n21\n23\n");
    // Equal rows would differ too: each has an id of its own.
    let ids = project.ok(&["show", "p.yaml", "n", "--csv", "--columns", "_id", "--stages", stages]);
    let mut ids: Vec<_> = ids.lines().skip(1).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 25);
    // The library is part of the key: another build of it runs again.
    let plan = project.ok(&["plan", "p.yaml", "--stages", stages]);
    assert!(plan.contains("nothing to do"), "{plan}");
    project.write(
        "p.yaml",
        "paraloom: 1\nname: c\nnodes:\n  n: { stage: count, with: { rows: 13 } }\n",
    );
    insta::assert_snapshot!(project.transcript(&["check", "p.yaml", "--stages", stages]));
}

#[test]
fn what_is_not_a_library_is_refused() {
    let project = Project::new("paraloom: 1\nnodes: { n: { stage: count, with: { rows: 3 } } }\n");
    let library = c_library(&project, "count");
    let whole = std::fs::read(&library).expect("it was just compiled");
    std::fs::write(project.file("cut.so"), &whole[..3000]).expect("the directory is ours");
    project.write("text.so", "not a library\n");
    let mut all = String::new();
    for name in ["cut.so", "text.so", "missing.so"] {
        let output = project.run(&["check", "p.yaml", "--stages", name]);
        assert_eq!(output.status.code(), Some(8), "{name}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let root = project.path().canonicalize().expect("it is there");
        all.push_str(&text.replace(root.to_str().expect("text"), "[DIR]"));
    }
    insta::assert_snapshot!(all);
}

/// Services of a stage that needs none and is never asked to stop.
struct Quiet;

impl Services for Quiet {
    fn log(&self, _: Level, _: &str) {}

    fn progress(&self, _: u64, _: u64, _: &str) {}

    fn metric(&self, _: &str, _: f64, _: u64) {}

    fn is_cancelled(&self) -> bool {
        false
    }

    fn checkpoint_latest(&self) -> Result<Option<(PathBuf, u64)>, ServiceError> {
        Ok(None)
    }

    fn checkpoint_begin(&self, _: u64) -> Result<PathBuf, ServiceError> {
        Err(ServiceError::new("not here"))
    }

    fn checkpoint_commit(&self, _: u64) -> Result<(), ServiceError> {
        Ok(())
    }

    fn scratch_dir(&self) -> Result<PathBuf, ServiceError> {
        Err(ServiceError::new("not here"))
    }

    fn checkpoint_interval(&self) -> Duration {
        Duration::ZERO
    }
}

/// The stages of `tests/abi/unruly.c`, in this process or in isolated ones.
fn unruly(project: &Project, isolated: bool) -> Host {
    let isolation = || Isolation {
        program: PathBuf::from(env!("CARGO_BIN_EXE_paraloom")),
        arguments: vec!["stage-process".into()],
        tell: |_| {},
    };
    let mut host = Host::new(isolated.then(isolation));
    host.load(&c_library(project, "unruly"), Origin::Foreign).expect("it was just compiled");
    host
}

/// Two rows of text and a number.
fn rows() -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("text", DataType::Utf8, false),
        Field::new("number", DataType::Int64, true),
    ]);
    let (texts, numbers) = (StringArray::from(vec!["a", "bc"]), Int64Array::from(vec![1, 2]));
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(texts), Arc::new(numbers)]).expect("rows")
}

/// Plans a stage and puts it to work on [`rows`]: how many came out.
fn work(host: &Host, stage: &str, how: &str, when: &str) -> Result<usize, HostError> {
    let rows = rows();
    let stage = host.stage(stage, "cpu")?.expect("it is loaded");
    let (label, note, schema) = (String::new(), String::new(), Some(rows.schema()));
    let input = [PlanInput { port: 0, label, schema, note }];
    let config = json!({ "how": how, "when": when });
    let mut planned = host.plan(&stage.info, "n", &config, &input)?;
    let pushed = Mutex::new(0);
    let output = || {
        WorkOutput::Table(Box::new(|batch: RecordBatch| {
            *pushed.lock().expect("nobody panics") += batch.num_rows();
            Ok(())
        }))
    };
    let settings = WorkSettings { threads: 1, seed: 0, device: "cpu".to_owned(), map_limit: None };
    let batches = vec![Ok(rows.clone())].into_iter();
    let input = vec![WorkInput::Table(rows.schema(), Box::new(batches))];
    if stage.info.name == "unruly" {
        let mut worker = planned.open(&settings, Arc::new(Quiet), input)?;
        // The worker does not need it any more.
        drop(planned);
        worker.map(&rows, vec![output()])?;
    } else {
        planned.run(&settings, Arc::new(Quiet), input, vec![output()])?;
    }
    Ok(pushed.into_inner().expect("nobody panics"))
}

const BROKEN: [(&str, &str); 39] = [
    ("push nothing", "it pushed a null pointer"),
    ("released", "it pushed a batch that was released"),
    ("negative length", "its `length` is -1"),
    ("huge length", "it has more values than memory can hold"),
    ("more rows", "column `text`: it has 2 values where 3 are needed"),
    ("negative offset", "its `offset` is -3"),
    ("huge offset", "it has more values than memory can hold"),
    ("offset", "column `text`: it has 2 values where 3 are needed"),
    ("null count", "its `null_count` is -7, and its `length` 2"),
    ("null rows", "rows are null as a whole, not by column"),
    ("two buffers", "it has 2 buffers, its type has 1"),
    ("no buffers", "its `buffers` are a null pointer"),
    ("fewer columns", "the batch has 1 columns, its plan promised 2"),
    ("no columns", "the batch has 0 columns, its plan promised 2"),
    ("more columns", "the batch has 900 columns, its plan promised 2"),
    ("negative columns", "its `n_children` is -1"),
    ("no children", "column `text`: the `children` of the array that holds it are a null pointer"),
    ("no child", "column `number`: its array is a null pointer"),
    ("dictionary", "it has a dictionary, which its plan did not promise"),
    ("text released", "column `text`: its array was released"),
    ("text short", "column `text`: it has 1 values where 2 are needed"),
    ("text negative", "column `text`: its `length` is -1"),
    ("text offset", "column `text`: its `offset` is -1"),
    ("text two buffers", "column `text`: it has 2 buffers, its type has 3"),
    ("text no buffers", "column `text`: its buffer 1 is a null pointer"),
    ("text buffers", "column `text`: its `buffers` are a null pointer"),
    ("text child", "column `text`: it has 1 children, its type has 0"),
    ("text dictionary", "column `text`: it has a dictionary, which its plan did not promise"),
    ("text null count", "column `text`: its `null_count` is 3, and its `length` 2"),
    ("number nulls", "column `number`: its `null_count` is 1, and it has no validity buffer"),
    (
        "number null count",
        "column `number`: null_count value (1) doesn't match actual number of nulls in array (2)",
    ),
    ("falling", "column `text`, row 2: it ends at 2, and begins at 5"),
    ("negative text", "column `text`: its first offset is -4"),
    ("utf8", "column `text`, row 2: its text is not UTF-8"),
    ("cut utf8", "column `text`, row 2: its text is not UTF-8"),
    ("null", "column `text`, row 1: it is null, and its plan promised that none is"),
    ("no outputs", "plan() returned 0 outputs, it has 1 output ports"),
    ("two outputs", "plan() returned 2 outputs, it has 1 output ports"),
    ("two of a name", "plan() returned two columns `number` for output `rows`"),
];

/// Whatever a stage makes of it, what it pushed and was refused is an error that says where.
#[test]
fn a_broken_promise_is_an_error_whatever_the_stage_returns() {
    let project = Project::new("");
    for isolated in [false, true] {
        let host = unruly(&project, isolated);
        for stage in ["unruly", "unruly-whole"] {
            assert_eq!(work(&host, stage, "not", "never").expect("it behaves"), 2);
            // What crosses the socket is the same however the stage ends.
            for when in if isolated { &["ignored"][..] } else { &["told", "ignored"] } {
                for (how, what) in BROKEN {
                    let case = format!("{stage} {how} {when}, isolated: {isolated}");
                    let error = work(&host, stage, how, when).expect_err(&case).to_string();
                    let begin = format!("stage `{stage}` broke the stage ABI: ");
                    let place = if what.starts_with("plan()") { "" } else { "output `rows`: " };
                    assert_eq!(error, format!("{begin}{place}{what}"), "{case}");
                }
            }
        }
    }
}

/// A stage that says it was stopped, and was not asked to, has not done its work.
#[test]
fn nobody_stops_unasked() {
    let project = Project::new("");
    for isolated in [false, true] {
        let host = unruly(&project, isolated);
        for (stage, when, call) in [
            ("unruly", "plan", "plan"),
            ("unruly", "open", "open"),
            ("unruly", "told", "map"),
            ("unruly-whole", "told", "run"),
        ] {
            let error = work(&host, stage, "cancelled", when).expect_err(call).to_string();
            let what = format!("{call}() returned CANCELLED, and nobody had asked it to stop");
            assert_eq!(error, format!("stage `{stage}` broke the stage ABI: {what}"));
        }
        let error = work(&host, "unruly", "status", "told").expect_err("it failed").to_string();
        assert_eq!(error, "the stage failed with status 77 and no message");
    }
}

/// A plan that cannot be read is refused with what is wrong with it.
#[test]
fn a_plan_that_makes_no_sense_is_refused() {
    let project = Project::new("");
    for isolated in [false, true] {
        let host = unruly(&project, isolated);
        for (how, what) in [
            ("null outputs", "a null pointer for its outputs"),
            ("no schema", "no schema for output `rows`"),
            ("no format", "the schema of `text` has no format"),
            ("unknown format", "is still not supported"),
            ("no struct", "a table schema must be a struct"),
            ("bad name", "a name that is not UTF-8"),
            ("no child schema", "has a child that is a null pointer"),
            ("list without child", "the schema of `text` has another number of children"),
        ] {
            let error = work(&host, "unruly", how, "never").expect_err(how);
            assert!(matches!(error, HostError::Broken { .. }), "{how}: {error:?}");
            assert!(error.to_string().contains(what), "{how}: {error}");
        }
    }
}

/// What a stage says of part sizes is read where its table has it.
#[test]
fn a_table_of_an_earlier_minor_version_ends_where_it_says() {
    let project = Project::new("");
    let host = unruly(&project, false);
    let part_rows = |stage| host.stage(stage, "cpu").expect("cpu").expect("it").info.part_rows;
    assert_eq!((part_rows("unruly"), part_rows("unruly-whole")), (Some(4096), None));
}

const COUNT: &str = "paraloom: 1\nnodes: { n: { stage: count, with: { rows: 3 } } }\n";

/// What is wrong with one library of a directory matters to those who use it.
#[test]
fn a_bad_library_in_a_directory_harms_no_other_pipeline() {
    let project = Project::new(COUNT);
    let library = c_library(&project, "count");
    for dir in ["bad", "both", "empty"] {
        std::fs::create_dir(project.file(dir)).expect("the directory is ours");
    }
    project.write("bad/text.so", "not a library\n");
    project.write("both/text.so", "not a library\n");
    std::fs::copy(&library, project.file("both/libcount.so")).expect("it was compiled");
    let mut all = String::new();
    for args in [
        &["check", "p.yaml", "--stages", "both"][..],
        &["check", "p.yaml", "--stages", "bad"],
        &["check", "p.yaml", "--stages", "empty"],
        &["check", "p.yaml"],
        // A library of its own is not left out.
        &["check", "p.yaml", "--stages", "bad/text.so"],
        // The same file by two names, and a copy of it, is one library.
        &[
            "check",
            "p.yaml",
            "--stages",
            "libcount.so",
            "--stages",
            "both",
            "--stages",
            "./libcount.so",
        ],
    ] {
        all.push_str(&format!("=== {args:?}: {}\n", project.transcript(args)));
    }
    insta::assert_snapshot!(all);
}

/// Two libraries may offer a stage of one name, as long as a pipeline says which one it means.
#[test]
fn stages_of_one_name_have_their_library_in_front() {
    let project = Project::new(COUNT);
    let library = c_library(&project, "count");
    let mut other = std::fs::read(&library).expect("it was just compiled");
    other.push(0);
    std::fs::write(project.file("liblike.so"), other).expect("the directory is ours");
    let both = ["--stages", "libcount.so", "--stages", "liblike.so"];
    let mut all = project.transcript(&[&["check", "p.yaml"][..], &both].concat());
    project.ok(&["run", "p.yaml", "--stages", "libcount.so"]);
    for stage in ["count/count", "like/count", "lik/count"] {
        project.write("p.yaml", &COUNT.replace("stage: count", &format!("stage: {stage}")));
        let check = project.transcript(&[&["check", "p.yaml"][..], &both].concat());
        all.push_str(&format!("=== {stage}: {check}\n"));
    }
    project.write("p.yaml", "paraloom: 1\nnodes: { n: { stage: load, with: { from: d.csv } } }\n");
    project.write("d.csv", "text\na\n");
    project.ok(&[&["check", "p.yaml"][..], &both].concat());
    insta::assert_snapshot!(all);
}

/// The table of a library is looked at before anything of it is used.
#[test]
fn a_library_with_a_wrong_table_is_refused() {
    let project = Project::new("paraloom: 1\nnodes: { n: { stage: count, with: { rows: 3 } } }\n");
    let library = c_library(&project, "unruly");
    let library = library.to_str().expect("text");
    let mut all = String::new();
    for table in ["name", "utf8", "twice", "ports", "schema", "keyword", "cut", "null"] {
        for more in [&[][..], &["--in-process"]] {
            let mut check =
                project.command(&[&["check", "p.yaml", "--stages", library], more].concat());
            let output = check.env("UNRULY_TABLE", table).output().expect("it runs");
            assert_eq!(output.status.code(), Some(8), "{table}");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let root = project.path().canonicalize().expect("it is there");
            let text = text.replace(root.to_str().expect("text"), "[DIR]");
            all.push_str(&format!("{table}: {text}"));
        }
    }
    insta::assert_snapshot!(all);
}

/// What `paraloom_stage_helpers.h` has for a map stage: settings with escapes, nulls, columns that are handed on.
#[test]
fn a_map_stage_in_c() {
    let project = Project::new(
        "paraloom: 1\npart_rows: 2\nnodes:\n  rows: { stage: load, with: { from: rows.csv } }\n  \
         n: { stage: words, inputs: { rows: rows }, with: { prefix: \"\\u00fc\\U0001F600\\t\\\"\\\\: \" } }\n",
    );
    project.write("rows.csv", "text,number\none,1\ntwo words,2\n,3\n\" a b  c \",\n");
    let library = c_library(&project, "words");
    let stages = ["--stages", library.to_str().expect("text")];
    for more in [&[][..], &["--in-process"]] {
        project.ok(&[&["run", "p.yaml"][..], &stages, more].concat());
        let columns = ["show", "p.yaml", "n", "--json", "--columns", "number,words,said"];
        let rows = project.ok(&[&columns[..], &stages, more].concat());
        let prefix = "\\t\\\"\\\\: ";
        let expected =
            [("1", 1, "one"), ("2", 2, "two words"), ("3", 0, ""), ("null", 3, " a b  c ")];
        let line = |(number, words, text): (&str, u32, &str)| {
            format!("{{\"number\":{number},\"words\":{words},\"said\":\"ü😀{prefix}{text}\"}}\n")
        };
        assert_eq!(rows, expected.map(line).concat());
        std::fs::remove_dir_all(project.file(".paraloom")).expect("it was made");
    }
    project.ok(&[&["run", "p.yaml", "--until", "rows"][..], &stages].concat());
    project.ok(&[&["stages", "test", "p.yaml", "n"][..], &stages].concat());
    project.write(
        "p.yaml",
        "paraloom: 1\nnodes:\n  rows: { stage: load, with: { from: rows.csv } }\n  \
         n: { stage: words, inputs: { rows: rows }, with: { column: number } }\n",
    );
    let said = project.transcript(&[&["check", "p.yaml"][..], &stages].concat());
    assert!(said.contains("column `number` is no text") && said.contains("p.yaml:4:"), "{said}");
}

/// A program that is to work for a stage says first which protocol it speaks.
#[test]
fn a_process_of_another_protocol_is_refused() {
    let project = Project::new("");
    let library = c_library(&project, "count");
    let frame = |message: &str| {
        format!("printf '\\{:03o}\\0\\0\\0\\0\\0\\0\\0%s' '{message}' >&0", message.len())
    };
    for (script, expected) in [
        (
            frame(r#"{"hello":{"protocol":2,"program":"other 7"}}"#),
            "its process (\"other 7\") speaks version 2 of the stage protocol, this engine 1",
        ),
        (frame(r#"{"done":{"Ok":"worked"}}"#), "it did not begin with a hello"),
        (frame("{nonsense}"), "it sent an invalid message"),
        ("exit 3".to_owned(), "exit status: 3"),
    ] {
        let program = PathBuf::from("/bin/sh");
        let arguments = vec!["-c".into(), format!("{script}; sleep 30").into()];
        let mut host = Host::new(Some(Isolation { program, arguments, tell: |_| {} }));
        let error = host.load(&library, Origin::Foreign).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}
