//! What the end-to-end tests share: the real binary, on a directory of its own.

#![allow(dead_code, reason = "each test binary uses some of it")]

pub(crate) mod shell;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::OnceLock;

use paraloom_host::{Host, Origin, shipped_libraries};

/// The binary, with the stage libraries beside it. Cargo builds the binary for a test, but
/// puts the libraries there only when they are built for their own sake.
pub(crate) fn paraloom() -> Command {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build",
            "--quiet",
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        // What cargo tells a test of its package would be news to the build scripts of
        // dependencies, and have them compiled anew.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                build.env_remove(name.as_ref());
            }
        }
        assert!(build.status().expect("cargo runs").success(), "the stage libraries build");
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_paraloom"));
    command.env("NO_COLOR", "1").env_remove("PARALOOM_STAGES");
    // Nothing of this user's own hub: no cache, no token, no network.
    for name in
        ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_ENDPOINT"]
    {
        command.env_remove(name);
    }
    command.env("HF_HOME", "/nonexistent").env("HF_HUB_OFFLINE", "1");
    command
}

/// The shipped stages, beside the binary `executable`, for tests that run pipelines in their own process.
pub(crate) fn shipped_host(executable: &Path) -> Host {
    let mut host = Host::default();
    for library in shipped_libraries(executable) {
        host.load(&library, Origin::Shipped).expect("it was just built");
    }
    host
}

/// A directory with a pipeline and its data.
pub(crate) struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    /// A directory that holds `pipeline` as `p.yaml`.
    pub(crate) fn new(pipeline: &str) -> Self {
        let project = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        project.write("p.yaml", pipeline);
        project
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).expect("the directory is ours");
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = paraloom();
        command.args(args).current_dir(self.path());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    /// Runs a command that must succeed; its stdout.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Exit code, stdout and stderr as one text, without what differs from run to run.
    pub(crate) fn transcript(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let text = format!(
            "exit {}\n--- stdout\n{}--- stderr\n{}",
            output.status.code().map_or("by a signal".to_owned(), |code| code.to_string()),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let root = self.path().canonicalize().expect("it is there");
        let text = text.replace(root.to_str().expect("text"), "[DIR]");
        text.replace(self.path().to_str().expect("text"), "[DIR]")
    }
}

/// Compiles the stage library `tests/abi/NAME.c` into the project's directory.
pub(crate) fn c_library(project: &Project, name: &str) -> PathBuf {
    let library = project.file(&format!("lib{name}.so"));
    let root = env!("CARGO_MANIFEST_DIR");
    // What shows how it is done is plain C; what misbehaves needs more.
    let standard = match name {
        "unruly" => ["-std=gnu11", "-Wno-infinite-recursion"],
        _ => ["-std=c11", "-Wpedantic"],
    };
    let compiled = Command::new("cc")
        .args(standard)
        .args(["-Wall", "-Wextra", "-Werror"])
        .args(["-shared", "-fPIC", "-fvisibility=hidden", "-I"])
        .arg(format!("{root}/engine/abi/include"))
        .arg("-o")
        .arg(&library)
        .arg(format!("{root}/tests/abi/{name}.c"))
        .status()
        .expect("a C compiler");
    assert!(compiled.success());
    library
}

/// A tiny T5 from nothing through all steps, in a second or two.
pub(crate) const TINY: &str = "\
paraloom: 1
name: tiny
seed: 7
part_rows: 4
nodes:
  pairs: { stage: load, with: { from: pairs.tsv } }
  blank:
    stage: model
    inputs: { texts: [pairs] }
    with: { new: { vocabulary: 120, d_model: 16, d_ff: 32, layers: 1, heads: 2 } }
  t5p:
    stage: finetune
    inputs: { model: blank, examples: pairs }
    with: { prefix: 'paraphrase: ', epochs: 6, batch_size: 4, learning_rate: 0.01, dropout: 0.1 }
  corpus: { stage: load, with: { from: corpus.csv, columns: { text: source } } }
  paraphrases:
    stage: generate
    inputs: { model: t5p, rows: corpus }
    with: { prefix: 'paraphrase: ', sample: { top_k: 20, top_p: 0.95 }, max_new_tokens: 8 }
  similarity: { stage: score-stsb, inputs: { model: blank, rows: paraphrases } }
  grammar: { stage: score-cola, inputs: { model: blank, rows: similarity } }
  qualified: { stage: threshold, inputs: { rows: grammar }, with: { keep: 'cola_p > 0.0 and length(paraphrase) > 0' } }
  custom:
    stage: finetune
    inputs: { model: t5p, examples: qualified }
    with: { prefix: 'paraphrase: ', target: paraphrase, steps: 8, batch_size: 4 }
