//! Rows that stay, and rows that go with a reason.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field};
use paraloom_sdk::{Result, column};

/// The column that rows which go have besides.
pub(crate) fn reason_field() -> Field {
    Field::new("reason", DataType::Utf8, false)
}

/// Rows in two: those without a reason to go, and the others with theirs.
pub(crate) struct Partition {
    pub(crate) kept: RecordBatch,
    pub(crate) rejected: RecordBatch,
}

/// `reasons` has one for each row that goes.
pub(crate) fn partition(rows: &RecordBatch, reasons: Vec<Option<String>>) -> Result<Partition> {
    let kept: BooleanArray = reasons.iter().map(|reason| Some(reason.is_none())).collect();
    let goes: BooleanArray = reasons.iter().map(|reason| Some(reason.is_some())).collect();
    let texts: StringArray = reasons.into_iter().flatten().map(Some).collect();
    let rejected = filter_record_batch(rows, &goes)?;
    Ok(Partition {
        kept: filter_record_batch(rows, &kept)?,
        rejected: column::with_field(&rejected, reason_field(), Arc::new(texts))?,
    })
}
