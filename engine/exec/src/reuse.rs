//! Rows of a map stage that were computed before, in another part.
//!
//! A stage that is batch-invariant gives a row the same result beside any neighbours. So when a table has grown, or a
//! row was put in, the parts that changed are put together from the rows that are known and those that are not.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{interleave_record_batch, take_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use paraloom_store::{Entry, PartRecord, RowDigest, RowTable, StoreError, row_digests};

use crate::account::origins;

/// Where a row was computed: the number of the record, and the row's number in the input of that part.
type RowRef = (u32, u32);

/// The rows of all committed parts of one result. Its memory is bounded, whatever their number.
#[derive(Debug)]
pub(crate) struct KnownRows {
    entry: Entry,
    /// Where the records are.
    records: Vec<u64>,
    /// By digest of a row, both numbers of a [`RowRef`] in one.
    rows: RowTable,
}

impl KnownRows {
    pub(crate) fn read(entry: &Entry) -> Result<Self, StoreError> {
        let (mut records, mut rows) = (Vec::new(), entry.row_table());
        for record in entry.records()? {
            let (place, record) = record?;
            let Some(map) = &record.rows else { continue };
            let number = records.len() as u64;
            for (row, digest) in (0..).zip(map.digests()) {
                rows.update(digest, |_| number << 32 | row)?;
            }
            records.push(place);
        }
        Ok(Self { entry: entry.clone(), records, rows })
    }

    /// How many of some rows are new.
    pub(crate) fn count_new(&self, rows: &RecordBatch) -> Result<u64, StoreError> {
        let split = self.split(rows)?;
        Ok((split.known.len() - split.known()) as u64)
    }

    pub(crate) fn record(&self, number: u32) -> Result<PartRecord, StoreError> {
        self.entry.record(self.records[number as usize])
    }

    /// What of some rows is known.
    pub(crate) fn split(&self, rows: &RecordBatch) -> Result<Split, StoreError> {
        let digests = row_digests(rows)
            .map_err(|error| StoreError::Rows { action: "read", reason: error.to_string() })?;
        let find = |digest: &RowDigest| -> Result<Option<RowRef>, StoreError> {
            let found = self.rows.get(digest)?;
            Ok(found.map(|found| ((found >> 32) as u32, found as u32)))
        };
        let known = digests.iter().map(find).collect::<Result<_, _>>()?;
        Ok(Split { digests, known })
    }
}

/// The rows of a part, those that are known and those that are new.
#[derive(Debug)]
pub(crate) struct Split {
    pub(crate) digests: Vec<RowDigest>,
    known: Vec<Option<RowRef>>,
}

impl Split {
    pub(crate) fn known(&self) -> usize {
        self.known.iter().flatten().count()
    }

    /// The rows that are new.
    pub(crate) fn new_rows(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let new = (0..).zip(&self.known).filter(|(_, known)| known.is_none());
        take_record_batch(rows, &new.map(|(row, _)| row).collect::<UInt32Array>())
    }

    /// The numbers of the records that hold known rows, each once.
    pub(crate) fn records(&self) -> Vec<u32> {
        let mut records: Vec<_> = self.known.iter().flatten().map(|(record, _)| *record).collect();
        records.sort_unstable();
        records.dedup();
        records
    }

    /// One output of the part: known rows out of `pieces`, the outputs of [`Split::records`], and the others out of
    /// `new`, the output of [`Split::new_rows`]. Also how many rows came of each input row.
    pub(crate) fn assemble(
        &self,
        schema: &SchemaRef,
        pieces: &[Piece],
        new: &Piece,
    ) -> Result<(RecordBatch, Vec<u32>), ArrowError> {
        let records = self.records();
        let (mut indices, mut counts) = (Vec::new(), Vec::with_capacity(self.known.len()));
        let mut next_new = 0..;
        for known in &self.known {
            let place = known.and_then(|(record, row)| {
                Some((records.binary_search(&record).ok()?, row as usize))
            });
            let (piece, row) =
                place.unwrap_or_else(|| (pieces.len(), next_new.next().unwrap_or_default()));
            let range = pieces.get(piece).unwrap_or(new).ranges[row].clone();
            counts.push(range.len() as u32);
            indices.extend(range.map(|row| (piece, row)));
        }
        if indices.is_empty() {
            return Ok((RecordBatch::new_empty(schema.clone()), counts));
        }
        // Of the same rows a table may say now that a column lacks no value, or that it may: only of the rows that are
        // taken must it be so.
        let relaxed = Arc::new(Schema::new(
            schema
                .fields()
                .iter()
                .map(|field| field.as_ref().clone().with_nullable(true))
                .collect::<Vec<_>>(),
        ));
        let relax = |piece: &Piece| {
            RecordBatch::try_new(Arc::clone(&relaxed), piece.rows.columns().to_vec())
        };
        let batches = pieces.iter().chain([new]).map(relax).collect::<Result<Vec<_>, _>>()?;
        let rows = interleave_record_batch(&batches.iter().collect::<Vec<_>>(), &indices)?;
        Ok((RecordBatch::try_new(Arc::clone(schema), rows.columns().to_vec())?, counts))
    }
}

/// An output, and which of its rows came of each input row.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) rows: RecordBatch,
    pub(crate) ranges: Vec<Range<usize>>,
}

impl Piece {
    /// How many rows came of each input row.
    pub(crate) fn counts(&self) -> Vec<u32> {
        self.ranges.iter().map(|range| range.len() as u32).collect()
    }

    /// Which rows of an output came of which input row. None if that cannot be told, or if the output is in another order.
    pub(crate) fn of(rows: RecordBatch, inputs: &RecordBatch) -> Option<Self> {
        let origins = origins(&rows, inputs)?;
        let mut at = 0;
        let range = |input| {
            let start = at;
            at += origins[start..].iter().take_while(|origin| **origin == input).count();
            start..at
        };
        let ranges: Vec<_> = (0..inputs.num_rows()).map(range).collect();
        (at == rows.num_rows()).then_some(Self { rows, ranges })
    }
}
