//! What stages say of themselves, for people: in a terminal, and as the page docs/stages.md.

use std::fmt::Write;

use paraloom_pipeline::{PortInfo, Shape, StageInfo};
use serde_json::Value;

/// A setting of a stage.
struct Setting {
    /// With the names of the settings that it is part of: `sample.top_k`.
    name: String,
    kind: String,
    /// As YAML; empty if there is none.
    default: String,
    doc: String,
    /// Values that are explained one by one.
    choices: Vec<(String, String)>,
}

/// The settings that a schema describes, each followed by its own parts.
fn settings(schema: &Value, parent: &str, all: &mut Vec<Setting>) {
    let required = schema["required"].as_array().into_iter().flatten();
    let required: Vec<_> = required.filter_map(Value::as_str).collect();
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let default = match schema.get("default") {
            Some(Value::Null) | None if !required.contains(&name.as_str()) => String::new(),
            Some(Value::Null) | None => "required".to_owned(),
            Some(default) => default.to_string(),
        };
        let inner = present(schema);
        let doc = schema["description"].as_str().or(inner["description"].as_str());
        let choices = inner["oneOf"].as_array().into_iter().flatten().filter_map(|choice| {
            Some((choice["const"].as_str()?.to_owned(), one_line(choice["description"].as_str()?)))
        });
        let name = format!("{parent}{name}");
        all.push(Setting {
            kind: kind(inner),
            default,
            doc: one_line(doc.unwrap_or_default()),
            choices: choices.collect(),
            name: name.clone(),
        });
        settings(inner, &format!("{name}."), all);
        settings(&inner["additionalProperties"], &format!("{name}.NAME."), all);
    }
}

/// Of something that may also be null, what it is otherwise.
fn present(schema: &Value) -> &Value {
    let choices = schema["anyOf"].as_array().into_iter().flatten();
    let mut choices = choices.filter(|choice| choice["type"] != "null");
    choices.next().unwrap_or(schema)
}

/// The values that fit, in words.
fn kind(schema: &Value) -> String {
    let schema = present(schema);
    let all = |values: Vec<&str>| {
        let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
        values.join(", ")
    };
    if let Some(values) = schema["enum"].as_array() {
        return all(values.iter().filter_map(Value::as_str).collect());
    }
    if let Some(values) = schema["oneOf"].as_array() {
        return all(values.iter().filter_map(|value| value["const"].as_str()).collect());
    }
    let name = match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        name => name.as_str(),
    };
    match name {
        Some("string") if schema.get("x-paraloom-path").is_some() => "path".to_owned(),
        Some("string") => "text".to_owned(),
        Some("boolean") => all(vec!["true", "false"]),
        Some("integer") => format!("whole number{}", range(schema)),
        Some("number") => format!("number{}", range(schema)),
        Some("array") => format!("list of {}", plural(&kind(&schema["items"]))),
        Some("object") => match &schema["additionalProperties"] {
            Value::Object(_) => {
                format!("names, each with {}", kind(&schema["additionalProperties"]))
            }
            Value::Bool(true) => "names, each with any value".to_owned(),
            _ => "settings".to_owned(),
        },
        _ => "any value".to_owned(),
    }
}

fn plural(kind: &str) -> String {
    match kind {
        "text" => "texts".to_owned(),
        kind if kind.starts_with('`') => kind.to_owned(),
        kind => format!("{kind}s"),
    }
}

fn range(schema: &Value) -> String {
    let bound = |name: &str| schema[name].as_f64();
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (Some(least), None) => format!(", at least {least}"),
        (None, Some(most)) => format!(", at most {most}"),
        (None, None) => String::new(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn of(info: &StageInfo) -> Vec<Setting> {
    let mut all = Vec::new();
    settings(&info.config_schema, "", &mut all);
    all
}

fn work(info: &StageInfo) -> &'static str {
    match info.shape {
        Shape::Map => "works part by part: resumes, and can be tried and served",
        Shape::Whole if info.resumable => {
            "reads its inputs whole; resumes from its newest checkpoint"
        }
        Shape::Whole => "reads its inputs whole",
    }
}

fn port(port: &PortInfo) -> String {
    let kind = format!("{:?}", port.kind).to_lowercase();
    let many = if port.many { ", takes several" } else { "" };
    let optional = if port.optional { ", optional" } else { "" };
    format!("{kind}{many}{optional}")
}

/// A stage as text.
pub(crate) fn text(info: &StageInfo) -> String {
    let mut out = format!("{} {} ({})\n", info.name, info.version, info.library);
    let mut line = |text: std::fmt::Arguments| {
        // A string takes everything.
        let _ = writeln!(out, "{text}");
    };
    line(format_args!("{}\n{}", info.doc, work(info)));
    for (title, ports) in [("inputs", &info.inputs), ("outputs", &info.outputs)] {
        if !ports.is_empty() {
            line(format_args!("{title}:"));
        }
        for found in ports {
            line(format_args!("  {:12} {}: {}", found.name, port(found), found.doc));
        }
    }
    line(format_args!("with:"));
    for setting in of(info) {
        let default = match setting.default.as_str() {
            "" => String::new(),
            "required" => " (required)".to_owned(),
            default => format!(" [{default}]"),
        };
        line(format_args!("  {}{default}: {}", setting.name, setting.kind.replace('`', "")));
        if !setting.doc.is_empty() {
            line(format_args!("      {}", setting.doc));
        }
        for (choice, doc) in setting.choices {
            line(format_args!("      {choice}: {doc}"));
        }
    }
    out.trim_end().to_owned()
}

/// A page with all of these stages.
pub(crate) fn markdown(infos: &[&StageInfo]) -> String {
    let mut out = "\
# Stages

Made by `cargo xtask schemas` from what the stages say of themselves; `paraloom stages NAME` says the same, of the stages of your own too.

| stage | what it does |
|---|---|
"
    .to_owned();
    let mut line = |text: std::fmt::Arguments| {
        // A string takes everything.
        let _ = writeln!(out, "{text}");
    };
    for info in infos {
        line(format_args!("| [`{0}`](#{0}) | {1} |", info.name, info.doc));
    }
    for info in infos {
        line(format_args!("\n## {}\n\n{}\n", info.name, info.doc));
        line(format_args!("Version {}; {}.\n", info.version, work(info)));
        line(format_args!("| port | | |\n|---|---|---|"));
        for (direction, ports) in [("in", &info.inputs), ("out", &info.outputs)] {
            for found in ports {
                let kind = port(found);
                line(format_args!("| `{}` | {direction}, {kind} | {} |", found.name, found.doc));
            }
        }
        line(format_args!("\n| setting | value | default | |\n|---|---|---|---|"));
        for setting in of(info) {
            let default = match setting.default.as_str() {
                "" | "required" => setting.default,
                default => format!("`{default}`"),
            };
            let choices = setting.choices.iter();
            let choices = choices.map(|(choice, doc)| format!(" `{choice}`: {doc}"));
            let doc = format!("{}{}", setting.doc, choices.collect::<String>());
            let row = [format!("`{}`", setting.name), setting.kind, default, doc];
            line(format_args!("| {} |", row.map(|cell| cell.replace('|', "\\|")).join(" | ")));
        }
    }
    out.trim_end().to_owned()
}
