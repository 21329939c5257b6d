//! Lines of text: one row each, in a column `text`. Blank lines are left out.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use paraloom_sdk::Result;

use super::text::{Encoding, LineReader};
use super::{BATCH_ROWS, Source};

pub(super) struct Lines {
    lines: LineReader,
    schema: SchemaRef,
}

impl Lines {
    pub(super) fn open(path: &Path, encoding: Encoding) -> Result<Self> {
        let schema = Schema::new(vec![Field::new("text", DataType::Utf8, false)]);
        Ok(Self { lines: LineReader::open(path, encoding)?, schema: Arc::new(schema) })
    }
}

impl Source for Lines {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn next(&mut self) -> Result<Option<RecordBatch>> {
        let mut rows = Vec::with_capacity(BATCH_ROWS);
        while rows.len() < BATCH_ROWS {
            match self.lines.next()? {
                Some(line) if line.trim().is_empty() => {}
                Some(line) => rows.push(line),
                None => break,
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let column = Arc::new(StringArray::from(rows));
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), vec![column])?))
    }
}
