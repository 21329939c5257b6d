//! `/openapi.json`, and `/docs`, the page that shows it.

use arrow::datatypes::{DataType, Schema};
use axum::http::StatusCode;
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::About;
use crate::models::Models;
use crate::rows::{MAX_ROWS, PARENT};
use crate::texts::Texts;

/// The description of a server, OpenAPI 3.1.
pub(crate) fn document(models: &Models, asks_for_token: bool) -> Value {
    let mut paths = Map::new();
    let (all, first) = (models.all(), models.first());
    let parameters = any(all.iter().map(parameters));
    let names: Vec<_> = all.iter().map(|about| about.name.as_str()).collect();
    let mut rows = json!({
        "type": "object",
        "properties": {
            "rows": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_ROWS,
                "items": any(all.iter().map(|about| row(&about.input, true))),
            },
            "parameters": parameters,
        },
        "required": ["rows"],
        "additionalProperties": false,
    });
    if models.are_several() {
        rows["properties"]["model"] = model_schema(&names);
    }
    let answer = any(all.iter().map(outputs));
    let text = json!({"type": "string"});
    let content = |schema: &Value| {
        json!({
            "application/json": {"schema": schema},
            "application/x-ndjson": {"schema": text},
            "text/csv": {"schema": text},
        })
    };
    let mut operation = operation(
        "Rows in, rows out",
        &json!({"description": "The outputs", "content": content(&answer)}),
    );
    operation["requestBody"] = json!({"required": true, "content": content(&rows)});
    // Where rows are CSV or lines of JSON, there is no other place for these.
    let model = models.are_several().then(|| in_address("model", "query", model_schema(&names)));
    let ports = all.iter().flat_map(|about| about.outputs.iter().map(|(port, _)| port));
    let ports: std::collections::BTreeSet<_> = ports.collect();
    let output = in_address("output", "query", json!({"enum": ports}));
    let settings = all.iter().flat_map(|about| about.parameters.list());
    let settings: Map<_, _> = settings
        .map(|setting| {
            // As JSON, whatever the type.
            let content = json!({"application/json": {"schema": setting.schema}});
            let name = &setting.name;
            (name.clone(), json!({"name": name, "in": "query", "content": content}))
        })
        .collect();
    let own = model.iter().cloned().chain([output]).chain(settings.into_iter().map(|(_, of)| of));
    operation["parameters"] = own.collect();
    paths.insert("/v1/rows".to_owned(), json!({"post": operation}));
    let with_texts: Vec<_> =
        all.iter().filter_map(|about| Some((about, Texts::of(about).ok()?))).collect();
    if let Some((_, texts)) = with_texts.first() {
        let names: Vec<_> = with_texts.iter().map(|(about, _)| about.name.as_str()).collect();
        text_paths(&mut paths, texts, &names, &parameters, models.are_several());
    }
    let named = in_address("name", "path", model_schema(&names));
    for (path, summary, kind, parameter) in [
        (
            "/v1/info",
            "What goes in, what comes out, and what may be set",
            "application/json",
            model,
        ),
        ("/v1/models", "What is served, as OpenAI's clients ask for it", "application/json", None),
        ("/v1/models/{name}", "One of them", "application/json", Some(named)),
        ("/metrics", "For Prometheus", "application/openmetrics-text", None),
        ("/openapi.json", "This description", "application/json", None),
        ("/docs", "This description as a page", "text/html", None),
        ("/", "The page to try it", "text/html", None),
    ] {
        let answer = json!({"description": summary, "content": {kind: {}}});
        let mut operation = self::operation(summary, &answer);
        operation["parameters"] = parameter.into_iter().collect();
        paths.entry(path.to_owned()).or_insert_with(|| json!({}))["get"] = operation;
    }
    for (path, summary) in [
        ("/livez", "200 as long as the process lives"),
        ("/readyz", "200, or 503 while it starts no work"),
    ] {
        let answers = json!({
            "200": {"description": "ok", "content": {"text/plain": {}}},
            "503": {"description": "not ready", "content": {"text/plain": {}}},
        });
        let operation = json!({"summary": summary, "responses": answers, "security": []});
        paths.insert(path.to_owned(), json!({"get": operation}));
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {"title": first.title, "version": first.version},
        "paths": paths,
        "components": {"schemas": {"Error": error()}},
    });
    if asks_for_token {
        let bearer = json!({"token": {"type": "http", "scheme": "bearer"}});
        document["components"]["securitySchemes"] = bearer;
        document["security"] = json!([{"token": []}]);
    }
    document
}

/// What a request says in its address.
fn in_address(name: &str, place: &str, schema: Value) -> Value {
    json!({"name": name, "in": place, "required": place == "path", "schema": schema})
}

/// Names to choose from; the first is meant where none is given.
fn model_schema(names: &[&str]) -> Value {
    json!({"enum": names, "default": names.first()})
}

