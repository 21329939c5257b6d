//! The JSON Schema of the pipeline format, for editors.

use serde_json::{Value, json};

use crate::catalog::{PortInfo, StageInfo};

/// Text that is one variable and nothing else.
const VARIABLE: &str = "^\\$\\{[^}]+\\}$";

/// A draft-07 schema (the newest that the YAML language server reads) of a pipeline that
/// may use `stages`.
pub fn editor_schema<'a>(stages: impl IntoIterator<Item = &'a StageInfo>) -> Value {
    let mut stages: Vec<_> = stages.into_iter().collect();
    stages.sort_by(|a, b| a.name.cmp(&b.name));
    let name = json!({"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,63}$"});
    let names: Vec<_> = stages.iter().map(|stage| stage.name.as_str()).collect();
    let conditions: Vec<_> = stages.iter().map(|stage| condition(stage)).collect();
    let backend = json!({"type": "string", "default": crate::DEFAULT_BACKEND, "examples": ["auto", "cpu", "torch", "cuda", "wgpu"],
                         "description": "What computes. `auto`: what the device asks for."});
    let device = json!({"type": "string", "pattern": "^(cpu|(cuda|wgpu)(:[0-9]+)?)$", "default": crate::DEFAULT_DEVICE,
                        "description": "What it computes on."});
    let count = |what: &str| json!({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": VARIABLE}], "description": what});
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Paraloom pipeline",
        "type": "object",
        "required": ["paraloom", "nodes"],
        "additionalProperties": false,
        "properties": {
            "paraloom": {"const": crate::FORMAT, "description": "The number of the format."},
            "name": name,
            "description": {"type": "string"},
            "seed": {"type": "integer", "minimum": 0, "default": 0,
                     "description": "All randomness comes from it."},
            "part_rows": {"type": "integer", "minimum": 1,
                          "description": "Rows of a part: the unit of commit and resume. Left out, a part has 8,192 rows or 8 MiB, and each stage commits as many rows together as suit it."},
            "backend": backend, "device": device,
            "vars": {"type": "object", "propertyNames": name,
                     "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
                     "description": "Values for ${name}; --set name=value replaces them."},
            "show": {"type": "array", "description": "Tables that a run prints when it is done.",
                     "items": {"anyOf": [{"type": "string"}, {
                         "type": "object", "required": ["node"], "additionalProperties": false,
                         "properties": {"node": {"type": "string"},
                                        "columns": {"type": "array", "items": {"type": "string"}},
                                        "limit": {"type": "integer", "minimum": 1, "default": 10}}}]}},
            "expect": {"type": "array",
                       "description": "What must hold of the tables that a run leaves; otherwise it ends with exit code 4.",
                       "items": {"type": "object", "required": ["node"], "additionalProperties": false,
                                 "properties": {
                                     "node": {"type": "string", "description": "`node` or `node.port`"},
                                     "where": {"type": "string", "description": "The rows that count; all if left out."},
                                     "least": count("How many rows at least; with `every` 1 if left out."),
                                     "most": count("How many rows at most."),
                                     "every": {"type": "string", "description": "A condition that each of them meets."}}}},
            "nodes": {
                "type": "object", "minProperties": 1, "propertyNames": name,
                "additionalProperties": {
                    "type": "object", "required": ["stage"], "additionalProperties": false,
                    "properties": {
                        "stage": {"type": "string", "examples": names},
                        "description": {"type": "string"},
                        "inputs": {"type": "object"},
                        "with": {"type": "object"},
                        "seed": {"type": "integer", "minimum": 0},
                        "part_rows": {"type": "integer", "minimum": 1},
                        "on_error": {"enum": ["fail", "reject"], "default": "fail",
                                     "description": "What is done when the stage fails: the node fails, or the row at fault goes to the output `rejected`."},
                        "retries": {"type": "integer", "minimum": 0, "default": crate::DEFAULT_RETRIES,
                                    "description": "How often a call is made again that failed in a way that may pass."},
                        "backend": backend, "device": device
                    },
                    "allOf": conditions
                }
            }
        }
    })
}

