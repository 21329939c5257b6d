//! Validates a node's `with:` block against the JSON Schema of its stage, with positions in the text.
//!
//! `keywords.rs` lists the keywords. A general JSON Schema library would know more of them, but not the positions.

use std::collections::HashSet;

use paraloom_names::nearest;
use regex::Regex;
use serde_json::{Map, Value as Json, json};

use crate::catalog::{Catalog, Location, PlanFailure, PlanInput, PlanOutput, StageInfo};
use crate::diagnostic::{Diagnostic, Span};
use crate::expression::{Form, check_form};
use crate::names::suggestion;
use crate::yaml::{Tree, Value};

/// Marks a string property that names a file or directory. Its value is `true`, or `"many"`
/// for a stage that takes a list of paths in its place: a data set of a hub can have several
/// files.
pub(crate) const PATH_KEYWORD: &str = "x-paraloom-path";
const MANY: &str = "many";

/// Marks a mapping whose order of members is significant, such as columns to add. Other mappings are unordered.
pub(crate) const ORDERED_KEYWORD: &str = "x-paraloom-ordered";

/// Marks text that is an expression over the columns of a row: syntax and function names are checked even if the columns
/// are not known.
pub(crate) const EXPRESSION_KEYWORD: &str = "x-paraloom-expression";

/// Marks a setting that does not enter the key, because the fingerprint has its effective value: a file's format, for
/// example, can come from the setting or from the file's name.
pub(crate) const RESOLVED_KEYWORD: &str = "x-paraloom-resolved";

/// Names that other programs have for the settings of a configuration, each with the hint for who writes it here.
pub(crate) const ELSEWHERE_KEYWORD: &str = "x-paraloom-elsewhere";

/// Whether a setting stays out of the key.
pub(crate) fn is_resolved(schema: &Json) -> bool {
    schema.get(RESOLVED_KEYWORD) == Some(&Json::Bool(true))
}

/// Whether the order of the members counts.
pub(crate) fn is_ordered(schema: &Json) -> bool {
    schema.get(ORDERED_KEYWORD) == Some(&Json::Bool(true))
}

/// Checks a value that comes as JSON, called `name`, against a part of the schema of a configuration; the result has the defaults of
/// its members. It names no files.
///
/// # Errors
/// What is wrong with it.
pub fn check_value(name: &str, value: &Json, schema: &Json) -> Result<Json, String> {
    let mut errors = Vec::new();
    let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
    let tree = Tree::of_json(value);
    let checked = Checker::new(&NoFiles, &mut errors).check(&tree, schema, &pointer);
    let Some(error) = errors.into_iter().next() else { return Ok(checked) };
    let named = if error.message.contains(&format!("`{name}`")) {
        error.message
    } else {
        format!("`{name}`: {}", error.message)
    };
    Err(error.hint.map_or(named.clone(), |hint| format!("{named}; {hint}")))
}

/// For values that come from elsewhere than a pipeline's file.
struct NoFiles;

impl Catalog for NoFiles {
    fn stage(&self, _: &str, _: &str) -> Result<Option<&StageInfo>, PlanFailure> {
        Ok(None)
    }

    fn names(&self) -> Vec<&str> {
        Vec::new()
    }

    fn plan(
        &self,
        _: &StageInfo,
        _: &str,
        _: &Json,
        _: &[PlanInput],
    ) -> Result<PlanOutput, PlanFailure> {
        Err(PlanFailure::new("there are no stages"))
    }

    fn resolve_path(&self, _: &str) -> Result<Location, PlanFailure> {
        Err(PlanFailure::new("a file cannot be named here"))
    }
}

/// A file or directory that a configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathUse {
    /// JSON pointer to it in the configuration.
    pub pointer: String,
    /// The path as written in the pipeline.
    pub text: String,
    /// What it resolves to.
    pub location: Location,
}

