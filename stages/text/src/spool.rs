//! Rows on disk between two looks at them.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::PathBuf;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use paraloom_sdk::{Error, Result, Run};

use crate::output::{Failure, Output};

/// A table that a stage has to see twice: it is written first, and read then.
pub(crate) struct Spool {
    path: PathBuf,
    writer: StreamWriter<BufWriter<Output>>,
    failure: Failure,
}

impl Spool {
    /// An empty one, in the scratch directory of the work.
    pub(crate) fn create(run: &Run, schema: &Schema) -> Result<Self> {
        let path = run.services().scratch()?.join("rows.arrow");
        let (file, failure) = Output::create(path.clone())?;
        let writer = StreamWriter::try_new(BufWriter::new(file), schema);
        let writer = writer.map_err(|error| failure.or(error))?;
        Ok(Self { path, writer, failure })
    }

    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.writer.write(rows).map_err(|error| self.failure.or(error))
    }

    /// The same batches again, in their order.
    pub(crate) fn read(mut self) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
        self.writer.finish().map_err(|error| self.failure.or(error))?;
        // `into_inner` flushes what is buffered, and says so if it cannot.
        self.writer.into_inner().map_err(|error| self.failure.or(error))?;
        let reader = StreamReader::try_new(BufReader::new(File::open(&self.path)?), None)?;
        Ok(reader.map(|rows: Result<_, ArrowError>| rows.map_err(Error::from)))
    }
}
