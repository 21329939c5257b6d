//! YAML to a tree in which every key and value knows its place.
//!
//! The only module that names the YAML library.

use serde_yaml::Value as Yaml;

use crate::diagnostic::{Diagnostic, Span};

/// Larger files are refused: nobody writes a pipeline of a megabyte.
const MAX_BYTES: usize = 1 << 20;
/// Deeper nesting is refused before the parser, which is slow on it, sees it.
const MAX_DEPTH: usize = 32;
/// Aliases can repeat a value many times over.
const MAX_NODES: usize = 50_000;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// The value.
    pub value: Value,
    /// Where it stands.
    pub span: Span,
}

/// What YAML can say.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
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
    /// A mapping: key, place of the key, value.
    Map(Vec<(String, Span, Tree)>),
}

impl Tree {
    /// "text", "a list", ...: for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The member called `key` of a mapping.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(members) => {
                members.iter().find(|(name, ..)| name == key).map(|(.., tree)| tree)
            }
            _ => None,
        }
    }

    /// As JSON; a float that JSON cannot hold becomes null.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
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

    /// The place that a JSON pointer leads to; as deep as the text goes.
    pub fn locate(&self, pointer: &str) -> Span {
        let mut here = self;
        let mut span = self.span;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let next = match &here.value {
                Value::Map(_) => here.get(&step),
                Value::List(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                _ => None,
            };
            match next {
                Some(tree) => (here, span) = (tree, tree.span),
                None => return span,
            }
        }
        span
    }
}

/// Reads `text`. A byte order mark must have been removed.
pub(crate) fn read(text: &str) -> Result<Tree, Diagnostic> {
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes; the limit is {MAX_BYTES}", text.len());
        return Err(Diagnostic::error(message, Span::default()));
    }
    check_characters(text)?;
    check_depth(text)?;
    let yaml: Yaml = serde_yaml::from_str(text).map_err(|error| syntax(text, &error))?;
    let mut budget = MAX_NODES;
    convert(yaml, text, 0, &mut budget)
}

/// A single scalar, as after `--set name=`; text that is not one scalar stays text.
pub(crate) fn scalar(text: &str) -> Value {
    let tree = if text.trim().is_empty() { None } else { read(text).ok() };
    match tree.map(|tree| tree.value) {
        Some(value @ (Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_))) => value,
        _ => Value::Text(text.to_owned()),
    }
}

fn check_characters(text: &str) -> Result<(), Diagnostic> {
    let odd = |c: &(usize, char)| c.1.is_control() && !matches!(c.1, '\n' | '\r' | '\t');
    match text.char_indices().find(odd) {
        None => Ok(()),
        Some((at, c)) => {
            let message =
                format!("the control character U+{:04X} cannot stand in a pipeline", c as u32);
            Err(Diagnostic::error(message, Span::new(at, at + c.len_utf8())))
        }
    }
}

/// Bounds the nesting by looking at brackets and indentation alone.
fn check_depth(text: &str) -> Result<(), Diagnostic> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        // Brackets inside text may be unbalanced, so this bound is a generous one.
        if depth > MAX_DEPTH * 4 {
            return Err(too_deep(Span::new(at, at + 1)));
        }
    }
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start_matches([' ', '-', '?']).len();
        if indent > MAX_DEPTH * 16 {
            return Err(too_deep(Span::new(at, at + indent)));
        }
        at += line.len();
    }
    Ok(())
}

fn too_deep(span: Span) -> Diagnostic {
    Diagnostic::error(format!("the nesting is deeper than {MAX_DEPTH} levels"), span)
}

fn syntax(text: &str, error: &serde_yaml::Error) -> Diagnostic {
    let start = error.location().map_or(0, |marker| marker.index).min(text.len());
    let start = floor_boundary(text, start);
    let length = text[start..].chars().next().map_or(0, char::len_utf8);
    let message = error.display_no_mark().to_string();
    let diagnostic = Diagnostic::error(message, Span::new(start, start + length));
    if text[..start].lines().last().is_some_and(|line| line.starts_with('\t')) {
        return diagnostic.hint("YAML is indented with spaces, not with tabs");
    }
    diagnostic
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The library's spans may run into the white space that follows.
fn place(span: &serde_yaml::Span, text: &str) -> Span {
    let start = floor_boundary(text, span.start.index.min(text.len()));
    let end = floor_boundary(text, span.end.index.min(text.len())).max(start);
    let raw = &text[start..end];
    let lead = raw.len() - raw.trim_start().len();
    let kept = raw.trim().len();
    Span::new(start + lead, start + lead + kept)
}

fn convert(yaml: Yaml, text: &str, depth: usize, budget: &mut usize) -> Result<Tree, Diagnostic> {
    let span = place(yaml.span(), text);
    if depth > MAX_DEPTH {
        return Err(too_deep(span));
    }
    *budget = budget.checked_sub(1).ok_or_else(|| {
        Diagnostic::error(format!("the file has more than {MAX_NODES} values"), span)
    })?;
    let value = match yaml {
        Yaml::Null(_) => Value::Null,
        Yaml::Bool(value, _) => Value::Bool(value),
        Yaml::Number(number, _) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Yaml::String(value, _) => Value::Text(value),
        Yaml::Sequence(items, _) => {
            let items = items.into_iter().map(|item| convert(item, text, depth + 1, budget));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(mapping, _) => {
            let mut members = Vec::with_capacity(mapping.len());
            for (key, value) in mapping {
                let key_span = place(key.span(), text);
                let key = match convert(key, text, depth + 1, budget)?.value {
                    Value::Text(key) => key,
                    Value::Int(number) => number.to_string(),
                    Value::Bool(value) => value.to_string(),
                    _ => return Err(Diagnostic::error("a key must be text", key_span)),
                };
                if key == "<<" {
                    let error = Diagnostic::error("merge keys are not supported", key_span);
                    return Err(error.hint("write the members out, or use `vars`"));
                }
                members.push((key, key_span, convert(value, text, depth + 1, budget)?));
            }
            Value::Map(members)
        }
        other => {
            drop(other);
            return Err(Diagnostic::error("YAML tags (`!…`) mean nothing here", span));
        }
    };
    Ok(Tree { value, span })
}
