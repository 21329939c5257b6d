//! Two tables compared row by row, by their ids.
//!
//! Tables are read part by part, once; identical parts are skipped, and those with rows that differ are read once more, for as
//! long as anybody asks for these. What is known of each row is in a [`RowMatch`](paraloom_store::RowMatch), whose memory is
//! bounded, so tables of any size can be compared.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema};
use paraloom_exec::TableRef;
use paraloom_pipeline::is_identity;
use paraloom_store::{PartFile, RowChanges, RowDigest, row_digests};

use super::json::{cell_text, equal};
use super::query::Query;
use crate::error::{CliError, NODE_FAILED, Result};

const ID: &str = "_id";

/// A table as it was, and as it is.
pub(crate) struct Comparison<'a> {
    before: &'a TableRef,
    now: &'a TableRef,
    pub(crate) columns: Columns,
    rows: RowChanges,
    /// The number of the first row of each part of the table as it was.
    starts: Vec<u64>,
}

/// How many rows there are of each kind.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) gone: u64,
    pub(crate) new: u64,
    pub(crate) changed: u64,
    pub(crate) same: u64,
}

/// The rows of a part that are not as they were.
pub(crate) struct Changes {
    /// Rows whose id was not there.
    pub(crate) new: RecordBatch,
    /// Rows with other values, as they were and as they are, in the same order.
    pub(crate) changed: (RecordBatch, RecordBatch),
}

impl<'a> Comparison<'a> {
    pub(crate) fn new(before: &'a TableRef, now: &'a TableRef) -> Result<Self> {
        let columns = Columns::of(&before.schema, &now.schema);
        let sides = Sides { before, now, columns: &columns };
        // Parts that both have: all their rows are the same.
        let parts: HashSet<_> = before.parts.iter().map(|part| part.digest).collect();
        let of_both: HashSet<_> = now.parts.iter().map(|part| part.digest).collect();
        let is_shared =
            |part: &PartFile| parts.contains(&part.digest) && of_both.contains(&part.digest);
        let mut rows = now.entry.row_match(before.rows() + now.rows());
        let query = sides.query(before, |pair| pair.1)?;
        for part in before.parts.iter() {
            if is_shared(part) {
                rows.same_before(part.rows);
                continue;
            }
            for (id, content) in sides.digests(&query.part(part)?)? {
                rows.before(id, content)?;
            }
        }
        let query = sides.query(now, |pair| pair.2)?;
        for part in now.parts.iter() {
            if is_shared(part) {
                rows.same_now(part.rows);
                continue;
            }
            for (id, content) in sides.digests(&query.part(part)?)? {
                rows.now(id, content)?;
            }
        }
        let (rows, starts) = (rows.finish()?, starts(before));
        Ok(Self { before, now, columns, rows, starts })
    }

    pub(crate) fn counts(&self) -> Counts {
        let (gone, new, changed) = self.rows.counts();
        Counts { gone, new, changed, same: self.now.rows() - new - changed }
    }

    /// The first `limit` rows that are not there any more, part by part, with these columns.
    pub(crate) fn gone(
        &self,
        columns: Vec<usize>,
        mut limit: usize,
    ) -> impl Iterator<Item = Result<RecordBatch>> {
        let query = Query::all(self.before).columns(columns);
        self.before.parts.iter().zip(&self.starts).filter_map(move |(part, start)| {
            let mut gone = self.rows.gone(*start..start + part.rows);
            gone.truncate(limit);
            limit -= gone.len();
            (!gone.is_empty()).then(|| take(&query.part(part)?, gone))
        })
    }

    /// The first `limit` rows that are new, and that have changed, part by part.
    pub(crate) fn changes(&mut self, limit: usize) -> impl Iterator<Item = Result<Changes>> {
        let (query, query_before) = (Query::all(self.now), Query::all(self.before));
        let (rows, starts_before) = (&mut self.rows, &self.starts);
        let (mut new_left, mut changed_left) = (limit, limit);
        self.now.parts.iter().zip(starts(self.now)).filter_map(move |(part, start)| {
            let range = start..start + part.rows;
            let mut new = rows.added(range.clone());
            new.truncate(new_left);
            new_left -= new.len();
            let (changed, numbers) = match rows.changed(range, changed_left) {
                Ok(changed) => changed,
                Err(error) => return Some(Err(error.into())),
            };
            changed_left -= changed.len();
            if new.is_empty() && changed.is_empty() {
                return None;
            }
            let place = |number: &u64| {
                let part = starts_before.partition_point(|start| start <= number).saturating_sub(1);
                (part, (number - starts_before[part]) as u32)
            };
            let places: Vec<_> = numbers.iter().map(place).collect();
            let read = || {
                let rows = query.part(part)?;
                let changed = (query_before.rows_at(&places)?, take(&rows, changed)?);
                Ok(Changes { new: take(&rows, new)?, changed })
            };
            Some(read())
        })
    }
}

