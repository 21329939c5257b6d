//! Backends: named, chosen by node, side by side in one process, and missing with a word on why.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::shell::{said, shell};
use crate::common::{Project, TABLES, paraloom, results, tiny, tiny_with};
use serde_json::Value;

/// A project with `lines` put before the nodes of the tiny pipeline.
fn tiny_that_says(lines: &str) -> Project {
    tiny_with("part_rows: 4\n", &format!("part_rows: 4\n{lines}\n"))
}

#[test]
fn what_there_is_not_is_refused_where_it_stands() {
    let said = |project: Project, args: &[&str]| {
        let output = project.run(&[&["check", "p.yaml"], args].concat());
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    insta::assert_snapshot!("unknown_backend", said(tiny_that_says("backend: cpuu"), &[]));
    insta::assert_snapshot!("unknown_device", said(tiny_that_says("device: gpu"), &[]));
    insta::assert_snapshot!(
        "device_of_another_backend",
        said(tiny_that_says("backend: cpu\ndevice: cuda:1"), &[])
    );
    // Whatever else is wrong is said with it.
    let both = tiny_with("part_rows: 4\n", "part_rows: 4\nbackend: cpuu\n");
    let text = std::fs::read_to_string(both.file("p.yaml")).expect("it was written");
    both.write("p.yaml", &text.replace("batch_size", "batchsize"));
    let told = said(both, &[]);
    assert!(told.contains("backend `cpuu`") && told.contains("setting `batchsize`"), "{told}");
    let said = said(tiny(), &["--backend", "abacus"]);
    assert!(
        said.contains("there is no backend `abacus` here") && said.contains("1 error"),
        "{said}"
    );
}

/// An installation of its own: the binary and the stage libraries that are always there.
struct Installation(tempfile::TempDir);

impl Installation {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let built = paraloom();
        let built = Path::new(built.get_program());
        let own = built.parent().expect("it is in a directory");
        let new = Self(dir);
        for dir in ["bin", "lib/paraloom/stages"] {
            std::fs::create_dir_all(new.0.path().join(dir)).expect("the directory is ours");
        }
        std::fs::copy(built, new.0.path().join("bin/paraloom")).expect("the directory is ours");
        for name in ["text", "t5"] {
            let library = new.library(name);
            let name = library.file_name().expect("it has one");
            std::fs::copy(own.join(name), &library).expect("the directory is ours");
        }
        new
    }

    fn library(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("lib/paraloom/stages/libparaloom_stages_{name}.so"))
    }

    /// Runs it in the directory of a project.
    fn run(&self, project: &Project, args: &[&str]) -> Output {
        let mut command = paraloom();
        let mut ours = Command::new(self.0.path().join("bin/paraloom"));
        ours.args(args).current_dir(project.path());
        for (name, value) in command.env("NO_COLOR", "1").get_envs() {
            match value {
                Some(value) => ours.env(name, value),
                None => ours.env_remove(name),
            };
        }
        ours.output().expect("the binary runs")
    }

    fn doctor(&self, project: &Project) -> String {
        let doctor = self.run(project, &["doctor"]);
        assert!(doctor.status.success());
        String::from_utf8_lossy(&doctor.stdout).into_owned()
    }
}

#[test]
fn a_backend_without_its_library_is_told_from_one_that_is_broken() {
    let installation = Installation::new();
    let dir = installation.0.path();
    std::fs::write(dir.join("empty.c"), "").expect("the directory is ours");
    let cc = |args: &[&str]| {
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-o"]).args(args).current_dir(dir);
        assert!(cc.status().expect("a C compiler").success());
    };
    let torch = installation.library("t5_torch");
    let torch = torch.to_str().expect("text");
    cc(&["libabsent.so", "empty.c"]);
    cc(&[torch, "empty.c", "-Wl,--no-as-needed", "-L.", "-labsent"]);
    std::fs::remove_file(dir.join("libabsent.so")).expect("it was just made");

    let project = tiny();
    let said = installation.doctor(&project);
    assert!(said.contains("libabsent.so is not where the loader looks"), "{said}");
    // Who does not ask for it does not notice.
    assert!(installation.run(&project, &["check", "p.yaml"]).status.success());
    let output = installation.run(&project, &["check", "p.yaml", "--backend", "torch"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("the backend `torch` cannot be used: libabsent.so"), "{said}");
    assert!(said.contains("cargo xtask torch"), "{said}");
}

/// Its numbers could differ, under the same keys.
#[test]
fn a_backend_that_was_built_from_other_sources_is_refused() {
    let installation = Installation::new();
    let project = tiny();
    let doctor = installation.doctor(&project);
    let (_, sources) = doctor.split_once("paraloom-stages-t5 0.1.0+").expect("it says so");
    let sources = sources.split(' ').next().expect("it has an end").as_bytes();
    let ours = std::fs::read(installation.library("t5")).expect("it was copied");
    let at = ours.windows(sources.len()).position(|window| window == sources).expect("it is there");

    // The same ones: this library does not compute with torch, but nothing tells that here.
    std::fs::write(installation.library("t5_torch"), &ours).expect("the directory is ours");
    let said = installation.doctor(&project);
    assert!(said.contains("torch  ready: finetune"), "{said}");

    let mut other = ours;
    other[at] = if other[at] == b'0' { b'1' } else { b'0' };
    std::fs::write(installation.library("t5_torch"), &other).expect("the directory is ours");
    let said = installation.doctor(&project);
    assert!(!said.contains("torch  ready"), "{said}");
    assert!(installation.run(&project, &["check", "p.yaml"]).status.success());
    let output = installation.run(&project, &["check", "p.yaml", "--backend", "torch"]);
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!("other_sources", String::from_utf8_lossy(&output.stderr));
}

/// Whether a backend is there; CI says that `torch` has to be.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn is_there(backend: &str) -> bool {
    let doctor = paraloom().arg("doctor").output().expect("the binary runs");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let is_there = said.contains(&format!("  {backend:6} ready"));
    let must = backend == "torch" && std::env::var_os("PARALOOM_TORCH").is_some();
    assert!(is_there || !must, "{said}");
    if !is_there {
        println!("skipped: there is no backend `{backend}`; `cargo xtask {backend}` makes it");
    }
    is_there
}

