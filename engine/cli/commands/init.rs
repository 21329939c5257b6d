//! `init`: files to start from.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::stages::schema_text;
use crate::args::{InitArgs, StageArgs, Template};
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

/// The files of the quickstart that its pipeline reads, in `share/paraloom/quickstart` of an installation and in `pipelines` of
/// the project. `cargo xtask dist` installs these.
const QUICKSTART: [&str; 12] = [
    "quickstart.yaml",
    "corpus/README.md",
    "corpus/business.csv",
    "corpus/grammar-heldout.tsv",
    "corpus/paraphrases-heldout.tsv",
    "corpus/paraphrases.tsv",
    "corpus/similarity-heldout.tsv",
    "quickstart-base/README.md",
    "quickstart-base/config.json",
    "quickstart-base/model.safetensors",
    "quickstart-base/tokenizer.json",
    "quickstart-base/tokenizer_config.json",
];

pub(crate) fn run(args: &InitArgs, stages: &StageArgs) -> Result<ExitCode> {
    let mut files = match args.template {
        Template::Paraphrase => paraphrase(),
        Template::Quickstart => quickstart()?,
    };
    files.push(("pipeline.schema.json", (schema_text(stages)? + "\n").into_bytes()));
    write_new(&args.dir, &files)?;
    let pipeline = args.dir.join("pipeline.yaml");
    let first = match args.template {
        Template::Paraphrase => "put your sentences into corpus.csv; ",
        Template::Quickstart => "",
    };
    render::note(&format!(
        "{first}`paraloom plan {0}` says what a run would do, `paraloom run {0}` does it",
        pipeline.display()
    ));
    Ok(ExitCode::SUCCESS)
}

fn paraphrase() -> Vec<(&'static str, Vec<u8>)> {
    let pipeline = PIPELINE
        .replace("../schemas/", "")
        .replace("pipelines/pawraphrase.yaml", "pipeline.yaml")
        .replace("corpus/business.csv", "corpus.csv");
    vec![("pipeline.yaml", pipeline.into_bytes()), ("corpus.csv", CORPUS.into())]
}

fn quickstart() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let executable = std::env::current_exe().and_then(|path| path.canonicalize())?;
    let installed =
        executable.parent().unwrap_or(Path::new(".")).join("../share/paraloom/quickstart");
    let project = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines"));
    let from = if installed.is_dir() { &installed } else { project };
    let read = |name: &'static str| {
        let path = from.join(name);
        let bytes = std::fs::read(&path).map_err(|error| {
            CliError::new(8, format!("cannot read {}: {error}", path.display())).hint(
                "an installation has it in share/paraloom/quickstart; unpack the archive of the release again",
            )
        })?;
        if name != QUICKSTART[0] {
            return Ok((name, bytes));
        }
        let pipeline = String::from_utf8_lossy(&bytes).replace("../schemas/", "");
        Ok(("pipeline.yaml", pipeline.replace("pipelines/corpus", "corpus").into_bytes()))
    };
    QUICKSTART.into_iter().map(read).collect()
}

/// Writes files into a directory; nothing at all if one of them is there.
pub(super) fn write_new(dir: &Path, files: &[(&str, impl AsRef<[u8]>)]) -> Result<()> {
    let there = files.iter().map(|(name, _)| dir.join(name)).find(|path| path.exists());
    if let Some(path) = there {
        let message = format!("{} is there already; nothing was written", path.display());
        return Err(CliError::usage(message).hint("name another directory"));
    }
    for (name, content) in files {
        let content = content.as_ref();
        let path = dir.join(name);
        let parent = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent).map_err(|error| CliError::writing(parent, &error))?;
        // A file that was created meanwhile is not overwritten.
        let mut file = File::create_new(&path).map_err(|error| CliError::writing(&path, &error))?;
        file.write_all(content).map_err(|error| {
            // An incomplete file would make the next attempt fail.
            let _ = std::fs::remove_file(&path);
            CliError::no_room(&path, content.len() as u64, error)
        })?;
        render::note(&format!("wrote {}", path.display()));
    }
    Ok(())
}
