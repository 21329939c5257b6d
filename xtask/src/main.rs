//! Checks and generators for this repository: `cargo xtask TASK`.
#![expect(clippy::print_stderr, reason = "a command line tool reports to its user")]

mod corpus;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  corpus [--check]   write pipelines/corpus, or check that it is what the generator makes
  schemas            write schemas/ anew
  tidy               check the invariants of docs/architecture.md";

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the repository");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["corpus"] => corpus(root, false),
        ["corpus", "--check"] => corpus(root, true),
        ["schemas"] => report(schemas(root)),
        ["tidy"] => report(tidy::tidy(root)),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
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
    let mut run = std::process::Command::new(env!("CARGO"));
    run.args(["run", "--release", "--quiet", "--", "schema"]).current_dir(root);
    // Else the build scripts of dependencies see another package, and are run anew.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            run.env_remove(name.as_ref());
        }
    }
    let output = run.output()?;
    if !output.status.success() {
        return Ok(vec![String::from_utf8_lossy(&output.stderr).into_owned()]);
    }
    std::fs::write(root.join("schemas/pipeline.schema.json"), output.stdout)?;
    Ok(Vec::new())
}
