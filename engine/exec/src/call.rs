//! One call of a map stage: rows in, what it pushes out.

use std::sync::{Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use paraloom_host::{HostError, WorkOutput, Worker};
use paraloom_pipeline::ID_COLUMN;
use paraloom_store::{Identify, StoreError};

/// Has a stage map rows; the batches that it pushed to each of `ports` outputs.
pub(crate) fn map(
    worker: &mut Worker,
    rows: &RecordBatch,
    ports: usize,
) -> Result<Vec<Vec<RecordBatch>>, HostError> {
    let pushed: Vec<_> = (0..ports).map(|_| Mutex::new(Vec::new())).collect();
    let sinks = pushed.iter().map(|batches| {
        WorkOutput::Table(Box::new(|batch| {
            batches.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
            Ok(())
        }))
    });
    worker.map(rows, sinks.collect())?;
    let batches = |batches: Mutex<_>| batches.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(pushed.into_iter().map(batches).collect())
}

/// Batches as one table of the schema `schema`; those without ids get some.
pub(crate) fn join(
    schema: &SchemaRef,
    batches: Vec<RecordBatch>,
    mut identify: Identify,
) -> Result<RecordBatch, StoreError> {
    let has_ids = |batch: &RecordBatch| batch.schema().column_with_name(ID_COLUMN).is_some();
    let with_ids =
        |batch: RecordBatch| if has_ids(&batch) { Ok(batch) } else { identify.add(&batch) };
    let batches = batches.into_iter().map(with_ids).collect::<Result<Vec<_>, _>>()?;
    concat_batches(schema, &batches)
        .map_err(|error| StoreError::Rows { action: "join", reason: error.to_string() })
}
