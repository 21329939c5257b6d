//! `export`: a table as one file, an artifact as a directory.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use paraloom_exec::{Cancel, Lookup, PortResult, TableRef};
use paraloom_pipeline::{Graph, Location};
use paraloom_store::{ArtifactRef, Entry};

use super::formats::Format;
use super::query::Query;
use crate::args::{ExportArgs, StageArgs};
use crate::aside::Aside;
use crate::context::Project;
use crate::error::{CliError, NODE_FAILED, Result};
use crate::out::Out;
use crate::signals::Signals;
use crate::{recorded, render};

/// Bytes of a file that are copied in one go.
const PIECE: usize = 1 << 20;

pub(crate) fn run(args: &ExportArgs, stages: &StageArgs) -> Result<ExitCode> {
    let result = result(args, stages)?;
    // On a signal the temporary file is removed.
    let cancel = Cancel::default();
    let signals = Signals::listen(&cancel.flag());
    let stop = Stop(&cancel);
    let written = match &result {
        PortResult::Table(table) => write_table(table, args, &stop),
        PortResult::Artifact { entry, port, artifact } => {
            let from = Artifact { entry, port, content: artifact };
            from.write(args, &stop)
        }
    };
    if cancel.is_set() && written.is_err() {
        render::note("stopped; nothing was written");
        return Ok(ExitCode::from(signals.exit_code()));
    }
    written?;
    if args.to != Path::new("-") {
        render::note(&format!("wrote {}", args.to.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The current output, or that of a recorded run.
fn result(args: &ExportArgs, stages: &StageArgs) -> Result<PortResult> {
    if let Some(run) = &args.run {
        let (store, run) = recorded::open(&args.pipeline, run)?;
        return recorded::output(&store, &run, &args.node, |_| true);
    }
    let project = Project::open(&args.pipeline, stages)?;
    let store = project.need_store()?;
    check_is_no_input(args, &project.graph)?;
    let lookup = Lookup::new(&project.graph, &project.workspace.host, Some(&store))?;
    let endpoint = project.graph.endpoint(&args.node).map_err(CliError::usage)?;
    lookup.output(endpoint).cloned().ok_or_else(|| {
        CliError::new(NODE_FAILED, format!("`{}` has no result yet", args.node))
            .hint("`paraloom run` makes it")
    })
}

/// Whatever --force says: a pipeline is not replaced by what came of it, nor is what it reads.
fn check_is_no_input(args: &ExportArgs, graph: &Graph) -> Result<()> {
    let Ok(to) = args.to.canonicalize() else { return Ok(()) };
    let is_it = |path: &Path| path.canonicalize().is_ok_and(|path| path == to);
    let refuse = |what: &str| {
        Err(CliError::usage(format!("{} is {what}", args.to.display()))
            .hint("name another file with --to"))
    };
    if is_it(&args.pipeline.pipeline) {
        return refuse("the pipeline itself");
    }
    for index in graph.order() {
        let node = graph.node(*index);
        let reads = node.paths.iter().any(|path| match &path.location {
            Location::Local(path) => is_it(path),
            Location::Files(paths) => paths.iter().any(|path| is_it(path)),
            Location::Hub(_) => false,
        });
        if reads {
            return refuse(&format!("what `{}` reads", node.name));
        }
    }
    Ok(())
}

/// Whether a signal has asked to stop.
struct Stop<'a>(&'a Cancel);

impl Stop<'_> {
    fn check(&self) -> Result<()> {
        if self.0.is_set() { Err(CliError::silent(NODE_FAILED)) } else { Ok(()) }
    }
}

fn write_table(table: &TableRef, args: &ExportArgs, stop: &Stop) -> Result<()> {
    let format = match args.format {
        Some(format) => format,
        None if args.to == Path::new("-") => Format::Csv,
        None => Format::of_path(&args.to)?,
    };
    let out = place(args)?;
    let query = Query::all(table);
    let rows = query.rows().map(|rows| stop.check().and(rows));
    format.write(out, &table.schema, rows)
}

/// Where a table is written.
fn place(args: &ExportArgs) -> Result<Out> {
    let to = &args.to;
    if to == Path::new("-") {
        return Ok(Out::stdout());
    }
    match to.metadata() {
        Ok(there) if there.is_dir() => {
            Err(CliError::usage(format!("{} is a directory, and this is a table", to.display()))
                .hint("name a file"))
        }
        Ok(there) if there.is_file() && !args.force => Err(there_already(to)),
        _ => Out::file(to),
    }
}

fn there_already(to: &Path) -> CliError {
    CliError::usage(format!("{} is there already", to.display()))
        .hint("--force replaces it, or name another with --to")
}

/// A directory in a store.
struct Artifact<'a> {
    entry: &'a Entry,
    port: &'a str,
    content: &'a ArtifactRef,
}

impl Artifact<'_> {
    fn write(&self, args: &ExportArgs, stop: &Stop) -> Result<()> {
        let to = &args.to;
        let refuse = |what: &str| CliError::usage(format!("`{}` is a directory{what}", args.node));
        if to == Path::new("-") {
            return Err(refuse(", which stdout cannot hold").hint("name a directory with --to"));
        }
        if args.format.is_some() {
            return Err(refuse("; formats are for tables").hint("leave --format out"));
        }
        if to.symlink_metadata().is_ok() {
            if !args.force {
                return Err(there_already(to));
            }
            self.check_replaceable(to)?;
        }
        let from = self.entry.local_artifact(self.port, self.content)?;
        let aside = Aside::dir(to)?;
        for file in &self.content.files {
            let path = Path::new(&file.path);
            copy(&from.join(path), aside.path(), path, to, stop)?;
        }
        aside.finish()
    }

    /// Only what an export of such an artifact may have written is replaced: `--to ~ --force` must not cost a home.
    fn check_replaceable(&self, to: &Path) -> Result<()> {
        let refuse = |what: String| {
            Err(CliError::usage(format!("{} is not replaced: {what}", to.display()))
                .hint("remove it, or name another directory with --to"))
        };
        if !to.symlink_metadata().is_ok_and(|there| there.is_dir()) {
            return refuse("it is no directory".to_owned());
        }
        let unreadable = |error| CliError::new(NODE_FAILED, format!("{}: {error}", to.display()));
        for entry in std::fs::read_dir(to).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            let is_ours = self.content.files.iter().any(|file| {
                Path::new(&file.path).components().next().is_some_and(|at| at.as_os_str() == name)
            });
            // Weights are one file or many, and a card may be missing.
            if !is_ours && !is_of_a_model(&name.to_string_lossy()) {
                return refuse(format!("it holds `{}`, which no export wrote", name.display()));
            }
        }
        Ok(())
    }
}

