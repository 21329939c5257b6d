//! Dates and times that no calendar has.

use arrow::array::types::{
    Date32Type, Date64Type, DurationMillisecondType, DurationSecondType, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, RecordBatch, make_array};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::error::ArrowError;
use arrow::temporal_conversions as calendar;

/// That every date and time has a form as text: files hold numbers far beyond all years, such as the infinity of databases, and
/// arrow writes an error message in their place.
///
/// # Errors
/// The first column with one that has none.
pub fn check_dates(rows: &RecordBatch) -> Result<(), ArrowError> {
    let schema = rows.schema();
    let mut columns = schema.fields().iter().zip(rows.columns());
    let found = columns.find_map(|(field, column)| Some((field.name(), odd(column)?)));
    found.map_or(Ok(()), |(name, value)| {
        Err(ArrowError::InvalidArgumentError(format!(
            "column `{name}` holds {value}, which is no date or time that can be written as text"
        )))
    })
}

/// The first number that is none.
fn odd(array: &ArrayRef) -> Option<i64> {
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    match array.data_type() {
        DataType::Date32 => first::<Date32Type>(array, |value| {
            i32::try_from(value).is_ok_and(|days| calendar::date32_to_datetime(days).is_some())
        }),
        DataType::Date64 => {
            first::<Date64Type>(array, |value| calendar::date64_to_datetime(value).is_some())
        }
        DataType::Timestamp(Second, _) => first::<TimestampSecondType>(array, |value| {
            calendar::timestamp_s_to_datetime(value).is_some()
        }),
        DataType::Timestamp(Millisecond, _) => first::<TimestampMillisecondType>(array, |value| {
            calendar::timestamp_ms_to_datetime(value).is_some()
        }),
        DataType::Timestamp(Microsecond, _) => first::<TimestampMicrosecondType>(array, |value| {
            calendar::timestamp_us_to_datetime(value).is_some()
        }),
        DataType::Timestamp(Nanosecond, _) => first::<TimestampNanosecondType>(array, |value| {
            calendar::timestamp_ns_to_datetime(value).is_some()
        }),
        DataType::Time32(Second) => {
            first::<Time32SecondType>(array, |value| (0..86_400).contains(&value))
        }
        DataType::Time32(_) => {
            first::<Time32MillisecondType>(array, |value| (0..86_400_000).contains(&value))
        }
        DataType::Time64(Microsecond) => {
            first::<Time64MicrosecondType>(array, |value| (0..86_400_000_000).contains(&value))
        }
        DataType::Time64(_) => {
            first::<Time64NanosecondType>(array, |value| (0..86_400_000_000_000).contains(&value))
        }
        DataType::Duration(Second) => first::<DurationSecondType>(array, |value| {
            calendar::try_duration_s_to_duration(value).is_some()
        }),
        DataType::Duration(Millisecond) => first::<DurationMillisecondType>(array, |value| {
            calendar::try_duration_ms_to_duration(value).is_some()
        }),
        kind if kind.is_nested() => {
            array.to_data().child_data().iter().find_map(|child| odd(&make_array(child.clone())))
        }
        _ => None,
    }
}

fn first<T: ArrowPrimitiveType>(array: &ArrayRef, is_fine: impl Fn(i64) -> bool) -> Option<i64>
where
    T::Native: Into<i64>,
{
    let mut values = array.as_primitive::<T>().iter().flatten().map(Into::into);
    values.find(|value| !is_fine(*value))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Date32Array, Int64Array, ListArray, Time32SecondArray, TimestampSecondArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn numbers_beyond_all_years_are_told() {
        let told = |column: ArrayRef| {
            let rows = RecordBatch::try_from_iter([("x", column)]).expect("one column");
            check_dates(&rows).map_err(|error| error.to_string())
        };
        let dates = |values: Vec<Option<i32>>| Arc::new(Date32Array::from(values)) as ArrayRef;
        let list = |values: ArrayRef| {
            let item = Arc::new(Field::new("item", values.data_type().clone(), true));
            let offsets = OffsetBuffer::from_lengths([values.len()]);
            Arc::new(ListArray::new(item, offsets, values, None)) as ArrayRef
        };
        let fine: [ArrayRef; 4] = [
            dates(vec![Some(0), None, Some(-700_000)]),
            list(dates(vec![Some(1)])),
            Arc::new(TimestampSecondArray::from(vec![0, -1, 253_402_300_799])),
            Arc::new(Int64Array::from(vec![i64::MAX])),
        ];
        for column in fine {
            assert_eq!(told(column), Ok(()));
        }
        let odd: [(ArrayRef, i64); 4] = [
            (dates(vec![Some(1), Some(i32::MAX)]), i32::MAX.into()),
            (list(dates(vec![Some(i32::MIN)])), i32::MIN.into()),
            (Arc::new(TimestampSecondArray::from(vec![i64::MAX]).with_timezone("UTC")), i64::MAX),
            (Arc::new(Time32SecondArray::from(vec![86_400])), 86_400),
        ];
        for (column, value) in odd {
            let message = told(column).expect_err("it has no form");
            assert!(
                message.contains(&format!("column `x` holds {value}, which is no date")),
                "{message}"
            );
        }
    }
}
