//! Text to a tree, in one pass over what the YAML library parses.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use serde::de::value::UnitDeserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor,
};
use serde_yaml::{Marker, Spanned};

use super::nesting::{self, too_deep};
use super::{Limits, MAX_DEPTH, Tree, Value, syntax};
use crate::diagnostic::{Diagnostic, Span};

/// Reads `text`, which has no byte order mark. `None` after a fatal error; after others the tree is incomplete.
pub(crate) fn read(text: &str, limits: Limits, errors: &mut Vec<Diagnostic>) -> Option<Tree> {
    if text.len() > limits.bytes {
        let message = format!("the file is larger than {} bytes", limits.bytes);
        errors.push(Diagnostic::error(message, Span::default()).hint(RAISE));
        return None;
    }
    if let Err(error) = check_characters(text).and_then(|()| nesting::check(text)) {
        errors.push(error);
        return None;
    }
    let lines = OnceCell::new();
    let left = limits.values;
    let mut context = Context { text, limits, left, lines, alias: None, fatal: None, errors };
    serde_yaml::set_marker(Marker::start());
    let seed = Node { context: &mut context, depth: 0 };
    let tree = seed.deserialize(serde_yaml::Deserializer::from_str(text));
    serde_yaml::reset_marker();
    let (fatal, alias) = (context.fatal.take(), context.alias);
    match tree {
        Ok(tree) => Some(tree),
        Err(error) => {
            errors.push(fatal.unwrap_or_else(|| syntax::diagnostic(text, &error, alias)));
            None
        }
    }
}

const RAISE: &str = "`--max-pipeline MIB` raises the limit";

/// A single scalar, as after `--set name=`; text that is not one scalar stays text.
pub(crate) fn scalar(text: &str) -> Value {
    let tree = match text.trim() {
        "" => None,
        _ => read(text, Limits::default(), &mut Vec::new()),
    };
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

struct Context<'t> {
    text: &'t str,
    limits: Limits,
    /// How many more values are allowed.
    left: usize,
    /// Offsets of the line ends, computed when first needed.
    lines: OnceCell<Vec<usize>>,
    /// The outermost alias that is being expanded, if one is.
    alias: Option<Span>,
    /// The fatal error.
    fatal: Option<Diagnostic>,
    errors: &'t mut Vec<Diagnostic>,
}

impl Context<'_> {
    /// Records a fatal error.
    fn refuse<E: Error>(&mut self, diagnostic: Diagnostic) -> E {
        self.fatal.get_or_insert(diagnostic);
        E::custom("refused")
    }

    /// The line number of a position.
    fn line(&self, at: usize) -> usize {
        let ends = || self.text.match_indices('\n').map(|(end, _)| end).collect();
        self.lines.get_or_init(ends).partition_point(|end| *end < at) + 1
    }

    /// The token that starts at a position, or what is left of its line.
    fn token(&self, start: usize) -> Span {
        let rest = &self.text[start..];
        let end = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']' | '{' | '}');
        let length = rest.find(end).unwrap_or(rest.len());
        let first = rest.chars().next().map_or(0, char::len_utf8);
        Span::new(start, start + length.max(first))
    }

    /// The span of a list or mapping, from that of its last value. The library reports the start of the next token as the
    /// end, which is after comments and dashes.
    fn collection(&self, start: usize, last: Option<Span>) -> Span {
        let span = self.trimmed(start, self.text.len());
        let after = last.map_or(span.start + 1, |last| last.end.max(span.start)).min(span.end);
        let close = match self.text[span.start..].chars().next() {
            Some('[') => ']',
            Some('{') => '}',
            _ => return Span::new(span.start, after),
        };
        let length = self.text[after..].find(close).map_or(0, |at| at + 1);
        Span::new(span.start, after + length)
    }

    /// A span of the library without the white space around it.
    fn trimmed(&self, start: usize, end: usize) -> Span {
        let raw = &self.text[start..end.max(start)];
        let lead = raw.len() - raw.trim_start().len();
        Span::new(start + lead, start + lead + raw.trim().len())
    }

    /// The span of a scalar, without a comma, colon or bracket after it, which the library includes.
    fn scalar(&self, start: usize, end: usize, value: &str) -> Span {
        let span = self.trimmed(start, end);
        let raw = &self.text[span.start..span.end];
        let length = match raw.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                raw.rfind(quote).filter(|end| *end > 0).map(|end| end + 1)
            }
            _ if !value.is_empty() && raw.starts_with(value) => Some(value.len()),
            _ => None,
        };
        let length =
            length.unwrap_or_else(|| raw.trim_end_matches([',', ':', '}', ']']).trim_end().len());
        Span::new(span.start, span.start + length)
    }

    /// Moves the library's position behind an alias: after expanding one, it is still at the anchor.
    fn go_on_after(&self, alias: Span) {
        let mut at = alias.end;
        loop {
            let rest = &self.text[at..];
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n', ',']).len();
            at += blank;
            // A comment needs white space before it.
            if blank == 0 || !self.text[at..].starts_with('#') {
                break;
            }
            at += self.text[at..].find('\n').unwrap_or(self.text.len() - at);
        }
        serde_yaml::set_marker(Marker::new(at, 1, 1));
    }
}

