//! Too little disk, memory or descriptors, odd places and closed outputs: an error that says so, and later the same result.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use common::{Project, results, tiny, tiny_with};

const LIBRARY_REFUSED: i32 = 8;
const OUT_OF_SPACE: i32 = 11;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a shell script, with the binary as `$0`, in the directory of the project.
fn shell(project: &Project, script: &str) -> Output {
    let mut command = Command::new("sh");
    let binary = common::paraloom();
    command.args(["-c", script]).arg(binary.get_program()).current_dir(project.path());
    for (name, value) in binary.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.output().expect("a shell")
}

/// The results of an undisturbed run.
fn check_resumes(project: &Project) {
    static STRAIGHT: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    let all = |project: &Project| {
        project.ok(&["run", "p.yaml"]);
        results(project, &common::TABLES, &common::MODELS)
    };
    assert!(all(project) == *STRAIGHT.get_or_init(|| all(&tiny())));
}

/// What fits on a small disk is kept: the store is copied off it and finished elsewhere.
#[test]
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn a_full_disk_says_so_and_keeps_what_is_done() {
    if !Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|done| done.success()) {
        println!("skipped: no file system can be mounted without privileges here");
        return;
    }
    let step = 640 / common::scale("PARALOOM_DISKS", 3) as usize;
    let mut full = 0;
    for size in (64..704).step_by(step.max(1)) {
        let project = tiny();
        let output = shell(
            &project,
            &format!(
                "mkdir disk && exec unshare -rm sh -c '
                mount -t tmpfs -o size={size}k none disk || exit 99
                \"$0\" run p.yaml --store disk/store --checkpoint-every 0; code=$?
                cp -r disk/store .paraloom; exit $code' \"$0\""
            ),
        );
        let said = said(&output);
        assert!(matches!(output.status.code(), Some(OUT_OF_SPACE | 0)), "{size} KiB: {said}");
        if output.status.code() == Some(OUT_OF_SPACE) {
            full += 1;
            assert!(said.contains("disk/store/"), "the error names the place: {said}");
            let number = |after: &str| {
                let (before, _) = said.split_once(after).unwrap_or_else(|| panic!("{said}"));
                before.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok())
            };
            assert!(number(" bytes are needed").is_some_and(|needed| needed > 0), "{said}");
            assert!(number(" are free").is_some(), "and what there is: {said}");
            assert!(said.contains("hint: "), "and the way out: {said}");
        }
        check_resumes(&project);
    }
    assert!(full > 0, "no disk was too small");
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

/// From too little to start with to enough: the result, or an error that says what was missing, and never a signal.
#[test]
fn too_little_memory_is_an_error_and_loses_nothing() {
    let step = 104_000 / common::scale("PARALOOM_MEMORIES", 13) as usize;
    let mut short = 0;
    for kib in (8_000..112_000).step_by(step.max(1)) {
        let project = tiny();
        let within = |args| shell(&project, &format!("ulimit -v {kib}; exec \"$0\" {args}"));
        let output = within("run p.yaml --threads 2");
        let said = said(&output);
        match output.status.code() {
            Some(0) => {}
            // The system's loader finds no room for a stage library.
            Some(LIBRARY_REFUSED) => assert!(said.contains("failed to map segment"), "{said}"),
            Some(OUT_OF_SPACE) => {
                short += 1;
                let why = said.contains("out of memory: ") || said.contains("cannot start ");
                assert!(why && said.contains("hint: "), "{kib} KiB: {said}");
            }
            // The binary itself finds no room: that is for the system to say.
            _ => {
                let started = within("--version").status.success();
                assert!(!started, "{kib} KiB: {} {said}", output.status);
            }
        }
        check_resumes(&project);
    }
    assert!(short > 0, "no size was too small for the work alone");
}

/// Room for all but the matrices of a large model, which is what a stage asks for.
#[test]
fn a_stage_without_memory_says_where_and_how_much() {
    let large = || tiny_with("d_model: 16, d_ff: 32", "d_model: 64, d_ff: 65536");
    let (project, needed) = (large(), (64 * 65536 * size_of::<f32>()) as u64);
    let args = "run p.yaml --until blank --threads 2";
    let output = shell(&project, &format!("ulimit -v 120000; exec \"$0\" {args}"));
    let said = said(&output);
    assert_eq!(output.status.code(), Some(OUT_OF_SPACE), "{said}");
    let (_, after) = said
        .split_once(&format!("error: node `blank`: out of memory: {needed} bytes are needed, "))
        .unwrap_or_else(|| panic!("{said}"));
    let free = after.split(' ').next().and_then(|free| free.parse().ok());
    assert!(free.is_some_and(|free: u64| free < needed), "{said}");
    assert!(said.contains("hint: raise the limit on address space (`ulimit -v`)"), "{said}");
    let resumed = project.transcript(&["run", "p.yaml", "--until", "blank"]);
    assert!(resumed.contains("cached pairs"), "what was done stays: {resumed}");
    let straight = large();
    straight.ok(&["run", "p.yaml", "--until", "blank"]);
    let all = |project| results(project, &["pairs"], &["blank"]);
    assert!(all(&project) == all(&straight));
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
    let log = shell(&project, "exec \"$0\" run p.yaml --json > /dev/full");
    assert!(log.status.success(), "the run does not need its reader: {}", said(&log));
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
    for args in ["run p.yaml", "verify", "gc p.yaml --delete", "pin p.yaml"] {
        let output = read_only(args);
        assert_eq!(output.status.code(), Some(1), "{args}: {}", said(&output));
        let said = said(&output);
        assert!(said.contains("/.paraloom/") && said.contains("Read-only file system"), "{said}");
    }
    check_resumes(&project);
}

/// Memory is bounded, whatever the number of rows: forty times as many, in parts of which there are forty times as many.
#[test]
fn memory_does_not_grow_with_rows() {
    let peak = |rows: usize| {
        let project = Project::new(
            "paraloom: 1\n\
             nodes:\n\
             \x20 rows: { stage: load, part_rows: 1000, with: { from: rows.csv } }\n\
             \x20 kept: { stage: threshold, inputs: { rows: rows }, with: { keep: 'score >= 2' } }\n\
             \x20 file: { stage: export, inputs: { rows: kept.kept }, with: { format: csv } }\n",
        );
        let line = |row: usize| format!("sentence number {row} of the table,{}\n", row % 5);
        let text: String = (0..rows).map(line).collect();
        project.write("rows.csv", &format!("text,score\n{text}"));
        let mut run = project.command(&["run", "p.yaml"]).spawn().expect("it starts");
        let status = format!("/proc/{}/status", run.id());
        let mut peak = 0;
        while run.try_wait().expect("it is ours").is_none() {
            let status = std::fs::read_to_string(&status).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            peak = kib.map_or(peak, |kib: usize| kib.max(peak));
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert!(run.wait().expect("it has ended").success());
        assert!(peak > 0, "the peak was seen");
        peak
    };
    let (few, many) = (peak(10_000), peak(400_000));
    // The bound of counting ids in memory lies in between; it takes less than this.
    assert!(many < few + 12 * 1024, "{few} KiB at 10,000 rows, {many} KiB at 400,000");
}
