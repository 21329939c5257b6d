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

/// What the library says of a text that is no YAML, in other words where its own lead nowhere.
fn syntax(text: &str, error: &serde_yaml::Error) -> Diagnostic {
    let start = error.location().map_or(0, |marker| marker.index).min(text.len());
    let start = floor_boundary(text, start);
    let length = text[start..].chars().next().map_or(0, char::len_utf8);
    let message = error.display_no_mark().to_string();
    let here = Span::new(start, start + length);
    let line = text[..start].rfind('\n').map_or(0, |end| end + 1);
    let line = text[line..].lines().next().unwrap_or_default();
    if line.trim_start_matches(' ').starts_with('\t') {
        return Diagnostic::error("a tab cannot indent YAML", here).hint("use spaces");
    }
    if message.contains("repetition limit") {
        let alias = text.find(": *").or_else(|| text.find("- *")).map_or(start, |at| at + 2);
        let error = "aliases (`*name`) repeat values more often than is read";
        return Diagnostic::error(error, Span::new(alias, alias + 1))
            .hint("write the values out, or use `vars`");
    }
    if let Some(key) = message.split("duplicate entry with key \"").nth(1)
        && let Some(key) = key.strip_suffix('"')
        && let Some((first, second)) = find_twice(text, start, key)
    {
        let number = text[..first].matches('\n').count() + 1;
        return Diagnostic::error(
            format!("`{key}` is there already, at line {number}"),
            Span::new(second, second + key.len()),
        );
    }
    let diagnostic = Diagnostic::error(message, here);
    if line.matches(": ").count() > 1 {
        return diagnostic
            .hint("text with `: ` or ` #` in it needs quotes, as in `prefix: \"restate: \"`");
    }
    diagnostic
}

/// Where a key stands for the first and the second time, from `start` on: at the same depth, where each has a line of its own.
fn find_twice(text: &str, start: usize, key: &str) -> Option<(usize, usize)> {
    let column = |at: usize| {
        let line = &text[text[..at].rfind('\n').map_or(0, |end| end + 1)..at];
        line.trim().is_empty().then_some(line.len())
    };
    let is_key = |at: &usize| {
        let before = text[..*at].chars().next_back();
        let after = text[at + key.len()..].trim_start_matches(['"', '\'']).trim_start_matches(' ');
        after.starts_with(':')
            && before.is_none_or(|c| matches!(c, '\n' | ' ' | '{' | ',' | '"' | '\''))
    };
    let places = text[start..].match_indices(key).map(|(at, _)| start + at);
    let mut places = places.filter(is_key);
    let first = places.next()?;
    let second = places.find(|at| column(first).is_none() || column(*at) == column(first))?;
    Some((first, second))
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

/// The place of a scalar, without the comma, colon or bracket that the library takes in with it.
fn scalar_place(span: &serde_yaml::Span, text: &str, value: &str) -> Span {
    let span = place(span, text);
    let raw = &text[span.start..span.end];
    let length = match raw.chars().next() {
        Some(quote @ ('"' | '\'')) => raw.rfind(quote).filter(|end| *end > 0).map(|end| end + 1),
        _ if !value.is_empty() && raw.starts_with(value) => Some(value.len()),
        _ => None,
    };
    let length =
        length.unwrap_or_else(|| raw.trim_end_matches([',', ':', '}', ']']).trim_end().len());
    Span::new(span.start, span.start + length)
}

fn convert(yaml: Yaml, text: &str, depth: usize, budget: &mut usize) -> Result<Tree, Diagnostic> {
    let span = match &yaml {
        Yaml::String(value, span) => scalar_place(span, text, value),
        Yaml::Bool(_, span) | Yaml::Number(_, span) | Yaml::Null(span) => {
            scalar_place(span, text, "")
        }
        other => place(other.span(), text),
    };
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
                let key = convert(key, text, depth + 1, budget)?;
                let key_span = key.span;
                let key = match key.value {
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
