//! Where and how this process works, for the log of a run.

use paraloom_exec::RunOptions;
use paraloom_store::Environment;

/// What is to be known of a run with these options beyond its results.
pub(crate) fn environment(options: &RunOptions) -> Environment {
    Environment {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: std::env::args_os().map(|text| text.to_string_lossy().into_owned()).collect(),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: cpu().unwrap_or_default(),
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        memory: paraloom_alloc::machine(),
        threads: options.threads,
        jobs: options.jobs,
    }
}

/// What the processor calls itself, where the system says so.
fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
        .filter(|name| !name.is_empty())
}
