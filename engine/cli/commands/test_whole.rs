//! `stages test` of a whole stage: whether it keeps what the engine relies on, on what a real run has left for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use paraloom_exec::{Cancel, Job, RunError, Trial, TrialOutput};
use petgraph::graph::NodeIndex;

use super::run::options;
use super::test_stage::{Verdicts, differ};
use crate::error::{CliError, Result};

/// A directory of its own, gone at the end.
struct Aside(PathBuf);

impl Aside {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("paraloom-test-{}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(|error| CliError::writing(&dir, &error))?;
        Ok(Self(dir))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Tries the stage of the node `index` on `rows` rows of each table that it reads.
pub(super) fn verdicts(job: &Job, index: NodeIndex, rows: usize) -> Result<Verdicts> {
    let (events, _unread) = std::sync::mpsc::channel();
    let aside = Aside::new()?;
    let run = |name: &str, batch_rows: Option<usize>, stop_at_checkpoint: bool| {
        let dir = aside.0.join(name);
        let trial = Trial { rows, batch_rows, stop_at_checkpoint, dir: &dir };
        trial.run(job, index, &options(None, 1), &Cancel::default(), &events)
    };
    let expected = run("first", None, false)?;
    let mut verdicts = Verdicts::new();
    let mut compare = |check: &'static str, found: Vec<TrialOutput>| -> Result<()> {
        let pairs = expected.iter().zip(&found);
        let differences = pairs.map(|(one, other)| difference(one, other));
        let first = differences.collect::<Result<Vec<_>>>()?.into_iter().flatten().next();
        verdicts.push((check, first));
        Ok(())
    };
    compare("the same once more", run("again", None, false)?)?;
    compare("one row at a time", run("single", Some(1), false)?)?;
    compare("three rows at a time", run("three", Some(3), false)?)?;
    if job.graph.node(index).stage.resumable {
        let gone_on = match run("stopped", None, true) {
            Err(RunError::Stopped) => run("stopped", None, false)?,
            // It was done before it could stop.
            result => result?,
        };
        compare("stopped and gone on", gone_on)?;
    }
    Ok(verdicts)
}

/// What one port gave differently.
fn difference(expected: &TrialOutput, found: &TrialOutput) -> Result<Option<String>> {
    match (expected, found) {
        (TrialOutput::Table(one), TrialOutput::Table(other)) => Ok(differ(one, other)),
        (TrialOutput::Artifact(one), TrialOutput::Artifact(other)) => {
            let (one, other) = (files(one)?, files(other)?);
            let names = one.keys().chain(other.keys());
            let different = names.into_iter().find(|name| one.get(*name) != other.get(*name));
            Ok(different.map(|name| format!("`{}` is another file", name.display())))
        }
        _ => Ok(Some("it is of another kind".to_owned())),
    }
}

/// The files below a directory.
fn files(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(dir.join(&at))? {
            let entry = entry?;
            let at = at.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                left.push(at);
            } else {
                found.insert(at, std::fs::read(entry.path())?);
            }
        }
    }
    Ok(found)
}
