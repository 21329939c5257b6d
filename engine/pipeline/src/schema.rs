//! The JSON Schema of the pipeline format, for editors.

use serde_json::{Value, json};

use crate::catalog::StageInfo;

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
    // A setting may also be a variable.
    allow_variables(&mut with);
    json!({
        "if": {"properties": {"stage": {"const": stage.name}}, "required": ["stage"]},
        "then": {"properties": {
            "with": with,
            "inputs": {"type": "object", "properties": ports, "additionalProperties": false}
        }}
    })
}

fn allow_variables(schema: &mut Value) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for property in properties.values_mut() {
        allow_variables(property);
        let kinds = property.get("type").cloned();
        let is_scalar = |kind: &Value| kind != "string" && kind != "object" && kind != "array";
        if let Some(kind) = kinds.filter(|kind| kind.is_array() || is_scalar(kind)) {
            let description = property.get("description").cloned().unwrap_or_default();
            let variable = json!({"type": "string", "pattern": VARIABLE});
            let original = std::mem::take(property);
            *property = json!({"anyOf": [original, variable], "description": description});
            debug_assert!(!kind.is_null());
        }
    }
}
