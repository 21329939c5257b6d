//! Where the libraries that ship with the engine are.

use std::path::{Path, PathBuf};

/// Where a library comes from; decides how far it is trusted and what enters the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Shipped with the engine: its stages' versions say what they compute.
    Shipped,
    /// Third-party: the library's digest enters the key too.
    Foreign,
}

/// File names of shipped libraries, by platform.
const PREFIX: &str = "libparaloom_stages_";

/// The backend whose library is at `path`, by the end of its name: `libparaloom_stages_t5_torch.so` has the stages of
/// `libparaloom_stages_t5.so`, computed by libtorch. Such libraries are loaded on request only, since
/// what they bring along is large, and may be missing.
pub(crate) fn backend_of(path: &Path) -> Option<&'static str> {
    const BACKENDS: [&str; 3] = ["torch", "cuda", "wgpu"];
    let (_, end) = path.file_stem()?.to_str()?.strip_prefix(PREFIX)?.rsplit_once('_')?;
    BACKENDS.into_iter().find(|backend| *backend == end)
}

/// The shipped libraries of the engine whose executable is `executable`: in
/// `../lib/paraloom/stages` of an installation, or beside the executable in a cargo
/// target directory. No other place is searched, least of all the working directory.
pub fn shipped_libraries(executable: &Path) -> Vec<PathBuf> {
    let Some(dir) = executable.parent() else { return Vec::new() };
    let installed = dir.join("../lib/paraloom/stages");
    if installed.is_dir() {
        return libraries_in(&installed);
    }
    // Cargo locks each folder that it builds into with this file. (CACHEDIR.TAG would not do: it is only in a target
    // directory that Cargo itself has made.)
    if dir.join(".cargo-lock").is_file() { libraries_in(dir) } else { Vec::new() }
}

/// The files in `dir` that may be libraries, in the order of their names.
pub(crate) fn libraries_of_others(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let extension = std::env::consts::DLL_EXTENSION;
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn libraries_in(dir: &Path) -> Vec<PathBuf> {
    let extension = std::env::consts::DLL_EXTENSION;
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(PREFIX) && path.extension().is_some_and(|found| found == extension)
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).filter(is_library).collect();
    paths.sort();
    paths
}
