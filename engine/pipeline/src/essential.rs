//! A configuration without the settings that equal their defaults.
//!
//! This enters a node's key: an absent setting, a null and a default written out are the same there. So an option that is
//! added to a stage later does not invalidate earlier results.

use serde_json::{Map, Value, json};

use crate::config::{is_ordered, is_resolved};

/// `config`, with its defaults filled in, without the members that only repeat what `schema` has for them. A mapping whose
/// order counts becomes a list of pairs.
pub fn essential(config: &Value, schema: &Value) -> Value {
    match config {
        Value::Object(members) => {
            let schema = object_schema(schema, members);
            let properties = schema.and_then(|schema| schema.get("properties"));
            let others = schema.and_then(|schema| schema.get("additionalProperties"));
            let kept = members.iter().filter_map(|(name, value)| {
                let property = properties.and_then(|properties| properties.get(name));
                match property {
                    Some(property) if is_resolved(property) || is_default(value, property) => None,
                    Some(property) => Some((name.clone(), essential(value, property))),
                    None => {
                        let schema = others.unwrap_or(&Value::Null);
                        Some((name.clone(), essential(value, schema)))
                    }
                }
            });
            if schema.is_some_and(is_ordered) {
                return kept.map(|(name, value)| json!([name, value])).collect();
            }
            Value::Object(kept.collect::<Map<_, _>>())
        }
        Value::Array(items) => {
            let schema = schema.get("items").unwrap_or(&Value::Null);
            items.iter().map(|item| essential(item, schema)).collect()
        }
        other => other.clone(),
    }
}

/// Whether a member equals its default; without one, whether it is null.
fn is_default(value: &Value, property: &Value) -> bool {
    match property.get("default") {
        Some(default) => value == default || complete(value, default, property),
        None => value.is_null(),
    }
}

/// Whether an object says no more than `default` does, once the defaults within it are left out of both.
fn complete(value: &Value, default: &Value, property: &Value) -> bool {
    value.is_object()
        && default.is_object()
        && essential(value, property) == essential(default, property)
}

/// The schema that describes an object: the schema itself, or the first alternative that knows all of its members.
fn object_schema<'a>(schema: &'a Value, members: &Map<String, Value>) -> Option<&'a Value> {
    let alternatives = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)?.as_array());
    let Some(alternatives) = alternatives else { return Some(schema) };
    alternatives.iter().find(|schema| {
        let properties = schema.get("properties").and_then(Value::as_object);
        properties.is_some_and(|known| members.keys().all(|name| known.contains_key(name)))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_from_the_defaults_is_left() {
        let sample = json!({"type": "object", "properties": {
            "top_k": {"type": "integer", "default": 0}, "top_p": {"type": ["number", "null"]}}});
        let schema = json!({"properties": {
            "from": {"type": "string"},
            "header": {"type": "boolean", "default": true},
            "limit": {"type": ["integer", "null"], "default": null},
            "label": {"type": ["string", "null"], "default": "x"},
            "sample": {"anyOf": [sample, {"type": "null"}]},
            "types": {"type": "object", "additionalProperties": sample, "default": {}},
            "list": {"type": "array", "items": sample, "default": []},
            "ordered": {"type": "object", "x-paraloom-ordered": true},
            "format": {"type": ["string", "null"], "x-paraloom-resolved": true},
            "nested": {"type": "object", "properties": {"a": {"default": 1}}, "default": {"a": 1}}}});
        let cases = [
            // Absent, null and default are one.
            (json!({"from": "f"}), json!({"from": "f"})),
            (json!({"from": "f", "header": true, "limit": null}), json!({"from": "f"})),
            (json!({"header": false, "limit": 3}), json!({"header": false, "limit": 3})),
            // A null that differs from the default says something.
            (json!({"label": null}), json!({"label": null})),
            (json!({"label": "x"}), json!({})),
            // An object that is there is not the same as none, though it says nothing more.
            (json!({"sample": {"top_k": 0, "top_p": null}}), json!({"sample": {}})),
            (json!({"sample": null}), json!({})),
            (
                json!({"sample": {"top_k": 5, "top_p": 0.5}}),
                json!({"sample": {"top_k": 5, "top_p": 0.5}}),
            ),
            // Of members that no alternative knows, nothing is known.
            (
                json!({"sample": {"top_k": 0, "other": 1}}),
                json!({"sample": {"top_k": 0, "other": 1}}),
            ),
            (json!({"types": {"a": {"top_k": 0}}}), json!({"types": {"a": {}}})),
            (json!({"types": {}}), json!({})),
            (json!({"list": [{"top_k": 0}, {"top_k": 1}]}), json!({"list": [{}, {"top_k": 1}]})),
            (json!({"nested": {"a": 1}}), json!({})),
            (json!({"nested": {"a": 2}}), json!({"nested": {"a": 2}})),
            (json!({"ordered": {"b": 1, "a": 2}}), json!({"ordered": [["b", 1], ["a", 2]]})),
            (json!({"format": "csv"}), json!({})),
            // What the schema does not know stays.
            (json!({"else": null}), json!({"else": null})),
        ];
        for (config, wanted) in cases {
            assert_eq!(essential(&config, &schema), wanted, "{config}");
        }
    }
}