/// Before anything is computed, at the node, with the way out.
#[test]
fn a_gpu_that_is_not_there_is_missed() {
    for backend in ["cuda", "wgpu"].into_iter().filter(|backend| is_there(backend)) {
        let project = tiny();
        let mut check = project.command(&["check", "p.yaml", "--backend", backend]);
        // Whatever this machine has is hidden.
        check.env("CUDA_VISIBLE_DEVICES", "");
        for driver in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "__EGL_VENDOR_LIBRARY_FILENAMES"] {
            check.env(driver, "/nonexistent");
        }
        let output = check.output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("there is no device `{backend}`: no ")), "{said}");
        assert!(said.contains("install") && said.contains("`backend: cpu`"), "{said}");
    }
}

/// A column of the rows that `show --json` printed.
fn numbers(rows: &[u8], column: &str) -> Vec<f64> {
    let text = std::str::from_utf8(rows).expect("text");
    let number = |line: &str| {
        let row: Value = serde_json::from_str(line).expect("a row is an object");
        row[column].as_f64().expect("a number")
    };
    text.lines().map(number).collect()
}

/// One node on a GPU, or on what stands in for one, and the rest on the CPU.
#[test]
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn a_gpu_judges_as_the_cpu_does() {
    // Matrix products by way of CUDA have fewer digits.
    for (backend, bar) in [("cuda", 0.05), ("wgpu", 1e-4)] {
        if !is_there(backend) {
            continue;
        }
        let twice = format!(
            "  twice: {{ stage: score-stsb, backend: {backend}, inputs: {{ model: blank, rows: paraphrases }} }}\n"
        );
        let project = tiny_with("  grammar: {", &format!("{twice}  grammar: {{"));
        let check = project.run(&["check", "p.yaml"]);
        if !check.status.success() {
            println!("skipped: {}", String::from_utf8_lossy(&check.stderr));
            continue;
        }
        project.ok(&["run", "p.yaml"]);
        let means = |node: &str| {
            numbers(project.ok(&["show", "p.yaml", node, "--json"]).as_bytes(), "stsb_mean")
        };
        let (cpu, gpu) = (means("similarity"), means("twice"));
        assert!(!cpu.is_empty() && cpu.len() == gpu.len());
        for (cpu, gpu) in cpu.iter().zip(&gpu) {
            assert!((cpu - gpu).abs() < bar, "{gpu} on {backend}, {cpu} on the CPU");
        }
    }
}

