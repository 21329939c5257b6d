//! Nested columns as JSON text.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use arrow_json::LineDelimitedWriter;
use paraloom_sdk::{Error, Result};

/// One JSON text for each value; null where there is none.
pub(super) fn json(column: &ArrayRef) -> Result<ArrayRef> {
    let schema = Schema::new(vec![Field::new("v", column.data_type().clone(), true)]);
    let rows = RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(column)])?;
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(&rows)?;
    writer.finish()?;
    let text = String::from_utf8(writer.into_inner())
        .map_err(|error| Error::internal(error.to_string()))?;
    // A missing value leaves an empty object.
    let value = |line: &str| {
        line.strip_prefix("{\"v\":").and_then(|rest| rest.strip_suffix('}')).map(str::to_owned)
    };
    let texts: StringArray = text.lines().map(value).collect();
    if texts.len() == column.len() {
        Ok(Arc::new(texts))
    } else {
        Err(Error::internal("a value has no JSON"))
    }
}