/// The columns that two tables have, without those of ids: their names and both numbers.
#[derive(Clone)]
pub(crate) struct Columns(Vec<(String, usize, usize)>);

impl Columns {
    fn of(before: &Schema, now: &Schema) -> Self {
        let columns = before.fields().iter().enumerate().filter_map(|(number, field)| {
            let other = now.index_of(field.name()).ok()?;
            Some((field.name().clone(), number, other)).filter(|(name, _, _)| !is_identity(name))
        });
        Self(columns.collect())
    }

    /// Those whose values differ in a row as it was and as it is.
    pub(crate) fn differing(
        &self,
        before: &RecordBatch,
        now: &RecordBatch,
        row: usize,
    ) -> impl Iterator<Item = &(String, usize, usize)> {
        let differ = move |(_, one, other): &&(_, usize, usize)| {
            !equal(before.column(*one), now.column(*other), row)
        };
        self.0.iter().filter(differ)
    }

    /// The first text of a row that is what it was, by which a person knows the row.
    pub(crate) fn text_that_stays(
        &self,
        before: &RecordBatch,
        now: &RecordBatch,
        row: usize,
    ) -> Option<String> {
        let (_, _, column) = self.0.iter().find(|(_, one, other)| {
            now.column(*other).data_type() == &DataType::Utf8
                && equal(before.column(*one), now.column(*other), row)
        })?;
        Some(cell_text(now.column(*column), row))
    }
}

fn take(rows: &RecordBatch, numbers: Vec<u32>) -> Result<RecordBatch> {
    Ok(take_record_batch(rows, &UInt32Array::from(numbers))?)
}

/// The number of the first row of each part.
fn starts(table: &TableRef) -> Vec<u64> {
    let starts = table.parts.iter().scan(0, |next, part| {
        let start = *next;
        *next += part.rows;
        Some(start)
    });
    starts.collect()
}

/// What is compared of two tables.
struct Sides<'a> {
    before: &'a TableRef,
    now: &'a TableRef,
    columns: &'a Columns,
}

impl Sides<'_> {
    /// The ids of one of the tables, and the columns that both have; `side` picks those of this one.
    fn query<'t>(
        &self,
        table: &'t TableRef,
        side: fn(&(String, usize, usize)) -> usize,
    ) -> Result<Query<'t>> {
        let missing = |_| CliError::new(NODE_FAILED, "the table has no ids");
        let id = table.schema.index_of(ID).map_err(missing)?;
        let columns = std::iter::once(id).chain(self.columns.0.iter().map(side));
        Ok(Query::all(table).columns(columns.collect()))
    }

    /// Of each row the digests of its id and of what both tables have of it.
    fn digests(
        &self,
        rows: &RecordBatch,
    ) -> Result<impl Iterator<Item = (RowDigest, RowDigest)> + use<>> {
        let kind = |table: &TableRef, column: usize| table.schema.field(column).data_type().clone();
        let columns = self.columns.0.iter().zip(&rows.columns()[1..]);
        let columns = columns.map(|((name, before, now), values)| {
            let (kind_before, kind_now) = (kind(self.before, *before), kind(self.now, *now));
            // Values of different types are compared by their text.
            let (kind, values) = if kind_before == kind_now {
                (kind_now, Arc::clone(values))
            } else {
                (DataType::Utf8, as_texts(values))
            };
            (Field::new(name, kind, true), values)
        });
        let (fields, columns): (Vec<_>, Vec<_>) = columns.unzip();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let schema = Arc::new(Schema::new(fields));
        let contents = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let ids = row_digests(&rows.project(&[0])?)?;
        Ok(ids.into_iter().zip(row_digests(&contents)?))
    }
}

fn as_texts(values: &ArrayRef) -> ArrayRef {
    let text = |row: usize| values.is_valid(row).then(|| cell_text(values, row));
    Arc::new((0..values.len()).map(text).collect::<StringArray>())
}
