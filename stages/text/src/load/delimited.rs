//! CSV and TSV.

use std::collections::HashSet;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use csv::{ReaderBuilder, StringRecord};
use paraloom_sdk::{Error, Result, nearest};

use super::columns::{Kind, build};
use super::text::open;
use super::{BATCH_ROWS, Config, SAMPLE_ROWS, Source};

type Reader = csv::Reader<Box<dyn BufRead>>;

pub(super) struct Delimited {
    path: String,
    reader: Reader,
    schema: SchemaRef,
    kinds: Vec<Kind>,
    /// The first row of a file without a header, which was read to count the columns.
    first: Option<StringRecord>,
}

impl Delimited {
    pub(super) fn open(path: &Path, config: &Config, tabs: bool) -> Result<Self> {
        let kinds = Self::infer(path, config, tabs)?;
        let (reader, names, first) = Self::start(path, config, tabs)?;
        let fields = names.iter().zip(&kinds);
        let fields =
            fields.map(|(name, kind)| Field::new(name, kind.data_type(), *kind != Kind::Text));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(Self { path: path.display().to_string(), reader, schema, kinds, first })
    }

    /// Opens the file and reads the names of its columns.
    fn start(
        path: &Path,
        config: &Config,
        tabs: bool,
    ) -> Result<(Reader, Vec<String>, Option<StringRecord>)> {
        let byte = |text: &Option<String>, default: u8, pointer: &str| match text
            .as_deref()
            .map(str::as_bytes)
        {
            None => Ok(default),
            Some([byte]) => Ok(*byte),
            Some(_) => Err(Error::config("this must be one ASCII character").at(pointer)),
        };
        let delimiter = byte(&config.delimiter, if tabs { b'\t' } else { b',' }, "/delimiter")?;
        let quoting = config.quote.as_ref().map_or(!tabs, |quote| !quote.is_empty());
        let quote = if quoting { byte(&config.quote, b'"', "/quote")? } else { b'"' };
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .delimiter(delimiter)
            .quoting(quoting)
            .quote(quote)
            .from_reader(open(path, config.encoding)?);
        let mut first = StringRecord::new();
        let name = path.display().to_string();
        if !reader.read_record(&mut first).map_err(|error| read_error(&name, &error))? {
            return Err(Error::data(format!("{name} is empty")).at("/from"));
        }
        if !config.header {
            let names = (1..=first.len()).map(|number| format!("column{number}")).collect();
            return Ok((reader, names, Some(first)));
        }
        let names: Vec<_> = first.iter().map(|cell| cell.trim().to_owned()).collect();
        check_names(&names, &name)?;
        Ok((reader, names, None))
    }

    /// The narrowest kinds that hold the rows at the start of the file.
    fn infer(path: &Path, config: &Config, tabs: bool) -> Result<Vec<Kind>> {
        let (mut reader, names, mut record) = Self::start(path, config, tabs)?;
        let mut kinds: Vec<Option<Kind>> = vec![None; names.len()];
        for _ in 0..SAMPLE_ROWS {
            let row = match record.take() {
                Some(first) => first,
                None => {
                    let mut next = StringRecord::new();
                    let name = path.display().to_string();
                    if !reader.read_record(&mut next).map_err(|error| read_error(&name, &error))? {
                        break;
                    }
                    next
                }
            };
            for (kind, cell) in
                kinds.iter_mut().zip(row.iter()).filter(|(_, cell)| !cell.is_empty())
            {
                let found = Kind::of(cell);
                *kind = Some(kind.map_or(found, |kind| kind.join(found)));
            }
        }
        for name in config.types.keys() {
            if !names.contains(name) {
                let error = Error::config(format!("the file has no column `{name}`"))
                    .at(format!("/types/{name}"));
                let near = nearest(name, names.iter().map(String::as_str));
                return Err(match near {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error,
                });
            }
        }
        let kind = |(name, kind): (&String, Option<Kind>)| {
            config.types.get(name).copied().or(kind).unwrap_or(Kind::Text)
        };
        Ok(names.iter().zip(kinds).map(kind).collect())
    }
}

fn check_names(names: &[String], path: &str) -> Result<()> {
    let mut seen = HashSet::new();
    for (at, name) in names.iter().enumerate() {
        let problem = if name.is_empty() {
            format!("column {} has no name", at + 1)
        } else if !seen.insert(name) {
            format!("two columns are called `{name}`")
        } else {
            continue;
        };
        let error = Error::data(format!("{path}: {problem}")).at("/from");
        return Err(error.hint("if the file has no header, say `header: false`"));
    }
    Ok(())
}

fn read_error(path: &str, error: &csv::Error) -> Error {
    use csv::ErrorKind::{UnequalLengths, Utf8};
    let line = error.position().map_or(0, csv::Position::line);
    match error.kind() {
        UnequalLengths { expected_len, len, .. } => {
            Error::data(format!("{path}:{line}: the row has {len} cells instead of {expected_len}"))
                .hint("an unbalanced quote joins rows: `quote: ''` takes quotes as text")
        }
        Utf8 { .. } => Error::data(format!("{path}:{line}: it is not UTF-8"))
            .hint("if the file is Latin-1, say `encoding: latin-1`"),
        _ => Error::data(format!("{path}: {error}")),
    }
    .at("/from")
}

impl Source for Delimited {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn next(&mut self) -> Result<Option<RecordBatch>> {
        let mut cells: Vec<Vec<Option<String>>> =
            vec![Vec::with_capacity(BATCH_ROWS); self.kinds.len()];
        let mut lines = Vec::with_capacity(BATCH_ROWS);
        let mut record = StringRecord::new();
        while lines.len() < BATCH_ROWS {
            match self.first.take() {
                Some(first) => record = first,
                None => {
                    let more = self.reader.read_record(&mut record);
                    if !more.map_err(|error| read_error(&self.path, &error))? {
                        break;
                    }
                }
            }
            lines.push(record.position().map_or(0, csv::Position::line));
            for (column, cell) in cells.iter_mut().zip(record.iter()) {
                column.push(Some(cell.to_owned()));
            }
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let mut columns = Vec::with_capacity(cells.len());
        for ((kind, column), field) in self.kinds.iter().zip(cells).zip(self.schema.fields()) {
            let column = build(*kind, column).map_err(|bad| {
                let (name, line) = (field.name(), lines[bad.row]);
                let what = match kind {
                    Kind::Int => "a whole number, as the column is",
                    Kind::Number => "a number, as the column is",
                    _ => "`true` or `false`, as the column is",
                };
                let text: String = bad.text.chars().take(40).collect();
                Error::data(format!("{}:{line}: `{name}` is `{text}`, not {what}", self.path))
                    .at("/from")
                    .hint(format!("mend the cell, or say `types: {{ {name}: text }}`"))
            })?;
            columns.push(column);
        }
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns)?))
    }
}
