//! `doctor`: what computes here, what does not, and why.

use std::process::ExitCode;

use paraloom_host::HostError;

use super::print;
use crate::args::StageArgs;
use crate::context::load_host;
use crate::error::{CliError, Result};

pub(crate) fn run(stages: &StageArgs) -> Result<ExitCode> {
    let host = load_host(stages)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    print(&format!("paraloom {}, {cores} cores", env!("CARGO_PKG_VERSION")))?;
    print("\nstage libraries")?;
    for library in host.libraries() {
        let (name, version) = library.name();
        let (built_with, path) = (library.built_with(), library.path().display());
        let apart = if library.is_isolated() { ", in isolated processes" } else { "" };
        print(&format!("  {name} {version} ({built_with}), {path}{apart}"))?;
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
    for (backend, what) in ON_REQUEST {
        if !host.backends().any(|built| built == backend) {
            print(&format!(
                "  {backend:6} not built: `cargo xtask {backend}` in the project {what}"
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Optional backends, each with the command that builds it.
const ON_REQUEST: [(&str, &str); 3] = [
    ("torch", "fetches libtorch and builds it"),
    ("cuda", "builds it, for NVIDIA GPUs"),
    ("wgpu", "builds it, for GPUs with Vulkan, Metal or DirectX"),
];