/// Whether a file has a name that those of models have.
fn is_of_a_model(name: &str) -> bool {
    let weights = name.starts_with("model") && name.contains(".safetensors");
    weights || ["README.md", "special_tokens_map.json", "added_tokens.json"].contains(&name)
}

/// Copies a file into a directory that will be called `to`.
fn copy(from: &Path, aside: &Path, path: &Path, to: &Path, stop: &Stop) -> Result<()> {
    let (target, name) = (aside.join(path), to.join(path));
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).map_err(|error| CliError::writing(&name, &error))?;
    }
    let unread = |error: std::io::Error| {
        CliError::new(NODE_FAILED, format!("cannot read {}: {error}", from.display()))
    };
    let mut source = File::open(from).map_err(unread)?;
    let length = source.metadata().map_err(unread)?.len();
    let unwritten = |error| {
        // Truncated first, so that the free space in the message is what there was before.
        let _ = std::fs::remove_file(&target);
        CliError::no_room(&name, length, error)
    };
    let mut copy = File::create(&target).map_err(unwritten)?;
    let mut piece = vec![0; PIECE];
    loop {
        stop.check()?;
        match source.read(&mut piece).map_err(unread)? {
            0 => return Ok(()),
            read => copy.write_all(&piece[..read]).map_err(unwritten)?,
        }
    }
}
