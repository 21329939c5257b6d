//! `init`: files to start from.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::stages::schema_text;
use crate::args::{InitArgs, StageArgs};
use crate::error::{CliError, Result};
use crate::render;

/// The pipeline of the article, which the project keeps and tests.
const PIPELINE: &str = include_str!("../../../pipelines/pawraphrase.yaml");
const CORPUS: &str = "\
text
The company raised its prices in May.
\"In March, the board approved a plan to hire 120 engineers.\"
Profit fell by 12 percent because demand was weak.
";

pub(crate) fn run(args: &InitArgs, stages: &StageArgs) -> Result<ExitCode> {
    let pipeline = PIPELINE
        .replace("../schemas/", "")
        .replace("pipelines/pawraphrase.yaml", "pipeline.yaml")
        .replace("corpus/business.csv", "corpus.csv");
    let files = [
        ("pipeline.yaml", pipeline),
        ("corpus.csv", CORPUS.to_owned()),
        ("pipeline.schema.json", schema_text(stages)? + "\n"),
    ];
    write_new(&args.dir, &files)?;
    let pipeline = args.dir.join("pipeline.yaml");
    render::note(&format!(
        "put your sentences into corpus.csv; `paraloom plan {0}` says what a run would do, `paraloom run {0}` does it",
        pipeline.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Writes files into a directory; nothing at all if one of them is there.
pub(super) fn write_new(dir: &Path, files: &[(&str, String)]) -> Result<()> {
    let there = files.iter().map(|(name, _)| dir.join(name)).find(|path| path.exists());
    if let Some(path) = there {
        let message = format!("{} is there already; nothing was written", path.display());
        return Err(CliError::usage(message).hint("name another directory"));
    }
    for (name, text) in files {
        let path = dir.join(name);
        let parent = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent).map_err(|error| CliError::writing(parent, &error))?;
        // A file that was created meanwhile is not overwritten.
        let mut file = File::create_new(&path).map_err(|error| CliError::writing(&path, &error))?;
        file.write_all(text.as_bytes()).map_err(|error| {
            // An incomplete file would make the next attempt fail.
            let _ = std::fs::remove_file(&path);
            CliError::no_room(&path, text.len() as u64, error)
        })?;
        render::note(&format!("wrote {}", path.display()));
    }
    Ok(())
}