/// Training and writing on torch, judging on both, in one process.
#[test]
fn two_backends_work_in_one_run() {
    if !is_there("torch") {
        return;
    }
    let project = tiny_with(
        "  grammar: {",
        "  twice: { stage: score-stsb, backend: cpu, inputs: { model: blank, rows: paraphrases } }
  half: { stage: score-stsb, backend: torch, inputs: { model: blank, rows: paraphrases }, with: { precision: bf16 } }
  grammar: {",
    );
    project.ok(&["run", "p.yaml", "--backend", "torch"]);
    let show = |node: &str| {
        project.ok(&["show", "p.yaml", node, "--json", "--backend", "torch"]).into_bytes()
    };
    let means = |node: &str| numbers(&show(node), "stsb_mean");
    let (torch, cpu, half) = (means("similarity"), means("twice"), means("half"));
    assert!(!torch.is_empty() && torch.len() == cpu.len() && torch.len() == half.len());
    for ((torch, cpu), half) in torch.iter().zip(&cpu).zip(&half) {
        assert!((torch - cpu).abs() < 1e-4, "{torch} on torch, {cpu} on the CPU backend");
        assert!((torch - half).abs() < 0.2, "{torch} in f32, {half} in bf16");
    }
    assert!(torch != half, "bf16 has fewer digits");
    // The same again is there; another backend is another result, and says so.
    let again = project.ok(&["plan", "p.yaml", "--backend", "torch", "--json"]);
    assert!(!again.contains("\"run\""), "{again}");
    let other = project.ok(&["plan", "p.yaml"]);
    assert!(other.contains("fingerprint `burn-tch f32 3` -> `burn-flex f32 3`"), "{other}");
}

/// What is killed goes on to the same bytes, and they are those of the CPU backend.
#[test]
fn a_training_on_torch_goes_on_where_it_was_stopped() {
    if !is_there("torch") {
        return;
    }
    let (straight, stopped) = (tiny_that_says("backend: torch"), tiny_that_says("backend: torch"));
    straight.ok(&["run", "p.yaml"]);
    let mut run = stopped.command(&["run", "p.yaml", "--checkpoint-every", "0"]);
    let mut child = run.spawn().expect("the binary runs");
    let results_dir = stopped.file(".paraloom/results");
    let has_checkpoint = || {
        let groups = std::fs::read_dir(&results_dir).into_iter().flatten().flatten();
        let entries =
            groups.filter_map(|group| std::fs::read_dir(group.path()).ok()).flatten().flatten();
        entries.into_iter().any(|entry| {
            entry
                .path()
                .join("checkpoints")
                .read_dir()
                .is_ok_and(|mut steps| steps.next().is_some())
        })
    };
    while child.try_wait().expect("it is ours").is_none() && !has_checkpoint() {
        std::thread::yield_now();
    }
    crate::common::signal(&child, 9);
    assert!(!child.wait().expect("it is ours").success(), "it was killed before it was done");
    let log = stopped.ok(&["run", "p.yaml", "--json"]);
    assert!(log.contains("goes on from step"), "{log}");
    let all = |project: &Project| results(project, &TABLES, &crate::common::MODELS);
    assert!(all(&stopped) == all(&straight));
    let cpu = tiny();
    cpu.ok(&["run", "p.yaml"]);
    assert!(all(&cpu) == all(&straight), "on the CPU both compute by the same loops");
}

/// Torch says in words that there is no room, so the batch is halved; what is written is the same.
#[test]
#[cfg(target_os = "linux")]
fn a_batch_on_torch_that_does_not_fit_is_halved() {
    if !is_there("torch") {
        return;
    }
    let project = tiny();
    project.ok(&["run", "p.yaml", "--until", "blank"]);
    project.ok(&["export", "p.yaml", "blank", "--to", "tokenizer"]);
    // The logits of a batch are by far the largest thing: 512 MB. Sources are short, so where they would be cut
    // decides nothing but the key.
    project.write(
        "q.yaml",
        "paraloom: 1
backend: torch
vars: { limit: 512 }
nodes:
  rows: { stage: load, with: { from: rows.csv } }
  wide:
    stage: model
    with: { tokenizer: tokenizer, new: { vocabulary: 1000000, d_model: 8, d_ff: 8, layers: 1, heads: 1 } }
  written:
    stage: generate
    inputs: { model: wide, rows: rows }
    with: { max_new_tokens: 2, max_source_tokens: '${limit}' }
",
    );
    let line = |row| format!("sales rose {row} percent\n");
    let rows: String = (0..128).map(line).collect();
    project.write("rows.csv", &format!("source\n{rows}"));
    project.ok(&["run", "q.yaml", "--until", "wide"]);
    let (mut told, mut expected) = (String::new(), None);
    // Downwards, to where a batch of all rows no longer fits; in smaller steps where half of it does not fit either.
    let (mut mebibytes, mut step) = (3072, 128);
    while step > 2 {
        mebibytes -= step;
        let limit = format!("limit={mebibytes}");
        let script = format!(
            "ulimit -v {}; exec \"$0\" run q.yaml --threads 2 --set {limit}",
            mebibytes << 10
        );
        let output = shell(&project, &script);
        told = said(&output);
        if !output.status.success() {
            (mebibytes, step) = (mebibytes + step, step / 4);
            continue;
        }
        let rows = project.ok(&["show", "q.yaml", "written", "--json", "--set", &limit]);
        if told.contains("out of memory: going on with batches of 96 instead of 192") {
            assert!(Some(rows) == expected, "{told}");
            return;
        }
        expected = Some(rows);
    }
    panic!("no batch was halved: {told}");
}