/// The library's current position as a byte offset, which only `Spanned` has access to.
fn position(text: &str) -> usize {
    let unit = UnitDeserializer::<serde::de::value::Error>::new();
    let marker = Spanned::<()>::deserialize(unit).map_or(0, |unit| unit.span().start.index);
    text.floor_char_boundary(marker.min(text.len()))
}

/// Deserializes the next value, with its position.
struct Node<'c, 't> {
    context: &'c mut Context<'t>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = Tree;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        let Self { context, depth } = self;
        let text = context.text;
        let start = position(text);
        if depth > MAX_DEPTH {
            let span = context.alias.unwrap_or_else(|| context.token(start));
            return Err(context.refuse(too_deep(span)));
        }
        let alias = text[start..].starts_with('*').then(|| context.token(start));
        let is_outermost = context.alias.is_none();
        if is_outermost {
            context.alias = alias;
        }
        let Some(left) = context.left.checked_sub(1) else {
            let error = match context.alias {
                Some(alias) => syntax::too_many_aliases(alias),
                None => {
                    let message =
                        format!("the file has more than {} values", context.limits.values);
                    Diagnostic::error(message, context.token(start)).hint(RAISE)
                }
            };
            return Err(context.refuse(error));
        };
        context.left = left;
        let value =
            deserializer.deserialize_any(Content { context: &mut *context, depth, start })?;
        let end = position(text);
        if let Some(span) = alias {
            if is_outermost {
                context.alias = None;
            }
            context.go_on_after(span);
            return Ok(Tree { value, span });
        }
        let span = match &value {
            Value::Map(members) => {
                context.collection(start, members.last().map(|(.., tree)| tree.span))
            }
            Value::List(items) => context.collection(start, items.last().map(|item| item.span)),
            Value::Text(text) => context.scalar(start, end, text),
            _ => context.scalar(start, end, ""),
        };
        Ok(Tree { value, span })
    }
}

/// Deserializes the content of a value.
struct Content<'c, 't> {
    context: &'c mut Context<'t>,
    depth: usize,
    start: usize,
}

impl<'de> Visitor<'de> for Content<'_, '_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Value, E> {
        Err(E::custom("a whole number has at most 64 bits; if it is text, put it in quotes"))
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Value, E> {
        self.visit_u128(0)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        let span = self.context.token(self.start);
        let error = Diagnostic::error("YAML tags (`!…`) mean nothing here", span);
        Err(self.context.refuse(error))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) =
            items.next_element_seed(Node { context: &mut *self.context, depth: self.depth + 1 })?
        {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let (context, depth) = (self.context, self.depth + 1);
        let mut members: Vec<(String, Span, Tree)> = Vec::new();
        let mut known = HashMap::new();
        while let Some(key) = entries.next_key_seed(Node { context: &mut *context, depth })? {
            let span = key.span;
            let name = match key.value {
                Value::Text(name) => name,
                Value::Int(number) => number.to_string(),
                Value::Bool(value) => value.to_string(),
                _ => return Err(context.refuse(Diagnostic::error("a key must be text", span))),
            };
            if name == "<<" {
                let error = Diagnostic::error("merge keys are not supported", span);
                return Err(context.refuse(error.hint("write the members out, or use `vars`")));
            }
            let value = entries.next_value_seed(Node { context: &mut *context, depth })?;
            match known.entry(name) {
                Entry::Vacant(entry) => {
                    members.push((entry.key().clone(), span, value));
                    entry.insert(span);
                }
                Entry::Occupied(entry) => {
                    let line = context.line(entry.get().start);
                    let message = format!("`{}` is there already, at line {line}", entry.key());
                    context.errors.push(Diagnostic::error(message, span));
                }
            }
        }
        Ok(Value::Map(members))
    }
}
