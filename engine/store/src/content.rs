//! What a row says, for its id.
//!
//! An id must outlive what a file format makes of a table: a row keeps it when another row turns a column of whole numbers
//! into one of numbers, or into text, or when a column is added in which the row has nothing. So numbers count by their
//! value and not by their type or spelling, and cells that are null or empty do not count at all. Rows whose content is
//! the same get different ids all the same, since their number is in it (see [`crate::Identify`]). To tell whether a row
//! has changed, [`crate::row_digests`] compares types and values.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, UInt64Type};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use arrow::util::display::lexical_to_string;

use crate::rows::field;

const CONTEXT: &str = "paraloom 2026 row id: content";

/// A hasher for every row, which has seen `salt` and the row's content.
pub(crate) fn content_hashers(
    rows: &RecordBatch,
    salt: &str,
) -> Result<Vec<blake3::Hasher>, ArrowError> {
    let mut start = blake3::Hasher::new_derive_key(CONTEXT);
    field(&mut start, salt.as_bytes());
    let mut hashers = vec![start; rows.num_rows()];
    for (column, values) in rows.schema().fields().iter().zip(rows.columns()) {
        let cells = Cells::new(values).map_err(|error| {
            ArrowError::ComputeError(format!("column `{}`: {error}", column.name()))
        })?;
        for (row, hasher) in hashers.iter_mut().enumerate() {
            let cell = if values.is_null(row) { Cow::default() } else { cells.bytes(row) };
            if !cell.is_empty() {
                field(hasher, column.name().as_bytes());
                hasher.update(&[1]);
                field(hasher, &cell);
            }
        }
    }
    Ok(hashers)
}

/// The cells of a column as bytes.
enum Cells {
    Text(ArrayRef),
    Bool(ArrayRef),
    Int(ArrayRef),
    Unsigned(ArrayRef),
    Float32(ArrayRef),
    Float(ArrayRef),
    /// Anything else in arrow's row format, which differs wherever the values do.
    Rows(Rows),
}

impl Cells {
    fn new(values: &ArrayRef) -> Result<Self, ArrowError> {
        use DataType as T;
        Ok(match values.data_type() {
            T::Utf8 | T::LargeUtf8 | T::Utf8View => Self::Text(cast(values, &T::Utf8View)?),
            T::Boolean => Self::Bool(values.clone()),
            T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 => {
                Self::Int(cast(values, &T::Int64)?)
            }
            T::UInt64 => Self::Unsigned(values.clone()),
            T::Float16 | T::Float32 => Self::Float32(cast(values, &T::Float32)?),
            T::Float64 => Self::Float(values.clone()),
            T::Dictionary(_, value) => Self::new(&cast(values, value)?)?,
            other => {
                let converter = RowConverter::new(vec![SortField::new(other.clone())])?;
                Self::Rows(converter.convert_columns(std::slice::from_ref(values))?)
            }
        })
    }

    fn bytes(&self, row: usize) -> Cow<'_, [u8]> {
        let text = |text: String| Cow::Owned(text.into_bytes());
        match self {
            Self::Text(values) => canonical(values.as_string_view().value(row)),
            Self::Bool(values) => text(values.as_boolean().value(row).to_string()),
            Self::Int(values) => text(values.as_primitive::<Int64Type>().value(row).to_string()),
            Self::Unsigned(values) => {
                text(values.as_primitive::<UInt64Type>().value(row).to_string())
            }
            Self::Float32(values) => {
                let value = values.as_primitive::<Float32Type>().value(row);
                text(whole(f64::from(value)).unwrap_or_else(|| lexical_to_string(value)))
            }
            Self::Float(values) => text(number(values.as_primitive::<Float64Type>().value(row))),
            Self::Rows(rows) => Cow::Owned(rows.row(row).as_ref().to_vec()),
        }
    }
}

/// One text for one number.
fn number(value: f64) -> String {
    whole(value).unwrap_or_else(|| lexical_to_string(value))
}

/// A whole number as one, where a float holds it exactly.
fn whole(value: f64) -> Option<String> {
    const EXACT: f64 = (1_u64 << 53) as f64;
    (value.fract() == 0.0 && value.abs() <= EXACT).then(|| (value as i64).to_string())
}

