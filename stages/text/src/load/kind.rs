//! The types that cells of text have: found by looking, or said in `types`.

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Deserialize;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Text.
    Text,
    /// A whole number.
    Int,
    /// Any number.
    Number,
    /// True or false.
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

    /// "the cell is `x`, not ..."
    pub(super) fn described(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int => "a whole number",
            Self::Number => "a number",
            Self::Bool => "`true` or `false`",
        }
    }
}

/// What the cells of a column that were looked at have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Bool,
    /// Whole numbers that a 64-bit float holds exactly.
    Int,
    /// Whole numbers that only a 64-bit integer holds.
    Long,
    Number,
    Text,
}

/// Whole numbers up to here are exact as 64-bit floats.
const EXACT: u64 = 1 << 53;

impl Found {
    /// Of one cell. A number with a leading zero is a code, not a quantity, and so is a whole number that is too long for 64 bits.
    pub(super) fn of(cell: &str, decimal: char) -> Self {
        let cell = cell.trim();
        if let Some(first) = cell.bytes().next()
            && !first.is_ascii_digit()
            && !matches!(
                first,
                b'-' | b'+' | b'.' | b',' | b't' | b'T' | b'f' | b'F' | b'n' | b'N' | b'i' | b'I'
            )
        {
            return Self::Text;
        }
        let digits = cell.trim_start_matches('-');
        let is_code =
            digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
        if is_code {
            return Self::Text;
        }
        if let Ok(number) = cell.parse::<i64>() {
            return if number.unsigned_abs() <= EXACT { Self::Int } else { Self::Long };
        }
        let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_whole && number(cell, decimal).is_some() {
            Self::Number
        } else if matches!(cell, "true" | "false" | "True" | "False" | "TRUE" | "FALSE") {
            Self::Bool
        } else {
            Self::Text
        }
    }

    /// What holds both exactly.
    pub(super) fn join(self, other: Self) -> Self {
        match (self, other) {
            _ if self == other => self,
            (Self::Int, Self::Long) | (Self::Long, Self::Int) => Self::Long,
            (Self::Int, Self::Number) | (Self::Number, Self::Int) => Self::Number,
            _ => Self::Text,
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Bool => Kind::Bool,
            Self::Int | Self::Long => Kind::Int,
            Self::Number => Kind::Number,
            Self::Text => Kind::Text,
        }
    }
}

/// What other programs write for numbers that are none. Other spellings, `Nan` and `Inf` among them, are names.
const NOT_FINITE: [&str; 8] =
    ["NaN", "nan", "inf", "-inf", "Infinity", "-Infinity", "infinity", "-infinity"];

/// Plain decimal notation, or one of [`NOT_FINITE`].
pub(super) fn number(cell: &str, decimal: char) -> Option<f64> {
    let first = cell.bytes().next()?;
    if first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.' | b',') {
        let parsed = if decimal == '.' {
            cell.parse::<f64>()
        } else if cell.contains('.') {
            return None;
        } else {
            cell.replace(decimal, ".").parse()
        };
        if let Some(number) = parsed.ok().filter(|number| number.is_finite()) {
            return Some(number);
        }
    }
    NOT_FINITE.contains(&cell).then(|| cell.parse().ok())?
}

/// As people spell it.
pub(super) fn truth(cell: &str) -> Option<bool> {
    let is = |words: [&str; 5]| words.iter().any(|word| cell.eq_ignore_ascii_case(word));
    if is(["true", "t", "yes", "y", "1"]) {
        Some(true)
    } else if is(["false", "f", "no", "n", "0"]) {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Found, number};

    #[test]
    fn what_a_cell_is() {
        use Found::{Bool, Int, Long, Number, Text};
        for (cell, found) in [
            ("1", Int),
            (" -7 ", Int),
            ("9007199254740992", Int),
            ("9007199254740993", Long),
            ("-9223372036854775808", Long),
            ("11898508762506083287", Text),
            ("007", Text),
            ("-01", Text),
            ("0", Int),
            ("0.5", Number),
            ("-0.5", Number),
            ("1e3", Number),
            ("1e999", Text),
            ("NaN", Number),
            ("Nan", Text),
            ("Inf", Text),
            ("true", Bool),
            ("TRUE", Bool),
            ("tRUE", Text),
            ("1,5", Text),
            ("-", Text),
            ("", Text),
        ] {
            assert_eq!(Found::of(cell, '.'), found, "{cell}");
        }
        assert_eq!(Found::of("-1,5", ','), Number);
        assert_eq!(Found::of("1.5", ','), Text);
        assert_eq!(number("1,5", ','), Some(1.5));
        assert_eq!(Long.join(Number), Text);
        assert_eq!(Int.join(Number), Number);
    }
}
