//! Two tables compared row by row, by their ids.
//!
//! Tables are read part by part, in several passes; identical parts are skipped. State per row is in a [`RowTable`], whose memory
//! is bounded, so tables of any size can be compared.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use paraloom_exec::TableRef;
use paraloom_store::{Digest, RowDigest, RowTable, row_digests};

use super::json::cell_text;
use super::query::Query;
use crate::error::{CliError, NODE_FAILED, Result};

const ID: &str = "_id";

/// A table as it was, and as it is.
pub(crate) struct Comparison<'a> {
    before: &'a TableRef,
    now: &'a TableRef,
    /// The columns that both tables have, without the id columns, as pairs of indices.
    columns: Vec<(usize, usize)>,
    /// Row number by id, in the table before.
    places: RowTable,
    /// The rows that were there before.
    contents: RowTable,
    /// The ids that are there now.
    ids_now: RowTable,
    /// The number of the first row of each part of the table as it was.
    starts: Vec<u64>,
    /// Parts that both have: all their rows are the same.
    shared: HashSet<Digest>,
}

/// What became of the rows of a part.
pub(crate) struct Changes {
    /// Rows whose id was not there.
    pub(crate) new: RecordBatch,
    /// Rows with other values, as they were and as they are, in the same order.
    pub(crate) changed: (RecordBatch, RecordBatch),
    /// How many rows are as they were.
    pub(crate) same: u64,
}

impl<'a> Comparison<'a> {
    pub(crate) fn new(before: &'a TableRef, now: &'a TableRef) -> Result<Self> {
        let columns = before.schema.fields().iter().enumerate().filter_map(|(number, field)| {
            let other = now.schema.index_of(field.name()).ok()?;
            Some((number, other)).filter(|_| !field.name().starts_with('_'))
        });
        let starts = before.parts.iter().scan(0, |next, part| {
            let start = *next;
            *next += part.rows;
            Some(start)
        });
        let table = || now.entry.row_table();
        let parts: HashSet<_> = before.parts.iter().map(|part| part.digest).collect();
        let of_both = now.parts.iter().map(|part| part.digest);
        let mut comparison = Self {
            before,
            now,
            columns: columns.collect(),
            places: table(),
            contents: table(),
            ids_now: table(),
            starts: starts.collect(),
            shared: of_both.filter(|digest| parts.contains(digest)).collect(),
        };
        comparison.look_at_both()?;
        Ok(comparison)
    }

    fn look_at_both(&mut self) -> Result<()> {
        let query = Query::all(self.before);
        for (part, &start) in self.before.parts.iter().zip(&self.starts) {
            if self.shared.contains(&part.digest) {
                continue;
            }
            let rows = query.part(part)?;
            let contents = self.contents_of(&rows, |pair| pair.0)?;
            for (number, (id, content)) in (start..).zip(ids(&rows)?.into_iter().zip(contents)) {
                // Of rows with the same id only the first is compared.
                self.places.update(id, |before| before.unwrap_or(number))?;
                self.contents.update(content, |_| 0)?;
            }
        }
        let query = Query::all(self.now).columns(vec![id_column(self.now)?]);
        for part in self.now.parts.iter().filter(|part| !self.shared.contains(&part.digest)) {
            for id in ids(&query.part(part)?)? {
                self.ids_now.update(id, |_| 0)?;
            }
        }
        Ok(())
    }

    /// Of each row the digest of its id and of what both tables have of it; `side` picks the columns of one of them.
    fn contents_of(
        &self,
        rows: &RecordBatch,
        side: fn(&(usize, usize)) -> usize,
    ) -> Result<Vec<RowDigest>> {
        let kind = |table: &TableRef, column: usize| table.schema.field(column).data_type().clone();
        let id = rows.schema().index_of(ID)?;
        let mut columns = vec![(rows.schema().field(id).clone(), Arc::clone(rows.column(id)))];
        for pair in &self.columns {
            let (kind_before, kind_now) = (kind(self.before, pair.0), kind(self.now, pair.1));
            let values = Arc::clone(rows.column(side(pair)));
            // Values of different types are compared by their text.
            let (kind, values) = if kind_before == kind_now {
                (kind_now, values)
            } else {
                (DataType::Utf8, as_texts(&values))
            };
            let name = self.now.schema.field(pair.1).name();
            columns.push((Field::new(name, kind, true), values));
        }
        let (fields, columns): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
        Ok(row_digests(&rows)?)
    }

