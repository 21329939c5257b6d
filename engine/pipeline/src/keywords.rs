//! The JSON Schema keywords of a stage's configuration: each is enforced, or the schema is refused.
//!
//! An editor knows all keywords. One that the engine passed over would be an error there and sound here.

use regex::Regex;
use serde_json::Value as Json;

use crate::config::PATH_KEYWORD;

/// Keywords that say nothing about a value.
const ANNOTATIONS: [&str; 12] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
];
/// Those that are checked together with any others.
const ENFORCED: [&str; 21] = [
    "type",
    "enum",
    "const",
    "format",
    "properties",
    "required",
    "additionalProperties",
    "minProperties",
    "maxProperties",
    "items",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
];
const ALTERNATIVES: [&str; 2] = ["anyOf", "oneOf"];
const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];
/// What `schemars` calls the Rust types of numbers. An editor ignores them; the bounds are told by `minimum` and `maximum`.
const NUMBER_FORMATS: [&str; 14] = [
    "int8", "int16", "int32", "int64", "int128", "int", "uint8", "uint16", "uint32", "uint64",
    "uint128", "uint", "float", "double",
];
const COUNTS: [&str; 6] =
    ["minProperties", "maxProperties", "minItems", "maxItems", "minLength", "maxLength"];
const NUMBERS: [&str; 5] =
    ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];

/// Checks that every keyword of the schema of a configuration can be enforced. The error names the keyword and its place as a
/// JSON pointer.
pub fn check_config_schema(schema: &Json) -> Result<(), String> {
    let Some(members) = schema.as_object() else {
        return Err(format!("the schema of a configuration is an object, not {schema}"));
    };
    if members.get("type").is_some_and(|kind| kind != "object") {
        return Err(
            "a configuration is an object: its schema has `\"type\": \"object\"`".to_owned()
        );
    }
    check(schema, "")
}

fn check(schema: &Json, pointer: &str) -> Result<(), String> {
    let wrong = |keyword: &str, what: &str| Err(format!("`{pointer}/{keyword}` {what}"));
    let members = match schema {
        Json::Bool(true) => return Ok(()),
        Json::Object(members) => members,
        _ => return Err(format!("`{pointer}` is not a schema that can be enforced: {schema}")),
    };
    let has_alternatives = ALTERNATIVES.iter().any(|keyword| members.contains_key(*keyword));
    for (keyword, value) in members {
        let keyword = keyword.as_str();
        match keyword {
            "x-paraloom-request" if !(value.is_boolean() || value.is_object()) => {
                return wrong(keyword, "must be true or an object");
            }
            "x-paraloom-marks" if !value.is_object() => return wrong(keyword, "must be an object"),
            _ if ANNOTATIONS.contains(&keyword) || keyword.starts_with("x-") => {}
            _ if ALTERNATIVES.contains(&keyword) => {
                let Some(schemas) = value.as_array().filter(|schemas| !schemas.is_empty()) else {
                    return wrong(keyword, "must be a list of schemas");
                };
                for (index, schema) in schemas.iter().enumerate() {
                    check(schema, &format!("{pointer}/{keyword}/{index}"))?;
                }
            }
            _ if !ENFORCED.contains(&keyword) => {
                return wrong(keyword, "is a keyword that the engine does not enforce");
            }
            _ if has_alternatives && keyword != "type" => {
                return wrong(keyword, "is not enforced beside `anyOf` or `oneOf`");
            }
            _ => value_of(keyword, value, pointer)?,
        }
    }
    if members.contains_key(PATH_KEYWORD) && has_alternatives {
        return wrong(PATH_KEYWORD, "is not enforced beside `anyOf` or `oneOf`");
    }
    if ALTERNATIVES.iter().all(|keyword| members.contains_key(*keyword)) {
        return wrong("oneOf", "is not enforced beside `anyOf`");
    }
    Ok(())
}

