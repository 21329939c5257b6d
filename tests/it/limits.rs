//! Too little disk or descriptors, odd places and closed outputs: an error that says so, and later the same result.
#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Output, Stdio};

use crate::common::shell::{OUT_OF_SPACE, check_resumes, number, said, shell};
use crate::common::{Project, tiny};

/// Runs the pipeline with its store on a disk of `size` KiB, and copies the store off it; `None` where nothing can be mounted.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn on_a_disk(project: &Project, size: usize) -> Option<Output> {
    if !Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|done| done.success()) {
        println!("skipped: no file system can be mounted without privileges here");
        return None;
    }
    Some(shell(
        project,
        &format!(
            "mkdir disk && exec unshare -rm sh -c '
            mount -t tmpfs -o size={size}k none disk || exit 99
            \"$0\" run p.yaml --store disk/store --checkpoint-every 0; code=$?
            cp -r disk/store .paraloom; exit $code' \"$0\""
        ),
    ))
}

/// What fits on a small disk is kept: the store is copied off it and finished elsewhere.
#[test]
fn a_full_disk_says_so_and_keeps_what_is_done() {
    let step = 640 / crate::common::scale("PARALOOM_DISKS", 3) as usize;
    let mut full = 0;
    for size in (64..704).step_by(step.max(1)) {
        let project = tiny();
        let Some(output) = on_a_disk(&project, size) else { return };
        let said = said(&output);
        assert!(matches!(output.status.code(), Some(OUT_OF_SPACE | 0)), "{size} KiB: {said}");
        if output.status.code() == Some(OUT_OF_SPACE) {
            full += 1;
            assert!(said.contains("disk/store/"), "the error names the place: {said}");
            assert!(number(&said, " bytes are needed") > 0, "{said}");
            number(&said, " are free");
            assert!(said.contains("hint: "), "and the way out: {said}");
        }
        check_resumes(&project);
    }
    assert!(full > 0, "no disk was too small");
}

/// There is room for the rows in the store, and none for them once more.
#[test]
fn an_export_on_a_full_disk_says_what_it_needed_and_what_there_was() {
    // Words that do not repeat, so that no format makes them short.
    let line = |row: u64| format!("{}\n", paraloom_store::Digest::of(&row.to_le_bytes()));
    let rows: String = (0..12_000).map(line).collect();
    for (format, rest) in [("csv", ""), ("tsv", ""), ("jsonl", ", ids: true"), ("parquet", "")] {
        let pipeline = format!(
            "paraloom: 1\nnodes:\n\
             \x20 rows: {{ stage: load, with: {{ from: rows.csv }} }}\n\
             \x20 file: {{ stage: export, inputs: {{ rows: rows }}, with: {{ format: {format}{rest} }} }}\n"
        );
        let project = Project::new(&pipeline);
        project.write("rows.csv", &format!("text\n{rows}"));
        let Some(output) = on_a_disk(&project, 1_800) else { return };
        let said = said(&output);
        assert_eq!(output.status.code(), Some(OUT_OF_SPACE), "{format}: {said}");
        assert!(said.contains("error: node `file`: ") && said.contains("hint: "), "{said}");
        let path = format!("/rows.{format}: at least ");
        assert!(said.contains("disk/store/tmp/") && said.contains(&path), "{said}");
        let (needed, free) = (number(&said, " bytes are needed"), number(&said, " are free"));
        assert!(free > 64 << 10 && needed > free, "{said}");
        let resumed = project.transcript(&["run", "p.yaml"]);
        assert!(resumed.contains("cached rows"), "what was done stays: {resumed}");
        let straight = Project::new(&pipeline);
        straight.write("rows.csv", &format!("text\n{rows}"));
        straight.ok(&["run", "p.yaml"]);
        let file = |project: &Project| {
            project.ok(&["export", "p.yaml", "file", "--to", "out"]);
            std::fs::read(project.file(&format!("out/rows.{format}"))).expect("it was written")
        };
        assert!(file(&project) == file(&straight), "{format}");
    }
}

#[test]
fn limits_of_the_process_are_errors_and_not_its_end() {
    for (limit, codes) in [
        // Sizes of files, in blocks of 512 bytes; the largest file of the pipeline has 46 KiB.
        ("-f 8", &[OUT_OF_SPACE][..]),
        ("-f 60", &[OUT_OF_SPACE][..]),
        ("-n 32", &[0, 1][..]),
    ] {
        let project = tiny();
        let output = shell(&project, &format!("ulimit {limit}; exec \"$0\" run p.yaml"));
        let (code, said) = (output.status.code(), said(&output));
        assert!(code.is_some_and(|code| codes.contains(&code)), "ulimit {limit}: {code:?} {said}");
        if code != Some(0) {
            assert!(said.contains("error: ") && said.contains(".paraloom/"), "{limit}: {said}");
        }
        check_resumes(&project);
    }
}

