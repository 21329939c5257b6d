//! One file per command.

mod check;
mod compare;
mod diff;
mod doctor;
mod export;
mod formats;
mod gc;
mod graph;
mod init;
mod json;
mod new_stage;
mod on_ray;
mod order;
mod plan;
mod publish;
mod query;
mod report;
mod run;
mod serve;
mod serve_hints;
mod serve_log;
mod show;
mod stages;
mod status;
mod store;
mod test_stage;
mod test_whole;
mod trace;
mod transfer;
mod try_node;

pub(crate) use formats::Format;
pub(crate) use gc::age;
pub(crate) use publish::PublishArgs;
pub(crate) use query::find_table;
pub(crate) use run::find_node;
pub(crate) use status::started;

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::{Args, Command, Engine};
use crate::error::{CliError, Result};
use crate::out::Out;

pub(crate) fn dispatch(args: &Args) -> Result<ExitCode> {
    let stages = &args.stages;
    match &args.command {
        Command::Init(args) => init::run(args, stages),
        Command::Run(args) => match args.cluster.on {
            Some(Engine::Ray) => on_ray::run(args, stages),
            None => run::run(&args.work, None, stages),
        },
        Command::Worker(args) => run::run(&args.work, Some(args.shard), stages),
        Command::Push(args) => transfer::push(args, stages),
        Command::Pull(args) => transfer::pull(args, stages),
        Command::Plan(args) => plan::run(args, stages),
        Command::Check(args) => check::run(args, stages),
        Command::Show(args) => show::run(args, stages),
        Command::Serve(args) => serve::run(args, stages),
        Command::Diff(args) => diff::run(args, stages),
        Command::Try(args) => try_node::run(args, stages),
        Command::Status(args) => status::run(args, stages),
        Command::Graph(args) => graph::run(args, stages),
        Command::Report(args) => report::run(args, stages),
        Command::Export(args) => export::run(args, stages),
        Command::Trace(args) => trace::run(args, stages),
        Command::Stages(args) => stages::run(args, stages),
        Command::Doctor => doctor::run(stages),
        Command::Schema => stages::schema(stages),
        Command::Completions { shell } => {
            // clap's own printing panics if stdout cannot be written.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "paraloom", &mut script);
            print(String::from_utf8_lossy(&script).trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify(args) => store::verify(args),
        Command::Gc(args) => gc::run(args, stages),
        Command::Pin(args) => store::pin(args, stages),
        Command::Unpin(args) => store::unpin(args),
        Command::Runs(args) => store::runs(args),
        Command::StageProcess => {
            paraloom_host::run_stage_process()?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Prints what `--help` and `--version` ask for: clap itself says nothing of a full disk.
pub(crate) fn help(text: &clap::Error) -> ExitCode {
    let mut out = Out::styled();
    let printed = out.text(&text.render().ansi().to_string()).and_then(|()| out.finish());
    printed.map_or_else(CliError::report, |()| ExitCode::SUCCESS)
}

/// Where a command lacks its pipeline, adds those of this directory to the error.
pub(crate) fn suggest_pipeline(mut error: clap::Error) -> clap::Error {
    /// More would be a list to choose from, not a hint.
    const MOST: usize = 3;
    let missing = error.get(ContextKind::InvalidArg);
    let lacks_one = matches!(missing, Some(ContextValue::Strings(args)) if args.iter().any(|arg| arg == "<PIPELINE>"));
    if error.kind() != ErrorKind::MissingRequiredArgument || !lacks_one {
        return error;
    }
    let names = std::fs::read_dir(".").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter(|name| {
            Path::new(name)
                .extension()
                .is_some_and(|extension| extension == "yaml" || extension == "yml")
        })
        .map(|name| format!("`{name}`"))
        .collect();
    names.sort();
    if (1..=MOST).contains(&names.len()) {
        let hint = format!("this directory has {}", names.join(", "));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.into()]));
    }
    error
}

/// A line of data to stdout.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = Out::stdout();
    out.line(text)?;
    out.finish()
}
