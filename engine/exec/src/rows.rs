//! Rows through a map stage: in, a table per output out. Calls that fail in a way that may pass are made again, and a row
//! that makes the stage fail is found and rejected, where the pipeline says so.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, BooleanArray, RecordBatch, StringArray, new_null_array};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::SchemaRef;
use paraloom_host::{HostError, WorkOutput, Worker};
use paraloom_pipeline::{ID_COLUMN, Node, REASON_COLUMN};
use paraloom_store::{Identify, StoreError};

use crate::account::check_map;
use crate::error::{Result, RunError};
use crate::retry::with_retries;
use crate::services::NodeServices;

/// Has the open stage of `node` map rows: one table per output port, none for an artifact. Rows that the stage gives no
/// ids get some of `identify`, by the number of the port and the table's schema.
///
/// # Errors
/// The stage failed, or has not done with its rows what it declares.
pub(crate) fn map_rows(
    node: &Node,
    worker: &mut dyn Worker,
    services: &NodeServices,
    rows: &RecordBatch,
    identify: impl Fn(usize, &SchemaRef) -> Identify,
) -> Result<Vec<Option<RecordBatch>>> {
    let pushed = node.outputs.iter().map(|_| Vec::new()).collect();
    let mut call = Call { node, worker, services, pushed, rejected: vec![false; rows.num_rows()] };
    call.map(rows, 0, rows.num_rows())?;
    let Call { pushed, rejected, .. } = call;
    let tables = pushed.into_iter().zip(&node.outputs).enumerate();
    let tables = tables.map(|(port, (batches, schema))| {
        let Some(schema) = schema else { return Ok(None) };
        let joined = join(schema, batches, identify(port, schema));
        joined.map(Some).map_err(|error| RunError::from_store(&node.name, error))
    });
    let tables = tables.collect::<Result<Vec<_>>>()?;
    account(node, rows, &rejected, &tables)
        .map_err(|what| RunError::miscounted(&node.name, node.stage.rows, what))?;
    Ok(tables)
}

/// Holds the stage to what it declares of the rows that it has mapped. Those that were rejected in its own table of such
/// rows count there.
fn account(
    node: &Node,
    rows: &RecordBatch,
    rejected: &[bool],
    tables: &[Option<RecordBatch>],
) -> Result<(), String> {
    let own = &tables[..node.own_outputs().len()];
    if own.len() == tables.len() || !rejected.contains(&true) {
        return check_map(&node.stage, rows, own);
    }
    let mapped: BooleanArray = rejected.iter().map(|rejected| Some(!rejected)).collect();
    let mapped = filter_record_batch(rows, &mapped).map_err(|error| error.to_string())?;
    check_map(&node.stage, &mapped, own)
}

/// Some rows on their way through a stage.
struct Call<'a> {
    node: &'a Node,
    worker: &'a mut dyn Worker,
    services: &'a NodeServices,
    /// Per output port of the node, in the order of the rows.
    pushed: Vec<Vec<RecordBatch>>,
    /// Of each row, whether it made the stage fail.
    rejected: Vec<bool>,
}

impl Call<'_> {
    /// Maps `count` rows from number `start` on. Where the stage fails and rows may be rejected, each half is tried alone.
    fn map(&mut self, rows: &RecordBatch, start: usize, count: usize) -> Result<()> {
        let (node, services) = (self.node, self.services);
        let part = rows.slice(start, count);
        let error = match with_retries(node, services, || self.call(&part)) {
            Ok(pushed) => {
                for (all, new) in self.pushed.iter_mut().zip(pushed) {
                    all.extend(new);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if node.rejects.is_none() || !is_of_rows(&error) || count == 0 {
            return Err(error);
        }
        if count > 1 {
            let half = count / 2;
            self.map(rows, start, half)?;
            return self.map(rows, start + half, count - half);
        }
        // What has run out is not the fault of a row.
        if matches!(&error, RunError::Stage { failure, .. } if failure.is_resource()) {
            return Err(error);
        }
        self.rejected[start] = true;
        self.reject(&part, &error)
    }

    /// The batches that the stage pushes to each of its outputs.
    fn call(&mut self, rows: &RecordBatch) -> Result<Vec<Vec<RecordBatch>>> {
        let ports = self.node.own_outputs().len();
        let pushed: Vec<_> = (0..ports).map(|_| Mutex::new(Vec::new())).collect();
        let sinks = pushed.iter().map(|batches| {
            WorkOutput::Table(Box::new(|batch| {
                batches.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
                Ok(())
            }))
        });
        let mapped = self.worker.map(rows, sinks.collect());
        mapped.map_err(|error| RunError::from_host(&self.node.name, error))?;
        let batches =
            |batches: Mutex<_>| batches.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(pushed.into_iter().map(batches).collect())
    }

    /// Puts a row into the table of rejected rows.
    fn reject(&mut self, row: &RecordBatch, error: &RunError) -> Result<()> {
        let Some(rejects) = self.node.rejects else { return Ok(()) };
        let reason = error.of_the_stage();
        let id = row.column_by_name(ID_COLUMN).and_then(|ids| {
            let ids = ids.as_any().downcast_ref::<StringArray>()?;
            (!ids.is_empty()).then(|| ids.value(0).to_owned())
        });
        self.services.row_rejected(id.unwrap_or_default(), reason.clone());
        let Some(schema) = &self.node.outputs[rejects.port] else { return Ok(()) };
        let columns = schema.fields().iter().map(|field| match row.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            None if field.name() == REASON_COLUMN => {
                Arc::new(StringArray::from(vec![reason.as_str()])) as _
            }
            None => new_null_array(field.data_type(), 1),
        });
        let row = RecordBatch::try_new(Arc::clone(schema), columns.collect());
        let row = row.map_err(|error| RunError::Output {
            node: self.node.name.clone(),
            what: format!("a row cannot be rejected: {error}"),
        })?;
        self.pushed[rejects.port].push(row);
        Ok(())
    }
}

/// Whether other rows might not have made the stage fail.
fn is_of_rows(error: &RunError) -> bool {
    matches!(
        error,
        RunError::Stage { .. }
            | RunError::Host { source: HostError::Crashed { .. } | HostError::Broken { .. }, .. }
            | RunError::Output { .. }
    )
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