#[test]
fn outputs_that_are_full_or_closed() {
    let project = tiny();
    let full = shell(&project, "exec \"$0\" run p.yaml > /dev/full");
    assert_eq!(full.status.code(), Some(OUT_OF_SPACE), "{}", said(&full));
    assert!(said(&full).contains("cannot write to stdout"), "{}", said(&full));
    let again = project.transcript(&["run", "p.yaml"]);
    assert!(again.contains("nothing to do"), "all was kept: {again}");
    for script in ["exec \"$0\" run p.yaml >&- 2>&-", "\"$0\" show p.yaml pairs --json | true"] {
        assert_eq!(shell(&project, script).status.code(), Some(0), "{script}");
    }
    // The run does not need its reader, and goes on; that its events were lost is told in the end.
    let project = tiny();
    let log = shell(&project, "exec \"$0\" run p.yaml --json > /dev/full");
    assert_eq!(log.status.code(), Some(OUT_OF_SPACE), "{}", said(&log));
    let again = shell(&project, "\"$0\" run p.yaml --json | true");
    assert!(again.status.success() && said(&again).is_empty(), "{}", said(&again));
    assert!(project.transcript(&["run", "p.yaml"]).contains("nothing to do"));
}

/// Whatever a command prints: a full disk has its exit code, and a reader that has seen enough is no error.
#[test]
fn every_command_tells_a_full_disk_from_a_closed_pipe() {
    let project = tiny();
    project.ok(&["run", "p.yaml"]);
    let row: serde_json::Value = project
        .ok(&["show", "p.yaml", "grammar", "--json", "--limit", "1"])
        .parse()
        .expect("a row");
    let id = row["_id"].as_str().expect("text");
    let run = project.ok(&["runs"]);
    let run = run.split_once(' ').expect("a run").0;
    let commands = [
        "show p.yaml pairs",
        "show p.yaml pairs --limit 20000",
        "show p.yaml pairs --json",
        "show p.yaml pairs --csv",
        "show p.yaml pairs --csv --columns target --where 'length(source) > 3'",
        "export p.yaml pairs --to -",
        "export p.yaml pairs --to - --format tsv",
        "export p.yaml pairs --to - --format jsonl",
        "export p.yaml pairs --to - --format parquet",
        "export p.yaml pairs --to /dev/stdout --format csv",
        "report p.yaml --to -",
        &format!("diff p.yaml pairs --run {run}"),
        &format!("trace p.yaml grammar {id}"),
        &format!("trace p.yaml grammar {id} --json"),
        "try p.yaml paraphrases 'sales rose'",
        "try p.yaml paraphrases 'sales rose' --json",
        "plan p.yaml",
        "plan p.yaml --json",
        "check p.yaml --json",
        "status p.yaml",
        "status p.yaml --json",
        "graph p.yaml",
        "graph p.yaml --format svg",
        "runs",
        "stages",
        "stages generate",
        "stages --json",
        "doctor",
        "schema",
        "completions bash",
    ];
    for command in commands {
        let full = shell(&project, &format!("exec \"$0\" {command} > /dev/full"));
        let told = said(&full);
        assert_eq!(full.status.code(), Some(OUT_OF_SPACE), "{command}: {told}");
        let place = if command.contains("/dev/stdout") { "/dev/stdout" } else { "stdout" };
        assert!(told.contains("cannot write ") && told.contains(place), "{told}");
        assert!(told.contains("hint: "), "{command}: {told}");
        for script in [
            format!("exec \"$0\" {command} >&-"),
            format!("{{ \"$0\" {command}; echo \"code $?\" >&2; }} | true"),
        ] {
            let closed = shell(&project, &script);
            let told = said(&closed);
            assert!(closed.status.success() && !told.contains("error"), "{script}: {told}");
            assert!(!told.contains("code") || told.ends_with("code 0\n"), "{script}: {told}");
        }
    }
}

