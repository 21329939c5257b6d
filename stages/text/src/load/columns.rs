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
        let cell = cell.trim();
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

/// What other programs write for numbers that are none. Other spellings, `Nan` and `Inf` among them, are names.
const NOT_FINITE: [&str; 8] =
    ["NaN", "nan", "inf", "-inf", "Infinity", "-Infinity", "infinity", "-infinity"];

/// Plain decimal notation, or one of [`NOT_FINITE`].
fn is_number(cell: &str) -> bool {
    let decimal = cell.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'))
        && cell.parse::<f64>().is_ok_and(f64::is_finite);
    decimal || NOT_FINITE.contains(&cell)
}

/// The first cell of a column that does not fit.
#[derive(Debug)]
pub(crate) struct BadCell {
    pub(crate) row: usize,
    pub(crate) text: String,
}

/// Builds one column. White space around a number means nothing.
pub(crate) fn build(
    kind: Kind,
    cells: Vec<Option<String>>,
) -> std::result::Result<ArrayRef, BadCell> {
    fn parse<T>(
        cells: &[Option<String>],
        read: impl Fn(&str) -> Option<T>,
    ) -> std::result::Result<Vec<Option<T>>, BadCell> {
        let cell = |(row, cell): (usize, &Option<String>)| match cell.as_deref().map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) => {
                read(text).map(Some).ok_or_else(|| BadCell { row, text: text.to_owned() })
            }
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
