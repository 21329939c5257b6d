//! `graph`: the pipeline as a picture.

use std::process::ExitCode;

use super::print;
use crate::args::{GraphArgs, GraphFormat, StageArgs};
use crate::context::Project;
use crate::error::Result;
use crate::render;

pub(crate) fn run(args: &GraphArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let draw = match args.format {
        GraphFormat::Terminal => render::terminal,
        GraphFormat::Mermaid => render::mermaid,
        GraphFormat::Dot => render::dot,
        GraphFormat::Svg => render::svg,
    };
    print(draw(&project.graph).trim_end())?;
    Ok(ExitCode::SUCCESS)
}
