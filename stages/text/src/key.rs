//! Columns by which rows are told apart.

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::DataType;
use paraloom_expr::type_name;
use paraloom_sdk::{Error, Result, Table, column};

/// That there is such a column, and that its values can be told apart.
pub(crate) fn check_key(rows: &Table, name: &str, pointer: &str) -> Result<()> {
    let kind = rows.field(name, pointer)?.data_type();
    if kind.is_nested() || !can_cast_types(kind, &DataType::Utf8) {
        return Err(Error::schema(format!(
            "column `{name}` is {}, by which rows cannot be told apart",
            type_name(kind)
        ))
        .at(pointer)
        .input("rows"));
    }
    Ok(())
}

/// The column as text, whatever it is.
pub(crate) fn as_text(rows: &RecordBatch, name: &str) -> Result<StringArray> {
    Ok(cast(column::get(rows, name)?, &DataType::Utf8)?.as_string().clone())
}

/// A text in 128 bits, of which no two are known to share theirs.
pub(crate) fn digest(text: &str) -> u128 {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    u128::from_le_bytes(bytes)
}
