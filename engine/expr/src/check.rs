//! Types, before any row is seen.

use std::fmt;

use arrow::datatypes::{DataType, Schema};

use crate::parse::{Function, Kind, Node, Op};
use crate::{ExprError, Result};

/// The type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Only ever null; fits everywhere.
    Null,
    /// True, false or unknown.
    Bool,
    /// A 64-bit float.
    Number,
    /// UTF-8 text.
    Text,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "a condition",
            Self::Number => "a number",
            Self::Text => "text",
        })
    }
}

pub(crate) fn check(node: &Node, schema: &Schema) -> Result<Type> {
    match &node.kind {
        Kind::Null => Ok(Type::Null),
        Kind::Bool(_) => Ok(Type::Bool),
        Kind::Number(_) => Ok(Type::Number),
        Kind::Text(_) => Ok(Type::Text),
        Kind::Column(name) => column(name, node, schema),
        Kind::Not(inner) => want(inner, schema, Type::Bool),
        Kind::Negate(inner) => want(inner, schema, Type::Number),
        Kind::IsNull(inner) => check(inner, schema).map(|_| Type::Bool),
        Kind::IsNan(inner) => want(inner, schema, Type::Number).map(|_| Type::Bool),
        Kind::Binary(op, left, right) => binary(*op, left, right, schema),
        Kind::In(needle, list) => {
            for item in list {
                same(needle, item, schema)?;
            }
            Ok(Type::Bool)
        }
        Kind::Call(function, arguments) => call(*function, arguments, schema),
    }
}

fn column(name: &str, node: &Node, schema: &Schema) -> Result<Type> {
    let names = || schema.fields().iter().map(|field| field.name().as_str());
    let Ok(field) = schema.field_with_name(name) else {
        let error = ExprError::new(format!("there is no column `{name}`"), node.span);
        let limit = (name.chars().count() / 3).max(1);
        let near = names()
            .map(|known| (strsim::damerau_levenshtein(name, known), known))
            .filter(|(distance, _)| *distance <= limit)
            .min();
        return Err(error.hint(match near {
            Some((_, near)) => format!("did you mean `{near}`?"),
            None => {
                let names: Vec<_> = names().map(|name| format!("`{name}`")).collect();
                format!("there are {}", names.join(", "))
            }
        }));
    };
    match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => Ok(Type::Text),
        DataType::Boolean => Ok(Type::Bool),
        DataType::Null => Ok(Type::Null),
        kind if kind.is_numeric() => Ok(Type::Number),
        other => {
            let message = format!("column `{name}` is {other}, which expressions cannot read");
            Err(ExprError::new(message, node.span))
        }
    }
}

fn want(node: &Node, schema: &Schema, wanted: Type) -> Result<Type> {
    match check(node, schema)? {
        Type::Null => Ok(wanted),
        found if found == wanted => Ok(wanted),
        found => Err(ExprError::new(format!("this is {found}, not {wanted}"), node.span)),
    }
}

fn same(left: &Node, right: &Node, schema: &Schema) -> Result<Type> {
    let (a, b) = (check(left, schema)?, check(right, schema)?);
    match (a, b) {
        (Type::Null, other) | (other, Type::Null) => Ok(other),
        _ if a == b => Ok(a),
        _ => {
            let span = (left.span.0, right.span.1);
            let error = ExprError::new(format!("{a} is compared with {b}"), span);
            Err(match text_column(left, a, b).or_else(|| text_column(right, b, a)) {
                Some(name) => error.hint(format!(
                    "`{name}` is a text column; if it should hold numbers, `types: {{ {name}: number }}` where it is loaded finds the cell that is none"
                )),
                None => error,
            })
        }
    }
}

/// The column that is text although it is compared with a number.
fn text_column(node: &Node, own: Type, other: Type) -> Option<&str> {
    match &node.kind {
        Kind::Column(name) if own == Type::Text && other == Type::Number => Some(name),
        _ => None,
    }
}

fn binary(op: Op, left: &Node, right: &Node, schema: &Schema) -> Result<Type> {
    match op {
        Op::Or | Op::And => {
            want(left, schema, Type::Bool)?;
            want(right, schema, Type::Bool)
        }
        Op::Equal | Op::NotEqual | Op::Less | Op::LessEqual | Op::Greater | Op::GreaterEqual => {
            same(left, right, schema).map(|_| Type::Bool)
        }
        Op::Add | Op::Subtract | Op::Multiply | Op::Divide | Op::Remainder => {
            want(left, schema, Type::Number)?;
            want(right, schema, Type::Number)
        }
    }
}

fn call(function: Function, arguments: &[Node], schema: &Schema) -> Result<Type> {
    let (wanted, result) = match function {
        Function::Length | Function::Words | Function::EditDistance | Function::WordOverlap => {
            (Type::Text, Type::Number)
        }
        Function::Lower | Function::Upper | Function::Trim => (Type::Text, Type::Text),
        Function::Contains | Function::StartsWith | Function::EndsWith | Function::SameNumbers => {
            (Type::Text, Type::Bool)
        }
        Function::Abs => (Type::Number, Type::Number),
        Function::Coalesce => {
            let mut result = Type::Null;
            for argument in arguments {
                let other = same(&arguments[0], argument, schema)?;
                result = if result == Type::Null { other } else { result };
            }
            return Ok(result);
        }
    };
    for argument in arguments {
        want(argument, schema, wanted)?;
    }
    Ok(result)
}
