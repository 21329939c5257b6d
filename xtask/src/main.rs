//! Checks and generators for this repository: `cargo xtask TASK`.
#![expect(clippy::print_stderr, reason = "a command line tool reports to its user")]

mod corpus;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  corpus [--check]   write pipelines/corpus, or check that it is what the generator makes";

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the repository");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["corpus"] => corpus(root, false),
        ["corpus", "--check"] => corpus(root, true),
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
