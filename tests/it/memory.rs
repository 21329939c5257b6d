//! Too little memory is an error that says so, and memory is bounded.
#![cfg(target_os = "linux")]

use crate::common::shell::{OUT_OF_SPACE, check_resumes, number, said, shell};
use crate::common::{Project, results, tiny, tiny_with};

const LIBRARY_REFUSED: i32 = 8;

/// From too little to start with to enough: the result, or an error that says what was missing, and never a signal.
#[test]
fn too_little_memory_is_an_error_and_loses_nothing() {
    let step = 104_000 / crate::common::scale("PARALOOM_MEMORIES", 13) as usize;
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
            // The C library finds none for what every new thread has of a library, and ends the process by itself.
            Some(127) if said.contains("cannot allocate memory for thread-local data") => {}
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
    let place = format!("error: node `blank`: out of memory: {needed} bytes are needed, ");
    assert!(said.contains(&place) && number(&said, " are free") < needed, "{said}");
    assert!(said.contains("hint: raise the limit on address space (`ulimit -v`)"), "{said}");
    let resumed = project.transcript(&["run", "p.yaml", "--until", "blank"]);
    assert!(resumed.contains("cached pairs"), "what was done stays: {resumed}");
    let straight = large();
    straight.ok(&["run", "p.yaml", "--until", "blank"]);
    let all = |project| results(project, &["pairs"], &["blank"]);
    assert!(all(&project) == all(&straight));
}

/// The models do not exist yet: that they have the shape of the first one is known.
#[test]
fn a_plan_tells_the_memory_of_every_node_before_anything_runs() {
    let project = tiny_with("d_model: 16, d_ff: 32", "d_model: 64, d_ff: 65536");
    let plan = shell(&project, "ulimit -v 250000; exec \"$0\" plan p.yaml");
    let plan = String::from_utf8_lossy(&plan.stdout);
    let of = |node: &str| plan.lines().find(|line| line.starts_with(node)).unwrap_or_default();
    for node in ["t5p ", "custom "] {
        let [needed, free] = ["needs about ", " of memory, and "].map(|before| {
            let text = of(node).split_once(before).map_or("", |(_, text)| text);
            text.split(' ').next().and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0)
        });
        // Three matrices in each of two layers, with a gradient of each and two means of it.
        assert!((384.0..400.0).contains(&needed), "MiB: {plan}");
        assert!(free > 0.0 && free < needed, "{plan}");
    }
    assert!(of("paraphrases ").contains("; needs about "), "{plan}");
    assert!(!of("pairs ").contains("needs") && !of("qualified ").contains("needs"), "{plan}");
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
