//! Values, row by row. Types were checked, so a mismatch can only mean null.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, NullArray, RecordBatch, StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use crate::check::Type;
use crate::parse::{Function, Kind, Node, Op};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Number(f64),
    Text(Cow<'a, str>),
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
            _ => None,
        }
    }

    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "'{text}'"),
        }
    }
}

enum Column {
    Text(StringArray),
    Number(Float64Array),
    Bool(BooleanArray),
    Null,
}

/// The columns that an expression reads, each in one of the three types.
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
            Some(Column::Number(array)) if array.is_valid(row) => Value::Number(array.value(row)),
            Some(Column::Bool(array)) if array.is_valid(row) => Value::Bool(array.value(row)),
            _ => Value::Null,
        }
    }
}

fn bind(rows: &RecordBatch, name: &str) -> Column {
    let Some(array) = rows.column_by_name(name) else { return Column::Null };
    let target = match array.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Boolean => DataType::Boolean,
        kind if kind.is_numeric() => DataType::Float64,
        _ => return Column::Null,
    };
    let Ok(array) = cast(array, &target) else { return Column::Null };
    let any = array.as_any();
    if let Some(array) = any.downcast_ref::<StringArray>() {
        Column::Text(array.clone())
    } else if let Some(array) = any.downcast_ref::<Float64Array>() {
        Column::Number(array.clone())
    } else if let Some(array) = any.downcast_ref::<BooleanArray>() {
        Column::Bool(array.clone())
    } else {
        Column::Null
    }
}

/// Values of one type, or null, as an array.
pub(crate) fn array<'a>(kind: Type, values: impl Iterator<Item = Value<'a>>) -> ArrayRef {
    match kind {
        Type::Null => Arc::new(NullArray::new(values.count())),
        Type::Bool => Arc::new(values.map(Value::truth).collect::<BooleanArray>()),
        Type::Number => Arc::new(values.map(Value::number).collect::<Float64Array>()),
        Type::Text => Arc::new(values.map(Value::text).collect::<StringArray>()),
    }
}

/// The truth of a condition; `None` is unknown.
pub(crate) fn truth(node: &Node, columns: &Columns, row: usize) -> Option<bool> {
    evaluate(node, columns, row).truth()
}

pub(crate) fn evaluate<'a>(node: &'a Node, columns: &'a Columns, row: usize) -> Value<'a> {
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::Bool(value) => Value::Bool(*value),
        Kind::Number(value) => Value::Number(*value),
        Kind::Text(text) => Value::Text(text.as_str().into()),
        Kind::Column(name) => columns.value(name, row),
        Kind::Not(inner) => from_truth(truth(inner, columns, row).map(|value| !value)),
        Kind::Negate(inner) => match evaluate(inner, columns, row) {
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
    let (Value::Number(a), Value::Number(b)) = (left, right) else { return Value::Null };
    Value::Number(match op {
        Op::Add => a + b,
        Op::Subtract => a - b,
        Op::Multiply => a * b,
        Op::Divide => a / b,
        _ => a % b,
    })
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
        (Value::Number(a), Value::Number(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
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
    if function == Function::Coalesce {
        return values.find(|value| *value != Value::Null).unwrap_or(Value::Null);
    }
    match (function, values.next(), values.next()) {
        (Function::Abs, Some(Value::Number(value)), _) => Value::Number(value.abs()),
        (_, Some(Value::Text(text)), None) => one_text(function, &text),
        (_, Some(Value::Text(a)), Some(Value::Text(b))) => two_texts(function, &a, &b),
        _ => Value::Null,
    }
}

fn one_text<'a>(function: Function, text: &str) -> Value<'a> {
    match function {
        Function::Length => Value::Number(text.chars().count() as f64),
        Function::Words => Value::Number(text.split_whitespace().count() as f64),
        Function::Lower => Value::Text(text.to_lowercase().into()),
        Function::Upper => Value::Text(text.to_uppercase().into()),
        Function::Trim => Value::Text(text.trim().to_owned().into()),
        _ => Value::Null,
    }
}

fn two_texts<'a>(function: Function, a: &str, b: &str) -> Value<'a> {
    match function {
        Function::Contains => Value::Bool(a.contains(b)),
        Function::StartsWith => Value::Bool(a.starts_with(b)),
        Function::EndsWith => Value::Bool(a.ends_with(b)),
        // Levenshtein distance over the longer text's length: 0 = equal, 1 = nothing in common.
        Function::EditDistance => Value::Number(1.0 - strsim::normalized_levenshtein(a, b)),
        Function::WordOverlap => Value::Number(word_overlap(a, b)),
        Function::SameNumbers => Value::Bool(numbers(a) == numbers(b)),
        _ => Value::Null,
    }
}

/// Words that both texts have over those that either has (Jaccard): 1 = the same words in any order, 0 = none in common.
/// Neither case nor punctuation counts.
fn word_overlap(a: &str, b: &str) -> f64 {
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|char: char| !char.is_alphanumeric());
        words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
    };
    let (a, b) = (words(a), words(b));
    let both = a.intersection(&b).count();
    let either = a.len() + b.len() - both;
    if either == 0 { 1.0 } else { both as f64 / either as f64 }
}

/// The numbers in a text, sorted: `$1,250.50 in 2024` has `1250.50` and `2024`. A comma, or a point, between digits is part of
/// the number; commas group digits, so they are left out.
fn numbers(text: &str) -> Vec<String> {
    let mut numbers = Vec::new();
    let mut chars = text.chars().peekable();
    let mut number = String::new();
    while let Some(char) = chars.next() {
        let goes_on = chars.peek().is_some_and(char::is_ascii_digit);
        match char {
            '0'..='9' => number.push(char),
            '.' if !number.is_empty() && goes_on => number.push(char),
            ',' if !number.is_empty() && goes_on => {}
            _ if !number.is_empty() => numbers.push(std::mem::take(&mut number)),
            _ => {}
        }
    }
    numbers.extend(Some(number).filter(|number| !number.is_empty()));
    numbers.sort();
    numbers
}
