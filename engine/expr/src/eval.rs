//! Evaluation, row by row. Types have been checked, so a mismatch can only be a null.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, Int64Array, NullArray,
    RecordBatch, StringArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use crate::check::Type;
use crate::moment;
use crate::normal::{normalise, numbers};
use crate::parse::{Function, Kind, Node, Op};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// 128 bits: wider than any column, so that sums and products of columns are exact.
    Whole(i128),
    Number(f64),
    Text(Cow<'a, str>),
    /// Nanoseconds since 1970-01-01 UTC.
    Date(i128),
    Time(i128),
    /// Not null, of a type that expressions cannot look into.
    Other,
}

impl<'a> Value<'a> {
    fn truth(self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    fn number(self) -> Option<f64> {
        match self {
            Self::Number(value) => Some(value),
            Self::Whole(value) => Some(value as f64),
            _ => None,
        }
    }

    fn moment(&self) -> Option<i128> {
        match self {
            Self::Date(value) | Self::Time(value) => Some(*value),
            Self::Text(text) => moment::parse(text),
            _ => None,
        }
    }

    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Its text form, for every type.
    fn into_text(self) -> Self {
        match self {
            Self::Null | Self::Other => Self::Null,
            Self::Text(text) => Self::Text(text),
            other => Self::Text(other.to_string().into()),
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Whole(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "'{text}'"),
            Self::Date(value) => f.write_str(&moment::shown(*value, true)),
            Self::Time(value) => f.write_str(&moment::shown(*value, false)),
            Self::Other => f.write_str("..."),
        }
    }
}

enum Column {
    Text(StringArray),
    Whole(Int64Array),
    /// Unsigned 64-bit integers, which `i64` does not hold.
    Unsigned(UInt64Array),
    Number(Float64Array),
    Bool(BooleanArray),
    Moment(ArrayRef, bool),
    Other(ArrayRef),
    Null,
}

/// The columns that an expression reads, cast to the types that expressions support.
pub(crate) struct Columns {
    named: Vec<(String, Column)>,
}

impl Columns {
    pub(crate) fn bind(rows: &RecordBatch, names: &[&str]) -> Self {
        let bind = |name: &&str| ((*name).to_owned(), bind(rows, name));
        Self { named: names.iter().map(bind).collect() }
    }

    pub(crate) fn value(&self, name: &str, row: usize) -> Value<'_> {
        let column = self.named.iter().find(|(known, _)| known == name);
        match column.map(|(_, column)| column) {
            Some(Column::Text(array)) if array.is_valid(row) => {
                Value::Text(array.value(row).into())
            }
            Some(Column::Whole(array)) if array.is_valid(row) => {
                Value::Whole(array.value(row).into())
            }
            Some(Column::Unsigned(array)) if array.is_valid(row) => {
                Value::Whole(array.value(row).into())
            }
            Some(Column::Number(array)) if array.is_valid(row) => Value::Number(array.value(row)),
            Some(Column::Bool(array)) if array.is_valid(row) => Value::Bool(array.value(row)),
            Some(Column::Moment(array, is_date)) => {
                let kind = if *is_date { Value::Date } else { Value::Time };
                moment::value(array, row).map_or(Value::Null, kind)
            }
            Some(Column::Other(array)) if array.is_valid(row) => Value::Other,
            _ => Value::Null,
        }
    }
}

fn bind(rows: &RecordBatch, name: &str) -> Column {
    let Some(array) = rows.column_by_name(name) else { return Column::Null };
    let kind = array.data_type();
    let target = match Type::of(kind) {
        Type::Text => DataType::Utf8,
        Type::Bool => DataType::Boolean,
        Type::Whole if *kind == DataType::UInt64 => DataType::UInt64,
        Type::Whole => DataType::Int64,
        Type::Number => DataType::Float64,
        Type::Date => return Column::Moment(Arc::clone(array), true),
        Type::Time => return Column::Moment(Arc::clone(array), false),
        Type::Null => return Column::Null,
        Type::Other => return Column::Other(Arc::clone(array)),
    };
    let Ok(array) = cast(array, &target) else { return Column::Null };
    match target {
        DataType::Utf8 => Column::Text(array.as_string().clone()),
        DataType::Boolean => Column::Bool(array.as_boolean().clone()),
        DataType::UInt64 => Column::Unsigned(array.as_primitive().clone()),
        DataType::Int64 => Column::Whole(array.as_primitive().clone()),
        _ => Column::Number(array.as_primitive().clone()),
    }
}

