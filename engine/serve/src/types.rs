//! Whether a value is of the type of its column. The reader of JSON is lenient: it takes the text `"inf"` for a number, and
//! 1.5 for 1; a client that sends such a thing has made a mistake.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow_json::ReaderBuilder;
use serde_json::{Number, Value};

/// Numbers up to here are whole as floats too.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// Characters of a value that are quoted in a message.
const SHOWN: usize = 60;

/// What is wrong with the value of a column; `sent` gives a number as it was written, whose digits may be more than a
/// float has.
pub(crate) fn check(
    field: &Field,
    value: &Value,
    sent: impl FnOnce() -> Option<String>,
) -> Result<(), String> {
    let (name, kind) = (field.name(), field.data_type());
    let Some(wanted) = wanted(kind) else { return Ok(()) };
    let fits = match (kind, value) {
        (_, Value::Null) | (DataType::Boolean, Value::Bool(_)) => true,
        (kind, Value::String(_)) => is_text(kind),
        (kind, Value::Number(number)) if kind.is_integer() => match whole(number) {
            Some(number) if range(kind).contains(&number) => true,
            Some(_) => return Err(outside(name, kind, &written(number, sent))),
            None if number.as_f64().is_some_and(|number| number.abs() > EXACT) => {
                return Err(outside(name, kind, &written(number, sent)));
            }
            None => false,
        },
        (DataType::Float32, Value::Number(number)) => {
            number.as_f64().is_some_and(|number| (number as f32).is_finite())
        }
        (kind, Value::Number(_)) => kind.is_floating(),
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("`{name}` is {}, not {wanted}", described(value))) }
}

/// What a column of a type holds, in words; none for types whose values the reader checks itself.
fn wanted(kind: &DataType) -> Option<&'static str> {
    match kind {
        DataType::Boolean => Some("true or false"),
        kind if is_text(kind) => Some("text"),
        kind if kind.is_integer() => Some("a whole number"),
        kind if kind.is_floating() => Some("a number"),
        _ => None,
    }
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn described(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the text {}", shortened(&Value::from(text.as_str()))),
        Value::Array(_) => format!("the list {}", shortened(value)),
        Value::Object(_) => format!("the object {}", shortened(value)),
        value => shortened(value),
    }
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// A number without a fraction.
fn whole(number: &Number) -> Option<i128> {
    let float = || number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() <= EXACT);
    number
        .as_i64()
        .map(i128::from)
        .or_else(|| number.as_u64().map(i128::from))
        .or_else(|| float().map(|float| float as i128))
}

fn range(kind: &DataType) -> std::ops::RangeInclusive<i128> {
    match kind {
        DataType::Int8 => i8::MIN.into()..=i8::MAX.into(),
        DataType::Int16 => i16::MIN.into()..=i16::MAX.into(),
        DataType::Int32 => i32::MIN.into()..=i32::MAX.into(),
        DataType::UInt8 => 0..=u8::MAX.into(),
        DataType::UInt16 => 0..=u16::MAX.into(),
        DataType::UInt32 => 0..=u32::MAX.into(),
        DataType::UInt64 => 0..=u64::MAX.into(),
        _ => i64::MIN.into()..=i64::MAX.into(),
    }
}

fn outside(name: &str, kind: &DataType, sent: &str) -> String {
    let range = range(kind);
    format!(
        "`{name}` is {sent}, outside of the whole numbers from {} to {}",
        range.start(),
        range.end()
    )
}

/// A number as it was sent.
fn written(number: &Number, sent: impl FnOnce() -> Option<String>) -> String {
    sent().unwrap_or_else(|| number.to_string())
}

/// The number in a column of a row, counted from 0, of a body `{"rows": [...]}`, digit by digit.
pub(crate) fn sent(body: &[u8], row: usize, column: &str) -> Option<String> {
    let field = Field::new(column, DataType::Utf8, true);
    let rows = Field::new("row", DataType::Struct(vec![field].into()), true);
    let list = Field::new("rows", DataType::List(Arc::new(rows)), true);
    let builder = ReaderBuilder::new(Arc::new(Schema::new(vec![list]))).with_coerce_primitive(true);
    let mut decoder = builder.build_decoder().ok()?;
    decoder.decode(body).ok()?;
    let read = decoder.flush().ok()??;
    let rows = read.column(0).as_list_opt::<i32>()?.values().as_struct_opt()?.column(0).clone();
    let texts = rows.as_string_opt::<i32>()?;
    (row < texts.len()).then(|| texts.value(row).to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_of_another_type_is_told_as_it_was_sent() {
        let said = |kind: DataType, value: &str| {
            let body = format!("{{\"rows\": [{{\"n\": 1}}, {{\"n\": {value}}}]}}");
            let value: Value = serde_json::from_str(value).expect("JSON");
            check(&Field::new("n", kind, true), &value, || sent(body.as_bytes(), 1, "n"))
                .err()
                .unwrap_or_else(|| "fits".to_owned())
        };
        let whole = "from -9223372036854775808 to 9223372036854775807";
        let long = json!("x".repeat(99)).to_string();
        let cases = [
            (DataType::Float64, "1e3", "fits"),
            (DataType::Float64, "null", "fits"),
            (DataType::Float64, "\"4.5\"", "`n` is the text \"4.5\", not a number"),
            (DataType::Float64, "\"inf\"", "`n` is the text \"inf\", not a number"),
            (DataType::Float64, "true", "`n` is true, not a number"),
            (DataType::Float64, "[]", "`n` is the list [], not a number"),
            (DataType::Float32, "1e39", "`n` is 1e+39, not a number"),
            (DataType::Int64, "7.0", "fits"),
            (DataType::Int64, "9223372036854775807", "fits"),
            (DataType::Int64, "1.5", "`n` is 1.5, not a whole number"),
            (DataType::Int64, "\"7\"", "`n` is the text \"7\", not a whole number"),
            (
                DataType::Int64,
                "18446744073709551616",
                &format!("`n` is 18446744073709551616, outside of the whole numbers {whole}"),
            ),
            (
                DataType::Int64,
                "9223372036854775808",
                &format!("`n` is 9223372036854775808, outside of the whole numbers {whole}"),
            ),
            (DataType::UInt8, "-1", "`n` is -1, outside of the whole numbers from 0 to 255"),
            (DataType::Int8, "128", "`n` is 128, outside of the whole numbers from -128 to 127"),
            (DataType::Boolean, "1", "`n` is 1, not true or false"),
            (DataType::Boolean, "false", "fits"),
            (DataType::Utf8, "5", "`n` is 5, not text"),
            (DataType::Utf8, "{}", "`n` is the object {}, not text"),
            (DataType::Utf8, &long, "fits"),
            (DataType::Date32, "\"2026-11-28\"", "fits"),
        ];
        for (kind, value, message) in cases {
            assert_eq!(said(kind.clone(), value), message, "{kind}: {value}");
        }
        let said = said(DataType::Int64, &long);
        assert!(said.len() < 120 && said.ends_with("x..., not a whole number"), "{said}");
    }
}
