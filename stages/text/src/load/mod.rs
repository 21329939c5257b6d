//! `load` reads a file as a table: CSV, TSV, JSON lines, lines of text, Parquet, Arrow IPC.
//!
//! Rows are read in batches, so memory does not grow with the file.

mod columnar;
mod columns;
mod delimited;
mod detokenize;
mod json_lines;
mod lines;
mod many;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use paraloom_expr::{Expr, ExprError};
use paraloom_sdk::{
    About, Error, PlanInputs, Planned, Port, Result, Run, Stage, missing_column, nearest,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::expression::expression_error;
use columns::Kind;
use text::Encoding;

/// Rows that are read at once.
const BATCH_ROWS: usize = 1024;
/// Rows that are looked at to find the types of columns.
const SAMPLE_ROWS: usize = 10_000;

/// Settings of `load`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The file, a directory of Parquet files, which are read in the order of their names, or
    /// a hub reference such as `hf://datasets/OWNER/NAME/CONFIG@REVISION/SPLIT`.
    #[schemars(with = "String", extend("x-paraloom-path" = "many"))]
    from: Origin,
    /// The format of the file; by its extension if left out.
    #[serde(default)]
    format: Option<Format>,
    /// The columns to keep: their name in the file, and the name that they get. They stay in
    /// the order of the file.
    #[serde(default)]
    columns: Option<serde_json::Map<String, serde_json::Value>>,
    /// A condition over the file's own columns that a row must meet, such as `label = 1`.
    #[serde(default)]
    keep: Option<String>,
    /// Stop after this many rows.
    #[serde(default)]
    #[schemars(range(min = 1))]
    limit: Option<usize>,
    /// Leave out this many rows at the start, counted after `keep`.
    #[serde(default)]
    skip: usize,
    /// The first line of a CSV or TSV file names the columns. Without it they are called
    /// `column1`, `column2`, ...
    #[serde(default = "yes")]
    header: bool,
    /// What separates the columns of a CSV file; a comma if left out, a tab for TSV.
    #[serde(default)]
    #[schemars(length(min = 1, max = 1))]
    delimiter: Option<String>,
    /// What quotes the cells of a CSV file: one character, or nothing. `"` if left out,
    /// nothing for TSV, where quotes are part of the text.
    #[serde(default)]
    #[schemars(length(max = 1))]
    quote: Option<String>,
    /// Types of columns of a CSV, TSV or JSON lines file, where the rows at its start
    /// deceive.
    #[serde(default)]
    types: BTreeMap<String, Kind>,
    /// The encoding of a text file.
    #[serde(default)]
    encoding: Encoding,
    /// Put text columns back to ordinary spacing: `a word ,` becomes `a word,`.
    #[serde(default)]
    detokenize: bool,
}

/// Where the rows are. The engine puts a list where a reference means several files.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Origin {
    One(String),
    Many(Vec<PathBuf>),
}

fn yes() -> bool {
    true
}

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Csv,
    Tsv,
    Jsonl,
    Text,
    Parquet,
    Arrow,
}

impl Format {
    const EXTENSIONS: [(&'static str, Self); 11] = [
        ("csv", Self::Csv),
        ("tsv", Self::Tsv),
        ("tab", Self::Tsv),
        ("jsonl", Self::Jsonl),
        ("ndjson", Self::Jsonl),
        ("txt", Self::Text),
        ("text", Self::Text),
        ("parquet", Self::Parquet),
        ("arrow", Self::Arrow),
        ("feather", Self::Arrow),
        ("ipc", Self::Arrow),
    ];

    fn of(path: &Path) -> Result<Self> {
        let extension =
            path.extension().and_then(|text| text.to_str()).unwrap_or_default().to_lowercase();
        let found = Self::EXTENSIONS.iter().find(|(known, _)| *known == extension);
        found.map(|(_, format)| *format).ok_or_else(|| {
            Error::config(format!("the extension of {} does not tell its format", path.display()))
                .at("/from")
                .hint("say it with `format: csv`, `tsv`, `jsonl`, `text`, `parquet` or `arrow`")
        })
    }
}

/// Batches of one schema.
trait Source {
    fn schema(&self) -> SchemaRef;
    fn next(&mut self) -> Result<Option<RecordBatch>>;
}

/// The stage.
pub struct Load {
    config: Config,
    keep: Option<Expr>,
    /// Old name, new name.
    columns: Vec<(String, String)>,
    output: SchemaRef,
}

impl Load {
    fn open(config: &Config) -> Result<Box<dyn Source>> {
        let path = match &config.from {
            Origin::Many(files) => return Ok(Box::new(many::Many::open(files.clone())?)),
            Origin::One(path) => PathBuf::from(path),
        };
        if path.is_dir() {
            return Ok(Box::new(many::Many::directory(&path)?));
        }
        let format = config.format.map_or_else(|| Format::of(&path), Ok)?;
        Ok(match format {
            Format::Csv | Format::Tsv => {
                Box::new(delimited::Delimited::open(&path, config, format == Format::Tsv)?)
            }
            Format::Jsonl => Box::new(json_lines::JsonLines::open(&path, config)?),
            Format::Text => Box::new(lines::Lines::open(&path, config.encoding)?),
            Format::Parquet => Box::new(columnar::Columnar::parquet(&path)?),
            Format::Arrow => Box::new(columnar::Columnar::arrow(&path)?),
        })
    }

