//! Which types the columns of a table can have.

use arrow::array::timezone::Tz;
use arrow::datatypes::{DataType, IntervalUnit};

/// Why no table can have a column of this type: it could not be written, or not be shown. `None` if one can.
pub fn unfit(kind: &DataType) -> Option<String> {
    match kind {
        DataType::Interval(IntervalUnit::MonthDayNano) | DataType::Union(..) => {
            Some("which no table can hold".to_owned())
        }
        DataType::FixedSizeBinary(width) | DataType::FixedSizeList(_, width) if *width < 1 => {
            Some("which holds nothing".to_owned())
        }
        DataType::Struct(fields) if fields.is_empty() => Some("which has no members".to_owned()),
        DataType::Decimal32(digits, scale)
        | DataType::Decimal64(digits, scale)
        | DataType::Decimal128(digits, scale)
        | DataType::Decimal256(digits, scale)
            if *digits < 1 || !(0..=*digits as i8).contains(scale) =>
        {
            Some("whose digits and scale no table can hold".to_owned())
        }
        DataType::Timestamp(_, Some(zone)) if zone.parse::<Tz>().is_err() => {
            Some(format!("and there is no time zone `{zone}`"))
        }
        DataType::Dictionary(_, values) => unfit(values),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => unfit(field.data_type()),
        DataType::Struct(fields) => fields.iter().find_map(|field| unfit(field.data_type())),
        _ => None,
    }
}