show: [ { node: qualified, columns: [source, paraphrase], limit: 2 } ]
";

/// The tiny pipeline with its data.
pub(crate) fn tiny() -> Project {
    let project = Project::new(TINY);
    let nouns = ["sales", "costs", "profit", "demand", "output", "margin"];
    let (mut pairs, mut corpus) = ("source\ttarget\n".to_owned(), "text\n".to_owned());
    for (at, noun) in nouns.iter().enumerate() {
        for percent in [3, 7, 12] {
            pairs.push_str(&format!(
                "{noun} rose {percent} percent\t{noun} grew by {percent} percent\n"
            ));
        }
        corpus.push_str(&format!(
            "{noun} rose {} percent\n{noun} fell {} percent\n",
            at + 20,
            at + 40
        ));
    }
    project.write("pairs.tsv", &pairs);
    project.write("corpus.csv", &corpus);
    project
}

/// The tiny pipeline with `from` replaced by `to`.
pub(crate) fn tiny_with(from: &str, to: &str) -> Project {
    let project = tiny();
    assert!(TINY.contains(from), "the tiny pipeline says `{from}`");
    project.write("p.yaml", &TINY.replace(from, to));
    project
}

/// Everything that the tiny pipeline makes and that is not a number of a clock.
pub(crate) const TABLES: [&str; 8] = [
    "pairs",
    "corpus",
    "t5p.metrics",
    "paraphrases",
    "grammar",
    "qualified",
    "qualified.rejected",
    "custom.metrics",
];
pub(crate) const MODELS: [&str; 2] = ["t5p", "custom"];

/// The rows of tables and the files of models, by name.
pub(crate) fn results(
    project: &Project,
    tables: &[&str],
    models: &[&str],
) -> BTreeMap<String, Vec<u8>> {
    let mut results = BTreeMap::new();
    for table in tables {
        let rows = project.ok(&["show", "p.yaml", table, "--json"]);
        results.insert((*table).to_owned(), rows.into_bytes());
    }
    for model in models {
        let to = project.file(&format!("out-{model}"));
        project.ok(&["export", "p.yaml", model, "--to", to.to_str().expect("text")]);
        for file in ["model.safetensors", "config.json", "tokenizer.json"] {
            let bytes = std::fs::read(to.join(file)).expect("it was written");
            results.insert(format!("{model}/{file}"), bytes);
        }
        std::fs::remove_dir_all(&to).expect("it was written");
    }
    results
}

/// Sends a signal to a process of ours.
pub(crate) fn signal(child: &Child, signal: i32) {
    assert!(send(child.id(), signal), "the process is not waited for yet");
}

/// Ends the processes that a process of ours has started.
#[cfg(target_os = "linux")]
pub(crate) fn kill_children(parent: &Child) {
    let line = format!("PPid:\t{}\n", parent.id());
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|text| text.contains(&line))
    };
    // One may end by itself meanwhile.
    let killed = pids.filter(is_child).filter(|pid| send(*pid, libc::SIGKILL)).count();
    assert!(killed > 0, "it has none");
}

#[expect(unsafe_code, reason = "there is no safe way to send a signal")]
fn send(pid: u32, signal: i32) -> bool {
    let pid = i32::try_from(pid).expect("a pid");
    // SAFETY: it takes no memory of ours.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// A number that scales a suite up, from the environment.
pub(crate) fn scale(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Numbers for tests that draw lots; the seed is printed, and can be given as `PARALOOM_SEED`.
pub(crate) struct Lots(u64);

impl Lots {
    #[expect(clippy::print_stdout, reason = "shown with the failure of a test")]
    pub(crate) fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(1, |since| since.as_nanos() as u64);
        let seed = std::env::var("PARALOOM_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or(now);
        println!("PARALOOM_SEED={seed}");
        Self(seed)
    }

    /// The next number, as SplitMix64 gives it.
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Between 0 and 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Below `count`.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        (self.draw() % count as u64) as usize
    }
}