/// Validates a tree; the result has defaults and absolute paths filled in.
pub(crate) struct Checker<'a> {
    pub(crate) catalog: &'a dyn Catalog,
    pub(crate) errors: &'a mut Vec<Diagnostic>,
    pub(crate) paths: Vec<PathUse>,
    /// Unknown functions in expressions. Reported only if the stage is not planned: its plan, which knows the columns, reports
    /// these errors itself.
    pub(crate) unknown: Vec<Diagnostic>,
    /// Whether all of the tree is known.
    pub(crate) is_known: bool,
    /// Settings that stand elsewhere in the node, and inputs that stand here: they have been reported.
    pub(crate) misplaced: HashSet<String>,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(catalog: &'a dyn Catalog, errors: &'a mut Vec<Diagnostic>) -> Self {
        Self {
            catalog,
            errors,
            paths: Vec::new(),
            unknown: Vec::new(),
            is_known: true,
            misplaced: HashSet::new(),
        }
    }

    pub(crate) fn check(&mut self, tree: &Tree, schema: &Json, pointer: &str) -> Json {
        if tree.value == Value::Unknown {
            self.is_known = false;
            return Json::Null;
        }
        if let Some(alternatives) = alternatives(schema) {
            return self.alternatives(tree, alternatives, pointer);
        }
        if let Some(allowed) = allowed_values(schema) {
            self.allowed(tree, &allowed);
            return tree.to_json();
        }
        let types = types(schema);
        if !types.is_empty() && !types.iter().any(|name| fits(tree, name)) {
            self.wrong_type(tree, &wanted(schema), pointer);
            return tree.to_json();
        }
        match &tree.value {
            Value::Map(members) => self.members(members, tree.span, schema, pointer),
            Value::List(items) => {
                let item_schema = schema.get("items").unwrap_or(&Json::Null);
                self.count(tree.span, schema, items.len(), ("minItems", "maxItems"), "items");
                self.unique(items, schema);
                let check =
                    |(index, item)| self.check(item, item_schema, &format!("{pointer}/{index}"));
                items.iter().enumerate().map(check).collect()
            }
            Value::Int(number) => {
                self.number(tree.span, schema, *number as f64);
                tree.to_json()
            }
            Value::Float(number) => {
                if number.is_finite() {
                    self.number(tree.span, schema, *number);
                } else {
                    self.error("a setting must be a finite number".to_owned(), tree.span);
                }
                tree.to_json()
            }
            Value::Text(text) => self.text(tree, schema, text, pointer),
            Value::Null | Value::Bool(_) | Value::Unknown => tree.to_json(),
        }
    }

    fn error(&mut self, message: String, span: Span) {
        self.errors.push(Diagnostic::error(message, span));
    }

    fn wrong_type(&mut self, tree: &Tree, wanted: &[String], pointer: &str) {
        let (parent, name) = pointer.rsplit_once('/').unwrap_or_default();
        // The items of a list are numbered.
        let what = match parent.rsplit('/').next() {
            Some(list) if !list.is_empty() && name.parse::<usize>().is_ok() => {
                format!("an item of `{list}`")
            }
            _ => format!("`{}`", name.replace("~1", "/").replace("~0", "~")),
        };
        let message = format!("{what} must be {}, not {}", wanted.join(" or "), tree.kind());
        self.error(message, tree.span);
    }

    fn members(
        &mut self,
        members: &[(String, Span, Tree)],
        span: Span,
        schema: &Json,
        pointer: &str,
    ) -> Json {
        self.count(span, schema, members.len(), ("minProperties", "maxProperties"), "members");
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Json::as_object).unwrap_or(&empty);
        let others = schema.get("additionalProperties");
        let mut out = Map::new();
        // A misspelt setting is not reported as missing too.
        let mut meant = HashSet::new();
        let is_whole = pointer.is_empty();
        for (key, key_span, tree) in members {
            let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
            match (properties.get(key), others) {
                (Some(property), _) => {
                    drop(out.insert(key.clone(), self.check(tree, property, &pointer)));
                }
                (None, Some(Json::Bool(false))) if is_whole && self.misplaced.contains(key) => {}
                (None, Some(Json::Bool(false))) => {
                    let elsewhere = schema.get(ELSEWHERE_KEYWORD).and_then(|names| names.get(key));
                    let names = || properties.keys().map(String::as_str);
                    let hint = match elsewhere.and_then(Json::as_str) {
                        // "it is called `from`"
                        Some(hint) => {
                            meant.extend(hint.split('`').skip(1).step_by(2));
                            Some(hint.to_owned())
                        }
                        None => {
                            meant.extend(nearest(key, names()));
                            suggestion(key, names())
                        }
                    };
                    let error = Diagnostic::error(format!("unknown setting `{key}`"), *key_span);
                    self.errors.push(error.maybe_hint(hint));
                }
                (None, Some(schema)) => {
                    drop(out.insert(key.clone(), self.check(tree, schema, &pointer)));
                }
                (None, None) => drop(out.insert(key.clone(), tree.to_json())),
            }
        }
        for name in schema.get("required").and_then(Json::as_array).into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            let is_misplaced = is_whole && self.misplaced.contains(name);
            if !members.iter().any(|(key, ..)| key == name)
                && !meant.contains(name)
                && !is_misplaced
            {
                let error = Diagnostic::error(format!("the setting `{name}` is missing"), span);
                let doc = properties.get(name).and_then(|schema| schema.get("description"));
                self.errors.push(error.maybe_hint(doc.and_then(Json::as_str).map(str::to_owned)));
            }
        }
        for (name, property) in properties {
            if let Some(default) = property.get("default")
                && !out.contains_key(name)
            {
                out.insert(name.clone(), default.clone());
            }
        }
        if !is_ordered(schema) {
            out.sort_keys();
        }
        Json::Object(out)
    }

    fn number(&mut self, span: Span, schema: &Json, value: f64) {
        let bound = |key: &str| schema.get(key).and_then(Json::as_f64);
        let problem = if let Some(least) = bound("minimum").filter(|least| value < *least) {
            format!("too small: the least is {least}")
        } else if let Some(most) = bound("maximum").filter(|most| value > *most) {
            format!("too large: the most is {most}")
        } else if let Some(limit) = bound("exclusiveMinimum").filter(|limit| value <= *limit) {
            format!("too small: it must be above {limit}")
        } else if let Some(limit) = bound("exclusiveMaximum").filter(|limit| value >= *limit) {
            format!("too large: it must be below {limit}")
        } else if let Some(unit) = bound("multipleOf").filter(|unit| !is_multiple(value, *unit)) {
            format!("not a multiple of {unit}")
        } else {
            return;
        };
        self.error(format!("{value} is {problem}"), span);
    }

    /// Checks a number of items, members or characters against the keywords for minimum and maximum.
    fn count(&mut self, span: Span, schema: &Json, count: usize, keys: (&str, &str), unit: &str) {
        let bound = |key: &str| schema.get(key).and_then(Json::as_u64);
        if let Some(least) = bound(keys.0).filter(|least| (count as u64) < *least) {
            self.error(format!("{count} {unit} are too few: the least is {least}"), span);
        }
        if let Some(most) = bound(keys.1).filter(|most| count as u64 > *most) {
            self.error(format!("{count} {unit} are too many: the most is {most}"), span);
        }
    }

    fn unique(&mut self, items: &[Tree], schema: &Json) {
        if schema.get("uniqueItems") != Some(&Json::Bool(true)) {
            return;
        }
        let mut known = HashSet::new();
        for item in items {
            let value = item.to_json();
            if item.value != Value::Unknown && !known.insert(value.to_string()) {
                self.error(format!("{value} is in the list already"), item.span);
            }
        }
    }

    fn text(&mut self, tree: &Tree, schema: &Json, text: &str, pointer: &str) -> Json {
        let length = text.chars().count();
        self.count(tree.span, schema, length, ("minLength", "maxLength"), "characters");
        let pattern = schema.get("pattern").and_then(Json::as_str);
        // A pattern that cannot be matched was refused with the schema.
        if let Some(Ok(pattern)) = pattern.map(Regex::new)
            && !pattern.is_match(text)
        {
            let message = format!("`{text}` does not match the pattern `{pattern}`");
            self.error(message, tree.span);
        }
        if schema.get(EXPRESSION_KEYWORD) == Some(&Json::Bool(true)) {
            match check_form(text, tree.span) {
                Form::Broken(error) => self.errors.push(error),
                Form::Sound(unknown) => self.unknown.extend(unknown),
            }
        }
        let takes_many = match schema.get(PATH_KEYWORD) {
            Some(Json::Bool(true)) => false,
            Some(Json::String(value)) if value == MANY => true,
            _ => return tree.to_json(),
        };
        match self.catalog.resolve_path(text) {
            Ok(location) => {
                let resolved = resolved(text, &location, takes_many);
                self.paths.push(PathUse {
                    pointer: pointer.to_owned(),
                    text: text.to_owned(),
                    location,
                });
                resolved.unwrap_or_else(|message| {
                    self.error(message, tree.span);
                    Json::Null
                })
            }
            Err(failure) => {
                let error = Diagnostic::error(failure.message, tree.span);
                self.errors.push(error.maybe_hint(failure.hint));
                Json::Null
            }
        }
    }

    fn allowed(&mut self, tree: &Tree, allowed: &[&Json]) {
        let value = tree.to_json();
        if allowed.contains(&&value) {
            return;
        }
        let given = plain_value(&value);
        // Only names can be misspelt.
        let hint = match value.as_str() {
            Some(name) => suggestion(name, allowed.iter().filter_map(|value| value.as_str())),
            None => Some(format!("there is {}", listed(allowed))),
        };
        let error = Diagnostic::error(format!("`{given}` is not one of the choices"), tree.span);
        self.errors.push(error.maybe_hint(hint));
    }

    /// Takes the first alternative that fits without error; otherwise reports the errors
    /// of the one that fits best.
    fn alternatives(&mut self, tree: &Tree, alternatives: &[Json], pointer: &str) -> Json {
        let mut best: Option<(Vec<Diagnostic>, Json)> = None;
        for schema in alternatives {
            let mut errors = Vec::new();
            let mut checker = Checker::new(self.catalog, &mut errors);
            let json = checker.check(tree, schema, pointer);
            let Checker { paths, unknown, is_known, .. } = checker;
            self.is_known &= is_known;
            if errors.is_empty() {
                self.paths.extend(paths);
                self.unknown.extend(unknown);
                return json;
            }
            if has_type(tree, schema)
                && best.as_ref().is_none_or(|(old, _)| errors.len() <= old.len())
            {
                best = Some((errors, json));
            }
        }
        let scalars: Vec<_> = alternatives.iter().filter_map(allowed_values).flatten().collect();
        if tree.as_text().is_some() && !scalars.is_empty() {
            self.allowed(tree, &scalars);
            return tree.to_json();
        }
        if !alternatives.iter().any(|schema| has_type(tree, schema)) {
            let is_null = |schema: &&Json| types(schema) == ["null"];
            let wanted = alternatives.iter().filter(|schema| !is_null(schema)).flat_map(wanted);
            let wanted: Vec<_> = wanted.collect();
            self.wrong_type(tree, &wanted, pointer);
            return tree.to_json();
        }
        let (errors, json) = best.unwrap_or_default();
        self.errors.extend(errors);
        json
    }
}

