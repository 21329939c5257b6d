//! CSV and TSV (RFC 4180).

use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delimited {
    /// Between cells: one ASCII character.
    pub delimiter: u8,
    /// Names are in quotes, even where they need none.
    pub quoted_names: bool,
    /// The file begins with a byte order mark, by which Excel knows UTF-8.
    pub mark: bool,
    /// A `'` stands before text that a spreadsheet would take for a formula.
    pub guard: bool,
}

impl Delimited {
    /// Comma-separated values.
    pub const CSV: Self = Self { delimiter: b',', quoted_names: false, mark: false, guard: false };
    /// Tab-separated values.
    pub const TSV: Self = Self { delimiter: b'\t', quoted_names: true, mark: false, guard: false };
}

/// Writes a header, and then rows.
pub struct DelimitedWriter<W> {
    out: W,
    dialect: Delimited,
    /// One row, so that `out` is called once for each.
    line: Vec<u8>,
}

impl<W: Write> DelimitedWriter<W> {
    /// Writes the header, which stands even if there are no rows.
    ///
    /// # Errors
    /// What `out` says.
    pub fn new(mut out: W, dialect: Delimited, schema: &Schema) -> std::io::Result<Self> {
        let mut line = Vec::new();
        if dialect.mark {
            line.extend_from_slice("\u{feff}".as_bytes());
        }
        for (at, field) in schema.fields().iter().enumerate() {
            if at > 0 {
                line.push(dialect.delimiter);
            }
            let name = field.name();
            let is_odd = name.trim() != name
                || name.contains([',', ';', '\t', '|'])
                || name.starts_with("sep=");
            text(&mut line, name, dialect.delimiter, dialect.quoted_names || is_odd);
        }
        line.push(b'\n');
        out.write_all(&line)?;
        Ok(Self { out, dialect, line })
    }

    /// Writes rows of the schema that the header is of.
    ///
    /// # Errors
    /// What `out` says, or that a value has no form as text.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        crate::check_dates(rows)?;
        let options = FormatOptions::default().with_display_error(false);
        let columns = rows
            .columns()
            .iter()
            .map(|column| Column::new(column, &options))
            .collect::<Result<Vec<_>, _>>()?;
        for row in 0..rows.num_rows() {
            self.line.clear();
            for (at, column) in columns.iter().enumerate() {
                if at > 0 {
                    self.line.push(self.dialect.delimiter);
                }
                column.write(&mut self.line, row, self.dialect)?;
            }
            // A blank line is no row.
            if self.line.is_empty() {
                self.line.extend_from_slice(b"\"\"");
            }
            self.line.push(b'\n');
            self.out.write_all(&self.line)?;
        }
        Ok(())
    }

    /// What the rows were written to; it may have to be flushed.
    pub fn into_inner(self) -> W {
        self.out
    }
}

enum Column<'a> {
    Text(ArrayRef),
    Other(&'a ArrayRef, ArrayFormatter<'a>),
}

impl<'a> Column<'a> {
    fn new(column: &'a ArrayRef, options: &FormatOptions<'a>) -> Result<Self, ArrowError> {
        let is_text = match column.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
            DataType::Dictionary(_, value) => {
                matches!(**value, DataType::Utf8 | DataType::LargeUtf8)
            }
            _ => false,
        };
        if is_text {
            return Ok(Self::Text(cast(column, &DataType::Utf8)?));
        }
        Ok(Self::Other(column, ArrayFormatter::try_new(column, options)?))
    }

    fn write(&self, line: &mut Vec<u8>, row: usize, dialect: Delimited) -> Result<(), ArrowError> {
        match self {
            Self::Text(column) => {
                if column.is_valid(row) {
                    let cell = column.as_string::<i32>().value(row);
                    if dialect.guard && cell.starts_with(['=', '+', '-', '@', '\t', '\r']) {
                        text(line, &format!("'{cell}"), dialect.delimiter, false);
                    } else {
                        text(line, cell, dialect.delimiter, false);
                    }
                }
            }
            Self::Other(column, formatter) => {
                if column.is_valid(row) {
                    // Numbers have nothing in them to quote, but dates may.
                    text(line, &formatter.value(row).try_to_string()?, dialect.delimiter, false);
                }
            }
        }
        Ok(())
    }
}

/// Writes one cell, in quotes where it needs them; an empty one does, to be told from one that is missing.
fn text(line: &mut Vec<u8>, cell: &str, delimiter: u8, in_quotes: bool) {
    // Ctrl-Z ends a file for DOS, and a byte order mark is none in the middle.
    let is_odd = |byte: &u8| *byte == delimiter || matches!(byte, b'"' | b'\n' | b'\r' | 0x1a);
    if !in_quotes
        && !cell.is_empty()
        && !cell.starts_with('\u{feff}')
        && !cell.as_bytes().iter().any(is_odd)
    {
        line.extend_from_slice(cell.as_bytes());
        return;
    }
    line.push(b'"');
    for byte in cell.as_bytes() {
        if *byte == b'"' {
            line.push(b'"');
        }
        line.push(*byte);
    }
    line.push(b'"');
}
