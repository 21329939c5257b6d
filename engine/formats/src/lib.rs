//! Tables as files of text: CSV, TSV, JSON lines.
//!
//! What is written here, `load` reads back to the same cells. In CSV and TSV nothing between two separators is a missing value, and
//! `""` an empty text. The names of a TSV file are always in quotes, which tells `load`, and whoever sees the file, that its
//! cells are quoted as those of CSV are: there are TSV files in which a quote is just a quote.

mod dates;
mod delimited;

use std::io::Write;

use arrow::datatypes::{DataType, Schema};
use arrow_json::writer::{LineDelimited, WriterBuilder};

pub use dates::check_dates;
pub use delimited::{Delimited, DelimitedWriter};

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// CSV or TSV.
    Delimited,
    /// One JSON object a line.
    JsonLines,
}

/// A writer of JSON lines: every row has every column, so that a column without any value is one all the same. JSON has no NaN and no
/// infinity; they are written as `null`. Rows are held to [`check_dates`] first.
pub fn json_lines<W: Write>(out: W) -> arrow_json::Writer<W, LineDelimited> {
    WriterBuilder::new().with_explicit_nulls(true).build(out)
}

/// The first column that the format has no form for, what it is, and what to do.
pub fn unsupported(schema: &Schema, format: Format) -> Option<(&str, String, &'static str)> {
    schema.fields().iter().find_map(|field| {
        let kind = field.data_type();
        match format {
            Format::Delimited if is_nested(kind) => Some((
                field.name().as_str(),
                format!("{}, and a cell is one value", nested_name(kind)),
                "write JSON lines or Parquet, or load it with `nested: json`",
            )),
            Format::JsonLines => {
                let odd = odd_map(kind)?;
                Some((
                    field.name().as_str(),
                    format!("a map with keys of {odd}, and those of JSON are text"),
                    "write Parquet, or leave the column out",
                ))
            }
            Format::Delimited => None,
        }
    })
}

/// A nested type, as a person calls it.
fn nested_name(kind: &DataType) -> &'static str {
    match kind {
        DataType::Dictionary(_, value) => nested_name(value),
        DataType::RunEndEncoded(_, values) => nested_name(values.data_type()),
        DataType::Struct(_) => "a struct",
        DataType::Map(..) => "a map",
        DataType::Union(..) => "of several types",
        _ => "a list",
    }
}

fn is_nested(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, value) => is_nested(value),
        DataType::RunEndEncoded(_, values) => is_nested(values.data_type()),
        other => other.is_nested(),
    }
}

/// The type of the keys of a map, somewhere within, that are not text.
fn odd_map(kind: &DataType) -> Option<&DataType> {
    match kind {
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => {
                let key = fields.first()?.data_type();
                if matches!(key, DataType::Utf8 | DataType::LargeUtf8) {
                    odd_map(fields.get(1)?.data_type())
                } else {
                    Some(key)
                }
            }
            _ => None,
        },
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            odd_map(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().find_map(|field| odd_map(field.data_type())),
        _ => None,
    }
}
