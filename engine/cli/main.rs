//! The command line of paraloom: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;

mod args;
mod commands;
mod context;
mod error;
mod heap;
mod hub;
mod render;
mod signals;

fn main() -> ExitCode {
    heap::keep_what_is_freed();
    signals::survive_file_size_limit();
    let args = args::Args::parse();
    match commands::dispatch(&args) {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}
