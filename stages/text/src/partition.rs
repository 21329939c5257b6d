//! Rows that stay, and rows that go with a reason.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field};
use paraloom_sdk::identity::{ID, PARENT};
use paraloom_sdk::{Error, Result, Table, column};

/// What the column of reasons is called, unless a pipeline says otherwise.
pub(crate) fn reason() -> String {
    "reason".to_owned()
}

/// The column that rows which go have besides.
pub(crate) fn reason_field(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

/// That no column of the rows would be lost by a new one, whose name `setting` says. Under its usual name, what a stage before has
/// written there is replaced: that is never null, as the column of that name in a file may be.
pub(crate) fn check_free(rows: &Table, new: &Field, setting: &str) -> Result<()> {
    let name = new.name();
    if name.trim().is_empty() || name == ID || name == PARENT {
        return Err(Error::config(format!("a column cannot be called `{name}` here"))
            .at(format!("/{setting}")));
    }
    if rows.schema().field_with_name(name).map_or(true, |field| name == setting && field == new) {
        return Ok(());
    }
    let error =
        Error::config(format!("the rows have a column `{name}` already, and it would be lost"))
            .input("rows");
    Err(error.hint(format!("call the new one otherwise, as in `{setting}: {name}_2`, or rename the old one where it is loaded")))
}

/// Rows in two: those without a reason to go, and the others with theirs.
pub(crate) struct Partition {
    pub(crate) kept: RecordBatch,
    pub(crate) rejected: RecordBatch,
}

/// `reasons` has one for each row that goes.
pub(crate) fn partition(
    rows: &RecordBatch,
    reasons: Vec<Option<String>>,
    name: &str,
) -> Result<Partition> {
    let kept: BooleanArray = reasons.iter().map(|reason| Some(reason.is_none())).collect();
    let goes: BooleanArray = reasons.iter().map(|reason| Some(reason.is_some())).collect();
    let texts: StringArray = reasons.into_iter().flatten().map(Some).collect();
    let rejected = filter_record_batch(rows, &goes)?;
    Ok(Partition {
        kept: filter_record_batch(rows, &kept)?,
        rejected: column::with_field(&rejected, reason_field(name), Arc::new(texts))?,
    })
}
