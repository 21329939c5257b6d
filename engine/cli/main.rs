//! The command line of paraloom: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;

mod args;
mod aside;
mod commands;
mod context;
mod environment;
mod error;
mod finished;
mod hub;
mod out;
mod place;
mod recorded;
mod render;
mod shell;
mod signals;

#[global_allocator]
static ALLOCATOR: paraloom_alloc::OrExit = paraloom_alloc::OrExit(std::alloc::System);

fn main() -> ExitCode {
    paraloom_alloc::keep_what_is_freed();
    paraloom_alloc::exit_when_aborted();
    signals::survive_file_size_limit();
    let args = match args::Args::try_parse() {
        Err(error) if !error.use_stderr() => return commands::help(&error),
        args => args.unwrap_or_else(|error| commands::suggest_pipeline(error).exit()),
    };
    match commands::dispatch(&args) {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}
