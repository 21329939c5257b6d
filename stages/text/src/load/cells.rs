//! Typed columns from cells of text, row by row.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, StringBuilder,
};
use arrow::datatypes::SchemaRef;
use paraloom_sdk::{Error, Result};

use super::kind::{Found, Kind, number, truth};

/// Rows that are read at once, and the bytes of their cells, whichever comes first.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 16 << 20;

/// What cells of text mean.
#[derive(Clone, Debug)]
pub(super) struct Cells {
    /// Spellings that stand for a value that is missing.
    pub(super) missing: Vec<String>,
    /// What stands before the fraction of a number.
    pub(super) decimal: char,
}

impl Cells {
    fn is_missing(&self, text: &str) -> bool {
        !self.missing.is_empty()
            && self.missing.iter().any(|known| known == text || known == text.trim())
    }
}

/// Where the cells of a row go: to be looked at, or into columns.
pub(super) trait Sink {
    /// The cell of one column; `None` is missing.
    fn push(&mut self, column: usize, cell: Option<Cell<'_>>);
    /// What was the first thing wrong with the row, which is whole now.
    fn end_row(&mut self) -> Option<Misfit>;
}

/// One cell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell<'a> {
    pub(super) text: &'a str,
    /// That the file says it is text, as JSON does.
    pub(super) is_text: bool,
}

impl<'a> Cell<'a> {
    pub(super) fn plain(text: &'a str) -> Self {
        Self { text, is_text: false }
    }
}

/// A cell that its column does not take.
#[derive(Debug)]
pub(super) enum Misfit {
    /// It is not of the column's type.
    Kind { column: usize, text: String },
    /// The row has another for the same column.
    Second { column: usize },
}

/// What the cells of each column have in common.
pub(super) struct Survey<'a> {
    /// By column; those of JSON become more.
    pub(super) found: Vec<Option<Found>>,
    /// Whether a value is missing in the column.
    pub(super) lacks: Vec<bool>,
    filled: Vec<usize>,
    rows: usize,
    cells: &'a Cells,
    misfit: Option<Misfit>,
    /// The types are known: only whether a value is missing is looked at.
    pub(super) is_typed: bool,
}

impl<'a> Survey<'a> {
    pub(super) fn new(columns: usize, cells: &'a Cells) -> Self {
        Self {
            found: vec![None; columns],
            lacks: vec![false; columns],
            filled: vec![0; columns],
            rows: 0,
            cells,
            misfit: None,
            is_typed: false,
        }
    }
}

impl Sink for Survey<'_> {
    fn push(&mut self, column: usize, cell: Option<Cell<'_>>) {
        if column >= self.found.len() {
            self.found.resize(column + 1, None);
            self.lacks.resize(column + 1, false);
            self.filled.resize(column + 1, 0);
        }
        // Each row has the number that is behind the last one's.
        if std::mem::replace(&mut self.filled[column], self.rows + 1) > self.rows {
            self.misfit.get_or_insert(Misfit::Second { column });
        }
        let Some(cell) = cell.filter(|cell| !self.cells.is_missing(cell.text)) else {
            self.lacks[column] = true;
            return;
        };
        if self.is_typed {
            return;
        }
        let place = &mut self.found[column];
        if *place == Some(Found::Text) || (!cell.is_text && cell.text.trim().is_empty()) {
            return;
        }
        let found =
            if cell.is_text { Found::Text } else { Found::of(cell.text, self.cells.decimal) };
        *place = Some(place.map_or(found, |known| known.join(found)));
    }

    fn end_row(&mut self) -> Option<Misfit> {
        self.rows += 1;
        self.misfit.take()
    }
}

enum Builder {
    Text(StringBuilder),
    Int(Int64Builder),
    Number(Float64Builder),
    Bool(BooleanBuilder),
}

/// Columns in the making.
pub(super) struct Columns {
    builders: Vec<Builder>,
    filled: Vec<usize>,
    cells: Cells,
    rows: usize,
    bytes: usize,
    misfit: Option<Misfit>,
}

