//! The types that the columns of a table can have are those that can be written, read and shown.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{
    DataType, Field, Fields, IntervalUnit, Schema, TimeUnit, UnionFields, UnionMode,
};
use arrow::util::display::array_value_to_string;
use paraloom_pipeline::unfit;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

/// Writes two missing values and reads them back, and shows them.
fn works(kind: &DataType) -> bool {
    let attempt = || -> Option<()> {
        let schema = Arc::new(Schema::new(vec![Field::new("x", kind.clone(), true)]));
        let rows = RecordBatch::try_new(Arc::clone(&schema), vec![new_null_array(kind, 2)]).ok()?;
        let file = tempfile::tempfile().ok()?;
        let mut writer = ArrowWriter::try_new(file.try_clone().ok()?, schema, None).ok()?;
        writer.write(&rows).ok()?;
        writer.close().ok()?;
        let read = ParquetRecordBatchReader::try_new(file, 2).ok()?.next()?.ok()?;
        array_value_to_string(read.column(0), 0).ok()?;
        (read.num_rows() == 2).then_some(())
    };
    catch_unwind(AssertUnwindSafe(attempt)).is_ok_and(|done| done.is_some())
}

#[test]
fn a_column_that_is_let_in_can_be_kept() {
    let field = |kind: DataType| Arc::new(Field::new("item", kind, true));
    let zone = |name: &str| DataType::Timestamp(TimeUnit::Microsecond, Some(name.into()));
    let entries = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Int64, true),
    ]);
    let map = Arc::new(Field::new("entries", DataType::Struct(entries), false));
    let fit = [
        DataType::Null,
        DataType::Boolean,
        DataType::Int8,
        DataType::UInt64,
        DataType::Float16,
        DataType::Utf8View,
        DataType::LargeBinary,
        DataType::FixedSizeBinary(1),
        DataType::Date64,
        DataType::Time32(TimeUnit::Second),
        DataType::Duration(TimeUnit::Nanosecond),
        DataType::Interval(IntervalUnit::DayTime),
        DataType::Interval(IntervalUnit::YearMonth),
        DataType::Decimal128(38, 38),
        DataType::Decimal256(76, 0),
        DataType::Decimal32(9, 2),
        zone("UTC"),
        zone("+05:30"),
        zone("America/New_York"),
        DataType::List(field(DataType::Utf8)),
        DataType::LargeList(field(DataType::Utf8)),
        DataType::FixedSizeList(field(DataType::Utf8), 2),
        DataType::Struct(Fields::from(vec![Field::new("a", DataType::Int64, true)])),
        DataType::Map(map, false),
        DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
    ];
    for kind in fit {
        assert_eq!((unfit(&kind), works(&kind)), (None, true), "{kind}");
    }
    let members = [(0, field(DataType::Utf8))].into_iter().collect::<UnionFields>();
    let empty = DataType::Struct(Fields::empty());
    for kind in [
        DataType::FixedSizeBinary(0),
        DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::Decimal128(38, -3),
        DataType::Decimal128(0, 0),
        DataType::Union(members, UnionMode::Dense),
        zone("Nowhere/Nope"),
        zone("+99:99"),
        DataType::List(field(empty.clone())),
        empty,
    ] {
        assert!(unfit(&kind).is_some(), "{kind}");
        assert!(!works(&kind), "{kind}");
    }
}
