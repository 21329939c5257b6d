//! `load` reads files as a table: CSV, TSV, JSON, lines of text, Parquet, Arrow IPC.
//!
//! Rows are read in batches, so memory does not grow with the file.

mod cells;
mod columnar;
mod delimited;
mod detokenize;
mod elsewhere;
mod encoding;
mod input;
mod json;
mod kind;
mod names;
mod nested;
mod objects;
mod packed;
mod records;
mod table;
mod text;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use paraloom_expr::{Expr, ExprError};
use paraloom_sdk::{
    About, Error, PlanInputs, Planned, Port, Result, Run, Stage, missing_column, nearest,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::expression::{expression_error, expression_errors};
use encoding::Encoding;
use input::{Files, Format, Origin, OriginSchema};
use kind::Kind;
use names::Naming;
use text::pointer;

/// Rows that are looked at to find the types of columns.
const SAMPLE_ROWS: usize = 10_000;

/// Settings of `load`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-paraloom-elsewhere" = elsewhere::names()))]
pub struct Config {
    /// A file; a directory, whose files are read in the order of their names; a pattern such as
    /// `data/*/part-*.csv`; a list of these; or a hub reference such as
    /// `hf://datasets/OWNER/NAME/CONFIG@REVISION/SPLIT`. Folders such as `label=1` in a directory,
    /// and those that a pattern stands for, make a column. Files of text may be compressed with
    /// gzip, zstd, bzip2 or xz.
    #[schemars(with = "OriginSchema")]
    from: Origin,
    /// The format of the file; by its extension if left out (of `a.csv.gz` that is `csv`).
    #[serde(default)]
    #[schemars(extend("x-paraloom-resolved" = true))]
    format: Option<Format>,
    /// The columns to keep: their name in the file, and the name that they get. They stay in
    /// the order of the file. Left out, all are kept; `_id` and `_parent`, by which the engine
    /// knows rows, are called `id` and `parent` then, and columns without a name `column1`, ...
    #[serde(default)]
    columns: Option<serde_json::Map<String, serde_json::Value>>,
    /// A condition over the file's own columns that a row must meet, such as `label = 1`.
    #[serde(default)]
    #[schemars(extend("x-paraloom-expression" = true))]
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
    /// Leave out this many lines at the start of a file of text, blank ones counted: titles that stand
    /// above a table. The next line names the columns.
    #[serde(default)]
    skip_lines: usize,
    /// Leave out this many lines at the end of a file of text, blank ones counted: notes that stand
    /// below a table.
    #[serde(default)]
    #[schemars(range(max = 10_000))]
    skip_footer: usize,
    /// What lines of a CSV or TSV file begin with that are left out, such as `'#'`. Cells that begin
    /// with it have to be in quotes where they stand first.
    #[serde(default)]
    #[schemars(length(min = 1, max = 8))]
    comment: Option<String>,
    /// What separates the columns of a CSV file; a comma if left out, a tab for TSV.
    #[serde(default)]
    #[schemars(length(min = 1, max = 2))]
    delimiter: Option<String>,
    /// What quotes the cells of a CSV file: one character, or nothing, which takes quotes as
    /// text. `"` if left out. In TSV quotes are text if this is left out, unless the names of
    /// the columns are all in quotes, as R and `export` write them; a cell whose inner quotes
    /// are all doubled, as spreadsheets and pandas write it, loses them.
    #[serde(default)]
    #[schemars(length(max = 1))]
    quote: Option<String>,
    /// What stands before a quote within quotes, where it is not doubled: `'\'` for `\"`.
    #[serde(default)]
    #[schemars(length(max = 1))]
    escape: Option<String>,
    /// Types of columns, where the rows at the start of a file deceive, or a Parquet file has
    /// another: `{ id: text }`. `bool` takes `yes`, `no`, `1`, `0`, `T`, `F` and so on.
    #[serde(default)]
    types: BTreeMap<String, Kind>,
    /// What stands for a value that is missing in files of text, such as `[NA, '\N']`. An
    /// empty cell of a CSV file always does; `""` is an empty text.
    #[serde(default)]
    missing: Vec<String>,
    /// What stands before the fraction of a number in files of text.
    #[serde(default)]
    decimal: Decimal,
    /// What becomes of columns of lists, structs and maps in a Parquet or Arrow file. In JSON
    /// files such members are JSON text.
    #[serde(default)]
    nested: Nested,
    /// The encoding of a text file, as browsers call it: `utf-8`, `windows-1252` (which
    /// `latin-1` means too), `utf-16` with a byte order mark, `utf-16le`, `shift_jis`, ...
    #[serde(default = "utf8")]
    encoding: String,
    /// What becomes of bytes that are no text in this encoding, and of halves of characters in
    /// JSON.
    #[serde(default)]
    malformed: Malformed,
    /// The longest line of a text file, or record of a CSV file, in bytes.
    #[serde(default = "max_line")]
    #[schemars(range(min = 1))]
    max_line: usize,
    /// Put text columns back to ordinary spacing: `a word ,` becomes `a word,`.
    #[serde(default)]
    detokenize: bool,
}

fn yes() -> bool {
    true
}

fn utf8() -> String {
    "utf-8".to_owned()
}

fn max_line() -> usize {
    64 << 20
}

/// What stands before the fraction of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
enum Decimal {
    /// A point: `1.5`.
    #[default]
    #[serde(rename = ".")]
    Point,
    /// A comma: `1,5`.
    #[serde(rename = ",")]
    Comma,
}

/// What becomes of nested columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Nested {
    /// They stay what they are.
    #[default]
    Keep,
    /// They become JSON text.
    Json,
}

