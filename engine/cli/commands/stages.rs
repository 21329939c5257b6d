//! `stages` and `schema`: what there is to build pipelines from.

use std::path::PathBuf;
use std::process::ExitCode;

use paraloom_pipeline::{PortInfo, Shape, StageInfo, editor_schema, nearest};
use serde_json::Value;

use super::print;
use crate::args::StagesArgs;
use crate::context::load_host;
use crate::error::{CliError, Result};

pub(crate) fn run(args: &StagesArgs, stages: &[PathBuf]) -> Result<ExitCode> {
    let host = load_host(stages)?;
    let infos: Vec<_> = host.stages().map(|stage| &stage.info).collect();
    let Some(name) = &args.name else {
        if args.json {
            print(&serde_json::to_string_pretty(&infos).unwrap_or_default())?;
        } else {
            for info in infos {
                print(&format!("{:12} {:8} {}", info.name, info.version, info.doc))?;
            }
        }
        return Ok(ExitCode::SUCCESS);
    };
    let Some(info) = infos.iter().find(|info| info.name == *name) else {
        let error = CliError::usage(format!("there is no stage `{name}`"));
        return Err(match nearest(name, infos.iter().map(|info| info.name.as_str())) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`paraloom stages` lists them"),
        });
    };
    if args.json {
        print(&serde_json::to_string_pretty(info).unwrap_or_default())?;
    } else {
        describe(info)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(info: &StageInfo) -> Result<()> {
    print(&format!("{} {} ({})\n{}", info.name, info.version, info.library, info.doc))?;
    print(match info.shape {
        Shape::Map => "works part by part: resumes, and can be tried with `paraloom try`",
        Shape::Whole if info.resumable => {
            "reads its inputs whole; resumes from its newest checkpoint"
        }
        Shape::Whole => "reads its inputs whole",
    })?;
    ports("inputs", &info.inputs)?;
    ports("outputs", &info.outputs)?;
    print("with:")?;
    let required: Vec<_> = info.config_schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, schema) in info.config_schema["properties"].as_object().into_iter().flatten() {
        let default = match schema.get("default") {
            Some(Value::Null) => String::new(),
            Some(default) => format!(" [{default}]"),
            None if required.contains(&name.as_str()) => " (required)".to_owned(),
            None => String::new(),
        };
        let doc = schema["description"].as_str().unwrap_or_default().replace('\n', " ");
        print(&format!("  {name}{default}\n      {doc}"))?;
    }
    Ok(())
}

fn ports(title: &str, ports: &[PortInfo]) -> Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    print(&format!("{title}:"))?;
    for port in ports {
        let kind = format!("{:?}", port.kind).to_lowercase();
        let many = if port.many { ", takes several" } else { "" };
        let optional = if port.optional { ", optional" } else { "" };
        print(&format!("  {:12} {kind}{many}{optional}: {}", port.name, port.doc))?;
    }
    Ok(())
}

pub(crate) fn schema(stages: &[PathBuf]) -> Result<ExitCode> {
    print(&schema_text(stages)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The JSON Schema of pipelines with the stages that are there.
pub(crate) fn schema_text(stages: &[PathBuf]) -> Result<String> {
    let host = load_host(stages)?;
    let schema = editor_schema(host.stages().map(|stage| &stage.info));
    Ok(serde_json::to_string_pretty(&schema).unwrap_or_default())
}