/// A schema for what is of one of several.
fn any(schemas: impl Iterator<Item = Value>) -> Value {
    let mut different: Vec<Value> = Vec::new();
    for schema in schemas {
        if !different.contains(&schema) {
            different.push(schema);
        }
    }
    match <[Value; 1]>::try_from(different) {
        Ok([only]) => only,
        Err(several) => json!({ "anyOf": several }),
    }
}

/// What a model gives for rows.
fn outputs(about: &About) -> Value {
    let outputs = about.outputs.iter().map(|(port, schema)| {
        (port.clone(), json!({"type": "array", "items": row(schema, false)}))
    });
    let mut outputs: Map<_, _> = outputs.collect();
    outputs.insert("_warnings".to_owned(), json!({"type": "array", "items": {"type": "object"}}));
    json!({"type": "object", "properties": outputs})
}

/// The paths where texts go in and out.
fn text_paths(
    paths: &mut Map<String, Value>,
    texts: &Texts,
    models: &[&str],
    parameters: &Value,
    are_several: bool,
) {
    let one_or_more = json!({
        "anyOf": [
            {"type": "string"},
            {"type": "array", "minItems": 1, "maxItems": MAX_ROWS, "items": {"type": "string"}},
        ],
        "description": format!("What `{}` is to hold", texts.source),
    });
    let json_body = |schema: Value| json!({"required": true, "content": {"application/json": {"schema": schema}}});
    let answer = |description: &str, schema: Value| json!({"description": description, "content": {"application/json": {"schema": schema}}});
    let written = json!({"type": "object", "properties": {"generated_text": {"type": "string"}}});
    let mut operation = operation(
        "Texts in and out, as the clients of the Hugging Face inference API send them",
        &answer(
            "The texts; of several inputs, a list for each",
            json!({
                "type": "array",
                "items": {"anyOf": [written, {"type": "array", "items": written}]},
            }),
        ),
    );
    operation["responses"]["200"]["content"]["text/event-stream"] = events();
    let mut body = json!({
        "type": "object",
        "properties": {
            "inputs": one_or_more,
            "parameters": parameters,
            "stream": {"type": "boolean"},
        },
        "required": ["inputs"],
        "additionalProperties": false,
    });
    if are_several {
        body["properties"]["model"] = model_schema(models);
    }
    operation["requestBody"] = json_body(body);
    paths.insert("/".to_owned(), json!({"post": operation}));
    let mut of_model = operation.clone();
    of_model["summary"] = json!("The same, of a model that the address names");
    let name = if are_several { model_schema(models) } else { json!({"type": "string"}) };
    of_model["parameters"] = json!([in_address("name", "path", name)]);
    paths.insert("/models/{name}".to_owned(), json!({"post": of_model}));
    operation["summary"] = json!("The same as a stream, of one text");
    operation["responses"]["200"] =
        json!({"description": "The text", "content": {"text/event-stream": events()}});
    paths.insert("/generate_stream".to_owned(), json!({"post": operation}));
    let mut properties = json!({
        "model": {"enum": models},
        "prompt": one_or_more,
        "n": {"type": "integer", "minimum": 1},
        "max_tokens": {"type": "integer", "minimum": 1},
        "stop": {"anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "maxItems": 4, "items": {"type": "string", "minLength": 1}},
            {"type": "null"},
        ]},
        "stream": {"type": "boolean"},
    });
    let alternatives = parameters["anyOf"].as_array().map_or(&[][..], Vec::as_slice);
    let own = std::iter::once(parameters).chain(alternatives);
    let own = own.filter_map(|schema| schema["properties"].as_object()).flatten();
    if let Some(properties) = properties.as_object_mut() {
        for (name, schema) in own {
            // `n` and `max_tokens` are these.
            if !["candidates", "max_new_tokens"].contains(&name.as_str()) {
                properties.entry(name.clone()).or_insert_with(|| schema.clone());
            }
        }
    }
    let mut operation = self::operation(
        "Texts in and out, as OpenAI's clients send them",
        &answer(
            "The texts",
            json!({
                "type": "object",
                "properties": {
                    "id": {"type": "string"},
                    "choices": {"type": "array", "items": {"type": "object"}},
                },
                "required": ["id", "choices"],
            }),
        ),
    );
    operation["responses"]["200"]["content"]["text/event-stream"] = events();
    operation["requestBody"] = json_body(json!({
        "type": "object",
        "properties": properties,
        "required": ["prompt"],
        "additionalProperties": false,
    }));
    paths.insert("/v1/completions".to_owned(), json!({"post": operation}));
}

/// The other form of an answer. OpenAPI 3.1 has no words for what is within an event.
fn events() -> Value {
    json!({"schema": {"description": "An event for each text, `data: {...}`"}})
}

