//! Dates and timestamps, as nanoseconds since 1970-01-01 UTC.

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, TimestampNanosecondArray};
use arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::temporal_conversions::{date32_to_datetime, timestamp_ns_to_datetime};

/// Nanoseconds of a day.
pub(crate) const DAY: i128 = 86_400_000_000_000;

/// `2024-01-31`, `2024-01-31T08:30:00Z`.
pub(crate) fn parse(text: &str) -> Option<i128> {
    let text = text.trim();
    // Arrow takes a moment for a date too, and drops its time.
    if !text.contains(':') {
        return Date32Type::parse(text).map(|days| i128::from(days) * DAY);
    }
    let utc: Tz = "+00:00".parse().ok()?;
    let moment = string_to_datetime(&utc, text).ok()?;
    let seconds = i128::from(moment.timestamp()) * 1_000_000_000;
    Some(seconds + i128::from(moment.timestamp_subsec_nanos()))
}

/// The value of a column of dates or times.
pub(crate) fn value(array: &ArrayRef, row: usize) -> Option<i128> {
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Date32 => i128::from(array.as_primitive::<Date32Type>().value(row)) * DAY,
        DataType::Date64 => i128::from(array.as_primitive::<Date64Type>().value(row)) * 1_000_000,
        DataType::Timestamp(TimeUnit::Second, _) => {
            i128::from(array.as_primitive::<TimestampSecondType>().value(row)) * 1_000_000_000
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            i128::from(array.as_primitive::<TimestampMillisecondType>().value(row)) * 1_000_000
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            i128::from(array.as_primitive::<TimestampMicrosecondType>().value(row)) * 1000
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            i128::from(array.as_primitive::<TimestampNanosecondType>().value(row))
        }
        _ => return None,
    })
}

/// Formats as an ISO 8601 date, or date and time.
pub(crate) fn shown(nanoseconds: i128, is_date: bool) -> String {
    let days = i32::try_from(nanoseconds.div_euclid(DAY));
    if is_date && let Some(day) = days.ok().and_then(date32_to_datetime) {
        return day.format("%Y-%m-%d").to_string();
    }
    match i64::try_from(nanoseconds).ok().and_then(timestamp_ns_to_datetime) {
        Some(moment) => moment.format("%Y-%m-%dT%H:%M:%S%.f").to_string(),
        None => format!("{nanoseconds} ns"),
    }
}

/// A timestamp column without a time zone; a value that does not fit is null.
pub(crate) fn array(values: impl Iterator<Item = Option<i128>>) -> ArrayRef {
    let values = values.map(|value| value.and_then(|value| i64::try_from(value).ok()));
    std::sync::Arc::new(values.collect::<TimestampNanosecondArray>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_a_time_and_a_date_has_none() {
        const HOUR: i128 = DAY / 24;
        let day = 19_753 * DAY;
        for (text, expected) in [
            ("2024-01-31", Some(day)),
            ("2024-01-31T08:30:00Z", Some(day + 17 * HOUR / 2)),
            (" 2024-01-31 08:30:00 ", Some(day + 17 * HOUR / 2)),
            ("2024-01-31T08:30:00.5+02:00", Some(day + 13 * HOUR / 2 + 500_000_000)),
            // Beyond what 64 bits of nanoseconds hold.
            ("2400-01-01T00:00:01Z", Some(157_054 * DAY + 1_000_000_000)),
            ("2024-02-30", None),
            ("2024-01-31T25:00:00Z", None),
            ("08:30:00", None),
            ("soon", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