    /// The rows that are not there any more, part by part, with these columns.
    pub(crate) fn gone(
        &self,
        mut columns: Vec<usize>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
        let wanted: Vec<usize> = (0..columns.len()).collect();
        columns.push(id_column(self.before)?);
        let query = Query::all(self.before).columns(columns);
        let parts = self.before.parts.iter();
        let parts = parts.filter(|part| !self.shared.contains(&part.digest));
        Ok(parts.map(move |part| {
            let all = query.part(part)?;
            let is_gone = |id: &RowDigest| Ok(Some(self.ids_now.get(id)?.is_none()));
            let last = all.project(&[wanted.len()])?;
            let gone = ids(&last)?.iter().map(is_gone).collect::<Result<BooleanArray>>()?;
            Ok(filter_record_batch(&all.project(&wanted)?, &gone)?)
        }))
    }

    /// What became of the rows that are there now, part by part.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Result<Changes>> {
        self.now.parts.iter().map(|part| {
            if self.shared.contains(&part.digest) {
                let none = |table: &TableRef| RecordBatch::new_empty(table.schema.clone());
                let changed = (none(self.before), none(self.now));
                return Ok(Changes { new: none(self.now), changed, same: part.rows });
            }
            self.changes_of(&Query::all(self.now).part(part)?)
        })
    }

    fn changes_of(&self, rows: &RecordBatch) -> Result<Changes> {
        let contents = self.contents_of(rows, |pair| pair.1)?;
        let (mut new, mut changed, mut places, mut same) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (row, (id, content)) in (0..).zip(ids(rows)?.into_iter().zip(contents)) {
            match self.places.get(&id)? {
                None => new.push(row),
                Some(_) if self.contents.get(&content)?.is_some() => same += 1,
                Some(place) => {
                    changed.push(row);
                    places.push(place);
                }
            }
        }
        let take = |numbers: Vec<u32>| take_record_batch(rows, &UInt32Array::from(numbers));
        let changed = (self.rows_before(&places)?, take(changed)?);
        Ok(Changes { new: take(new)?, changed, same })
    }

    /// The rows with these numbers as they were.
    fn rows_before(&self, places: &[u64]) -> Result<RecordBatch> {
        let place = |number: &u64| {
            let part = self.starts.partition_point(|start| start <= number).saturating_sub(1);
            (part, (number - self.starts[part]) as u32)
        };
        Query::all(self.before).rows_at(&places.iter().map(place).collect::<Vec<_>>())
    }

    /// The columns whose values differ in a row as it was and as it is: their names and both numbers.
    pub(crate) fn differing(
        &self,
        before: &RecordBatch,
        now: &RecordBatch,
        row: usize,
    ) -> Vec<(String, usize, usize)> {
        let differ = self
            .columns
            .iter()
            .filter(|(one, other)| !equal(before.column(*one), now.column(*other), row));
        let name = |column: usize| self.now.schema.field(column).name().clone();
        differ.map(|(one, other)| (name(*other), *one, *other)).collect()
    }

    /// The first text of a row that is what it was, by which a person knows the row.
    pub(crate) fn text_that_stays(
        &self,
        before: &RecordBatch,
        now: &RecordBatch,
        row: usize,
    ) -> Option<String> {
        let (_, column) = self.columns.iter().find(|(one, other)| {
            now.column(*other).data_type() == &DataType::Utf8
                && equal(before.column(*one), now.column(*other), row)
        })?;
        Some(cell_text(now.column(*column), row))
    }
}

fn id_column(table: &TableRef) -> Result<usize> {
    let missing = |_| CliError::new(NODE_FAILED, "the table has no ids");
    table.schema.index_of(ID).map_err(missing)
}

/// The digests of the ids of some rows.
fn ids(rows: &RecordBatch) -> Result<Vec<RowDigest>> {
    let id = rows.schema().index_of(ID)?;
    Ok(row_digests(&rows.project(&[id])?)?)
}

fn as_texts(values: &ArrayRef) -> ArrayRef {
    let text = |row: usize| values.is_valid(row).then(|| cell_text(values, row));
    Arc::new((0..values.len()).map(text).collect::<StringArray>())
}

/// Whether two values are the same; those of other types are if they read the same.
fn equal(before: &ArrayRef, now: &ArrayRef, row: usize) -> bool {
    if before.is_null(row) || now.is_null(row) {
        return before.is_null(row) == now.is_null(row);
    }
    cell_text(before, row) == cell_text(now, row)
}
