//! From arguments to a checked pipeline and its store.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use paraloom_exec::{Cancel, Observer, Remotes, RunError, Variables, Workspace, rekey};
use paraloom_host::{Host, Isolation, Origin, shipped_libraries};
use paraloom_pipeline::{Diagnostic, Graph, Limits, Severity};
use paraloom_store::Store;

use crate::args::{PipelineArgs, StageArgs};
use crate::commands::find_node;
use crate::error::{CliError, Result, USAGE};
use crate::{hub, place, render};

/// Loads the shipped stages and those of `more`.
pub(crate) fn load_host(more: &StageArgs) -> Result<Host> {
    let mut host = Host::new((!more.in_process).then(isolation).transpose()?);
    let executable = std::env::current_exe().and_then(|path| path.canonicalize())?;
    for library in shipped_libraries(&executable) {
        host.load(&library, Origin::Shipped)?;
    }
    if host.libraries().is_empty() {
        let place = executable.parent().unwrap_or(Path::new(".")).display().to_string();
        return Err(CliError::new(
            8,
            format!("the shipped stage libraries are not there: {place} has none"),
        )
        .hint(
            "`cargo build --release` in the project makes them; `cargo install` cannot carry them",
        ));
    }
    for path in more.paths.iter().filter(|path| !path.as_os_str().is_empty()) {
        if path.is_dir() {
            if host.load_dir(path)? == 0 {
                let extension = std::env::consts::DLL_EXTENSION;
                render::note(&format!("warning: {} has no *.{extension}", path.display()));
            }
        } else {
            host.load(path, Origin::Foreign)?;
        }
    }
    for error in host.skipped() {
        render::note(&render::printable(&format!("warning: left out: {error}")));
    }
    Ok(host)
}

/// How isolated processes are started: from this executable, by way of `/proc`, since the file may have been replaced.
fn isolation() -> Result<Isolation> {
    let program = match Path::new("/proc/self/exe") {
        running if running.exists() => running.to_owned(),
        _ => std::env::current_exe()?,
    };
    let arguments = vec!["stage-process".into()];
    Ok(Isolation { program, arguments, tell })
}

fn tell(text: &str) {
    render::note(&render::printable(text));
}

/// A pipeline that is free of errors.
pub(crate) struct Project {
    pub(crate) workspace: Workspace,
    pub(crate) graph: Graph,
    store: PathBuf,
}

/// A checked pipeline, with its diagnostics.
pub(crate) struct Checked {
    pub(crate) workspace: Workspace,
    pub(crate) graph: Option<Graph>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// Reads and checks a pipeline. Never uses the network: references to a hub are looked up in the
/// cache only.
pub(crate) fn check(args: &PipelineArgs, stages: &StageArgs) -> Result<Checked> {
    let workspace = read(args, stages)?;
    let (graph, diagnostics) = workspace.check(&args.settings.set, &variable);
    Ok(Checked { workspace, graph, diagnostics })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads a pipeline and loads the stages.
fn read(args: &PipelineArgs, stages: &StageArgs) -> Result<Workspace> {
    let path = &args.pipeline;
    let limits = Limits::mebibytes(usize::from(args.settings.max_pipeline));
    let bytes = read_at_most(path, limits.bytes).map_err(|error| {
        CliError::usage(format!("cannot read the pipeline {}: {error}", path.display()))
    })?;
    // A byte order mark, which has three bytes, does not count.
    if bytes.len() > limits.bytes.saturating_add(3) {
        let limit = args.settings.max_pipeline;
        let message = format!("the pipeline {} is larger than {limit} MiB", path.display());
        return Err(CliError::usage(message).hint("`--max-pipeline MIB` raises the limit"));
    }
    let text = decode(&bytes, path)?;
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    };
    // Commands that need the store report it if it cannot be opened.
    let store = place::open_here(&place::of(args.store.as_deref(), path));
    let remotes = Remotes::new(hub::settings(), store.as_ref());
    let (backend, device) = (args.settings.backend.clone(), args.settings.device.clone());
    Ok(Workspace { host: load_host(stages)?, dir, text, limits, backend, device, remotes })
}

/// Reads a file, but no more than is needed to see that it is larger than the limit.
fn read_at_most(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take((limit as u64).saturating_add(4)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// UTF-8 without its byte order mark; an error names line and column.
fn decode(bytes: &[u8], path: &Path) -> Result<String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let line = good.matches('\n').count() + 1;
            let column = good.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            Err(CliError::usage(format!("{}:{line}:{column}: this is not UTF-8", path.display())))
        }
    }
}

impl Project {
    /// Reads and checks a pipeline; prints its diagnostics.
    pub(crate) fn open(args: &PipelineArgs, stages: &StageArgs) -> Result<Self> {
        Self::sound(args, check(args, stages)?)
    }

    /// A checked pipeline to run: what is left to do and needs a hub is fetched first. With the
    /// store, which is made if there is none. `None`: somebody asked to stop.
    pub(crate) fn fetched(
        args: &PipelineArgs,
        mut checked: Checked,
        until: Option<&str>,
        cancel: &Cancel,
        observer: Observer,
    ) -> Result<Option<(Self, Store)>> {
        // Before the store is created: an invalid command leaves nothing behind.
        if let (Some(graph), Some(name)) = (&checked.graph, until) {
            find_node(graph, name)?;
        }
        let place = place::of(args.store.as_deref(), &args.pipeline);
        if place.to_str().is_none() {
            // The ABI passes paths as UTF-8, so stages would write elsewhere.
            let message = format!("the path of the store is not UTF-8: {}", place.display());
            return Err(CliError::usage(message).hint("name another directory with --store"));
        }
        let create = || place::create(&place);
        if !checked.workspace.uses_hub() {
            let project = Self::sound(args, checked)?;
            let store = create()?;
            rekey(&store, &project.workspace.host)?;
            return Ok(Some((project, store)));
        }
        let store = create()?;
        rekey(&store, &checked.workspace.host)?;
        let variables = Variables { set: &args.settings.set, env: &variable };
        match checked.workspace.check_fetched(variables, until, &store, cancel, observer) {
            Err(RunError::Stopped) => return Ok(None),
            result => (checked.graph, checked.diagnostics) = result?,
        }
        Ok(Some((Self::sound(args, checked)?, store)))
    }

    fn sound(args: &PipelineArgs, checked: Checked) -> Result<Self> {
        let diagnostics = &checked.diagnostics;
        render::diagnostics(&args.pipeline, &checked.workspace.text, diagnostics);
        let Some(graph) = checked.graph else {
            let count =
                diagnostics.iter().filter(|found| found.severity == Severity::Error).count();
            let errors = if count == 1 { "1 error".to_owned() } else { format!("{count} errors") };
            render::note(&format!("{errors}; nothing was run"));
            return Err(CliError::silent(USAGE));
        };
        let store = place::of(args.store.as_deref(), &args.pipeline);
        Ok(Self { workspace: checked.workspace, graph, store })
    }

    /// The store if there is one already.
    pub(crate) fn store(&self) -> Result<Option<Store>> {
        let store = place::open(&self.store)?;
        if let Some(store) = &store {
            // Migration fails on a read-only store, which is used as it is.
            let _ = rekey(store, &self.workspace.host);
        }
        Ok(store)
    }

    /// The store, which must be there.
    pub(crate) fn need_store(&self) -> Result<Store> {
        self.store()?.ok_or_else(|| {
            CliError::usage(format!("there is no store at {}", self.store.display()))
                .hint("`paraloom run` makes it")
        })
    }
}