/// What becomes of what is no text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Malformed {
    /// An error, with its line.
    #[default]
    Refuse,
    /// U+FFFD.
    Replace,
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
    naming: Naming,
    output: SchemaRef,
}

impl Config {
    /// One ASCII character.
    fn byte(text: Option<&String>, pointer: &str) -> Result<Option<u8>> {
        match text.map(String::as_bytes) {
            None => Ok(None),
            Some(b"\\t") => Ok(Some(b'\t')),
            Some([byte]) if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(Some(*byte)),
            Some(_) => Err(Error::config("this must be one ASCII character").at(pointer)),
        }
    }

    /// That no setting is for other formats than that of the file.
    fn fit(&self, format: Format) -> Result<()> {
        let has_lines = !format.is_typed() && format != Format::Json;
        let is_delimited = matches!(format, Format::Csv | Format::Tsv);
        for (name, is_set, fits, of) in [
            ("skip_lines", self.skip_lines > 0, has_lines, "files that consist of lines"),
            ("skip_footer", self.skip_footer > 0, has_lines, "files that consist of lines"),
            ("comment", self.comment.is_some(), is_delimited, "CSV and TSV files"),
        ] {
            if is_set && !fits {
                let message = format!("`{name}` is for {of}, and this one is {}", format.name());
                let error = Error::config(message).at(format!("/{name}"));
                return Err(error.hint("leave it out, or say another `format`"));
            }
        }
        Ok(())
    }

