//! YAML as a tree in which every key and value has its position in the text.
//!
//! Only `reader` and `syntax` name the YAML library.

mod nesting;
mod reader;
mod syntax;

pub(crate) use reader::{read, scalar};

use crate::diagnostic::Span;

/// Limits on the size of a pipeline. The number of values bounds what aliases (`*name`) expand to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file.
    pub bytes: usize,
    /// Scalars, lists, mappings and keys, with aliases expanded.
    pub values: usize,
}

impl Limits {
    /// For files of up to so many MiB.
    pub const fn mebibytes(count: usize) -> Self {
        Self { bytes: count.saturating_mul(1 << 20), values: count.saturating_mul(1 << 16) }
    }
}

impl Default for Limits {
    /// 16 MiB and 1,048,576 values: more than 20,000 nodes.
    fn default() -> Self {
        Self::mebibytes(16)
    }
}

/// Deeper nesting is refused.
const MAX_DEPTH: usize = 32;

/// A value and its position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tree {
    /// The value.
    pub(crate) value: Value,
    /// Its position.
    pub(crate) span: Span,
}

/// The kinds of values in YAML.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Tree>),
    /// A mapping: key, position of the key, value.
    Map(Vec<(String, Span, Tree)>),
    /// What an error leaves open, such as the value of an unknown variable. The error has been reported, so nothing is said of
    /// what follows from it.
    Unknown,
}

impl Tree {
    /// "text", "a list", ...: for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a decimal number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
            Value::Unknown => "something unknown",
        }
    }

    /// The text, if it is one.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The member called `key` of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(members) => {
                members.iter().find(|(name, ..)| name == key).map(|(.., tree)| tree)
            }
            _ => None,
        }
    }

    /// As JSON; a float that JSON cannot hold becomes null.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null | Value::Unknown => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(members) => serde_json::Value::Object(
                members.iter().map(|(key, _, tree)| (key.clone(), tree.to_json())).collect(),
            ),
        }
    }

    /// A value that came as JSON, which has no positions. Numbers that are whole but too large are floats.
    pub(crate) fn of_json(value: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match value {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(number) => Value::Int(number),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(items) => Value::List(items.iter().map(Self::of_json).collect()),
            Json::Object(members) => {
                let member = |(key, value): (&String, _)| {
                    (key.clone(), Span::default(), Self::of_json(value))
                };
                Value::Map(members.iter().map(member).collect())
            }
        };
        Self { value, span: Span::default() }
    }

    /// The position of the value that a JSON pointer leads to, or of the innermost one above it that is in the text.
    pub(crate) fn locate(&self, pointer: &str) -> Span {
        self.locate_tree(pointer).span
    }

    /// The value that a JSON pointer names, or the last one on the way to it that is there.
    pub(crate) fn locate_tree(&self, pointer: &str) -> &Self {
        let mut here = self;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let next = match &here.value {
                Value::Map(_) => here.get(&step),
                Value::List(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                _ => None,
            };
            match next {
                Some(tree) => here = tree,
                None => return here,
            }
        }
        here
    }
}
