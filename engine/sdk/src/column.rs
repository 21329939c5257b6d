//! Columns of a batch, by name and type.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};

use crate::port::missing_column;
use crate::{Error, Result};

/// The column called `name`.
pub fn get<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    rows.column_by_name(name)
        .ok_or_else(|| Error::schema(missing_column("rows", name, &rows.schema())))
}

/// The text column called `name`; wide strings are narrowed.
pub fn text(rows: &RecordBatch, name: &str) -> Result<StringArray> {
    let column = get(rows, name)?;
    typed(column, name, &DataType::Utf8, "text")
}

/// The numeric column called `name`, as 64-bit floats.
pub fn numbers(rows: &RecordBatch, name: &str) -> Result<Float64Array> {
    let column = get(rows, name)?;
    if !column.data_type().is_numeric() && column.data_type() != &DataType::Null {
        return Err(wrong_type(name, column.data_type(), "a number"));
    }
    typed(column, name, &DataType::Float64, "a number")
}

/// The field of a text column whose values may be missing.
pub fn nullable_text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn typed<A: Array + Clone + 'static>(
    column: &ArrayRef,
    name: &str,
    to: &DataType,
    wanted: &str,
) -> Result<A> {
    let from = column.data_type();
    if to == &DataType::Utf8
        && !matches!(from, DataType::Utf8 | DataType::LargeUtf8 | DataType::Null)
    {
        return Err(wrong_type(name, from, wanted));
    }
    let column = cast(column, to)?;
    let column = column.as_any().downcast_ref::<A>().cloned();
    column.ok_or_else(|| wrong_type(name, from, wanted))
}

fn wrong_type(name: &str, from: &DataType, wanted: &str) -> Error {
    Error::schema(format!("column `{name}` is {from}, not {wanted}"))
}

/// The rows with column `name` replaced, or appended where there is none.
pub fn replace(rows: &RecordBatch, name: &str, values: ArrayRef) -> Result<RecordBatch> {
    let schema = rows.schema();
    let nullable = schema.field_with_name(name).map_or(true, Field::is_nullable);
    with_field(rows, Field::new(name, values.data_type().clone(), nullable), values)
}

/// The rows with a column of the given field replaced or appended.
pub fn with_field(rows: &RecordBatch, field: Field, values: ArrayRef) -> Result<RecordBatch> {
    let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
    let mut columns = rows.columns().to_vec();
    match fields.iter().position(|old| old.name() == field.name()) {
        Some(index) => {
            fields[index] = Arc::new(field);
            columns[index] = values;
        }
        None => {
            fields.push(Arc::new(field));
            columns.push(values);
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}
