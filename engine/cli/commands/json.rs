//! Values of tables as JSON.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value;

/// The text of a value, as a person reads it.
pub(crate) fn cell_text(column: &ArrayRef, row: usize) -> String {
    if is_missing(column, row) {
        return "null".to_owned();
    }
    let options = FormatOptions::default().with_null("null");
    let text = ArrayFormatter::try_new(column, &options)
        .and_then(|formatter| formatter.value(row).try_to_string());
    text.unwrap_or_default()
}

/// Numbers as numbers, lists and structs as such; what JSON has no number for, such as NaN or more digits than a double has, as a text.
pub(crate) fn cell(column: &ArrayRef, row: usize) -> Value {
    if is_missing(column, row) {
        return Value::Null;
    }
    let text = cell_text(column, row);
    match column.data_type() {
        kind if is_decimal(kind) && text.len() > f64::DIGITS as usize => Value::String(text),
        kind if kind.is_numeric() => text.parse().map_or(Value::String(text), Value::Number),
        DataType::Boolean => Value::Bool(text == "true"),
        // A map whose keys are no texts has no form in JSON.
        kind if kind.is_nested() => nested(column, row).unwrap_or(Value::String(text)),
        _ => Value::String(text),
    }
}

/// Whether there is no value. Some types say so elsewhere than in their own nulls.
fn is_missing(column: &ArrayRef, row: usize) -> bool {
    column.slice(row, 1).logical_nulls().is_some_and(|nulls| nulls.is_null(0))
}

fn is_decimal(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..)
    )
}

/// The value as `export` writes it.
fn nested(column: &ArrayRef, row: usize) -> Result<Value, ArrowError> {
    let cell = RecordBatch::try_from_iter([("cell", column.slice(row, 1))])?;
    let mut line = Vec::new();
    let mut writer = paraloom_formats::json_lines(&mut line);
    writer.write(&cell)?;
    writer.finish()?;
    drop(writer);
    let mut line: Value =
        serde_json::from_slice(&line).map_err(|error| ArrowError::JsonError(error.to_string()))?;
    Ok(line["cell"].take())
}

/// Whether two values are the same; those of other types are if they read the same.
pub(crate) fn equal(one: &ArrayRef, other: &ArrayRef, row: usize) -> bool {
    if one.data_type() == other.data_type() {
        return one.slice(row, 1).to_data() == other.slice(row, 1).to_data();
    }
    match (is_missing(one, row), is_missing(other, row)) {
        (false, false) => cell_text(one, row) == cell_text(other, row),
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Decimal128Array, DictionaryArray, Float64Array, Int64Array, Int64Builder, ListArray,
        MapBuilder, NullArray, StringArray, StringBuilder, StructArray,
    };
    use arrow::datatypes::{Field, Int8Type, Int64Type};
    use serde_json::json;

    use super::*;

    fn columns() -> Vec<(ArrayRef, [Value; 2], [&'static str; 2])> {
        let list =
            ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![None]), Some(vec![])]);
        let x: ArrayRef = Arc::new(StringArray::from(vec![None, Some("")]));
        let x_of = Arc::new(Field::new("x", DataType::Utf8, true));
        let dictionary: DictionaryArray<Int8Type> = vec![None, Some("null")].into_iter().collect();
        let decimals = Decimal128Array::from(vec![1_500, 12_345_678_901_234_567_890]);
        let mut maps = MapBuilder::new(None, Int64Builder::new(), StringBuilder::new());
        maps.keys().append_value(1);
        maps.values().append_null();
        maps.append(true).expect("a key and a value");
        maps.append(true).expect("nothing");
        vec![
            (Arc::new(list), [json!([null]), json!([])], ["[null]", "[]"]),
            (
                Arc::new(StructArray::from(vec![(x_of, x)])),
                [json!({"x": null}), json!({"x": ""})],
                ["{x: null}", "{x: }"],
            ),
            (Arc::new(NullArray::new(2)), [json!(null), json!(null)], ["null", "null"]),
            (Arc::new(dictionary), [json!(null), json!("null")], ["null", "null"]),
            (
                Arc::new(decimals.with_precision_and_scale(30, 3).expect("it fits")),
                [json!(1.5), json!("12345678901234567.890")],
                ["1.500", "12345678901234567.890"],
            ),
            (
                Arc::new(Float64Array::from(vec![f64::NAN, 0.5])),
                [json!("NaN"), json!(0.5)],
                ["NaN", "0.5"],
            ),
            (
                Arc::new(Int64Array::from(vec![None, Some(i64::MAX)])),
                [json!(null), json!(i64::MAX)],
                ["null", "9223372036854775807"],
            ),
            (Arc::new(maps.finish()), [json!("{1: null}"), json!("{}")], ["{1: null}", "{}"]),
        ]
    }

    #[test]
    fn values_are_told_apart() {
        for (column, values, texts) in columns() {
            let kind = column.data_type();
            for row in 0..2 {
                assert_eq!(cell_text(&column, row), texts[row], "{kind}");
                assert_eq!(cell(&column, row), values[row], "{kind}");
                assert!(equal(&column, &column, row), "{kind}");
            }
            // The two rows differ, but for those of nothing.
            let (one, other) = (column.slice(0, 1), column.slice(1, 1));
            assert_eq!(equal(&one, &other, 0), *kind == DataType::Null, "{kind}");
        }
    }
}
