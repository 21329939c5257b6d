//! Variables: `${name}`, `${env:NAME}`, and `$${` for a literal `${`.

use std::collections::HashMap;

use crate::diagnostic::{Diagnostic, Span};
use crate::names::suggestion;
use crate::yaml::{Tree, Value, scalar};

/// The values of all variables, with `--set` and the environment applied.
pub(crate) struct Vars<'a> {
    values: HashMap<String, Value>,
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Vars<'a> {
    /// Variables may use the environment and the variables above them.
    pub(crate) fn new(
        declared: &[(String, Span, Tree)],
        set: &[(String, String)],
        env: &'a dyn Fn(&str) -> Option<String>,
        errors: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut vars = Self { values: HashMap::new(), env };
        for (name, text) in set {
            if !declared.iter().any(|(known, ..)| known == name) {
                let hint = suggestion(name, declared.iter().map(|(known, ..)| known.as_str()));
                let message = format!("`--set {name}=…`: the pipeline has no variable `{name}`");
                errors.push(Diagnostic::error(message, Span::default()).maybe_hint(hint));
            }
            vars.values.insert(name.clone(), scalar(text));
        }
        for (name, _, tree) in declared {
            if !vars.values.contains_key(name) {
                let tree = vars.fill(tree, errors);
                vars.values.insert(name.clone(), tree.value);
            }
        }
        vars
    }

    /// The tree with every `${…}` filled in.
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

    /// Text that is one variable and nothing else takes over its type.
    fn fill_text(&self, text: &str, span: Span, errors: &mut Vec<Diagnostic>) -> Value {
        if let Some(name) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'))
            && !name.contains(['$', '{', '}'])
        {
            return self.value(name, span, errors).unwrap_or(Value::Text(String::new()));
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if let Some(escaped) = rest[..at].strip_suffix('$') {
                out.push_str(escaped);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let Some(length) = rest[at..].find('}') else {
                let error = Diagnostic::error("this `${` is never closed", span);
                errors.push(error.hint("write `$${` for a literal `${`"));
                return Value::Text(out);
            };
            if let Some(value) = self.value(&rest[at + 2..at + length], span, errors) {
                out.push_str(&display(&value));
            }
            rest = &rest[at + length + 1..];
        }
        out.push_str(rest);
        Value::Text(out)
    }

    fn value(&self, name: &str, span: Span, errors: &mut Vec<Diagnostic>) -> Option<Value> {
        if let Some(variable) = name.strip_prefix("env:") {
            let value = (self.env)(variable);
            if value.is_none() {
                let message = format!("the environment variable `{variable}` is not set");
                errors.push(Diagnostic::error(message, span));
            }
            return value.map(Value::Text);
        }
        let value = self.values.get(name).cloned();
        if value.is_none() {
            let mut names: Vec<_> = self.values.keys().map(String::as_str).collect();
            names.sort_unstable();
            let hint = suggestion(name, names)
                .unwrap_or_else(|| "declare it under `vars`, above its use".to_owned());
            let message = format!("there is no variable `{name}`");
            errors.push(Diagnostic::error(message, span).hint(hint));
        }
        value
    }
}

fn display(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => text.clone(),
        Value::Null | Value::List(_) | Value::Map(_) => String::new(),
    }
}