/// Values of one type, or null, as an array. The error is the row of an integer that does not fit into 64 bits.
pub(crate) fn array<'a>(
    kind: Type,
    values: impl Iterator<Item = Value<'a>>,
) -> Result<ArrayRef, usize> {
    Ok(match kind {
        Type::Null | Type::Other => Arc::new(NullArray::new(values.count())),
        Type::Bool => Arc::new(values.map(Value::truth).collect::<BooleanArray>()),
        Type::Whole => {
            let whole = values.enumerate().map(|(row, value)| match value {
                Value::Whole(value) => i64::try_from(value).map(Some).map_err(|_| row),
                Value::Number(_) => Err(row),
                _ => Ok(None),
            });
            Arc::new(whole.collect::<Result<Int64Array, _>>()?)
        }
        Type::Number => Arc::new(values.map(Value::number).collect::<Float64Array>()),
        Type::Text => Arc::new(values.map(Value::text).collect::<StringArray>()),
        Type::Date => {
            let days = values.map(|value| {
                value.moment().and_then(|value| i32::try_from(value.div_euclid(moment::DAY)).ok())
            });
            Arc::new(days.collect::<Date32Array>())
        }
        Type::Time => moment::array(values.map(|value| value.moment())),
    })
}

/// The truth of a condition; `None` is unknown.
pub(crate) fn truth(node: &Node, columns: &Columns, row: usize) -> Option<bool> {
    evaluate(node, columns, row).truth()
}

pub(crate) fn evaluate<'a>(node: &'a Node, columns: &'a Columns, row: usize) -> Value<'a> {
    match &node.kind {
        Kind::Null | Kind::Unknown(..) => Value::Null,
        Kind::Bool(value) => Value::Bool(*value),
        Kind::Whole(value) => Value::Whole(*value),
        Kind::Number(value) => Value::Number(*value),
        Kind::Text(text) => Value::Text(text.as_str().into()),
        Kind::Column(name) => columns.value(name, row),
        Kind::Not(inner) => from_truth(truth(inner, columns, row).map(|value| !value)),
        Kind::Negate(inner) => match evaluate(inner, columns, row) {
            Value::Whole(value) => {
                value.checked_neg().map_or(Value::Number(-(value as f64)), Value::Whole)
            }
            Value::Number(value) => Value::Number(-value),
            _ => Value::Null,
        },
        Kind::IsNull(inner) => Value::Bool(evaluate(inner, columns, row) == Value::Null),
        Kind::IsNan(inner) => Value::Bool(
            matches!(evaluate(inner, columns, row), Value::Number(value) if value.is_nan()),
        ),
        Kind::Binary(op, left, right) => binary(*op, left, right, columns, row),
        Kind::In(needle, list) => from_truth(is_in(needle, list, columns, row)),
        Kind::Call(function, arguments) => call(*function, arguments, columns, row),
    }
}

fn from_truth<'a>(truth: Option<bool>) -> Value<'a> {
    truth.map_or(Value::Null, Value::Bool)
}

fn binary<'a>(
    op: Op,
    left: &'a Node,
    right: &'a Node,
    columns: &'a Columns,
    row: usize,
) -> Value<'a> {
    match op {
        Op::And => {
            return from_truth(match (truth(left, columns, row), truth(right, columns, row)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            });
        }
        Op::Or => {
            return from_truth(match (truth(left, columns, row), truth(right, columns, row)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            });
        }
        _ => {}
    }
    let (left, right) = (evaluate(left, columns, row), evaluate(right, columns, row));
    if let Some(holds) = comparison(op) {
        return from_truth(compare(&left, &right).map(holds));
    }
    if let (Value::Whole(a), Value::Whole(b)) = (&left, &right)
        && let Some(exact) = whole(op, *a, *b)
    {
        return exact;
    }
    let (Some(a), Some(b)) = (left.number(), right.number()) else { return Value::Null };
    Value::Number(match op {
        Op::Add => a + b,
        Op::Subtract => a - b,
        Op::Multiply => a * b,
        Op::Divide => a / b,
        Op::Remainder => a % b,
        _ => return Value::Null,
    })
}

/// Integer arithmetic, except for division, which makes floats; `None` on overflow.
fn whole<'a>(op: Op, a: i128, b: i128) -> Option<Value<'a>> {
    match op {
        Op::Add => a.checked_add(b).map(Value::Whole),
        Op::Subtract => a.checked_sub(b).map(Value::Whole),
        Op::Multiply => a.checked_mul(b).map(Value::Whole),
        // The remainder of a division by zero is null.
        Op::Remainder => Some(a.checked_rem(b).map_or(Value::Null, Value::Whole)),
        _ => None,
    }
}

fn comparison(op: Op) -> Option<fn(Ordering) -> bool> {
    Some(match op {
        Op::Equal => Ordering::is_eq,
        Op::NotEqual => Ordering::is_ne,
        Op::Less => Ordering::is_lt,
        Op::LessEqual => Ordering::is_le,
        Op::Greater => Ordering::is_gt,
        Op::GreaterEqual => Ordering::is_ge,
        _ => return None,
    })
}