    /// `rows` are left out unseen.
    fn settings(&self, rows: usize) -> Result<table::Settings> {
        let delimiter = Self::byte(self.delimiter.as_ref(), "/delimiter")?;
        let quote =
            match Self::byte(self.quote.as_ref().filter(|quote| !quote.is_empty()), "/quote")? {
                Some(quote) => table::Quoting::By(quote),
                None if self.quote.is_some() => table::Quoting::None,
                None => table::Quoting::AsUsual,
            };
        let escape =
            Self::byte(self.escape.as_ref().filter(|escape| !escape.is_empty()), "/escape")?;
        // Quotes are double ones where nothing is said of them.
        let quotes = match quote {
            table::Quoting::AsUsual => Some(b'"'),
            quote => quote.byte(),
        };
        if delimiter.is_some() && (quotes == delimiter || escape == delimiter) {
            return Err(Error::config("this separates the columns, and cannot mean anything else")
                .at("/delimiter"));
        }
        Ok(table::Settings {
            text: text::TextSettings {
                encoding: Encoding::named(&self.encoding)?,
                replace: self.malformed == Malformed::Replace,
                max_line: self.max_line,
                skip_lines: self.skip_lines,
                skip_footer: self.skip_footer,
            },
            cells: cells::Cells {
                missing: self.missing.clone(),
                decimal: if self.decimal == Decimal::Comma { ',' } else { '.' },
            },
            header: self.header,
            delimiter,
            // What has an escape has quotes.
            quote: if quote == table::Quoting::AsUsual && escape.is_some() {
                table::Quoting::By(b'"')
            } else {
                quote
            },
            escape,
            comment: self.comment.clone(),
            types: self.types.clone(),
            skip: rows,
        })
    }
}

/// What there is to read.
struct Opened {
    source: Box<dyn Source>,
    /// How many rows are still to be left out.
    skip: usize,
    /// What decides the rows beside the bytes of the files.
    fingerprint: String,
    /// Directories whose files are not read.
    passed_over: Vec<PathBuf>,
    format: Format,
}

impl Load {
    fn open(config: &Config, keep: Option<&Expr>, naming: &Naming) -> Result<Opened> {
        let Files { format, list: files, fingerprint, passed_over } =
            Files::resolve(&config.from, config.format)?;
        config.fit(format)?;
        let wanted: Option<HashSet<String>> = naming.wanted().map(|names| {
            let conditions = keep.into_iter().flat_map(Expr::columns);
            names.chain(conditions).map(str::to_owned).collect()
        });
        if format.is_typed() {
            let source = columnar::Columnar::open(
                files,
                format,
                &config.types,
                config.nested,
                wanted.as_ref(),
            )?;
            let (source, skip) = (Box::new(source), config.skip);
            return Ok(Opened { source, skip, fingerprint, passed_over, format });
        }
        // Lines before the table are not looked at for the types of its columns either.
        let is_plain = keep.is_none()
            && !config.header
            && files.len() == 1
            && matches!(format, Format::Csv | Format::Tsv);
        let skip = if is_plain { config.skip } else { 0 };
        let source = table::Table::open(files, format, config.settings(skip)?, wanted.as_ref())?;
        let (source, skip) = (Box::new(source), config.skip - skip);
        Ok(Opened { source, skip, fingerprint, passed_over, format })
    }
}

impl Stage for Load {
    type Config = Config;

    fn about() -> About {
        About::new("load", "1.2.0", "Reads files as a table.")
            .output(Port::table("rows", "The rows of the file."))
    }

