//! `export`: a table as one file by extension, an artifact as a directory.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arrow::array::RecordBatch;
use paraloom_exec::{Lookup, PortResult, TableRef};
use parquet::arrow::ArrowWriter;

use crate::args::ExportArgs;
use crate::context::Project;
use crate::error::{CliError, NODE_FAILED, Result};
use crate::render;

pub(crate) fn run(args: &ExportArgs, stages: &[PathBuf]) -> Result<ExitCode> {
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
    match result {
        PortResult::Table(table) => write_table(table, &args.to)?,
        PortResult::Artifact { entry, port, artifact } => {
            entry.verify_artifact(port, artifact)?;
            let from = entry.artifact_dir(port, artifact);
            for file in &artifact.files {
                let to = args.to.join(&file.path);
                std::fs::create_dir_all(to.parent().unwrap_or(&args.to))?;
                std::fs::copy(from.join(&file.path), to)?;
            }
        }
    }
    render::note(&format!("wrote {}", args.to.display()));
    Ok(ExitCode::SUCCESS)
}

/// Writes aside and renames, so that a file of this name is always whole.
fn write_table(table: &TableRef, to: &Path) -> Result<()> {
    let mut aside = to.as_os_str().to_owned();
    aside.push(".part");
    let aside = PathBuf::from(aside);
    let written = write_to(table, to, &aside).and_then(|()| Ok(std::fs::rename(&aside, to)?));
    if written.is_err() {
        let _ = std::fs::remove_file(&aside);
    }
    written
}

fn write_to(table: &TableRef, to: &Path, aside: &Path) -> Result<()> {
    let extension =
        to.extension().and_then(|text| text.to_str()).unwrap_or_default().to_lowercase();
    let create = || File::create(aside).map(BufWriter::new);
    match extension.as_str() {
        "csv" | "tsv" => {
            let delimiter = if extension == "csv" { b',' } else { b'\t' };
            let builder =
                arrow_csv::WriterBuilder::new().with_header(true).with_delimiter(delimiter);
            let mut writer = builder.build(create()?);
            writer.write(&RecordBatch::new_empty(table.schema.clone()))?;
            for batch in table.batches() {
                writer.write(&batch?)?;
            }
            Ok(writer.into_inner().flush()?)
        }
        "jsonl" | "ndjson" => {
            let mut writer = arrow_json::LineDelimitedWriter::new(create()?);
            for batch in table.batches() {
                writer.write(&batch?)?;
            }
            writer.finish()?;
            Ok(writer.into_inner().flush()?)
        }
        "parquet" => {
            let fail = |error: parquet::errors::ParquetError| {
                CliError::new(NODE_FAILED, error.to_string())
            };
            let mut writer =
                ArrowWriter::try_new(create()?, table.schema.clone(), None).map_err(fail)?;
            for batch in table.batches() {
                writer.write(&batch?).map_err(fail)?;
            }
            Ok(writer.into_inner().map_err(fail)?.flush()?)
        }
        _ => Err(CliError::usage(format!("the extension of {} tells no format", to.display()))
            .hint("use .csv, .tsv, .jsonl or .parquet")),
    }
}
