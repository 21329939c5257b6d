//! Variables: `${name}`, `${env:NAME}`, and `$${` for a literal `${`.

use std::collections::HashMap;

use crate::diagnostic::{Diagnostic, Span};
use crate::expression::within;
use crate::names::suggestion;
use crate::yaml::{Tree, Value, scalar};

/// The values of all variables, with `--set` and the environment applied.
pub(crate) struct Vars<'a> {
    values: HashMap<String, Value>,
    /// Whether all of them are known; an error in `vars` itself hides those that follow from it.
    are_all: bool,
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Vars<'a> {
    /// Variables may use the environment and the variables above them.
    pub(crate) fn new(
        declared: Option<&[(String, Span, Tree)]>,
        set: &[(String, String)],
        env: &'a dyn Fn(&str) -> Option<String>,
        errors: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut vars = Self { values: HashMap::new(), are_all: declared.is_some(), env };
        let declared = declared.unwrap_or_default();
        for (name, _) in set {
            if vars.are_all && !declared.iter().any(|(known, ..)| known == name) {
                let hint = suggestion(name, declared.iter().map(|(known, ..)| known.as_str()));
                let message = match name.as_str() {
                    "" => "`--set` without a name: write NAME=VALUE".to_owned(),
                    name => format!("`--set {name}=…`: the pipeline has no variable `{name}`"),
                };
                errors.push(Diagnostic::error(message, Span::default()).maybe_hint(hint));
            }
        }
        for (name, _, tree) in declared {
            let given = set.iter().rev().find(|(set, _)| set == name);
            let value = match given {
                None => vars.fill(tree, errors).value,
                // Errors in a default that is overridden do not matter.
                Some((_, text)) => given_value(text, &vars.fill(tree, &mut Vec::new()).value),
            };
            vars.values.insert(name.clone(), value);
        }
        vars
    }

    /// The tree with every `${…}` replaced.
    pub(crate) fn fill(&self, tree: &Tree, errors: &mut Vec<Diagnostic>) -> Tree {
        let value = match &tree.value {
            Value::Text(text) if text.contains("${") => self.fill_text(text, tree.span, errors),
            Value::List(items) => {
                Value::List(items.iter().map(|item| self.fill(item, errors)).collect())
            }
            Value::Map(members) => Value::Map(
                members
                    .iter()
                    .map(|(key, span, tree)| (key.clone(), *span, self.fill(tree, errors)))
                    .collect(),
            ),
            other => other.clone(),
        };
        Tree { value, span: tree.span }
    }

    /// Replaces variables in a text; a text that is a single variable takes over its type.
    fn fill_text(&self, text: &str, span: Span, errors: &mut Vec<Diagnostic>) -> Value {
        if let Some(name) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'))
            && !name.contains(['$', '{', '}'])
        {
            return self.value(name, span, errors);
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut is_known = true;
        while let Some(at) = rest.find("${") {
            if let Some(escaped) = rest[..at].strip_suffix('$') {
                out.push_str(escaped);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let start = text.len() - rest.len() + at;
            let Some(length) = rest[at..].find('}') else {
                let place = within(span, text, (start, text.len()));
                let error = Diagnostic::error("this `${` is never closed", place);
                errors.push(error.hint("write `$${` for a literal `${`"));
                return Value::Unknown;
            };
            let place = within(span, text, (start, start + length + 1));
            let value = self.value(&rest[at + 2..at + length], place, errors);
            is_known &= value != Value::Unknown;
            out.push_str(&display(&value));
            rest = &rest[at + length + 1..];
        }
        out.push_str(rest);
        if is_known { Value::Text(out) } else { Value::Unknown }
    }

    fn value(&self, name: &str, span: Span, errors: &mut Vec<Diagnostic>) -> Value {
        if let Some(variable) = name.strip_prefix("env:") {
            let value = (self.env)(variable);
            if value.is_none() {
                let message = format!("the environment variable `{variable}` is not set");
                errors.push(Diagnostic::error(message, span));
            }
            return value.map_or(Value::Unknown, Value::Text);
        }
        let value = self.values.get(name).cloned();
        if value.is_none() && self.are_all {
            let mut names: Vec<_> = self.values.keys().map(String::as_str).collect();
            names.sort_unstable();
            let hint = suggestion(name, names)
                .unwrap_or_else(|| "declare it under `vars`, above its use".to_owned());
            let message = format!("there is no variable `{name}`");
            errors.push(Diagnostic::error(message, span).hint(hint));
        }
        value.unwrap_or(Value::Unknown)
    }
}

/// The value of `--set NAME=TEXT`. If the declared value is text, it is taken verbatim: a prefix that ends in a space, or
/// `1.10`. Otherwise it is parsed as a YAML scalar, and stays text unless it is a number or a boolean.
fn given_value(text: &str, declared: &Value) -> Value {
    match (declared, scalar(text)) {
        (Value::Text(_), _) | (_, Value::Text(_)) => Value::Text(text.to_owned()),
        (_, value) => value,
    }
}

fn display(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => text.clone(),
        Value::Null | Value::List(_) | Value::Map(_) | Value::Unknown => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a variable that is declared as `declared`, with `--set v=TEXT`.
    fn set(declared: Value, text: &str) -> Value {
        let tree = |value| Tree { value, span: Span::default() };
        let declared = [("v".to_owned(), Span::default(), tree(declared))];
        let mut errors = Vec::new();
        let set = [("v".to_owned(), text.to_owned())];
        let vars = Vars::new(Some(&declared), &set, &|_| None, &mut errors);
        let used = tree(Value::Text("${v}".to_owned()));
        let filled = vars.fill(&used, &mut errors).value;
        assert_eq!(errors, []);
        filled
    }

    #[test]
    fn a_text_is_taken_to_the_letter() {
        let texts = [
            "rewrite #1: ",
            "summarize ",
            " x",
            "1.10",
            "&y z",
            "|",
            "0x10",
            ".5",
            "\"dq\"",
            "'sq'",
            "null",
            "~",
            "[1]",
            "a: b",
            "true",
            "",
            "${v}",
            "*x",
            "!tag",
            "%",
            "- a",
            "\t",
        ];
        for text in texts {
            assert_eq!(set(Value::Text("old".to_owned()), text), Value::Text(text.to_owned()));
        }
    }

    #[test]
    fn a_number_is_one_where_the_pipeline_has_one() {
        let text = |text: &str| Value::Text(text.to_owned());
        let cases = [
            (Value::Int(1), "2", Value::Int(2)),
            (Value::Int(1), "2.5", Value::Float(2.5)),
            (Value::Float(0.5), "1e-3", Value::Float(1e-3)),
            (Value::Bool(true), "false", Value::Bool(false)),
            (Value::Null, "7", Value::Int(7)),
            (Value::Null, "rewrite #1: ", text("rewrite #1: ")),
            (Value::Int(1), "auto ", text("auto ")),
        ];
        for (declared, given, wanted) in cases {
            assert_eq!(set(declared, given), wanted, "{given}");
        }
    }

    #[test]
    fn what_the_pipeline_does_not_have_is_told() {
        let declared = [(
            "name".to_owned(),
            Span::default(),
            Tree { value: Value::Int(1), span: Span::default() },
        )];
        for (name, told) in [
            ("nam", "`--set nam=…`: the pipeline has no variable `nam`"),
            ("", "`--set` without a name: write NAME=VALUE"),
        ] {
            let mut errors = Vec::new();
            Vars::new(
                Some(&declared),
                &[(name.to_owned(), "3".to_owned())],
                &|_| None,
                &mut errors,
            );
            assert_eq!(
                errors.iter().map(|error| error.message.as_str()).collect::<Vec<_>>(),
                [told]
            );
        }
    }
}