    fn plan(config: Config, _: &PlanInputs) -> Result<Planned<Self>> {
        let naming = Naming::of(config.columns.as_ref())?;
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
                    error.hint("a data set is hf://datasets/OWNER/NAME[/CONFIG][@REVISION]/SPLIT; a file is named by its path, and one on the web is downloaded first")
                );
            }
            return Self::plan_unfetched(config, keep, naming);
        }
        let Opened { source, fingerprint, .. } = Self::open(&config, keep.as_ref(), &naming)?;
        let schema = source.schema();
        if let (Some(keep), Some(text)) = (&keep, &config.keep) {
            keep.check_condition_all(&schema)
                .map_err(|errors| expression_errors(text, &errors, "/keep"))?;
        }
        let naming = naming.applied(&schema);
        let places = places(&schema);
        let mut fields = Vec::with_capacity(naming.columns().len());
        for (old, new) in naming.columns() {
            check_name(old, new, naming.wanted().is_some())?;
            let place = places.get(old.as_str()).ok_or_else(|| {
                let near = nearest(old, schema.fields().iter().map(|field| field.name().as_str()));
                let error = Error::config(missing_column("the file", old, &schema))
                    .at(pointer("columns", old));
                if near.is_none() && config.header && schema.fields().len() > 1 {
                    error.hint("if the file has no header, say `header: false`")
                } else {
                    error
                }
            })?;
            fields.push(schema.field(*place).clone().with_name(new));
        }
        let output = Arc::new(Schema::new(fields));
        let stage = Self { config, keep, naming, output: Arc::clone(&output) };
        // How a file is read follows from its name, which is in no key.
        Ok(Planned::new(stage, [Some(output)]).fingerprint(fingerprint))
    }

    fn run(&self, run: &mut Run) -> Result<()> {
        let Opened { mut source, mut skip, passed_over, format, .. } =
            Self::open(&self.config, self.keep.as_ref(), &self.naming)?;
        let schema = source.schema();
        let places = places(&schema);
        let columns = self.naming.columns().iter().map(|(old, _)| {
            places
                .get(old.as_str())
                .copied()
                .ok_or_else(|| Error::data(missing_column("the file", old, &schema)).at("/from"))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        if let Some(first) = passed_over.first() {
            let others = match passed_over.len() {
                1 => String::new(),
                count => format!(", like those of {} other directories", count - 1),
            };
            let message = format!(
                "the {} files in {} are not read{others}; a pattern such as `DIRECTORY/**/*.{}` reads them too",
                format.name(),
                first.display(),
                format.name()
            );
            run.services().warn(&message);
        }
        let mut left = self.config.limit.unwrap_or(usize::MAX);
        for (old, new) in self.naming.reserved() {
            let message = format!(
                "the file's column `{old}` is called `{new}` here: by `{old}` the engine knows rows; `columns` names it otherwise"
            );
            run.services().warn(&message);
        }
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
            run.push("rows", &self.select(&rows, &columns)?)?;
            run.services().progress(done, 0, "rows");
        }
        Ok(())
    }
}

impl Load {
    /// The file is not on this machine yet: its columns are taken to be text, and checked
    /// once it is here.
    fn plan_unfetched(config: Config, keep: Option<Expr>, naming: Naming) -> Result<Planned<Self>> {
        if naming.wanted().is_none() {
            return Err(Error::config(
                "name the `columns` of a data set that is not on this machine yet",
            )
            .at("/from"));
        }
        let fields = naming.columns().iter().map(|(_, new)| Field::new(new, DataType::Utf8, true));
        let output = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let stage = Self { config, keep, naming, output: Arc::clone(&output) };
        Ok(Planned::new(stage, [Some(output)]).fingerprint(Format::Parquet.name()))
    }

    /// The columns with these numbers.
    fn select(&self, rows: &RecordBatch, columns: &[usize]) -> Result<RecordBatch> {
        let column = |at: &usize| {
            let column = rows.column(*at);
            if self.config.detokenize { detokenize::column(column) } else { Arc::clone(column) }
        };
        let columns = columns.iter().map(column).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)?)
    }
}

/// The numbers of columns by their names: there may be thousands.
fn places(schema: &Schema) -> HashMap<&str, usize> {
    let fields = schema.fields().iter().enumerate();
    fields.map(|(at, field)| (field.name().as_str(), at)).collect()
}

/// A name that no table can have, as some JSON files do.
fn check_name(old: &str, new: &str, is_chosen: bool) -> Result<()> {
    let what = if new.trim().is_empty() {
        "has no name"
    } else if new.contains('\0') {
        "has a NUL character in its name"
    } else {
        return Ok(());
    };
    let at = if is_chosen { pointer("columns", old) } else { "/from".to_owned() };
    let quoted = serde_json::Value::from(old);
    Err(Error::data(format!("a column of the file {what}: {quoted}")).at(at).hint(format!(
        "name the columns to keep, and what they are called: `columns: {{ {quoted}: name }}`"
    )))
}