    /// Old and new names of the columns to keep.
    fn names(config: &Config) -> Result<Option<Vec<(String, String)>>> {
        let Some(columns) = &config.columns else { return Ok(None) };
        let name = |(old, new): (&String, &serde_json::Value)| match new.as_str() {
            Some(new) => Ok((old.clone(), new.to_owned())),
            None => Err(Error::config(format!("the new name of `{old}` must be text"))
                .at(format!("/columns/{old}"))),
        };
        columns.iter().map(name).collect::<Result<_>>().map(Some)
    }
}

impl Stage for Load {
    type Config = Config;

    fn about() -> About {
        About::new("load", "1.0.0", "Reads a file as a table.")
            .output(Port::table("rows", "The rows of the file."))
    }

    fn plan(config: Config, _: &PlanInputs) -> Result<Planned<Self>> {
        let names = Self::names(&config)?;
        let refuse = |text: &str, error: ExprError| expression_error(text, &error, "/keep");
        let keep = match &config.keep {
            Some(text) => Some(Expr::parse(text).map_err(|error| refuse(text, error))?),
            None => None,
        };
        if let Origin::One(reference) = &config.from
            && reference.contains("://")
        {
            if !reference.starts_with("hf://datasets/") {
                let error = Error::config(format!("{reference} is no data set")).at("/from");
                return Err(
                    error.hint("a data set is hf://datasets/OWNER/NAME[/CONFIG][@REVISION]/SPLIT")
                );
            }
            return Self::plan_unfetched(config, keep, names);
        }
        let schema = Self::open(&config)?.schema();
        if let (Some(keep), Some(text)) = (&keep, &config.keep) {
            keep.check_condition(&schema).map_err(|error| refuse(text, error))?;
        }
        let mut columns = names.unwrap_or_else(|| {
            let name = |field: &Arc<Field>| (field.name().clone(), field.name().clone());
            schema.fields().iter().map(name).collect()
        });
        // The order of a mapping means nothing, so the file's own order counts.
        columns.sort_by_key(|(old, _)| schema.index_of(old).unwrap_or(usize::MAX));
        let mut fields = Vec::with_capacity(columns.len());
        for (old, new) in &columns {
            let field = schema.field_with_name(old).map_err(|_| {
                let pointer = format!("/columns/{old}");
                let near = nearest(old, schema.fields().iter().map(|field| field.name().as_str()));
                let error = Error::config(missing_column("the file", old, &schema)).at(pointer);
                if near.is_none() && config.header && schema.fields().len() > 1 {
                    error.hint("if the file has no header, say `header: false`")
                } else {
                    error
                }
            })?;
            fields.push(field.clone().with_name(new));
        }
        let output = Arc::new(Schema::new(fields));
        Ok(Planned::new(
            Self { config, keep, columns, output: Arc::clone(&output) },
            [Some(output)],
        ))
    }

    fn run(&self, run: &mut Run) -> Result<()> {
        let mut source = Self::open(&self.config)?;
        let (mut skip, mut left) = (self.config.skip, self.config.limit.unwrap_or(usize::MAX));
        let mut done = 0;
        while left > 0 {
            run.services().check_cancelled()?;
            let Some(mut rows) = source.next()? else { break };
            if let Some(keep) = &self.keep {
                let passes =
                    keep.evaluate(&rows).map_err(|error| Error::data(error.to_string()))?;
                rows = filter_record_batch(&rows, &passes)?;
            }
            let skipped = skip.min(rows.num_rows());
            skip -= skipped;
            let taken = (rows.num_rows() - skipped).min(left);
            rows = rows.slice(skipped, taken);
            left -= taken;
            done += taken as u64;
            run.push("rows", &self.select(&rows)?)?;
            run.services().progress(done, 0, "rows");
        }
        Ok(())
    }
}

impl Load {
    /// The file is not on this machine yet: its columns are taken to be text, and checked
    /// once it is here.
    fn plan_unfetched(
        config: Config,
        keep: Option<Expr>,
        names: Option<Vec<(String, String)>>,
    ) -> Result<Planned<Self>> {
        let columns = names.ok_or_else(|| {
            Error::config("name the `columns` of a data set that is not on this machine yet")
                .at("/from")
        })?;
        let fields = columns.iter().map(|(_, new)| Field::new(new, DataType::Utf8, true));
        let output = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(Planned::new(
            Self { config, keep, columns, output: Arc::clone(&output) },
            [Some(output)],
        ))
    }

    fn select(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for (old, _) in &self.columns {
            let column = paraloom_sdk::column::get(rows, old)?;
            columns.push(if self.config.detokenize {
                detokenize::column(column)
            } else {
                Arc::clone(column)
            });
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.output), columns)?)
    }
}