/// If the stage is this one, then `with` and `inputs` look like that.
fn condition(stage: &StageInfo) -> Value {
    let source = json!({"type": "string", "description": "`node` or `node.port`"});
    let port = |many: bool| {
        if many {
            json!({"anyOf": [source, {"type": "object"}, {"type": "array"}]})
        } else {
            source.clone()
        }
    };
    let ports: serde_json::Map<_, _> = stage
        .inputs
        .iter()
        .map(|input| {
            let mut schema = port(input.many);
            schema["description"] = json!(input.doc);
            (input.name.clone(), schema)
        })
        .collect();
    let mut with = stage.config_schema.clone();
    if let Some(with) = with.as_object_mut() {
        with.remove("$schema");
        with.insert("description".to_owned(), json!(stage.doc));
    }
    with_variables(&mut with);
    let is_required = |input: &&PortInfo| !input.optional;
    let required: Vec<_> =
        stage.inputs.iter().filter(is_required).map(|input| input.name.as_str()).collect();
    let mut inputs = json!({"type": "object", "properties": ports, "additionalProperties": false});
    let mut keys = Vec::new();
    if !required.is_empty() {
        inputs["required"] = json!(required);
        keys.push("inputs");
    }
    if stage
        .config_schema
        .get("required")
        .and_then(Value::as_array)
        .is_some_and(|names| !names.is_empty())
    {
        keys.push("with");
    }
    let mut then = json!({"properties": {"with": with, "inputs": inputs}});
    if !keys.is_empty() {
        then["required"] = json!(keys);
    }
    json!({"if": {"properties": {"stage": {"const": stage.name}}, "required": ["stage"]}, "then": then})
}

/// Lets a variable take the place of every scalar within a setting.
fn with_variables(schema: &mut Value) {
    // An editor would show the name of a Rust type.
    if let Some(members) = schema.as_object_mut() {
        members.remove("title");
    }
    for keyword in ["properties", "anyOf", "oneOf"] {
        match schema.get_mut(keyword) {
            Some(Value::Object(properties)) => properties.values_mut().for_each(or_variable),
            Some(Value::Array(alternatives)) => alternatives.iter_mut().for_each(with_variables),
            _ => {}
        }
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(schema) = schema.get_mut(keyword).filter(|schema| schema.is_object()) {
            or_variable(schema);
        }
    }
}

/// A value or a variable. Mappings and lists are written out, and text of any kind may be a variable as it is.
fn or_variable(schema: &mut Value) {
    with_variables(schema);
    let types: Vec<_> = match schema.get("type") {
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).collect(),
        kind => kind.and_then(Value::as_str).into_iter().collect(),
    };
    let has = |keywords: &[&str]| keywords.iter().any(|keyword| schema.get(keyword).is_some());
    let is_free = !has(&["enum", "const", "pattern", "minLength", "maxLength", "anyOf", "oneOf"]);
    let is_any = types.is_empty() || types.contains(&"string");
    let is_collection =
        !types.is_empty() && types.iter().all(|kind| ["object", "array", "null"].contains(kind));
    if is_free && (is_any || is_collection) {
        return;
    }
    let original = std::mem::take(schema);
    let mut either = json!({});
    for keyword in ["description", "default"] {
        if let Some(value) = original.get(keyword) {
            either[keyword] = value.clone();
        }
    }
    either["anyOf"] = json!([original, {"type": "string", "pattern": VARIABLE}]);
    *schema = either;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_fits_wherever_a_scalar_does() {
        let variable = json!({"type": "string", "pattern": VARIABLE});
        let same = [
            json!({"type": "string"}),
            json!({"type": ["string", "null"], "default": null}),
            json!({}),
            json!({"type": "object", "properties": {"a": {"type": "string"}}}),
        ];
        for schema in same {
            let mut found = schema.clone();
            or_variable(&mut found);
            assert_eq!(found, schema);
        }
        let wrapped = [
            json!({"type": "integer", "description": "d", "default": 1}),
            json!({"type": ["number", "null"]}),
            json!({"type": "string", "enum": ["a", "b"]}),
            json!({"type": "string", "maxLength": 3}),
            json!({"anyOf": [{"const": "auto"}, {"type": "null"}]}),
        ];
        for schema in wrapped {
            let mut found = schema.clone();
            or_variable(&mut found);
            assert_eq!(found["anyOf"], json!([schema, variable]));
            assert_eq!(found.get("default"), schema.get("default"));
        }
        let mut nested = json!({"type": "array", "items": {"type": "object", "additionalProperties": {"type": "boolean"}}});
        or_variable(&mut nested);
        assert_eq!(nested["items"]["additionalProperties"]["anyOf"][1], variable);
    }
}
