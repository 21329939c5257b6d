//! Checks and generators for this repository: `cargo xtask TASK`.
#![expect(clippy::print_stderr, reason = "a command line tool reports to its user")]

mod corpus;
mod dist;
mod libtorch;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask TASK

  corpus [--check]   write pipelines/corpus, or check that it is what the generator makes
  dist               make the archive that users install, in target/archive
  libtorch           lay out a CPU libtorch from PyTorch's wheels in target/libtorch
  schemas            write schemas/ and docs/stages.md anew
  torch [CARGO ...]  build the backend `torch`, with LIBTORCH or what `libtorch` lays out;
                     or do something else with it: `cargo xtask torch test`
  cuda, wgpu         the same with these backends
  test CRATE [..]    test a crate of the engine or of T5 alone, with the dependencies that are built already:
                     `cargo xtask test store power::`, `cargo xtask test t5-core`
  tidy               check the invariants of docs/architecture.md";

fn main() -> ExitCode {
    // Cargo says which clone it runs this for: another one may have built it into the same target directory.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = manifest.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = manifest.parent().expect("xtask is a folder of the repository");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["corpus"] => corpus(root, false),
        ["corpus", "--check"] => corpus(root, true),
        ["dist"] => report(dist::dist(root, &target(root))),
        ["libtorch"] => report(libtorch::libtorch(&target(root).join("libtorch"))),
        ["torch", ref more @ ..] => torch(root, more),
        [backend @ ("cuda" | "wgpu"), ref more @ ..] => run(&mut on_backend(root, backend, more)),
        ["schemas"] => report(schemas(root)),
        ["test", name, ref more @ ..] => match test(root, name, more) {
            Ok(mut cargo) => run(&mut cargo),
            Err(error) => report(Err(error)),
        },
        ["tidy"] => report(tidy::tidy(root)),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Cargo on stages/t5-torch, with libtorch.
fn torch(root: &Path, command: &[&str]) -> ExitCode {
    let laid_out = target(root).join("libtorch");
    let libtorch = std::env::var_os("LIBTORCH").map_or_else(|| laid_out.clone(), PathBuf::from);
    if libtorch == laid_out {
        let problems = libtorch::libtorch(&laid_out);
        if !problems.as_ref().is_ok_and(Vec::is_empty) {
            return report(problems);
        }
    }
    // The library itself says where libtorch is; tests of what it is made of are told.
    let mut paths = vec![libtorch.join("lib")];
    paths.extend(std::env::split_paths(&std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default()));
    let mut cargo = on_backend(root, "torch", command);
    if let Ok(paths) = std::env::join_paths(paths) {
        cargo.env("LD_LIBRARY_PATH", paths);
    }
    run(cargo.env("LIBTORCH", libtorch))
}

/// The tests of one crate. `cargo test --package` alone would compile its dependencies with the features that this crate needs,
/// once more; with the packages below the features are those of every other build. Their unit tests take a second.
fn test(root: &Path, name: &str, more: &[&str]) -> std::io::Result<Command> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--release", "--lib"]).current_dir(root);
    for package in ["paraloom", "paraloom-stages-text", "paraloom-stages-t5"] {
        cargo.args(["--package", package]);
    }
    let folder = name.strip_prefix("stages-").unwrap_or(name);
    let manifests =
        ["engine", "stages"].map(|part| root.join(part).join(folder).join("Cargo.toml"));
    let Some(manifest) = manifests.iter().find(|manifest| manifest.is_file()) else {
        return Err(std::io::Error::other(format!(
            "there is no crate `{name}` in engine or stages"
        )));
    };
    let text = std::fs::read_to_string(manifest)?;
    let package = text.lines().find_map(|line| line.strip_prefix("name = ")).unwrap_or(name);
    cargo.args(["--package", package.trim_matches('"')]);
    let tests = manifest.with_file_name("tests");
    for entry in std::fs::read_dir(&tests).into_iter().flatten() {
        let path = entry?.path();
        let is_test = path.extension().is_some_and(|extension| extension == "rs")
            || path.join("main.rs").exists();
        if let Some(stem) = path.file_stem().filter(|_| is_test) {
            cargo.arg("--test").arg(stem);
        }
    }
    cargo.arg("--").args(more);
    forget_package(&mut cargo);
    Ok(cargo)
}

/// Cargo on the library of a backend, which no other command builds: they take long, and need what others do not have.
fn on_backend(root: &Path, backend: &str, command: &[&str]) -> Command {
    let (name, more) = command.split_first().unwrap_or((&"build", &[]));
    let package = format!("paraloom-stages-t5-{backend}");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([*name, "--release", "--package", &package]).current_dir(root);
    if *name != "build" {
        // What it is made of is tested and looked at with it, for the one backend.
        cargo.args(["--package", "paraloom-t5-core", "--no-default-features"]);
        cargo.args(["--features", &format!("paraloom-t5-core/{backend}")]);
    }
    cargo.args(more);
    forget_package(&mut cargo);
    cargo
}

fn run(command: &mut Command) -> ExitCode {
    match command.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => report(Err(error)),
    }
}

/// Else the build scripts of dependencies see another package, and are run anew.
fn forget_package(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name.as_ref());
        }
    }
}

/// Where cargo builds.
fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn corpus(root: &Path, check: bool) -> ExitCode {
    match corpus::corpus(root, check) {
        Ok(stale) if check && !stale.is_empty() => {
            eprintln!("not as generated: {}; run `cargo xtask corpus`", stale.join(", "));
            ExitCode::FAILURE
        }
        Ok(stale) => {
            eprintln!("{} files {}", stale.len(), if check { "differ" } else { "written" });
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pipelines/corpus: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints problems; none is success.
fn report(problems: std::io::Result<Vec<String>>) -> ExitCode {
    match problems {
        Ok(problems) => {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The binary itself knows the schema.
fn schemas(root: &Path) -> std::io::Result<Vec<String>> {
    let files: [(&str, &[&str]); 2] = [
        ("schemas/pipeline.schema.json", &["schema"]),
        ("docs/stages.md", &["stages", "--markdown"]),
    ];
    for (file, command) in files {
        let mut run = Command::new(env!("CARGO"));
        run.args(["run", "--release", "--quiet", "--"]).args(command).current_dir(root);
        forget_package(&mut run);
        let output = run.output()?;
        if !output.status.success() {
            return Ok(vec![String::from_utf8_lossy(&output.stderr).into_owned()]);
        }
        std::fs::write(root.join(file), output.stdout)?;
    }
    Ok(Vec::new())
}
