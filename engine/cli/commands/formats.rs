//! Tables as files of a format, written as they are read.

use std::io::Write;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use clap::ValueEnum;
use paraloom_formats::{Delimited, DelimitedWriter, check_dates, json_lines, unsupported};
use parquet::arrow::ArrowWriter;

use crate::error::{CliError, Result};
use crate::out::{Failure, Out};

/// Bytes of a row group of a Parquet file, which is in memory until it is whole.
const ROW_GROUP: usize = 16 << 20;

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Csv,
    Tsv,
    Jsonl,
    Parquet,
}

impl Format {
    /// The format that the extension of a file says.
    pub(crate) fn of_path(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(|text| text.to_str()).unwrap_or_default();
        match extension.to_lowercase().as_str() {
            "csv" => Ok(Self::Csv),
            "tsv" => Ok(Self::Tsv),
            "jsonl" | "ndjson" => Ok(Self::Jsonl),
            "parquet" => Ok(Self::Parquet),
            _ => {
                let unknown = format!("the extension of {} tells no format", path.display());
                Err(CliError::usage(unknown)
                    .hint("use .csv, .tsv, .jsonl or .parquet, or name one with --format"))
            }
        }
    }

    /// Writes rows of a schema. What is written as text, `load` reads back to the same cells.
    pub(crate) fn write(
        self,
        out: Out,
        schema: &SchemaRef,
        rows: impl Iterator<Item = Result<RecordBatch>>,
    ) -> Result<()> {
        self.check(schema)?;
        let failure = out.failure();
        match self {
            Self::Csv => delimited(out, Delimited::CSV, schema, rows, &failure)?,
            Self::Tsv => delimited(out, Delimited::TSV, schema, rows, &failure)?,
            Self::Jsonl => {
                let mut writer = json_lines(out);
                for rows in rows {
                    let rows = rows?;
                    check_dates(&rows)?;
                    writer.write(&rows).map_err(|error| failure.or(error))?;
                }
                writer.finish().map_err(|error| failure.or(error))?;
                writer.into_inner()
            }
            Self::Parquet => parquet(out, schema, rows, &failure)?,
        }
        .finish()
    }

    /// Refuses columns that the format has no form for.
    fn check(self, schema: &SchemaRef) -> Result<()> {
        let form = match self {
            Self::Csv | Self::Tsv => paraloom_formats::Format::Delimited,
            Self::Jsonl => paraloom_formats::Format::JsonLines,
            Self::Parquet => return Ok(()),
        };
        match unsupported(schema, form) {
            Some((name, what, way)) => {
                Err(CliError::usage(format!("column `{name}` is {what}")).hint(way))
            }
            None => Ok(()),
        }
    }
}

fn delimited(
    out: Out,
    dialect: Delimited,
    schema: &SchemaRef,
    rows: impl Iterator<Item = Result<RecordBatch>>,
    failure: &Failure,
) -> Result<Out> {
    let writer = DelimitedWriter::new(out, dialect, schema);
    let mut writer = writer.map_err(|error| failure.or(error))?;
    for rows in rows {
        writer.write(&rows?).map_err(|error| failure.or(error))?;
    }
    Ok(writer.into_inner())
}

fn parquet(
    mut out: Out,
    schema: &SchemaRef,
    rows: impl Iterator<Item = Result<RecordBatch>>,
    failure: &Failure,
) -> Result<Out> {
    let mut writer =
        ArrowWriter::try_new(&mut out, schema.clone(), None).map_err(|error| failure.or(error))?;
    for rows in rows {
        writer.write(&rows?).map_err(|error| failure.or(error))?;
        if writer.in_progress_size() > ROW_GROUP {
            writer.flush().map_err(|error| failure.or(error))?;
        }
    }
    writer.close().map_err(|error| failure.or(error))?;
    out.flush().map_err(|error| failure.or(error))?;
    Ok(out)
}
