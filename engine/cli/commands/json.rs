//! Values of tables as JSON.

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use arrow::util::display::array_value_to_string;
use serde_json::Value;

/// The text of a value, as a person reads it.
pub(crate) fn cell_text(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "null".to_owned();
    }
    array_value_to_string(column, row).unwrap_or_default()
}

/// Numbers as numbers; what JSON has no number for, such as NaN, as a text.
pub(crate) fn cell(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    let text = cell_text(column, row);
    match column.data_type() {
        kind if kind.is_numeric() => text.parse().map_or(Value::String(text), Value::Number),
        DataType::Boolean => Value::Bool(text == "true"),
        _ => Value::String(text),
    }
}