/// `None` where either side is null or NaN.
fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Whole(a), Value::Whole(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.partial_cmp(b),
        (Value::Whole(a), Value::Number(b)) => exact(*a, *b),
        (Value::Number(a), Value::Whole(b)) => exact(*b, *a).map(Ordering::reverse),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Date(_) | Value::Time(_), _) | (_, Value::Date(_) | Value::Time(_)) => {
            Some(left.moment()?.cmp(&right.moment()?))
        }
        _ => None,
    }
}

/// A whole number against a float, without rounding either.
fn exact(whole: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    // No integer from 64-bit columns exceeds this, and the cast saturates.
    let floor = float.floor();
    let by_whole = whole.cmp(&(floor as i128));
    Some(by_whole.then(if float > floor { Ordering::Less } else { Ordering::Equal }))
}

/// As in SQL: unknown if nothing matches but something could not be compared.
fn is_in(needle: &Node, list: &[Node], columns: &Columns, row: usize) -> Option<bool> {
    let needle = evaluate(needle, columns, row);
    let mut unknown = false;
    for item in list {
        match compare(&needle, &evaluate(item, columns, row)) {
            Some(Ordering::Equal) => return Some(true),
            Some(_) => {}
            None => unknown = true,
        }
    }
    (!unknown).then_some(false)
}

fn call<'a>(
    function: Function,
    arguments: &'a [Node],
    columns: &'a Columns,
    row: usize,
) -> Value<'a> {
    let mut values = arguments.iter().map(|argument| evaluate(argument, columns, row));
    let mut one = || values.next().unwrap_or(Value::Null);
    match function {
        Function::Coalesce => values.find(|value| *value != Value::Null).unwrap_or(Value::Null),
        Function::Abs => match one() {
            Value::Whole(value) => Value::Whole(value.saturating_abs()),
            Value::Number(value) => Value::Number(value.abs()),
            _ => Value::Null,
        },
        Function::Number => match one() {
            Value::Whole(value) => Value::Number(value as f64),
            Value::Number(value) => Value::Number(value),
            Value::Bool(value) => Value::Number(if value { 1.0 } else { 0.0 }),
            Value::Text(text) => number(&text).map_or(Value::Null, Value::Number),
            _ => Value::Null,
        },
        Function::Text => one().into_text(),
        Function::Date => one()
            .moment()
            .map_or(Value::Null, |value| Value::Date(value.div_euclid(moment::DAY) * moment::DAY)),
        Function::Length => of_text(one(), |text| Value::Whole(text.chars().count() as i128)),
        Function::Words => {
            of_text(one(), |text| Value::Whole(text.split_whitespace().count() as i128))
        }
        Function::Lower => of_text(one(), |text| Value::Text(text.to_lowercase().into())),
        Function::Upper => of_text(one(), |text| Value::Text(text.to_uppercase().into())),
        Function::Trim => of_text(one(), |text| Value::Text(text.trim().to_owned().into())),
        Function::Contains => of_texts(one(), one(), |a, b| Value::Bool(a.contains(b))),
        Function::StartsWith => of_texts(one(), one(), |a, b| Value::Bool(a.starts_with(b))),
        Function::EndsWith => of_texts(one(), one(), |a, b| Value::Bool(a.ends_with(b))),
        // Levenshtein distance over the longer text's length: 0 = equal, 1 = nothing in common.
        Function::EditDistance => {
            of_texts(one(), one(), |a, b| Value::Number(1.0 - strsim::normalized_levenshtein(a, b)))
        }
        Function::WordOverlap => of_texts(one(), one(), |a, b| Value::Number(word_overlap(a, b))),
        Function::SameNumbers => {
            of_texts(one(), one(), |a, b| Value::Bool(numbers(a) == numbers(b)))
        }
    }
}

fn of_text<'a>(value: Value, body: impl Fn(&str) -> Value<'a>) -> Value<'a> {
    value.text().map_or(Value::Null, |text| body(&text))
}

fn of_texts<'a>(a: Value, b: Value, body: impl Fn(&str, &str) -> Value<'a>) -> Value<'a> {
    match (a.text(), b.text()) {
        (Some(a), Some(b)) => body(&a, &b),
        _ => Value::Null,
    }
}

/// Parses a number in decimal notation, ignoring white space around it.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let is_plain = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    if is_plain || matches!(text, "NaN" | "nan" | "inf" | "Infinity") {
        text.parse().ok()
    } else {
        None
    }
}

/// Jaccard similarity of the sets of words: 1 = the same words in any order, 0 = none in common. Case, punctuation and Unicode
/// normalization form are ignored.
fn word_overlap(a: &str, b: &str) -> f64 {
    let words = |text: &str| -> BTreeSet<String> {
        let text = normalise(text);
        let words = text.split(|char: char| !char.is_alphanumeric());
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let (a, b) = (words(a), words(b));
    let both = a.intersection(&b).count();
    let either = a.len() + b.len() - both;
    if either == 0 { 1.0 } else { both as f64 / either as f64 }
}
