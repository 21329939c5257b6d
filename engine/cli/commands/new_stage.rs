//! `stages new`: a crate with a stage to start from.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::init::write_new;
use crate::args::StageArgs;
use crate::context::load_host;
use crate::error::{CliError, Result};
use crate::render;

/// The stage of the SDK's documentation, which the project compiles and tests.
const STAGE: &str = include_str!("../../sdk/examples/shout.rs");
const PIPELINE: &str = "\
paraloom: 1
name: NAME
nodes:
  rows: { stage: load, with: { from: rows.csv } }
  done: { stage: NAME, inputs: { rows: rows }, with: { column: text } }
show: [done]
";
const MANIFEST: &str = r#"[package]
name = "NAME"
version = "0.1.0"
edition = "2024"
rust-version = "RUST"
publish = false

[lib]
# cdylib is what the engine loads, rlib is what tests link.
crate-type = ["cdylib", "rlib"]

[dependencies]
paraloom-sdk = { path = "SDK" }
# What derives settings and their descriptions. Rows are those of `paraloom_sdk::arrow`, so that there is one version of it.
schemars = "1.2"
serde = { version = "1", features = ["derive"] }

[dev-dependencies]
serde_json = "1"

# Panics keep their lines, without hundreds of megabytes of everything else.
[profile.dev]
debug = "line-tables-only"

[profile.release]
debug = "line-tables-only"
strip = "debuginfo"

# Of no workspace around it.
[workspace]
"#;
const README: &str = "\
# NAME

A stage for Paraloom pipelines.

    cargo test
    cargo build --release
    paraloom run pipeline.yaml --stages LIBRARY
    paraloom stages NAME --stages LIBRARY           # what users read
    paraloom stages test pipeline.yaml done --stages LIBRARY
";

pub(super) fn run(dir: &Path, sdk: Option<&Path>) -> Result<ExitCode> {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let fits = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-';
    if !name.starts_with(|char: char| char.is_ascii_lowercase()) || !name.chars().all(fits) {
        let message = format!("`{name}` cannot be the name of a stage");
        return Err(CliError::usage(message)
            .hint("name a directory of small letters, digits and `-`, such as `my-stage`"));
    }
    if let Some(other) =
        load_host(&StageArgs::default())?.stages().find(|stage| stage.info.name == name)
    {
        let message = format!("there is a stage `{name}` already, in {}", other.info.library);
        return Err(CliError::usage(message).hint("name another directory"));
    }
    let sdk = find_sdk(sdk)?;
    let sdk = sdk.to_str().ok_or_else(|| {
        CliError::usage(format!("the path of the SDK is not UTF-8: {}", sdk.display()))
    })?;
    // Backslashes and quotes mean something in TOML.
    let manifest = MANIFEST.replace("\"SDK\"", &format!("{sdk:?}"));
    let manifest = manifest.replace("RUST", env!("CARGO_PKG_RUST_VERSION")).replace("NAME", name);
    let library = format!(
        "target/release/{}{}{}",
        std::env::consts::DLL_PREFIX,
        name.replace('-', "_"),
        std::env::consts::DLL_SUFFIX
    );
    let readme = README.replace("LIBRARY", &library);
    let files = [
        ("Cargo.toml", manifest),
        ("README.md", readme.replace("NAME", name)),
        ("src/lib.rs", STAGE.replace("shout", name).replace("Shout", &type_name(name))),
        ("pipeline.yaml", PIPELINE.replace("NAME", name)),
        ("rows.csv", "text\nput your rows here\n".to_owned()),
        (".gitignore", "/target\n/.paraloom\n".to_owned()),
    ];
    write_new(dir, &files)?;
    render::note(&format!(
        "in {}: `cargo test`, `cargo build --release`, then `paraloom run pipeline.yaml --stages {library}`",
        dir.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// `my-stage` is `MyStage`.
fn type_name(name: &str) -> String {
    let words = name.split('-').map(|word| match word.split_at_checked(1) {
        Some((first, rest)) => first.to_ascii_uppercase() + rest,
        None => String::new(),
    });
    words.collect()
}

fn find_sdk(named: Option<&Path>) -> Result<PathBuf> {
    let sdk = named.unwrap_or(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/engine/sdk")));
    if sdk.join("Cargo.toml").is_file() {
        return Ok(sdk.canonicalize()?);
    }
    let message = match named {
        Some(sdk) => format!("{} is not the SDK: it has no Cargo.toml", sdk.display()),
        None => "a stage in Rust is made with the SDK, which is in Paraloom's sources".to_owned(),
    };
    Err(CliError::usage(message)
        .hint("name the folder `engine/sdk` of Paraloom's sources with --sdk"))
}
