//! One call of a map stage: rows in, a table per output out.

use std::sync::{Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use paraloom_host::{HostError, WorkOutput, Worker};
use paraloom_pipeline::{ID_COLUMN, Node};
use paraloom_store::{Identify, StoreError};

use crate::account::check_map;
use crate::error::{Result, RunError};

/// Has the open stage of `node` map rows: one table per output port, none for an artifact. Rows that the stage gives no
/// ids get some of `identify`, by the number of the port and the table's schema.
///
/// # Errors
/// The stage failed, or has not done with its rows what it declares.
pub(crate) fn map_rows(
    node: &Node,
    worker: &mut dyn Worker,
    rows: &RecordBatch,
    identify: impl Fn(usize, &SchemaRef) -> Identify,
) -> Result<Vec<Option<RecordBatch>>> {
    let pushed = call(worker, rows, node.outputs.len());
    let pushed = pushed.map_err(|error| RunError::from_host(&node.name, error))?;
    let tables = pushed.into_iter().zip(&node.outputs).enumerate();
    let tables = tables.map(|(port, (batches, schema))| {
        let Some(schema) = schema else { return Ok(None) };
        let joined = join(schema, batches, identify(port, schema));
        joined.map(Some).map_err(|error| RunError::from_store(&node.name, error))
    });
    let tables = tables.collect::<Result<Vec<_>>>()?;
    check_map(&node.stage, rows, &tables)
        .map_err(|what| RunError::miscounted(&node.name, node.stage.rows, what))?;
    Ok(tables)
}

/// The batches that the stage pushed to each of `ports` outputs.
fn call(
    worker: &mut dyn Worker,
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
fn join(
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
