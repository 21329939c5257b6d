//! `push NODE --to hf://…`: a model or a table becomes a commit of a repository on a hub.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use arrow::datatypes::SchemaRef;
use clap::Args as ClapArgs;
use paraloom_exec::{Lookup, PortResult, TableRef};
use paraloom_hub::{Hub, Kind, Notice, Reference, Upload, Watch};

use super::formats::Format;
use super::query::Query;
use crate::args::{PushArgs, StageArgs};
use crate::context::Project;
use crate::error::{CliError, NODE_FAILED, Result};
use crate::out::Out;
use crate::signals::Signals;
use crate::{hub, render};

const CARD: &str = "README.md";

/// How to publish on a hub.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "On a hub")]
pub(crate) struct PublishArgs {
    /// Say what would be sent, and send nothing.
    #[arg(long, requires = "node")]
    pub(crate) dry_run: bool,
    /// Let everybody see the repository, if it is made; otherwise it is private.
    #[arg(long, requires = "node")]
    pub(crate) public: bool,
    /// The licence that the card names, such as `mit` or `cc-by-4.0`.
    #[arg(long, value_name = "ID", requires = "node")]
    pub(crate) license: Option<String>,
    /// What the commit is called.
    #[arg(long, value_name = "TEXT", requires = "node")]
    pub(crate) message: Option<String>,
}

