//! Typed columns from cells of text.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Deserialize;

/// The type of a column in a file that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Text.
    Text,
    /// A whole number.
    Int,
    /// Any number.
    Number,
    /// `true` or `false`.
    Bool,
}

impl Kind {
    pub(crate) fn data_type(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Int => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::Bool => DataType::Boolean,
        }
    }

    /// The narrowest kind of one cell. A number with a leading zero is a code, not a
    /// quantity.
    pub(crate) fn of(cell: &str) -> Self {
        let digits = cell.trim_start_matches('-');
        let is_code = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
        if is_code {
            Self::Text
        } else if cell.parse::<i64>().is_ok() {
            Self::Int
        } else if is_number(cell) {
            Self::Number
        } else if matches!(cell, "true" | "false") {
            Self::Bool
        } else {
            Self::Text
        }
    }

    /// The narrowest kind that holds both.
    pub(crate) fn join(self, other: Self) -> Self {
        match (self, other) {
            _ if self == other => self,
            (Self::Int, Self::Number) | (Self::Number, Self::Int) => Self::Number,
            _ => Self::Text,
        }
    }
}

/// Plain decimal notation; `nan`, `inf` and `infinity`, which Rust would parse, are words.
fn is_number(cell: &str) -> bool {
    cell.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'))
        && cell.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Builds one column; the error is the index of the first cell that does not fit.
pub(crate) fn build(
    kind: Kind,
    cells: Vec<Option<String>>,
) -> std::result::Result<ArrayRef, usize> {
    fn parse<T>(
        cells: &[Option<String>],
        read: impl Fn(&str) -> Option<T>,
    ) -> std::result::Result<Vec<Option<T>>, usize> {
        let cell = |(at, cell): (usize, &Option<String>)| match cell.as_deref() {
            None | Some("") => Ok(None),
            Some(text) => read(text).map(Some).ok_or(at),
        };
        cells.iter().enumerate().map(cell).collect()
    }
    Ok(match kind {
        Kind::Text => Arc::new(StringArray::from(cells)),
        Kind::Int => Arc::new(Int64Array::from(parse(&cells, |text| text.parse().ok())?)),
        Kind::Number => Arc::new(Float64Array::from(parse(&cells, |text| {
            is_number(text).then(|| text.parse().ok())?
        })?)),
        Kind::Bool => Arc::new(BooleanArray::from(parse(&cells, |text| text.parse().ok())?)),
    })
}
