//! `export` writes a table as one file.

use std::io::{BufWriter, Write};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_json::LineDelimitedWriter;
use paraloom_formats::{Delimited, DelimitedWriter, check_dates, json_lines, unsupported};
use paraloom_sdk::identity::{ID, PARENT};
use paraloom_sdk::{About, Error, PlanInputs, Planned, Port, Result, Run, Stage};
use parquet::arrow::ArrowWriter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::output::{Failure, Output};

/// Settings of `export`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The format of the file.
    #[serde(default)]
    format: Format,
    /// Name of the file, without its extension.
    #[serde(default = "default_name")]
    name: String,
    /// The columns to write, in this order; all if left out.
    #[serde(default)]
    columns: Option<Vec<String>>,
    /// Write the columns `_id` and `_parent` too.
    #[serde(default)]
    ids: bool,
    /// CSV and TSV begin with a byte order mark, without which Excel takes `é` for two letters.
    #[serde(default)]
    bom: bool,
    /// In CSV and TSV, text that a spreadsheet would take for a formula (`=`, `+`, `-` or `@`
    /// at its start) has a `'` before it.
    #[serde(default)]
    guard: bool,
}

fn default_name() -> String {
    "rows".to_owned()
}

/// A file format.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Csv,
    Tsv,
    Jsonl,
    Parquet,
}

/// The stage.
pub struct Export {
    config: Config,
    columns: Vec<usize>,
}

impl Stage for Export {
    type Config = Config;

    fn about() -> About {
        About::new(
            "export",
            "1.2.0",
            "Writes a table as one file: CSV, TSV, JSON lines or Parquet.",
        )
        .input(Port::table("rows", "The rows to write."))
        .output(Port::artifact("file", "A directory that holds the file."))
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        if config.name.is_empty()
            || config.name.contains(['/', '\\', '\0'])
            || config.name.starts_with('.')
        {
            return Err(Error::config("this cannot be the name of a file").at("/name"));
        }
        let columns: Vec<usize> = match &config.columns {
            Some(names) => {
                let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
                if let Some((at, name)) = twice {
                    let error = Error::config(format!("`{name}` is written twice"));
                    return Err(error.at(format!("/columns/{at}")));
                }
                let index = |(at, name): (usize, &String)| {
                    rows.field(name, &format!("/columns/{at}"))?;
                    Ok(rows.schema().index_of(name)?)
                };
                names.iter().enumerate().map(index).collect::<Result<_>>()?
            }
            None => {
                let fields = rows.schema().fields().iter().enumerate();
                let wanted = |name: &str| config.ids || (name != ID && name != PARENT);
                fields.filter(|(_, field)| wanted(field.name())).map(|(at, _)| at).collect()
            }
        };
        let written = rows.schema().project(&columns)?;
        let form = match config.format {
            Format::Csv | Format::Tsv => Some(paraloom_formats::Format::Delimited),
            Format::Jsonl => Some(paraloom_formats::Format::JsonLines),
            Format::Parquet => None,
        };
        if let Some((name, what, way)) = form.and_then(|form| unsupported(&written, form)) {
            let error = Error::schema(format!("column `{name}` is {what}")).input("rows");
            return Err(error.at("/format").hint(way));
        }
        if !matches!(config.format, Format::Csv | Format::Tsv) {
            for (is_set, setting) in [(config.bom, "bom"), (config.guard, "guard")] {
                if is_set {
                    let error = Error::config(format!("`{setting}` is for CSV and TSV"));
                    return Err(error.at(format!("/{setting}")));
                }
            }
        }
        Ok(Planned::new(Self { config, columns }, [None]))
    }

    fn run(&self, run: &mut Run) -> Result<()> {
        let rows = run.table("rows")?;
        let schema = std::sync::Arc::new(rows.schema().project(&self.columns)?);
        let mut writer = Writer::create(&self.config, run.output_dir("file")?, &schema)?;
        for batch in rows {
            run.services().check_cancelled()?;
            writer.write(&batch?.project(&self.columns)?)?;
        }
        writer.finish()
    }
}

struct Writer {
    rows: Rows,
    failure: Failure,
}

/// Rows on their way into a file.
enum Rows {
    Delimited(Box<DelimitedWriter<BufWriter<Output>>>),
    Json(Box<LineDelimitedWriter<BufWriter<Output>>>),
    Parquet(Box<ArrowWriter<BufWriter<Output>>>),
}

impl Writer {
    fn create(config: &Config, dir: &Path, schema: &SchemaRef) -> Result<Self> {
        let extension = match config.format {
            Format::Csv => "csv",
            Format::Tsv => "tsv",
            Format::Jsonl => "jsonl",
            Format::Parquet => "parquet",
        };
        let name = &config.name;
        let (file, failure) = Output::create(dir.join(format!("{name}.{extension}")))?;
        let file = BufWriter::new(file);
        let rows = match config.format {
            Format::Csv | Format::Tsv => {
                let dialect = if matches!(config.format, Format::Csv) {
                    Delimited::CSV
                } else {
                    Delimited::TSV
                };
                let dialect = Delimited { mark: config.bom, guard: config.guard, ..dialect };
                let writer = DelimitedWriter::new(file, dialect, schema);
                Rows::Delimited(Box::new(writer.map_err(|error| failure.or(error))?))
            }
            Format::Jsonl => Rows::Json(Box::new(json_lines(file))),
            Format::Parquet => {
                let writer = ArrowWriter::try_new(file, schema.clone(), None);
                Rows::Parquet(Box::new(writer.map_err(|error| failure.or(parquet_error(error)))?))
            }
        };
        Ok(Self { rows, failure })
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let written = match &mut self.rows {
            Rows::Delimited(writer) => writer.write(rows).map_err(Error::from),
            Rows::Json(writer) => {
                check_dates(rows).and_then(|()| writer.write(rows)).map_err(Error::from)
            }
            Rows::Parquet(writer) => writer.write(rows).map_err(parquet_error),
        };
        written.map_err(|error| self.failure.or(error))
    }

    fn finish(self) -> Result<()> {
        let end = || -> Result<()> {
            let mut file = match self.rows {
                Rows::Delimited(writer) => writer.into_inner(),
                Rows::Json(mut writer) => {
                    writer.finish()?;
                    writer.into_inner()
                }
                Rows::Parquet(writer) => writer.into_inner().map_err(parquet_error)?,
            };
            Ok(file.flush()?)
        };
        end().map_err(|error| self.failure.or(error))
    }
}

fn parquet_error(error: parquet::errors::ParquetError) -> Error {
    Error::io(error.to_string())
}
