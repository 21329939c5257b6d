//! Settings and inputs that stand in a wrong place of their node: one mistake, and one error.

use std::collections::HashSet;

use serde_json::Value as Json;

use crate::catalog::StageInfo;
use crate::diagnostic::{Diagnostic, Span};
use crate::document::{NODE_KEYS, Reader};
use crate::resolve::ResolvedNode;
use crate::yaml::Value;

/// Reports the keys of a node that no node has, what stands in `with` but is an input, and what in `inputs` but is a setting. Returns
/// the names of settings and inputs among them, which are neither unknown nor missing. Errors at a place in `hidden` follow from
/// these.
pub(crate) fn misplaced(
    node: &ResolvedNode,
    stage: Option<&StageInfo>,
    errors: &mut Vec<Diagnostic>,
    hidden: &mut Vec<Span>,
) -> HashSet<String> {
    let is_setting = |name: &str| {
        let settings = stage.and_then(|stage| stage.config_schema.get("properties"));
        settings.and_then(Json::as_object).is_some_and(|settings| settings.contains_key(name))
    };
    let is_input =
        |name: &str| stage.is_some_and(|stage| stage.inputs.iter().any(|port| port.name == name));
    let mut found = HashSet::new();
    let mut tell = |errors: &mut Vec<Diagnostic>, name: &str, span: Span, what: &str, key: &str| {
        let stage = &node.stage.0;
        let error = Diagnostic::error(format!("`{name}` is {what} of `{stage}`"), span);
        errors.push(error.hint(format!("write it in `{key}`: `{key}: {{ {name}: … }}`")));
        found.insert(name.to_owned());
    };
    for (name, span) in &node.strays {
        if is_setting(name) {
            tell(errors, name, *span, "a setting", "with");
        } else if is_input(name) {
            tell(errors, name, *span, "an input", "inputs");
        } else {
            Reader { errors }.unknown_key(name, *span, &NODE_KEYS);
        }
    }
    for (name, span, source) in node.ports.iter().flatten() {
        if is_setting(name) && !is_input(name) {
            // It is no node either.
            hidden.push(*source);
            tell(errors, name, *span, "a setting", "with");
        }
    }
    if let Value::Map(members) = &node.with.value {
        for (name, span, _) in members {
            if is_input(name) && !is_setting(name) {
                tell(errors, name, *span, "an input", "inputs");
            }
        }
    }
    found
}
