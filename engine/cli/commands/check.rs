//! `check`: all errors of a pipeline at once.

use std::process::ExitCode;

use paraloom_pipeline::{Diagnostic, Location, Severity};
use serde_json::json;

use super::print;
use crate::args::{CheckArgs, StageArgs};
use crate::context::{Checked, check};
use crate::error::{Result, USAGE};
use crate::render;

pub(crate) fn run(args: &CheckArgs, stages: &StageArgs) -> Result<ExitCode> {
    let path = &args.pipeline.pipeline;
    let checked = check(&args.pipeline, stages)?;
    let Checked { workspace, graph, diagnostics } = &checked;
    if args.json {
        let list: Vec<_> =
            diagnostics.iter().map(|found| as_json(&workspace.text, found)).collect();
        print(&serde_json::to_string_pretty(&list).unwrap_or_default())?;
    } else {
        render::diagnostics(path, &workspace.text, diagnostics);
    }
    let Some(graph) = graph else {
        if !args.json {
            let count = diagnostics.len();
            render::note(&format!("{count} {}", if count == 1 { "error" } else { "errors" }));
        }
        return Ok(ExitCode::from(USAGE));
    };
    if !args.json {
        render::note(&format!("{} is sound: {} nodes", path.display(), graph.order().len()));
        for index in graph.order() {
            let node = graph.node(*index);
            let is_missing =
                |location: &Location| matches!(location, Location::Hub(hub) if hub.paths.is_none());
            for used in node.paths.iter().filter(|used| is_missing(&used.location)) {
                render::note(&format!(
                    "note: `{}` needs {}, which is not on this machine yet; `run` fetches it",
                    node.name, used.text
                ));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(text: &str, diagnostic: &Diagnostic) -> serde_json::Value {
    let place = |offset: usize| {
        let before = &text[..offset.min(text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        json!({"line": line, "column": column})
    };
    json!({
        "severity": if diagnostic.severity == Severity::Error { "error" } else { "warning" },
        "message": diagnostic.message,
        "hint": diagnostic.hint,
        "start": place(diagnostic.span.start),
        "end": place(diagnostic.span.end),
    })
}
