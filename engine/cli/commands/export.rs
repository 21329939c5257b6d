//! `export`: a table as one file by extension, an artifact as a directory.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use paraloom_exec::{Lookup, PortResult, TableRef};
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;

use crate::args::{ExportArgs, StageArgs};
use crate::context::Project;
use crate::error::{CliError, NODE_FAILED, Result};
use crate::render;

pub(crate) fn run(args: &ExportArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let store = project.need_store()?;
    let lookup = Lookup::new(&project.graph, &project.workspace.host, Some(&store))?;
    let endpoint = project.graph.endpoint(&args.node).map_err(CliError::usage)?;
    let Some(result) = lookup.output(endpoint) else {
        let error = CliError::new(NODE_FAILED, format!("`{}` has no result yet", args.node));
        return Err(error.hint("`paraloom run` makes it"));
    };
    if args.to.exists() {
        return Err(CliError::usage(format!("{} is there already", args.to.display())));
    }
    let failed = |error: &(dyn Error + 'static)| CliError::writing(&args.to, error);
    let aside = aside(&args.to);
    if let Some(folder) = args.to.parent() {
        std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    }
    let written = match result {
        PortResult::Table(table) => write_table(table, &args.to, &aside),
        PortResult::Artifact { entry, port, artifact } => {
            entry.verify_artifact(port, artifact)?;
            let files = artifact.files.iter().map(|file| file.path.as_ref());
            copy(&entry.artifact_dir(port, artifact), files, &aside).map_err(|error| failed(&error))
        }
    };
    // What has this name is always whole.
    let rename = || std::fs::rename(&aside, &args.to).map_err(|error| failed(&error));
    if let Err(error) = written.and_then(|()| rename()) {
        remove(&aside);
        return Err(error);
    }
    render::note(&format!("wrote {}", args.to.display()));
    Ok(ExitCode::SUCCESS)
}

/// Where something is written until it is whole; what a killed export has left there goes.
fn aside(to: &Path) -> PathBuf {
    let mut aside = to.as_os_str().to_owned();
    aside.push(".part");
    let aside = PathBuf::from(aside);
    remove(&aside);
    aside
}

/// Removes what may not be there.
fn remove(aside: &Path) {
    let _ =
        if aside.is_dir() { std::fs::remove_dir_all(aside) } else { std::fs::remove_file(aside) };
}

fn copy<'a>(from: &Path, files: impl Iterator<Item = &'a Path>, to: &Path) -> std::io::Result<()> {
    for file in files {
        let to = to.join(file);
        std::fs::create_dir_all(to.parent().unwrap_or(&to))?;
        std::fs::copy(from.join(file), to)?;
    }
    Ok(())
}

fn write_table(table: &TableRef, to: &Path, aside: &Path) -> Result<()> {
    let extension =
        to.extension().and_then(|text| text.to_str()).unwrap_or_default().to_lowercase();
    // What cannot be read is not the file's fault.
    let batches = || table.batches().map(|batch| batch.map_err(CliError::from));
    let create =
        || File::create(aside).map(BufWriter::new).map_err(|error| CliError::writing(to, &error));
    let arrow = |error: ArrowError| CliError::writing(to, &error);
    let parquet = |error: ParquetError| CliError::writing(to, &error);
    let mut file = match extension.as_str() {
        "csv" | "tsv" => {
            let delimiter = if extension == "csv" { b',' } else { b'\t' };
            let builder =
                arrow_csv::WriterBuilder::new().with_header(true).with_delimiter(delimiter);
            let mut writer = builder.build(create()?);
            writer.write(&RecordBatch::new_empty(table.schema.clone())).map_err(arrow)?;
            for batch in batches() {
                writer.write(&batch?).map_err(arrow)?;
            }
            writer.into_inner()
        }
        "jsonl" | "ndjson" => {
            let mut writer = arrow_json::LineDelimitedWriter::new(create()?);
            for batch in batches() {
                writer.write(&batch?).map_err(arrow)?;
            }
            writer.finish().map_err(arrow)?;
            writer.into_inner()
        }
        "parquet" => {
            let mut writer =
                ArrowWriter::try_new(create()?, table.schema.clone(), None).map_err(parquet)?;
            for batch in batches() {
                writer.write(&batch?).map_err(parquet)?;
            }
            writer.into_inner().map_err(parquet)?
        }
        _ => {
            let unknown = format!("the extension of {} tells no format", to.display());
            return Err(CliError::usage(unknown).hint("use .csv, .tsv, .jsonl or .parquet"));
        }
    };
    file.flush().map_err(|error| CliError::writing(to, &error))
}