/// Files of the user's, on a disk that is too small: place, bytes and exit code, and nothing is left of them.
#[test]
fn what_does_not_fit_is_told_and_leaves_nothing_behind() {
    let project = Project::new(
        "paraloom: 1\nnodes:\n  rows: { stage: load, with: { from: rows.csv } }\n  \
         base: { stage: model, inputs: { texts: [rows] }, with: { new: { vocabulary: 100, d_model: 16, d_ff: 32, layers: 1, heads: 2 } } }\n",
    );
    let line = |row: u64| format!("{}\n", paraloom_store::Digest::of(&row.to_le_bytes()));
    project.write("rows.csv", &format!("text\n{}", (0..2_000).map(line).collect::<String>()));
    project.ok(&["run", "p.yaml"]);
    for command in [
        "export p.yaml rows --to rows.csv.out --format csv",
        "export p.yaml rows --to out.tsv",
        "export p.yaml rows --to out.jsonl",
        "export p.yaml rows --to out.parquet",
        "export p.yaml base --to out",
        "report p.yaml --to out.html",
    ] {
        let output = shell(&project, &format!("ulimit -f 4; exec \"$0\" {command}"));
        let told = said(&output);
        assert_eq!(output.status.code(), Some(OUT_OF_SPACE), "{command}: {told}");
        assert!(told.contains("cannot write "), "{command}: {told}");
        assert!(number(&told, " bytes are needed") > 2_000, "{told}");
        assert!(told.contains("hint: raise the limit on the size of a file"), "{told}");
        let left = std::fs::read_dir(project.path()).expect("it is there").flatten();
        let mut left: Vec<_> =
            left.map(|file| file.file_name().into_string().expect("text")).collect();
        left.sort();
        assert_eq!(left, [".paraloom", "p.yaml", "rows.csv"], "{command}");
    }
    // A model that is copied into a store, and finds no room there.
    project.ok(&["export", "p.yaml", "base", "--to", "base"]);
    project
        .write("q.yaml", "paraloom: 1\nnodes:\n  base: { stage: model, with: { from: base } }\n");
    let output = shell(&project, "ulimit -f 8; exec \"$0\" run q.yaml --store other");
    let told = said(&output);
    assert_eq!(output.status.code(), Some(OUT_OF_SPACE), "{told}");
    assert!(told.contains("node `base`: ") && told.contains("other/tmp/"), "{told}");
}

#[test]
fn stores_in_odd_places() {
    let project = tiny();
    let long = ["l".repeat(200), "m".repeat(200), "n".repeat(200)].join("/");
    std::os::unix::fs::symlink("elsewhere", project.file("link")).expect("it is ours");
    std::fs::create_dir(project.file("elsewhere")).expect("it is ours");
    let places = ["with spaces and ümläuts", "link", &long].map(OsString::from);
    for place in places {
        for expected in ["done in", "nothing to do"] {
            let mut command = project.command(&["run", "p.yaml", "--store"]);
            let output = command.arg(&place).stdout(Stdio::null()).output().expect("it runs");
            assert!(output.status.success(), "{}: {}", place.display(), said(&output));
            assert!(said(&output).contains(expected), "{}", said(&output));
        }
    }
    let odd = OsString::from_vec(b"not \xff utf-8".to_vec());
    let mut command = project.command(&["run", "p.yaml", "--store"]);
    let output = command.arg(&odd).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("is not UTF-8"), "{}", said(&output));
    assert!(!project.file("not \u{fffd} utf-8").exists(), "nothing is written beside it");
}

#[test]
fn a_store_that_cannot_be_made_is_named() {
    let project = tiny();
    // Nobody may write there, root neither.
    for (place, name) in [("/proc/store", "/proc/store"), ("p.yaml/store", "p.yaml")] {
        let output = project.run(&["run", "p.yaml", "--store", place]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(name), "{}", said(&output));
    }
}

/// What is there can be looked at; what would have to be written is an error that names the place.
#[test]
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn a_store_that_is_read_only() {
    let project = tiny();
    project.ok(&["run", "p.yaml", "--until", "paraphrases"]);
    // Root may write whatever the permissions say, so the file system has to refuse.
    let read_only = |args: &str| {
        shell(
            &project,
            &format!(
                "exec unshare -rm sh -c '
                mount --bind .paraloom .paraloom && mount -o remount,bind,ro .paraloom || exit 99
                exec \"$0\" {args}' \"$0\""
            ),
        )
    };
    let show = read_only("show p.yaml paraphrases --json");
    if show.status.code() == Some(99) || said(&show).contains("unshare") {
        println!("skipped: no file system can be mounted without privileges here");
        return;
    }
    assert!(show.status.success(), "{}", said(&show));
    assert_eq!(show.stdout, project.run(&["show", "p.yaml", "paraphrases", "--json"]).stdout);
    let plan = read_only("plan p.yaml");
    assert!(plan.status.success(), "{}", said(&plan));
    for args in ["verify", "run p.yaml --until paraphrases", "gc --older-than 1d"] {
        let output = read_only(args);
        assert!(output.status.success(), "{args}: {}", said(&output));
    }
    let refused = |args: &str| {
        let output = read_only(args);
        assert_eq!(output.status.code(), Some(1), "{args}: {}", said(&output));
        let said = said(&output);
        assert!(said.contains("/.paraloom/") && said.contains("Read-only file system"), "{said}");
    };
    refused("run p.yaml");
    refused("gc --older-than 1d --delete");
    check_resumes(&project);
    refused("pin p.yaml");
    let done = read_only("run p.yaml");
    assert!(done.status.success() && said(&done).contains("nothing to do"), "{}", said(&done));
}