/// The configuration value for a path: an absolute path, a list of them, or the reference if it has to be fetched
/// first.
fn resolved(text: &str, location: &Location, takes_many: bool) -> Result<Json, String> {
    let paths = match location {
        Location::Local(path) => return Ok(json!(path.to_string_lossy())),
        Location::Files(paths) => paths,
        Location::Hub(hub) => match &hub.paths {
            Some(paths) => paths,
            None => return Ok(json!(text)),
        },
    };
    match paths.as_slice() {
        [path] => Ok(json!(path.to_string_lossy())),
        paths if takes_many => Ok(paths.iter().map(|path| json!(path.to_string_lossy())).collect()),
        paths => Err(format!("this takes one file, and `{text}` has {}", paths.len())),
    }
}

/// Whether `value` is a multiple of `unit`, up to rounding of floats.
fn is_multiple(value: f64, unit: f64) -> bool {
    let times = value / unit;
    (times - times.round()).abs() <= 1e-9 * times.abs().max(1.0)
}

fn alternatives(schema: &Json) -> Option<&[Json]> {
    let list = schema.get("oneOf").or_else(|| schema.get("anyOf"))?.as_array()?;
    Some(list)
}

fn allowed_values(schema: &Json) -> Option<Vec<&Json>> {
    if let Some(value) = schema.get("const") {
        return Some(vec![value]);
    }
    schema.get("enum").and_then(Json::as_array).map(|values| values.iter().collect())
}

fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(name)) => vec![name],
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

fn fits(tree: &Tree, type_name: &str) -> bool {
    match type_name {
        "null" => tree.value == Value::Null,
        "boolean" => matches!(tree.value, Value::Bool(_)),
        "integer" => matches!(tree.value, Value::Int(_)),
        "number" => matches!(tree.value, Value::Int(_) | Value::Float(_)),
        "string" => matches!(tree.value, Value::Text(_)),
        "array" => matches!(tree.value, Value::List(_)),
        "object" => matches!(tree.value, Value::Map(_)),
        _ => true,
    }
}

/// Whether a value has the type of an alternative, or is one of its values.
fn has_type(tree: &Tree, schema: &Json) -> bool {
    match allowed_values(schema) {
        Some(allowed) => allowed.contains(&&tree.to_json()),
        None => {
            let types = types(schema);
            types.is_empty() || types.iter().any(|name| fits(tree, name))
        }
    }
}

/// What a schema accepts, in words: `auto`, a whole number, ...; without null, which stands for an absent setting.
fn wanted(schema: &Json) -> Vec<String> {
    if let Some(allowed) = allowed_values(schema) {
        return vec![listed(&allowed)];
    }
    let types = types(schema);
    let named = |name: &&&str| **name != "null" || types.len() == 1;
    types.iter().filter(named).map(|name| plain(name).to_owned()).collect()
}