impl Columns {
    pub(super) fn new(kinds: &[Kind], cells: Cells) -> Self {
        let builder = |kind: &Kind| match kind {
            Kind::Text => Builder::Text(StringBuilder::new()),
            Kind::Int => Builder::Int(Int64Builder::new()),
            Kind::Number => Builder::Number(Float64Builder::new()),
            Kind::Bool => Builder::Bool(BooleanBuilder::new()),
        };
        let builders: Vec<_> = kinds.iter().map(builder).collect();
        Self { filled: vec![0; builders.len()], builders, cells, rows: 0, bytes: 0, misfit: None }
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The rows so far; the next ones begin anew.
    pub(super) fn finish(&mut self, schema: &SchemaRef) -> Result<RecordBatch> {
        let columns = self.builders.iter_mut().map(|builder| -> ArrayRef {
            match builder {
                Builder::Text(builder) => Arc::new(builder.finish()),
                Builder::Int(builder) => Arc::new(builder.finish()),
                Builder::Number(builder) => Arc::new(builder.finish()),
                Builder::Bool(builder) => Arc::new(builder.finish()),
            }
        });
        let columns: Vec<_> = columns.collect();
        let rows = self.rows;
        self.filled.fill(0);
        (self.rows, self.bytes) = (0, 0);
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
    }
}

impl Sink for Columns {
    /// White space around a number means nothing.
    fn push(&mut self, column: usize, cell: Option<Cell<'_>>) {
        if self.filled[column] > self.rows {
            self.misfit.get_or_insert(Misfit::Second { column });
            return;
        }
        self.filled[column] += 1;
        let cell = cell.filter(|cell| !self.cells.is_missing(cell.text));
        let text = cell.map(|cell| cell.text);
        self.bytes += text.map_or(0, str::len);
        let decimal = self.cells.decimal;
        let taken = match &mut self.builders[column] {
            Builder::Text(builder) => {
                builder.append_option(text);
                Ok(())
            }
            Builder::Int(builder) => {
                typed(text, |text| text.parse().ok()).map(|value| builder.append_option(value))
            }
            Builder::Number(builder) => {
                typed(text, |text| number(text, decimal)).map(|value| builder.append_option(value))
            }
            Builder::Bool(builder) => typed(text, truth).map(|value| builder.append_option(value)),
        };
        if taken.is_err() {
            let text = text.unwrap_or_default().trim().to_owned();
            self.misfit.get_or_insert(Misfit::Kind { column, text });
        }
    }

    /// What the row has no cell for is missing.
    fn end_row(&mut self) -> Option<Misfit> {
        self.rows += 1;
        for (builder, filled) in self.builders.iter_mut().zip(&mut self.filled) {
            if *filled < self.rows {
                *filled += 1;
                match builder {
                    Builder::Text(builder) => builder.append_null(),
                    Builder::Int(builder) => builder.append_null(),
                    Builder::Number(builder) => builder.append_null(),
                    Builder::Bool(builder) => builder.append_null(),
                }
            }
        }
        self.misfit.take()
    }
}

/// The value of a cell, unless it is blank.
fn typed<T>(
    text: Option<&str>,
    read: impl Fn(&str) -> Option<T>,
) -> std::result::Result<Option<T>, ()> {
    match text.map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) => read(text).map(Some).ok_or(()),
    }
}

/// What programs write where there is no value.
const MISSING: [&str; 14] = [
    "NA", "N/A", "#N/A", "n/a", "na", "\\N", "null", "NULL", "Null", "None", "none", "-", "--", "?",
];

/// Says what is wrong with a cell: `place` is file and line.
pub(super) fn misfit(place: &str, name: &str, kind: Kind, text: &str, cells: &Cells) -> Error {
    let shown: String = text.chars().take(40).collect();
    let error = Error::data(format!(
        "{place}: `{name}` is `{shown}`, not {}, as the column is",
        kind.described()
    ))
    .at("/from");
    let other = if cells.decimal == '.' { ',' } else { '.' };
    error.hint(if MISSING.contains(&text) {
        format!("if it means that there is none, say `missing: ['{text}']`")
    } else if kind != Kind::Bool && number(text, other).is_some() {
        format!("if it is a number, say `decimal: '{other}'`")
    } else if kind == Kind::Int && number(text, cells.decimal).is_some() {
        format!("say `types: {{ {name}: number }}`, or `text`")
    } else {
        format!("mend the cell, or say `types: {{ {name}: text }}`")
    })
}
