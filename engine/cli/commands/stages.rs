//! `stages` and `schema`: what there is to build pipelines from.

use std::process::ExitCode;

use paraloom_pipeline::{StageInfo, editor_schema, nearest};

use super::{new_stage, print, test_stage};
use crate::args::{StageArgs, StagesArgs, StagesCommand};
use crate::context::load_host;
use crate::error::{CliError, Result};
use crate::render::reference;

pub(crate) fn run(args: &StagesArgs, stages: &StageArgs) -> Result<ExitCode> {
    match &args.command {
        Some(StagesCommand::New { dir, sdk }) => return new_stage::run(dir, sdk.as_deref()),
        Some(StagesCommand::Test(args)) => return test_stage::run(args, stages),
        None => {}
    }
    let host = load_host(stages)?;
    let mut infos: Vec<_> = host.stages().map(|stage| &stage.info).collect();
    if let Some(name) = &args.name {
        infos = vec![find(&infos, name)?];
    }
    let text = match (&args.name, infos.as_slice()) {
        (Some(_), [info]) if args.json => serde_json::to_string_pretty(info).unwrap_or_default(),
        _ if args.json => serde_json::to_string_pretty(&infos).unwrap_or_default(),
        _ if args.markdown => reference::markdown(&infos),
        (Some(_), [info]) => reference::text(info),
        _ => {
            let line =
                |info: &&StageInfo| format!("{:12} {:8} {}", info.name, info.version, info.doc);
            infos.iter().map(line).collect::<Vec<_>>().join("\n")
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn find<'a>(infos: &[&'a StageInfo], name: &str) -> Result<&'a StageInfo> {
    infos.iter().find(|info| info.name == *name).copied().ok_or_else(|| {
        let error = CliError::usage(format!("there is no stage `{name}`"));
        match nearest(name, infos.iter().map(|info| info.name.as_str())) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`paraloom stages` lists them"),
        }
    })
}

pub(crate) fn schema(stages: &StageArgs) -> Result<ExitCode> {
    print(&schema_text(stages)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The JSON Schema of pipelines with the stages that are there.
pub(crate) fn schema_text(stages: &StageArgs) -> Result<String> {
    let host = load_host(stages)?;
    let schema = editor_schema(host.stages().map(|stage| &stage.info));
    Ok(serde_json::to_string_pretty(&schema).unwrap_or_default())
}
