//! What the engine relies on, as tests of a stage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;

use crate::error::{Error, Result};
use crate::testing::{Harness, Outputs};
use crate::{MapStage, Stage};

impl Harness {
    /// Holds a map stage to what the engine relies on: the same rows give the same result every time; no rows at all are rows too;
    /// and of a stage that says it is batch-invariant, rows give the same result one at a time.
    ///
    /// # Errors
    /// What the stage says, or which of the three does not hold.
    pub fn conforms<S: MapStage>(&self) -> Result<()> {
        let whole = joined(self.map::<S>()?)?;
        if joined(self.map::<S>()?)? != whole {
            return Err(Error::internal("the same rows gave another result"));
        }
        let about = S::about();
        let port = about.mapped_input().unwrap_or_default();
        let rows = self.mapped_rows(port)?;
        self.with_mapped(port, rows.slice(0, 0)).map::<S>()?;
        if about.flags & crate::STAGE_BATCH_INVARIANT != 0 {
            let mut single: Outputs = vec![Vec::new(); whole.len()];
            for row in 0..rows.num_rows() {
                let outputs = self.with_mapped(port, rows.slice(row, 1)).map::<S>()?;
                single.iter_mut().zip(outputs).for_each(|(all, rows)| all.extend(rows));
            }
            if joined(single)? != whole {
                let message = "one row at a time gave another result: it is not batch-invariant";
                return Err(Error::internal(message));
            }
        }
        Ok(())
    }

    /// Holds a whole stage to what the engine relies on: the same inputs give the same result every time, in whatever
    /// batches their rows come. What it writes to an artifact is compared too, in folders of [`Harness::output_dir`].
    ///
    /// # Errors
    /// What the stage says, or which of the two does not hold.
    pub fn conforms_whole<S: Stage>(&self) -> Result<()> {
        let first = self.result::<S>("first", None)?;
        if self.result::<S>("again", None)? != first {
            return Err(Error::internal("the same inputs gave another result"));
        }
        for size in [1, 3] {
            if self.result::<S>(&format!("by-{size}"), Some(size))? != first {
                let message = format!("batches of {size} rows gave another result");
                return Err(Error::internal(message));
            }
        }
        Ok(())
    }

    /// The tables of a whole stage, and the files that it wrote to a folder of its own.
    fn result<S: Stage>(&self, folder: &str, batch_rows: Option<usize>) -> Result<WholeResult> {
        let mut harness = self.clone();
        harness.batch_rows = batch_rows;
        if let Some(dir) = &self.output_dir {
            let dir = dir.join(folder);
            std::fs::create_dir_all(&dir)?;
            harness.output_dir = Some(dir);
        }
        let tables = joined(harness.run::<S>()?)?;
        let mut files = BTreeMap::new();
        if let Some(dir) = &harness.output_dir {
            read_files(dir, Path::new(""), &mut files)?;
        }
        Ok((tables, files))
    }
}

type WholeResult = (Vec<Option<RecordBatch>>, BTreeMap<PathBuf, Vec<u8>>);

/// The files of `dir`, below `at`.
fn read_files(dir: &Path, at: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
    for entry in std::fs::read_dir(dir.join(at))? {
        let at = at.join(entry?.file_name());
        match dir.join(&at) {
            path if path.is_dir() => read_files(dir, &at, files)?,
            path => drop(files.insert(at, std::fs::read(path)?)),
        }
    }
    Ok(())
}

/// Each output as one batch; `None` where nothing was pushed.
fn joined(outputs: Outputs) -> Result<Vec<Option<RecordBatch>>> {
    let join = |batches: Vec<RecordBatch>| {
        let Some(first) = batches.first() else { return Ok(None) };
        Ok(Some(concat_batches(&first.schema(), &batches)?))
    };
    outputs.into_iter().map(join).collect()
}
