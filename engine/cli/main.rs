//! The command line of paraloom: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;

mod args;
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
mod signals;

#[global_allocator]
static ALLOCATOR: paraloom_alloc::OrExit = paraloom_alloc::OrExit(std::alloc::System);

fn main() -> ExitCode {
    paraloom_alloc::keep_what_is_freed();
    paraloom_alloc::exit_when_aborted();
    signals::survive_file_size_limit();
    let args = args::Args::parse();
    match commands::dispatch(&args) {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}
