//! Tables as files of a format, written as they are read.

use std::io::Write;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_json::writer::LineDelimited;
use clap::ValueEnum;
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

    /// Writes rows of a schema. Nulls are left out of JSON, unless they are wanted.
    pub(crate) fn write(
        self,
        out: Out,
        schema: &SchemaRef,
        rows: impl Iterator<Item = Result<RecordBatch>>,
        explicit_nulls: bool,
    ) -> Result<()> {
        let failure = out.failure();
        match self {
            Self::Csv => delimited(out, b',', schema, rows, &failure)?,
            Self::Tsv => delimited(out, b'\t', schema, rows, &failure)?,
            Self::Jsonl => {
                let builder = arrow_json::WriterBuilder::new().with_explicit_nulls(explicit_nulls);
                let mut writer = builder.build::<_, LineDelimited>(out);
                for rows in rows {
                    writer.write(&rows?).map_err(|error| failure.or(error))?;
                }
                writer.finish().map_err(|error| failure.or(error))?;
                writer.into_inner()
            }
            Self::Parquet => parquet(out, schema, rows, &failure)?,
        }
        .finish()
    }
}

fn delimited(
    out: Out,
    delimiter: u8,
    schema: &SchemaRef,
    rows: impl Iterator<Item = Result<RecordBatch>>,
    failure: &Failure,
) -> Result<Out> {
    let builder = arrow_csv::WriterBuilder::new().with_header(true).with_delimiter(delimiter);
    let mut writer = builder.build(out);
    // The names stand there without any row too.
    let empty = RecordBatch::new_empty(schema.clone());
    for rows in std::iter::once(Ok(empty)).chain(rows) {
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
