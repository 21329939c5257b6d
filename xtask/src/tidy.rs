//! The invariants of `docs/architecture.md` that can be seen in the text of the code.

use std::path::{Path, PathBuf};

/// Folders whose code may hold `unsafe`; everything else is safe Rust.
const UNSAFE: [&str; 8] = [
    "engine/abi/",
    "engine/alloc/",
    "engine/ffi/",
    "engine/sdk/",
    "engine/host/",
    "stages/t5-core/src/operations/",
    "stages/t5-kernels/",
    // Sends a signal to a child process.
    "tests/",
];

/// A word that must not stand in the code of a folder, and why.
const RULES: [(&str, &[&str], &str); 8] = [
    (
        "engine/pipeline/src/",
        &["std::fs", "std::env", "std::net", "std::process", "std::io"],
        "`pipeline` does no I/O",
    ),
    (
        "engine/store/src/",
        &["paraloom_host", "paraloom_pipeline", "paraloom_abi"],
        "`store` knows no stage",
    ),
    (
        "engine/hub/",
        &["paraloom_host", "paraloom_pipeline", "paraloom_store", "paraloom_exec"],
        "`hub` knows neither stages nor pipelines",
    ),
    (
        "engine/hub/",
        &["println!", "std::env::", "process::exit"],
        "only `cli` prints, exits or reads the environment",
    ),
    (
        "engine/serve/",
        &["paraloom_host", "paraloom_pipeline", "paraloom_store", "paraloom_exec"],
        "`serve` knows neither stages nor pipelines",
    ),
    (
        "engine/serve/",
        &["println!", "std::env::", "process::exit"],
        "only `cli` prints, exits or reads the environment",
    ),
    (
        "engine/",
        &["paraloom_stages_text", "paraloom_stages_t5"],
        "the engine depends on no stage crate",
    ),
    (
        "stages/",
        &["println!", "std::env::", "process::exit"],
        "only `cli` prints, exits or reads the environment",
    ),
];

/// Longer files do not fit in the head.
const MAX_LINES: usize = 600;

/// What is wrong, one line each.
pub(crate) fn tidy(root: &Path) -> std::io::Result<Vec<String>> {
    let mut problems = Vec::new();
    for folder in ["engine", "stages", "tests", "xtask"] {
        for path in sources(&root.join(folder))? {
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let text = std::fs::read_to_string(&path)?;
            check(&name, &text, &mut problems);
        }
    }
    Ok(problems)
}

fn check(name: &str, text: &str, problems: &mut Vec<String>) {
    // The rules name the words themselves.
    if name == "xtask/src/tidy.rs" {
        return;
    }
    // Build scripts talk to Cargo by what they print.
    let is_build = name.ends_with("/build.rs");
    let is_test = is_build || name.contains("/tests/") || name.contains("/examples/");
    let mut report = |line: usize, what: &str| problems.push(format!("{name}:{line}: {what}"));
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for (folder, words, why) in RULES {
            // The search names the prefix of shipped libraries in a text; one variable is for tests of torch's own operations.
            let exempt = is_test
                || code.contains("\"libparaloom_stages_\"")
                || code.contains("\"PARALOOM_TORCH_KERNELS\"");
            if name.starts_with(folder) && !exempt && words.iter().any(|word| code.contains(word)) {
                report(index + 1, why);
            }
        }
        let holds_unsafe =
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl");
        if holds_unsafe && !UNSAFE.iter().any(|folder| name.starts_with(folder)) {
            report(index + 1, "`unsafe` belongs in abi, alloc, ffi, sdk, host and kernels only");
        }
    }
    if text.lines().count() > MAX_LINES {
        report(MAX_LINES, "the file is longer than fits in the head");
    }
}

fn sources(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