/// Whether the value of an enforced keyword is one that it can have.
fn value_of(keyword: &str, value: &Json, pointer: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("`{pointer}/{keyword}` {what}"));
    match keyword {
        "type" => {
            let one = std::slice::from_ref(value);
            let names = value.as_array().map_or(one, Vec::as_slice);
            match names.iter().find(|name| !TYPES.iter().any(|known| *name == known)) {
                Some(name) => wrong(&format!("names no type: {name}")),
                None => Ok(()),
            }
        }
        "enum" if value.as_array().is_none_or(Vec::is_empty) => wrong("must be a list of values"),
        "format" if !NUMBER_FORMATS.iter().any(|known| value == known) => {
            wrong(&format!("is a format that the engine does not enforce: {value}"))
        }
        "required" => {
            let names = value.as_array().filter(|names| names.iter().all(Json::is_string));
            names.map_or_else(|| wrong("must be a list of names"), |_| Ok(()))
        }
        "properties" => {
            let Some(properties) = value.as_object() else { return wrong("must be an object") };
            properties.iter().try_for_each(|(name, schema)| {
                check(schema, &format!("{pointer}/properties/{name}"))
            })
        }
        "additionalProperties" if value.is_boolean() => Ok(()),
        "additionalProperties" | "items" => check(value, &format!("{pointer}/{keyword}")),
        "uniqueItems" if !value.is_boolean() => wrong("must be true or false"),
        "pattern" => match value.as_str().map(Regex::new) {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => {
                wrong(&format!("is a pattern that the engine cannot match: {error}"))
            }
            None => wrong("must be text"),
        },
        "multipleOf" if value.as_f64().is_none_or(|number| number <= 0.0) => {
            wrong("must be a number above 0")
        }
        _ if COUNTS.contains(&keyword) && !value.is_u64() => wrong("must be a whole number"),
        _ if NUMBERS.contains(&keyword) && !value.is_number() => wrong("must be a number"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_enforced_is_refused() {
        let property = |schema: Json| json!({"type": "object", "properties": {"a": schema}});
        let sound = [
            json!({}),
            json!({"$schema": "x", "title": "Config", "type": "object", "definitions": {"unused": {"allOf": []}}}),
            property(
                json!({"type": ["integer", "null"], "format": "uint32", "minimum": 0, "default": null}),
            ),
            property(
                json!({"type": "string", "pattern": "^x", "x-paraloom-path": "many", "x-other": 1}),
            ),
            property(
                json!({"anyOf": [{"enum": ["a"], "type": "string"}, {"type": "null"}], "description": "d"}),
            ),
            property(
                json!({"type": "array", "items": {"type": "number", "multipleOf": 0.5}, "uniqueItems": true}),
            ),
            property(json!(true)),
            property(json!({"type": "integer", "x-paraloom-request": {"maximum": 3}})),
            property(json!({"type": "boolean", "x-paraloom-marks": {"cut": "cut"}})),
        ];
        for schema in sound {
            assert_eq!(check_config_schema(&schema), Ok(()), "{schema}");
        }
        let refused = [
            (json!("text"), "the schema of a configuration is an object, not \"text\""),
            (
                json!({"type": "string"}),
                "a configuration is an object: its schema has `\"type\": \"object\"`",
            ),
            (
                property(json!({"type": "nonsense"})),
                "`/properties/a/type` names no type: \"nonsense\"",
            ),
            (property(json!({"type": 3})), "`/properties/a/type` names no type: 3"),
            (
                property(json!("text")),
                "`/properties/a` is not a schema that can be enforced: \"text\"",
            ),
            (property(json!(false)), "`/properties/a` is not a schema that can be enforced: false"),
            (
                property(json!({"$ref": "#/$defs/b"})),
                "`/properties/a/$ref` is a keyword that the engine does not enforce",
            ),
            (
                property(json!({"allOf": [{}]})),
                "`/properties/a/allOf` is a keyword that the engine does not enforce",
            ),
            (
                property(json!({"items": [{}]})),
                "`/properties/a/items` is not a schema that can be enforced: [{}]",
            ),
            (
                property(json!({"items": {"not": {}}})),
                "`/properties/a/items/not` is a keyword that the engine does not enforce",
            ),
            (
                property(json!({"anyOf": [{"if": {}}]})),
                "`/properties/a/anyOf/0/if` is a keyword that the engine does not enforce",
            ),
            (
                property(json!({"anyOf": [{}], "minimum": 3})),
                "`/properties/a/minimum` is not enforced beside `anyOf` or `oneOf`",
            ),
            (
                property(json!({"anyOf": [{}], "oneOf": [{}]})),
                "`/properties/a/oneOf` is not enforced beside `anyOf`",
            ),
            (property(json!({"anyOf": []})), "`/properties/a/anyOf` must be a list of schemas"),
            (
                property(json!({"format": "email"})),
                "`/properties/a/format` is a format that the engine does not enforce: \"email\"",
            ),
            (
                property(json!({"minLength": -1})),
                "`/properties/a/minLength` must be a whole number",
            ),
            (property(json!({"maximum": "3"})), "`/properties/a/maximum` must be a number"),
            (
                property(json!({"multipleOf": 0})),
                "`/properties/a/multipleOf` must be a number above 0",
            ),
            (property(json!({"enum": []})), "`/properties/a/enum` must be a list of values"),
            (
                property(json!({"required": ["a", 1]})),
                "`/properties/a/required` must be a list of names",
            ),
            (
                property(json!({"uniqueItems": 1})),
                "`/properties/a/uniqueItems` must be true or false",
            ),
            (property(json!({"pattern": 1})), "`/properties/a/pattern` must be text"),
            (
                property(json!({"x-paraloom-request": "yes"})),
                "`/properties/a/x-paraloom-request` must be true or an object",
            ),
            (
                property(json!({"x-paraloom-marks": true})),
                "`/properties/a/x-paraloom-marks` must be an object",
            ),
        ];
        for (schema, told) in refused {
            assert_eq!(check_config_schema(&schema), Err(told.to_owned()), "{schema}");
        }
        let broken = check_config_schema(&property(json!({"pattern": "(?=x)"})))
            .expect_err("it looks ahead");
        assert!(
            broken.starts_with("`/properties/a/pattern` is a pattern that the engine cannot match"),
            "{broken}"
        );
    }
}
