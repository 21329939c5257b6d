//! From the batches that a stage pushes to the rows of parts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::rows::row_hashers;

/// Cuts and joins pushed batches to batches of a fixed number of rows.
#[derive(Debug)]
pub struct Batches {
    schema: SchemaRef,
    rows: usize,
    waiting: Vec<RecordBatch>,
    count: usize,
}

impl Batches {
    /// Batches of `rows` rows; the last may have fewer.
    pub fn new(schema: SchemaRef, rows: usize) -> Self {
        Self { schema, rows: rows.max(1), waiting: Vec::new(), count: 0 }
    }

    /// Takes a batch; returns the full ones.
    pub fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, ArrowError> {
        self.count += batch.num_rows();
        self.waiting.push(batch);
        if self.count < self.rows {
            return Ok(Vec::new());
        }
        let all = concat_batches(&self.schema, &self.waiting)?;
        let full = self.count / self.rows * self.rows;
        let cut = |start| all.slice(start, self.rows);
        let batches = (0..full).step_by(self.rows).map(cut).collect();
        self.count -= full;
        self.waiting = if self.count > 0 { vec![all.slice(full, self.count)] } else { Vec::new() };
        Ok(batches)
    }

    /// What is left.
    pub fn finish(self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.count == 0 {
            return Ok(None);
        }
        concat_batches(&self.schema, &self.waiting).map(Some)
    }
}

/// Adds the `_id` column to rows that have none: the hash of a row's content and of how
/// often that content came before, so that equal rows differ and no id depends on the
/// position. Holds 9 to 18 bytes per row.
#[derive(Debug)]
pub struct Identify {
    schema: SchemaRef,
    salt: String,
    seen: HashSet<u64>,
    /// Of content that came more than once, how often; apart, since most content comes once.
    again: HashMap<u64, u32>,
}

impl Identify {
    /// Ids for rows that get the schema `schema`, whose first column is the id. `salt`
    /// separates tables that hold the same rows.
    pub fn new(schema: SchemaRef, salt: impl Into<String>) -> Self {
        Self { schema, salt: salt.into(), seen: HashSet::new(), again: HashMap::new() }
    }

    /// The rows with their ids.
    pub fn add(&mut self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let hashers = row_hashers(rows, "paraloom 2026 row id: content", &self.salt)?;
        let ids: StringArray = hashers.iter().map(|hasher| Some(self.number(hasher))).collect();
        let columns =
            std::iter::once(Arc::new(ids) as ArrayRef).chain(rows.columns().iter().cloned());
        RecordBatch::try_new(Arc::clone(&self.schema), columns.collect())
    }

    fn number(&mut self, content: &blake3::Hasher) -> String {
        let mut short = [0; 8];
        content.finalize_xof().fill(&mut short);
        let short = u64::from_le_bytes(short);
        let occurrence = if self.seen.insert(short) {
            0
        } else {
            let again = self.again.entry(short).or_insert(0);
            *again += 1;
            *again
        };
        let mut hasher = content.clone();
        hasher.update(&occurrence.to_le_bytes());
        hasher.finalize().to_hex()[..24].to_owned()
    }
}