pub(super) fn run(args: &PushArgs, node: &str, to: &str, stages: &StageArgs) -> Result<ExitCode> {
    let reference = Reference::parse(to).map_err(|error| {
        let hint = error.hint;
        CliError::usage(error.message).hint(hint)
    })?;
    let project = Project::open(&args.pipeline, stages)?;
    let store = project.need_store()?;
    let lookup = Lookup::new(&project.graph, &project.workspace.host, Some(&store))?;
    let endpoint = project.graph.endpoint(node).map_err(CliError::usage)?;
    let result = lookup.output(endpoint).ok_or_else(|| {
        CliError::new(NODE_FAILED, format!("`{node}` has no result yet"))
            .hint("`paraloom run` makes it")
    })?;
    let scratch = Scratch::new()?;
    let name = if project.graph.name.is_empty() { node } else { &project.graph.name };
    let files = match (result, &reference.kind) {
        (PortResult::Artifact { entry, port, artifact }, Kind::Model) => {
            let from = entry.local_artifact(port, artifact)?;
            let paths = artifact.files.iter().filter_map(|file| file.path.to_str());
            model(&from, paths, args.publish.license.as_deref(), &scratch)?
        }
        (PortResult::Table(table), Kind::Dataset { config, split }) => {
            let place = format!("{}/{split}", config.as_deref().unwrap_or("data"));
            let card = Card {
                of: &reference.id,
                node,
                pipeline: name,
                split,
                config: config.as_deref(),
                license: args.publish.license.as_deref(),
            };
            data_set(table, &place, &card, &scratch)?
        }
        (PortResult::Artifact { .. }, Kind::Dataset { .. }) => {
            return Err(CliError::usage(format!("`{node}` is a model, not a table"))
                .hint("a model goes to hf://OWNER/NAME"));
        }
        (PortResult::Table(_), Kind::Model) => {
            return Err(CliError::usage(format!("`{node}` is a table, not a model"))
                .hint("a table goes to hf://datasets/OWNER/NAME/SPLIT"));
        }
    };
    if args.publish.dry_run {
        for file in &files {
            render::note(&format!("{} ({})", file.path, render::bytes(file.size)));
        }
        let seen = if args.publish.public { "public" } else { "private" };
        render::note(&format!(
            "nothing was sent; {reference} would be made {seen} if it is not there"
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let stop = std::sync::Arc::<AtomicBool>::default();
    let signals = Signals::listen(&stop);
    let notice = |notice: &Notice| {
        if let Notice::Retry { reason, pause } = notice {
            render::note(&format!("{reason}; trying again in {:.1} s", pause.as_secs_f64()));
        }
    };
    let watch = Watch { stop: &stop, notice: &notice };
    let message = args.publish.message.clone();
    let message = message.unwrap_or_else(|| format!("`{node}` of {name}, by Paraloom"));
    let published = Hub::new(hub::settings()).publish(
        &reference,
        &files,
        &message,
        args.publish.public,
        &watch,
    );
    let published = match published {
        Err(paraloom_hub::HubError::Stopped) => {
            render::note("stopped; what was sent is not sent again");
            return Ok(ExitCode::from(signals.exit_code()));
        }
        published => published.map_err(|error| {
            let told = CliError::new(NODE_FAILED, error.to_string());
            match error.hint() {
                Some(hint) => told.hint(hint),
                None => told,
            }
        })?,
    };
    render::note(&match published.commit {
        Some(commit) => format!(
            "{} files, {} sent: {} at {}",
            published.files,
            render::bytes(published.bytes),
            published.page,
            &commit[..commit.len().min(12)]
        ),
        None => format!("nothing has changed: {}", published.page),
    });
    Ok(ExitCode::SUCCESS)
}

/// A directory for files that are made to be sent.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("paraloom-push-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| CliError::writing(&path, &error))?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, text: &str) -> Result<std::path::PathBuf> {
        let path = self.0.join(name);
        std::fs::write(&path, text).map_err(|error| CliError::writing(&path, &error))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn upload(path: &str, file: std::path::PathBuf) -> Result<Upload> {
    Upload::new(path, file).map_err(|error| CliError::new(NODE_FAILED, error.to_string()))
}

/// The files of a model; its card gets the licence.
fn model<'a>(
    from: &Path,
    paths: impl Iterator<Item = &'a str>,
    license: Option<&str>,
    scratch: &Scratch,
) -> Result<Vec<Upload>> {
    let mut files = Vec::new();
    for path in paths {
        let file = from.join(path);
        if path != CARD {
            files.push(upload(path, file)?);
            continue;
        }
        let text = std::fs::read_to_string(&file)
            .map_err(|error| CliError::new(NODE_FAILED, format!("{}: {error}", file.display())))?;
        let card = upload(path, scratch.write(CARD, &with_license(&text, license))?)?;
        files.push(card.unless_there());
    }
    Ok(files)
}

/// A card whose front matter names a licence.
fn with_license(card: &str, license: Option<&str>) -> String {
    let Some(license) = license else { return card.to_owned() };
    let license = format!("license: {license}\n");
    match card.strip_prefix("---\n") {
        Some(_) if card.contains("\nlicense:") => card.to_owned(),
        Some(rest) => format!("---\n{license}{rest}"),
        None => format!("---\n{license}---\n\n{card}"),
    }
}

/// What the card of a data set says.
struct Card<'a> {
    of: &'a str,
    node: &'a str,
    pipeline: &'a str,
    config: Option<&'a str>,
    split: &'a str,
    license: Option<&'a str>,
}

/// A table as one Parquet file, and a card.
fn data_set(table: &TableRef, place: &str, card: &Card, scratch: &Scratch) -> Result<Vec<Upload>> {
    let file = scratch.0.join("rows.parquet");
    let mut rows = 0;
    let query = Query::all(table);
    let batches = query.rows().inspect(|batch| {
        rows += batch.as_ref().map_or(0, arrow::array::RecordBatch::num_rows);
    });
    Format::Parquet.write(Out::file(&file)?, &table.schema, batches)?;
    let card = scratch.write(CARD, &card.text(&table.schema, rows))?;
    Ok(vec![
        upload(CARD, card)?.unless_there(),
        upload(&format!("{place}-00000-of-00001.parquet"), file)?,
    ])
}

impl Card<'_> {
    fn text(&self, schema: &SchemaRef, rows: usize) -> String {
        let license = self.license.map_or_else(String::new, |id| format!("license: {id}\n"));
        let (config, split) = (self.config.unwrap_or("default"), self.split);
        let place = self.config.unwrap_or("data");
        let columns: Vec<_> = schema
            .fields()
            .iter()
            .map(|field| format!("| `{}` | {} |", field.name(), field.data_type()))
            .collect();
        format!(
            "---\n{license}configs:\n- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {place}/{split}-*.parquet\ntags:\n- paraloom\n- synthetic\n---\n\n\
             # {of}\n\n{rows} rows of `{node}` in the pipeline `{pipeline}`, made with Paraloom {version}.\n\n\
             | column | type |\n|---|---|\n{columns}\n",
            of = self.of,
            node = self.node,
            pipeline = self.pipeline,
            version = env!("CARGO_PKG_VERSION"),
            columns = columns.join("\n"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::with_license;

    #[test]
    fn a_licence_goes_into_the_front_matter() {
        for (card, expected) in [
            ("---\ntags: []\n---\ntext", "---\nlicense: mit\ntags: []\n---\ntext"),
            ("---\nlicense: apache-2.0\n---\n", "---\nlicense: apache-2.0\n---\n"),
            ("# Model\n", "---\nlicense: mit\n---\n\n# Model\n"),
        ] {
            assert_eq!(with_license(card, Some("mit")), expected);
            assert_eq!(with_license(card, None), card);
        }
    }
}