/// Text; what looks like a number or a truth value as the column of that type would have it.
fn canonical(text: &str) -> Cow<'_, [u8]> {
    let trimmed = text.trim();
    let owned = |text: String| Cow::Owned(text.into_bytes());
    match trimmed.bytes().next() {
        Some(b'0'..=b'9' | b'-' | b'+' | b'.') => {
            let digits = trimmed.trim_start_matches('-');
            // A code such as 007 is text and no number.
            let is_code = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
            if is_code {
                return Cow::Borrowed(text.as_bytes());
            }
            if let Ok(value) = trimmed.parse::<i64>() {
                return owned(value.to_string());
            }
            match trimmed.parse::<f64>() {
                // Digits beyond what a float holds tell two numbers apart.
                Ok(value) if value.is_finite() && trimmed.len() <= 17 => owned(number(value)),
                _ => Cow::Borrowed(text.as_bytes()),
            }
        }
        Some(b't' | b'T') if trimmed.eq_ignore_ascii_case("true") => Cow::Borrowed(b"true"),
        Some(b'f' | b'F') if trimmed.eq_ignore_ascii_case("false") => Cow::Borrowed(b"false"),
        _ => Cow::Borrowed(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BooleanArray, Float64Array, Int64Array, StringArray};

    use super::*;

    fn hashes(columns: Vec<(&str, ArrayRef)>) -> Vec<String> {
        let rows = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, column)| (name, column, true)),
        );
        let hashers = content_hashers(&rows.expect("columns of one length"), "salt");
        let hashers = hashers.expect("types that can be hashed");
        hashers.iter().map(|hasher| hasher.finalize().to_hex()[..24].to_owned()).collect()
    }

    fn text(texts: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(texts.to_vec()))
    }

    /// What another row of a file does to the type of a column changes no row.
    #[test]
    fn a_row_says_the_same_whatever_the_type_of_its_column() {
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![4, -7, 0]));
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![4.0, -7.0, -0.0]));
        let bools: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
        let halves: ArrayRef = Arc::new(Float64Array::from(vec![0.5, 1e-7, 1e300]));
        let same = [
            vec![ints, floats, text(&["4", "-7", "0"]), text(&["4.0", " -7", "-0.0"])],
            vec![bools, text(&["true", "false"]), text(&["True", "FALSE"])],
            vec![halves, text(&["0.50", "1e-7", "1e300"])],
        ];
        for columns in same {
            let all: Vec<_> =
                columns.into_iter().map(|column| hashes(vec![("n", column)])).collect();
            assert!(all.iter().all(|hashes| *hashes == all[0]), "{all:?}");
        }
    }

    #[test]
    fn codes_and_long_numbers_are_told_apart() {
        let texts = text(&[
            "7",
            "007",
            "7a",
            "11898508762506083287",
            "11898508762506083288",
            "0.10000000000000000001",
            "0.10000000000000000002",
            "NaN",
            "nan",
            "-",
        ]);
        let hashes = hashes(vec![("c", texts)]);
        assert_eq!(hashes.iter().collect::<std::collections::HashSet<_>>().len(), hashes.len());
    }

    /// A column that is added without anything in it.
    #[test]
    fn what_is_null_or_empty_does_not_count() {
        let alone = hashes(vec![("t", text(&["a", "b"]))]);
        let nulls: ArrayRef = Arc::new(Int64Array::from(vec![None, None]));
        let more = vec![("e", text(&["", ""])), ("t", text(&["a", "b"])), ("n", nulls)];
        assert_eq!(hashes(more), alone);
        // But where a value stands does.
        assert_ne!(hashes(vec![("u", text(&["a", "b"]))]), alone);
    }

    /// The ids of every row that was ever stored come from this: other bytes would make every result unknown.
    #[test]
    fn the_bytes_are_fixed() {
        let item = |texts: &[&str]| texts.iter().map(|text| Some((*text).to_owned())).collect();
        let mut lists = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
        for texts in [&["x", "y"][..], &[]] {
            let texts: Vec<Option<String>> = item(texts);
            lists.append_value(texts);
        }
        let found = hashes(vec![
            ("text", text(&["a row", "4.0"])),
            ("n", Arc::new(Int64Array::from(vec![1, 2]))),
            ("list", Arc::new(lists.finish())),
        ]);
        assert_eq!(found, ["1f5662218f679720eab348ed", "34364538b1d5d5e588a0885f"]);
    }
}
