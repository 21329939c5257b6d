//! From the batches that a stage pushes to the rows of parts.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::content::content_hashers;
use crate::error::StoreError;
use crate::row_table::RowTable;
use crate::rows::RowDigest;

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
        self.waiting = vec![all.slice(full, self.count)];
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
/// position. Its memory is bounded, whatever the number of rows.
#[derive(Debug)]
pub struct Identify {
    schema: SchemaRef,
    salt: String,
    /// How often each content came again.
    seen: RowTable,
}

impl Identify {
    /// Ids for rows that get the schema `schema`, whose first column is the id. `salt`
    /// separates tables that hold the same rows.
    pub(crate) fn new(schema: SchemaRef, salt: String, seen: RowTable) -> Self {
        Self { schema, salt, seen }
    }

    /// The rows with their ids.
    pub fn add(&mut self, rows: &RecordBatch) -> Result<RecordBatch, StoreError> {
        let fail =
            |error: ArrowError| StoreError::Rows { action: "number", reason: error.to_string() };
        let hashers = content_hashers(rows, &self.salt).map_err(fail)?;
        let ids: Result<Vec<_>, _> = hashers.iter().map(|hasher| self.number(hasher)).collect();
        let ids: ArrayRef = Arc::new(StringArray::from(ids?));
        let columns = std::iter::once(ids).chain(rows.columns().iter().cloned());
        RecordBatch::try_new(Arc::clone(&self.schema), columns.collect()).map_err(fail)
    }

    /// Takes note of the ids of rows that a stage has numbered itself.
    ///
    /// # Errors
    /// A row has no id, or that of another row: it could not be told from others later.
    pub fn accept(&mut self, ids: &StringArray) -> Result<(), StoreError> {
        let refuse = |reason: String| StoreError::Rows { action: "keep", reason };
        for id in ids {
            let id = id.ok_or_else(|| refuse("one of them has no id".to_owned()))?;
            let mut hasher = blake3::Hasher::new_derive_key("paraloom 2026 row id: given");
            hasher.update(id.as_bytes());
            if self.seen.update(RowDigest::of(&hasher), |_| 0)?.is_some() {
                return Err(refuse(format!("two of them have the id `{id}`")));
            }
        }
        Ok(())
    }

    fn number(&mut self, content: &blake3::Hasher) -> Result<String, StoreError> {
        let next = |before: Option<u64>| before.map_or(0, |before| before + 1);
        let before = self.seen.update(RowDigest::of(content), next)?;
        let occurrence = u32::try_from(next(before)).unwrap_or(u32::MAX);
        let mut hasher = content.clone();
        hasher.update(&occurrence.to_le_bytes());
        Ok(hasher.finalize().to_hex()[..24].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::disk::Disk;

    fn texts(texts: &[&str]) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("text", DataType::Utf8, false)]);
        let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        RecordBatch::try_new(Arc::new(schema), vec![column]).expect("they fit")
    }

    fn column(rows: &RecordBatch, column: usize) -> Vec<&str> {
        rows.column(column).as_string::<i32>().iter().flatten().collect()
    }

    #[test]
    fn batches_have_the_rows_that_were_asked_for() {
        let pushed =
            [&["a"][..], &["b", "c"], &[], &["d"], &["e", "f", "g", "h", "i", "j"], &["k"]];
        let pushed = pushed.map(texts);
        let mut batches = Batches::new(pushed[0].schema(), 3);
        let full = pushed.map(|rows| {
            let full = batches.push(rows).expect("they fit");
            full.iter().map(|rows| column(rows, 0).concat()).collect::<Vec<_>>()
        });
        assert_eq!(full, [&[][..], &["abc"], &[], &[], &["def", "ghi"], &[]]);
        let last = batches.finish().expect("they fit").expect("two rows");
        assert_eq!(column(&last, 0), ["j", "k"]);
    }

    #[test]
    fn no_rows_are_left_after_full_batches() {
        let rows = texts(&["a", "b"]);
        let mut batches = Batches::new(rows.schema(), 2);
        assert_eq!(batches.push(rows.clone()).expect("they fit"), [rows]);
        assert!(batches.finish().expect("they fit").is_none());
    }

    #[test]
    fn rows_with_the_same_id_or_none_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let accept = |batches: &[&[Option<&str>]]| -> Result<(), String> {
            let seen = RowTable::new(Disk::new(dir.path().join("tmp"), None));
            let mut identify = Identify::new(texts(&[]).schema(), String::new(), seen);
            let mut ids = batches.iter().map(|ids| StringArray::from(ids.to_vec()));
            ids.try_for_each(|ids| identify.accept(&ids).map_err(|error| error.to_string()))
        };
        assert_eq!(accept(&[&[Some("a"), Some("b")], &[], &[Some("c")]]), Ok(()));
        let twice = accept(&[&[Some("a")], &[Some("b"), Some("a")]]).expect_err("twice");
        assert!(twice.contains("two of them have the id `a`"), "{twice}");
        let none = accept(&[&[Some("a"), None]]).expect_err("none");
        assert!(none.contains("has no id"), "{none}");
    }

    /// Whatever batches rows come in, and wherever they stand.
    #[test]
    fn ids_are_of_the_content_and_of_how_often_it_came() {
        let dir = tempfile::tempdir().expect("a directory");
        let ids = |salt: &str, batches: &[&[&str]]| -> Vec<String> {
            let fields = ["id", "text"].map(|name| Field::new(name, DataType::Utf8, false));
            let seen = RowTable::new(Disk::new(dir.path().join("tmp"), None));
            let mut identify =
                Identify::new(Arc::new(Schema::new(fields.to_vec())), salt.to_owned(), seen);
            let mut ids = Vec::new();
            for batch in batches {
                let rows = identify.add(&texts(batch)).expect("they fit");
                assert_eq!(column(&rows, 1), *batch);
                ids.extend(column(&rows, 0).into_iter().map(str::to_owned));
            }
            ids
        };
        let found = ids("salt", &[&["a", "b", "a", "a"]]);
        let distinct: std::collections::HashSet<_> = found.iter().collect();
        assert_eq!(distinct.len(), 4);
        assert!(
            found
                .iter()
                .all(|id| id.len() == 24 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
        );
        assert_eq!(
            ids("salt", &[&["b", "a"], &["a"], &["a"]]),
            [1, 0, 2, 3].map(|at| found[at].clone())
        );
        assert!(ids("other", &[&["a", "b"]]).iter().all(|id| !found.contains(id)));
    }
}