fn listed(values: &[&Json]) -> String {
    values.iter().map(|value| format!("`{}`", plain_value(value))).collect::<Vec<_>>().join(", ")
}

/// A value as it is written in a pipeline.
fn plain_value(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn plain(type_name: &str) -> &str {
    match type_name {
        "null" => "nothing",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "text",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_from_elsewhere_is_checked_as_one_of_a_file() {
        let bounded = json!({"type": "integer", "minimum": 1, "maximum": 3});
        let mapping = json!({"anyOf": [
            {"type": "object", "properties": {"a": bounded, "b": {"type": "number", "default": 0.5}}, "additionalProperties": false},
            {"type": "null"},
        ]});
        let path = json!({"type": "string", "x-paraloom-path": true});
        let expression = json!({"type": "string", "x-paraloom-expression": true});
        let cases = [
            (&bounded, json!(2), Ok(json!(2))),
            (&bounded, json!(4), Err("`n`: 4 is too large: the most is 3")),
            (&bounded, json!(2.5), Err("`n` must be a whole number, not a decimal number")),
            (&bounded, json!(u64::MAX), Err("`n` must be a whole number, not a decimal number")),
            (&bounded, json!(null), Err("`n` must be a whole number, not nothing")),
            (&mapping, json!(null), Ok(json!(null))),
            (&mapping, json!({"a": 1}), Ok(json!({"a": 1, "b": 0.5}))),
            (&mapping, json!({"c": 1}), Err("`n`: unknown setting `c`")),
            (&path, json!("/etc/passwd"), Err("`n`: a file cannot be named here")),
            (&expression, json!("a > 1"), Ok(json!("a > 1"))),
            (&expression, json!("a >"), Err("`n`")),
        ];
        for (schema, value, expected) in cases {
            let found = check_value("n", &value, schema);
            match expected {
                Ok(checked) => assert_eq!(found, Ok(checked), "{value}"),
                Err(said) => {
                    let message = found.expect_err("it is wrong");
                    assert!(message.starts_with(said), "{value}: {message}");
                }
            }
        }
    }
}
