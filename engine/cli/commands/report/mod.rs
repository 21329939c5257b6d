//! `report`: one page on what came of a pipeline.

mod again;
mod against;
mod data;
mod examples;
mod history;
mod result;
mod subject;
mod training;
mod work;

pub(super) use self::subject::{conditions_of, own_names, texts};

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use self::against::Before;
use self::history::History;
use self::subject::{Sizes, Subject};
use super::print;
use crate::args::{ReportArgs, StageArgs};
use crate::error::{CliError, Result};
use crate::finished::Finished;
use crate::out::Out;
use crate::{recorded, render};

/// What every report has in its title, within so many bytes.
const MARK: &str = " - paraloom report</title>";
const HEAD: u64 = 4096;
/// A page that mail and browsers take without trouble.
const MAX_BYTES: usize = 1 << 20;

pub(crate) fn run(args: &ReportArgs, stages: &StageArgs) -> Result<ExitCode> {
    let is_file = args.to != Path::new("-");
    if is_file {
        check_is_ours(&args.to)?;
    }
    let finished = Finished::open(&args.pipeline, stages, args.run.as_deref())?;
    let (graph, store, lookup) = (&finished.graph, &finished.store, finished.lookup()?);
    let history = History::of(store, &graph.name, finished.run())?;
    let before = match &args.against {
        Some(run) => {
            let run = recorded::find_run(store, run)?;
            recorded::warn_of_another(store, &run, &graph.name)?;
            Some(Before::read(store, run, &history)?)
        }
        None => None,
    };
    let mut subject = Subject {
        file: &args.pipeline.pipeline,
        finished: &finished,
        graph,
        lookup: &lookup,
        history: &history,
        before: before.as_ref(),
        sizes: Sizes::default(),
    };
    let mut page = subject.page()?;
    // What is long can be told in short.
    while page.len() > MAX_BYTES && subject.sizes.shrink() {
        page = subject.page()?;
    }
    if !is_file {
        print(&page)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = Out::file(&args.to)?;
    out.text(&page)?;
    out.finish()?;
    render::note(&format!("wrote {}", args.to.display()));
    Ok(ExitCode::SUCCESS)
}

/// A file that this command did not write stays: the name may have been meant for something else.
fn check_is_ours(path: &Path) -> Result<()> {
    // A pipe is written in place, and would wait for somebody who writes.
    if !path.is_file() {
        return Ok(());
    }
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    if read.is_err() || head.is_empty() || String::from_utf8_lossy(&head).contains(MARK) {
        return Ok(());
    }
    let message = format!("{} is there already, and is no report", path.display());
    Err(CliError::usage(message).hint("name another file with --to"))
}
