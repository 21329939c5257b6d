//! Parquet and Arrow IPC files.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_ipc::reader::FileReader;
use paraloom_sdk::{Error, Result};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{BATCH_ROWS, Source};

type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, ArrowError>>>;

pub(super) struct Columnar {
    path: String,
    batches: Batches,
    schema: SchemaRef,
}

impl Columnar {
    pub(super) fn parquet(path: &Path) -> Result<Self> {
        let file = open(path)?;
        let reader = guarded(path, || {
            let reader = ParquetRecordBatchReaderBuilder::try_new(file);
            let reader = reader.and_then(|builder| builder.with_batch_size(BATCH_ROWS).build());
            reader.map_err(|error| error.to_string())
        })?;
        let schema = arrow::array::RecordBatchReader::schema(&reader);
        Ok(Self::new(path, &schema, Box::new(reader)))
    }

    pub(super) fn arrow(path: &Path) -> Result<Self> {
        let file = open(path)?;
        let reader =
            guarded(path, || FileReader::try_new(file, None).map_err(|error| error.to_string()))?;
        let schema = reader.schema();
        Ok(Self::new(path, &schema, Box::new(reader)))
    }

    fn new(path: &Path, schema: &Schema, batches: Batches) -> Self {
        let field = |field: &Arc<Field>| {
            Field::new(field.name(), plain(field.data_type()), field.is_nullable())
        };
        let fields: Vec<_> = schema.fields().iter().map(field).collect();
        Self { path: path.display().to_string(), batches, schema: Arc::new(Schema::new(fields)) }
    }
}

/// The plain type of a text column, however it is laid out.
fn plain(kind: &DataType) -> DataType {
    match kind {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Dictionary(_, value) => plain(value),
        other => other.clone(),
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path)
        .map_err(|error| Error::from(error).prefixed(&format!("cannot read {}", path.display())))
}

/// The readers panic on some malformed files.
fn guarded<T>(path: &Path, body: impl FnOnce() -> std::result::Result<T, String>) -> Result<T> {
    let read = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| Err("the file is malformed".to_owned()));
    read.map_err(|reason| {
        Error::data(format!("cannot read {}: {reason}", path.display())).at("/from")
    })
}

impl Source for Columnar {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn next(&mut self) -> Result<Option<RecordBatch>> {
        let batches = &mut self.batches;
        let path = Path::new(&self.path);
        let batch =
            guarded(path, || batches.next().transpose().map_err(|error| error.to_string()))?;
        let Some(batch) = batch else { return Ok(None) };
        let columns: std::result::Result<Vec<_>, _> = batch
            .columns()
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| cast(column, field.data_type()))
            .collect();
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns?)?))
    }
}
