//! `show --sort`: the first rows by a column. Of all rows only the column is read, and only so many of its values are kept as
//! there are rows to show, so memory does not grow with the table.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{SortColumn, SortOptions, cast, concat, lexsort_to_indices, nullif, take};
use arrow::datatypes::{DataType, Float64Type, Schema};

use super::query::{Query, named};
use crate::error::{CliError, Result};

/// Rows that are held at once: those that are shown, and those that are passed over before them.
const MOST: u64 = 10_000;

/// A column to sort by.
pub(crate) struct Order {
    column: usize,
    descending: bool,
}

impl Order {
    /// `COLUMN`, `COLUMN:asc` or `COLUMN:desc`, of a table with the schema `schema`.
    ///
    /// # Errors
    /// There is no such column, or it has no order.
    pub(crate) fn parse(text: &str, schema: &Schema) -> Result<Self> {
        let (name, descending) = match text.rsplit_once(':') {
            // A column may be called so.
            _ if schema.index_of(text).is_ok() => (text, false),
            Some((name, "desc")) => (name, true),
            Some((name, "asc")) => (name, false),
            _ => (text, false),
        };
        let column = named(schema, &[name.to_owned()])?[0];
        let kind = schema.field(column).data_type();
        if kind.is_nested() {
            let kind = paraloom_expr::type_name(kind);
            let message = format!("`--sort {text}`: the column is {kind}, and has no order");
            return Err(CliError::usage(message).hint("sort by numbers, texts or times"));
        }
        Ok(Self { column, descending })
    }

    /// Rows of a query in this order: `limit` of them, or else all, after the first `skip`. Rows that are equal stay in the order
    /// of the table, and those without a value, or with one that is not a number, come last.
    ///
    /// # Errors
    /// They are too many.
    pub(crate) fn rows(&self, query: &Query, skip: u64, limit: Option<u64>) -> Result<RecordBatch> {
        let wanted = limit.map_or(u64::MAX, |limit| limit.saturating_add(skip));
        if wanted > MOST && limit.is_some() {
            return Err(too_many("that many are asked for"));
        }
        let most = wanted.min(MOST + 1) as usize;
        let mut first = First::default();
        for number in 0..query.parts() {
            let (places, values) = query.column_of(number, self.column)?;
            first.add(number, &places, &values, most, self.descending)?;
        }
        if first.places.len() as u64 > MOST {
            return Err(too_many("there are more"));
        }
        let from = (skip as usize).min(first.places.len());
        query.rows_at(&first.places[from..])
    }
}

fn too_many(why: &str) -> CliError {
    let message = format!("`--sort` shows the first {MOST} rows at most, and {why}");
    CliError::usage(message).hint("`--limit` and `--where` make them fewer")
}

/// The first rows of those that were looked at, in order.
#[derive(Default)]
struct First {
    /// The part and the row in it.
    places: Vec<(usize, u32)>,
    values: Option<ArrayRef>,
}

impl First {
    fn add(
        &mut self,
        part: usize,
        places: &UInt32Array,
        values: &ArrayRef,
        most: usize,
        descending: bool,
    ) -> Result<()> {
        let mut values = comparable(values)?;
        if let Some(before) = self.values.take() {
            values = concat(&[before.as_ref(), values.as_ref()])?;
        }
        self.places.extend(places.values().iter().map(|row| (part, *row)));
        let order = |descending| Some(SortOptions { descending, nulls_first: false });
        let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(0..values.len() as u64));
        let columns = [
            SortColumn { values: Arc::clone(&values), options: order(descending) },
            // Equal values stay as they are.
            SortColumn { values: numbers, options: order(false) },
        ];
        let sorted = lexsort_to_indices(&columns, Some(most))?;
        self.places = sorted.values().iter().map(|at| self.places[*at as usize]).collect();
        self.values = Some(take(&values, &sorted, None)?);
        Ok(())
    }
}

/// Values that can be sorted; what is not a number is as if it were missing.
fn comparable(values: &ArrayRef) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        kind if kind.is_floating() => {
            let numbers = cast(values, &DataType::Float64)?;
            let numbers = numbers.as_primitive::<Float64Type>();
            let is_none: BooleanArray =
                numbers.iter().map(|value| Some(value.is_some_and(f64::is_nan))).collect();
            nullif(numbers, &is_none)?
        }
        DataType::Dictionary(_, of) => cast(values, of)?,
        _ => Arc::clone(values),
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, StringArray};

    use super::*;

    fn first(parts: &[ArrayRef], most: usize, descending: bool) -> String {
        let mut first = First::default();
        for (number, values) in parts.iter().enumerate() {
            let places = UInt32Array::from_iter_values(0..values.len() as u32);
            first.add(number, &places, values, most, descending).expect("it can be sorted");
        }
        let told = first.places.iter().map(|(part, row)| format!("{part}.{row}"));
        told.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_first_rows_are_those_of_all_parts() {
        let numbers = |values: Vec<Option<f64>>| Arc::new(Float64Array::from(values)) as ArrayRef;
        let parts = [
            numbers(vec![Some(3.0), None, Some(1.0)]),
            numbers(vec![Some(f64::NAN), Some(2.0), Some(1.0)]),
            numbers(vec![Some(f64::INFINITY), Some(-0.5)]),
        ];
        assert_eq!(first(&parts, 99, false), "2.1 0.2 1.2 1.1 0.0 2.0 0.1 1.0");
        assert_eq!(first(&parts, 99, true), "2.0 0.0 1.1 0.2 1.2 2.1 0.1 1.0");
        assert_eq!(first(&parts, 3, false), "2.1 0.2 1.2");
        assert_eq!(first(&parts, 0, false), "");
        let texts = |values: &[&str]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
        assert_eq!(first(&[texts(&["b", "a"]), texts(&["", "c"])], 3, false), "1.0 0.1 0.0");
    }

    #[test]
    fn a_column_may_be_called_like_an_order() {
        let field = |name: &str, kind| arrow::datatypes::Field::new(name, kind, true);
        let list = DataType::new_list(DataType::Utf8, true);
        let schema = Schema::new(vec![
            field("n", DataType::Int64),
            field("n:desc", DataType::Int64),
            field("list", list),
        ]);
        let parsed = |text: &str| {
            let order = Order::parse(text, &schema);
            order
                .map(|order| (order.column, order.descending))
                .map_err(|error| format!("{error:?}"))
        };
        assert_eq!(parsed("n"), Ok((0, false)));
        assert_eq!(parsed("n:asc"), Ok((0, false)));
        assert_eq!(parsed("n:desc"), Ok((1, false)));
        assert_eq!(parsed("n:desc:desc"), Ok((1, true)));
        assert!(parsed("list").is_err_and(|error| error.contains("has no order")));
        assert!(parsed("m").is_err_and(|error| error.contains("no column `m`")));
    }
}