/// An operation with its answer; all others are errors.
fn operation(summary: &str, answer: &Value) -> Value {
    let error = json!({
        "description": "What is wrong",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    });
    json!({"summary": summary, "responses": {"200": answer, "default": error}})
}

fn error() -> Value {
    json!({
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
                "required": ["code", "message"],
            },
        },
        "required": ["error"],
    })
}

fn parameters(about: &About) -> Value {
    let list = about.parameters.list().iter();
    let properties: Map<_, _> =
        list.map(|parameter| (parameter.name.clone(), parameter.schema.clone())).collect();
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// A row; one that is sent need not have what may be missing.
fn row(schema: &Schema, is_sent: bool) -> Value {
    let fields = || {
        let fields = schema.fields().iter();
        fields.filter(move |field| !is_sent || field.name() != PARENT)
    };
    let properties: Map<_, _> = fields()
        .map(|field| {
            let kind = kind(field.data_type());
            let kind = match (field.is_nullable() || field.name() == "_id", kind) {
                (true, Some(kind)) => json!({"type": [kind, "null"]}),
                (false, Some(kind)) => json!({"type": kind}),
                (_, None) => json!({}),
            };
            (field.name().clone(), kind)
        })
        .collect();
    let needed: Vec<_> = fields()
        .filter(|field| !field.is_nullable() && (!is_sent || field.name() != "_id"))
        .map(|field| field.name().clone())
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": needed,
        "additionalProperties": false,
    })
}

fn kind(kind: &DataType) -> Option<&'static str> {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some("string"),
        DataType::Boolean => Some("boolean"),
        kind if kind.is_integer() => Some("integer"),
        kind if kind.is_floating() => Some("number"),
        _ => None,
    }
}

#[derive(Serialize)]
struct Docs<'a> {
    title: &'a str,
    version: &'a str,
    operations: Vec<Operation>,
    parameters: Vec<Setting>,
}

#[derive(Serialize)]
struct Operation {
    method: String,
    path: String,
    summary: String,
    request: Option<String>,
}

#[derive(Serialize)]
struct Setting {
    name: String,
    nodes: String,
    doc: String,
    values: String,
    default: String,
}

/// The description as a page, without scripts.
pub(crate) fn docs(models: &Models, document: &Value) -> Result<String, StatusCode> {
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let content = &operation["requestBody"]["content"]["application/json"]["schema"];
            operations.push(Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                summary: operation["summary"].as_str().unwrap_or_default().to_owned(),
                request: (!content.is_null()).then(|| format!("{:#}", example(content))),
            });
        }
    }
    let setting = |parameter: &crate::Parameter| {
        let schema = &parameter.schema;
        Setting {
            name: parameter.name.clone(),
            nodes: parameter.nodes.join(", "),
            doc: schema["description"].as_str().unwrap_or_default().to_owned(),
            values: values(schema),
            default: schema["default"].to_string(),
        }
    };
    let mut parameters: Vec<Setting> = Vec::new();
    for parameter in models.all().iter().flat_map(|about| about.parameters.list()) {
        if !parameters.iter().any(|known| known.name == parameter.name) {
            parameters.push(setting(parameter));
        }
    }
    let About { title, version, .. } = models.first();
    let docs = Docs { title, version, operations, parameters };
    let mut templates = Environment::new();
    let failed = |_| StatusCode::INTERNAL_SERVER_ERROR;
    templates.add_template("docs.html", include_str!("docs.html")).map_err(failed)?;
    let page = templates.get_template("docs.html").map_err(failed)?;
    page.render(Serde(docs)).map_err(failed)
}

/// The values of a schema, in words.
fn values(schema: &Value) -> String {
    let kind = match &schema["type"] {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or ")
        }
        _ if schema.get("anyOf").is_some() => "object or null".to_owned(),
        _ => "one of the choices".to_owned(),
    };
    match (&schema["minimum"], &schema["maximum"]) {
        (Value::Number(least), Value::Number(most)) => format!("{kind}, {least} to {most}"),
        (Value::Number(least), _) => format!("{kind}, {least} or more"),
        (_, Value::Number(most)) => format!("{kind}, {most} or less"),
        _ => kind,
    }
}

/// A value of a schema with what it needs.
fn example(schema: &Value) -> Value {
    if let Some(first) = schema["anyOf"].get(0) {
        return example(first);
    }
    match schema["type"].as_str() {
        Some("object") => {
            let needed = schema["required"].as_array().into_iter().flatten();
            let needed = needed.filter_map(Value::as_str);
            needed.map(|name| (name.to_owned(), example(&schema["properties"][name]))).collect()
        }
        Some("array") => json!([example(&schema["items"])]),
        Some("string") => json!("..."),
        Some("boolean") => json!(true),
        Some("integer" | "number") => json!(1),
        _ => Value::Null,
    }
}
