//! From the batches that a stage pushes to the rows of parts.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

use crate::content::content_hashers;
use crate::error::StoreError;
use crate::row_table::RowTable;
use crate::rows::RowDigest;

/// Cuts and joins pushed batches to the rows of parts.
#[derive(Debug)]
pub struct Batches {
    schema: SchemaRef,
    size: PartSize,
    waiting: Vec<RecordBatch>,
    /// Rows that wait.
    count: usize,
    /// Bytes of their values, up to the last row whose number is a multiple of [`BLOCK`], and behind it.
    bytes: (usize, usize),
}

/// How large a part becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSize {
    /// Rows at most; at least 1.
    pub rows: usize,
    /// Bytes of values after which it is closed; none of parts that have all their rows.
    pub bytes: Option<usize>,
}

/// Whether there are bytes enough is looked at after so many rows.
const BLOCK: usize = 16;

impl Batches {
    /// Parts of a size; the last may be smaller. Where they end depends on the rows, and not on how they are pushed.
    pub fn new(schema: SchemaRef, size: PartSize) -> Self {
        let size = PartSize { rows: size.rows.max(1), ..size };
        Self { schema, size, waiting: Vec::new(), count: 0, bytes: (0, 0) }
    }

    /// Takes a batch; returns the rows of parts that are full.
    pub fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, ArrowError> {
        let (mut full, mut first, mut at) = (Vec::new(), 0, 0);
        while at < batch.num_rows() {
            let room = (BLOCK - self.count % BLOCK).min(self.size.rows - self.count);
            let take = room.min(batch.num_rows() - at);
            if self.size.bytes.is_some() {
                let columns = batch.columns().iter();
                self.bytes.1 += columns.map(|column| value_bytes(column, at, take)).sum::<usize>();
            }
            (at, self.count) = (at + take, self.count + take);
            if self.count.is_multiple_of(BLOCK) {
                self.bytes = (self.bytes.0 + self.bytes.1, 0);
            }
            let is_heavy = self.size.bytes.is_some_and(|limit| self.bytes.0 >= limit);
            if self.count == self.size.rows || is_heavy {
                self.waiting.push(batch.slice(first, at - first));
                full.push(concat_batches(&self.schema, &std::mem::take(&mut self.waiting))?);
                (first, self.count, self.bytes) = (at, 0, (0, 0));
            }
        }
        if first < at {
            self.waiting.push(batch.slice(first, at - first));
        }
        Ok(full)
    }

    /// What is left.
    pub fn finish(self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.count == 0 {
            return Ok(None);
        }
        concat_batches(&self.schema, &self.waiting).map(Some)
    }
}

/// The bytes of some values of a column. By their types and texts alone: the same in whatever buffers they are.
fn value_bytes(column: &dyn Array, start: usize, count: usize) -> usize {
    fn spanned(offsets: &[impl Into<i64> + Copy], start: usize, count: usize) -> (usize, usize) {
        let offset = |at: usize| usize::try_from(offsets[at].into()).unwrap_or(0);
        (offset(start), offset(start + count) - offset(start))
    }
    match column.data_type() {
        DataType::Utf8 => spanned(column.as_string::<i32>().value_offsets(), start, count).1,
        DataType::LargeUtf8 => spanned(column.as_string::<i64>().value_offsets(), start, count).1,
        DataType::Binary => spanned(column.as_binary::<i32>().value_offsets(), start, count).1,
        DataType::LargeBinary => spanned(column.as_binary::<i64>().value_offsets(), start, count).1,
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            let (start, count) = spanned(list.value_offsets(), start, count);
            value_bytes(list.values(), start, count)
        }
        DataType::LargeList(_) => {
            let list = column.as_list::<i64>();
            let (start, count) = spanned(list.value_offsets(), start, count);
            value_bytes(list.values(), start, count)
        }
        DataType::FixedSizeList(_, width) => {
            let width = usize::try_from(*width).unwrap_or(0);
            value_bytes(column.as_fixed_size_list().values(), start * width, count * width)
        }
        DataType::Map(..) => {
            let map = column.as_map();
            let (start, count) = spanned(map.value_offsets(), start, count);
            value_bytes(map.entries(), start, count)
        }
        DataType::Struct(_) => {
            let columns = column.as_struct().columns().iter();
            columns.map(|column| value_bytes(column, start, count)).sum()
        }
        other => count * other.primitive_width().unwrap_or(8),
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
    use arrow::array::{Int64Array, ListArray, StructArray};
    use arrow::datatypes::{Field, Int64Type, Schema};
    use proptest::prelude::*;

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
        let size = PartSize { rows: 3, bytes: None };
        let mut batches = Batches::new(pushed[0].schema(), size);
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
        let mut batches = Batches::new(rows.schema(), PartSize { rows: 2, bytes: None });
        assert_eq!(batches.push(rows.clone()).expect("they fit"), [rows]);
        assert!(batches.finish().expect("they fit").is_none());
    }

    proptest! {
        #[test]
        fn parts_end_by_their_rows_however_they_are_pushed(
            lengths in prop::collection::vec(0..40_usize, 0..200),
            cuts in prop::collection::vec(1..50_usize, 200),
            rows in 1..70_usize,
            bytes in prop::option::of(1..800_usize),
        ) {
            let all: Vec<_> = lengths.iter().map(|length| "x".repeat(*length)).collect();
            let all = texts(&all.iter().map(String::as_str).collect::<Vec<_>>());
            let size = PartSize { rows, bytes };
            let parts = |pieces: &[RecordBatch]| -> Vec<usize> {
                let mut batches = Batches::new(all.schema(), size);
                let full = pieces.iter().flat_map(|rows| batches.push(rows.clone()).expect("they fit"));
                let mut parts: Vec<_> = full.collect();
                parts.extend(batches.finish().expect("they fit"));
                let joined = concat_batches(&all.schema(), &parts).expect("of one schema");
                assert_eq!(joined, all);
                parts.iter().map(RecordBatch::num_rows).collect()
            };
            let found = parts(std::slice::from_ref(&all));
            let (mut pieces, mut at) = (Vec::new(), 0);
            for cut in cuts {
                let take = cut.min(all.num_rows() - at);
                pieces.push(all.slice(at, take));
                at += take;
            }
            pieces.push(all.slice(at, all.num_rows() - at));
            prop_assert_eq!(&parts(&pieces), &found);
            let mut start = 0;
            for part in found {
                let heavy = bytes.is_some_and(|limit| lengths[start..start + part].iter().sum::<usize>() >= limit);
                start += part;
                let is_last = start == lengths.len();
                prop_assert!(part <= rows && (part == rows || is_last || (heavy && part % BLOCK == 0)));
            }
        }
    }

    #[test]
    fn the_bytes_of_values_are_counted_within_lists_and_structs() {
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([
            Some(vec![Some(1), None]),
            None,
            Some(vec![Some(3)]),
        ]);
        assert_eq!(value_bytes(&list, 0, 3), 24);
        assert_eq!(value_bytes(&list, 1, 2), 8);
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "", "wide"]));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let field = |name: &str, kind| Arc::new(Field::new(name, kind, false));
        let both = StructArray::from(vec![
            (field("t", DataType::Utf8), texts),
            (field("n", DataType::Int64), numbers),
        ]);
        assert_eq!(value_bytes(&both, 0, 3), 5 + 24);
        assert_eq!(value_bytes(&both.slice(1, 2), 1, 1), 4 + 8);
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
