//! `doctor`: what computes here, what does not, and why.

use std::path::PathBuf;
use std::process::ExitCode;

use paraloom_host::HostError;

use super::print;
use crate::context::load_host;
use crate::error::{CliError, Result};

pub(crate) fn run(stages: &[PathBuf]) -> Result<ExitCode> {
    let host = load_host(stages)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    print(&format!("paraloom {}, {cores} cores", env!("CARGO_PKG_VERSION")))?;
    print("\nstage libraries")?;
    for library in host.libraries() {
        let (name, version) = library.name();
        print(&format!(
            "  {name} {version} ({}), {}",
            library.built_with(),
            library.path().display()
        ))?;
    }
    print("\nbackends")?;
    for backend in host.backends() {
        let said = match host.stages_of(backend) {
            Ok(stages) if backend == "cpu" => {
                format!("ready: {} stages, in Rust alone", stages.len())
            }
            Ok(stages) => format!("ready: {}", stages.join(", ")),
            Err(HostError::Backend { reason, .. }) => reason,
            Err(error) => return Err(CliError::from(error)),
        };
        print(&format!("  {backend:6} {said}"))?;
    }
    if !host.backends().any(|backend| backend == "torch") {
        print(
            "  torch  not built: `cargo xtask torch` in the project fetches libtorch and builds it",
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
