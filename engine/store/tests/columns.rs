//! Parts that share columns with those that they were made of: the same rows as ever, whatever happens to either.

mod common;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use common::scratch;
use paraloom_store::{
    Digest, Entry, Key, Origin, PartFile, PartRecord, Preimage, Store, StoreError, Waste,
};

/// Texts that do not compress, in so many rows.
fn base(rows: usize) -> RecordBatch {
    let text = |row: usize| Digest::of(&row.to_le_bytes()).to_string();
    let texts: ArrayRef = Arc::new((0..rows).map(|row| Some(text(row))).collect::<StringArray>());
    let ids: ArrayRef =
        Arc::new((0..rows).map(|row| Some(row.to_string())).collect::<StringArray>());
    let floats = (0..rows).map(|row| match row % 3 {
        0 => Some(f64::NAN),
        1 => Some(-0.0),
        _ => None,
    });
    let floats: ArrayRef = Arc::new(floats.collect::<Float64Array>());
    let columns = [("_id", ids, false), ("text", texts, false), ("x", floats, true)];
    RecordBatch::try_from_iter_with_nullable(columns).expect("of one length")
}

/// The rows with one more column.
fn with(rows: &RecordBatch, name: &str, first: i64) -> RecordBatch {
    let numbers = (0..rows.num_rows() as i64).map(|row| first + row * row % 17);
    let numbers: ArrayRef = Arc::new(numbers.collect::<Int64Array>());
    let field = Arc::new(Field::new(name, DataType::Int64, false));
    let fields = rows.schema().fields().iter().cloned().chain([field]).collect::<Vec<_>>();
    let columns = rows.columns().iter().cloned().chain([numbers]).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("of one length")
}

struct Made {
    key: Key,
    entry: Entry,
    part: PartFile,
    rows: RecordBatch,
}

fn entry(store: &Store, name: &str) -> (Key, Entry) {
    let preimage = Preimage::default().with("is", name);
    let entry = store.entry(&preimage.key());
    entry.prepare(&preimage).expect("no trouble");
    (preimage.key(), entry)
}

fn commit(entry: &Entry, part: PartFile) {
    let record = PartRecord { input: part.digest, outputs: vec![Some(part)], rows: None };
    entry.commit_part(&record).expect("no trouble");
}

/// A result whose part was made of rows of another one's.
fn made_of(store: &Store, name: &str, from: &Made, start: usize, rows: RecordBatch) -> Made {
    let (key, entry) = entry(store, name);
    let read = from.rows.slice(start, rows.num_rows());
    let origin = Origin { key: &from.key, part: &from.part, row: start as u64, rows: &read };
    let part = entry.write_part_of(&rows.schema(), &rows, &origin).expect("no trouble");
    commit(&entry, part);
    Made { key, entry, part, rows }
}

fn made(store: &Store, name: &str, rows: RecordBatch) -> Made {
    let (key, entry) = entry(store, name);
    let part = entry.write_part(&rows.schema(), &rows).expect("no trouble");
    commit(&entry, part);
    Made { key, entry, part, rows }
}

fn files(made: &Made, extension: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(made.entry.dir()).expect("it is there").flatten();
    let mut files: Vec<_> = files.map(|file| file.path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files
}

fn bytes(path: &Path) -> u64 {
    path.metadata().expect("it is there").len()
}

fn store(dir: &tempfile::TempDir) -> Store {
    Store::create(&dir.path().join("store")).expect("no trouble")
}

/// Whether the part is there and has its rows: the same bytes, for NaN and -0.0 too.
fn is_sound(made: &Made) -> bool {
    let there = made.entry.records().expect("no trouble").count() == 1;
    let Ok(rows) = made.entry.read_part(&made.part) else { return false };
    let written = paraloom_store::write_parquet(&rows.schema(), &rows).expect("they were read");
    assert_eq!(Digest::of(&written), made.part.digest, "other rows");
    assert_eq!(rows.schema(), made.rows.schema());
    there
}

#[test]
fn a_column_costs_a_column() {
    let dir = scratch();
    let store = store(&dir);
    let first = made(&store, "first", base(3000));
    let rows = with(&first.rows, "a", 1);
    let second = made_of(&store, "second", &first, 0, rows.clone());
    // The digest is that of the whole file.
    let whole = made(&store, "whole", rows);
    assert_eq!(second.part, whole.part);
    assert_eq!((files(&second, "parquet").len(), files(&second, "columns").len()), (0, 1));
    assert!(bytes(&files(&second, "columns")[0]) < bytes(&files(&whole, "parquet")[0]) / 5);
    assert!(is_sound(&second));
    for columns in [&[][..], &[3], &[0, 2], &[1, 3], &[0, 1, 2, 3]] {
        let found = second.entry.read_part_columns(&second.part, columns).expect("no trouble");
        let wanted = whole.entry.read_part_columns(&whole.part, columns).expect("no trouble");
        assert_eq!(found.schema(), wanted.schema(), "{columns:?}");
        assert_eq!(found.num_rows(), wanted.num_rows());
    }
    let (_, damage) = store.verify(|_| {}).expect("no trouble");
    assert!(damage.is_empty(), "{damage:?}");
}

/// Through three results, of slices, with a column that changes on the way.
#[test]
fn columns_are_read_from_where_they_are() {
    let dir = scratch();
    let store = store(&dir);
    let first = made(&store, "first", base(6000));
    let second =
        made_of(&store, "second", &first, 1000, with(&first.rows.slice(1000, 4000), "a", 1));
    let third = made_of(&store, "third", &second, 500, with(&second.rows.slice(500, 3000), "b", 2));
    let changed = with(&third.rows.project(&[0, 1, 2, 4]).expect("they are there"), "a", 9);
    let fourth = made_of(&store, "fourth", &third, 0, changed);
    // Everything as it was.
    let fifth = made_of(&store, "fifth", &fourth, 0, fourth.rows.clone());
    for made in [&first, &second, &third, &fourth, &fifth] {
        assert!(is_sound(made));
    }
    for made in [&second, &third, &fourth, &fifth] {
        assert_eq!(files(made, "columns").len(), 1);
    }
    assert!(bytes(&files(&fifth, "columns")[0]) < 2000);
    // What the third shares with the first is not looked for in the second.
    let header = std::fs::read_to_string(&files(&fifth, "columns")[0]).expect("it is text");
    for (owner, shares) in [(&first, true), (&second, false), (&third, true), (&fourth, true)] {
        assert_eq!(header.contains(owner.key.as_str()), shares);
    }
}

#[test]
fn little_or_nothing_to_share_is_written_whole() {
    let dir = scratch();
    let store = store(&dir);
    let small = made(&store, "small", base(10));
    let of_small = made_of(&store, "of small", &small, 0, with(&small.rows, "a", 1));
    let large = made(&store, "large", base(3000));
    let other = base(3001).slice(1, 3000);
    let of_other = made_of(&store, "of other", &large, 0, other);
    let narrow = made(&store, "narrow", large.rows.project(&[0]).expect("it is there"));
    let of_narrow = made_of(&store, "of narrow", &narrow, 0, large.rows.clone());
    for made in [&of_small, &of_other, &of_narrow] {
        assert_eq!(files(made, "columns"), Vec::<PathBuf>::new());
        assert!(is_sound(made));
    }
}

#[test]
fn what_is_shared_is_kept_as_long_as_who_shares_it() {
    let dir = scratch();
    let store = store(&dir);
    let first = made(&store, "first", base(3000));
    let second = made_of(&store, "second", &first, 0, with(&first.rows, "a", 1));
    let third = made_of(&store, "third", &second, 0, with(&second.rows, "b", 1));
    let goes = |needed: &[&Made]| -> HashSet<Key> {
        let needed = needed.iter().map(|made| made.key.clone()).collect();
        let garbage = store.garbage(&needed).expect("no trouble").into_iter();
        let key = |waste| if let Waste::Result(key) = waste { Some(key) } else { None };
        garbage.filter_map(|garbage| key(garbage.waste)).collect()
    };
    assert_eq!(goes(&[&third]), HashSet::new());
    assert_eq!(goes(&[&second]), HashSet::from([third.key.clone()]));
    assert_eq!(goes(&[&first]), HashSet::from([second.key.clone(), third.key.clone()]));
    assert_eq!(goes(&[]).len(), 3);
}

#[test]
fn a_part_whose_columns_are_gone_is_not_there() {
    let dir = scratch();
    let store = store(&dir);
    let first = made(&store, "first", base(3000));
    let second = made_of(&store, "second", &first, 0, with(&first.rows, "a", 1));
    first.entry.discard_part(&first.part).expect("no trouble");
    assert_eq!(second.entry.records().expect("no trouble").count(), 0);
    let error = second.entry.read_part(&second.part).expect_err("it is gone");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    // Once it is made again, all is as it was.
    first.entry.write_part(&first.rows.schema(), &first.rows).expect("no trouble");
    assert!(is_sound(&second));
    std::fs::remove_dir_all(first.entry.dir()).expect("it is ours");
    assert!(!is_sound(&second));
    // It can be written without what it shared.
    let origin = Origin { key: &first.key, part: &first.part, row: 0, rows: &first.rows };
    let part = second.entry.write_part_of(&second.rows.schema(), &second.rows, &origin);
    assert_eq!(part.expect("no trouble"), second.part);
    assert!(is_sound(&second));
}

#[test]
fn damage_on_either_side_is_found_and_mended() {
    let dir = scratch();
    let store = store(&dir);
    let first = made(&store, "first", base(3000));
    let second = made_of(&store, "second", &first, 0, with(&first.rows, "a", 1));
    let third = made_of(&store, "third", &second, 0, with(&second.rows, "b", 1));
    let own = files(&third, "columns").remove(0);
    let sound = std::fs::read(&own).expect("it is there");
    let end = sound.iter().position(|byte| *byte == b'\n').expect("a header");
    let places = (0..=end).step_by(7).chain((end + 1..sound.len()).step_by(101));
    for place in places {
        let mut bytes = sound.clone();
        bytes[place] ^= 1;
        std::fs::write(&own, bytes).expect("it is ours");
        let error = third.entry.read_part(&third.part).expect_err("it is damaged");
        assert!(matches!(error, StoreError::Damaged { .. }), "byte {place}: {error}");
    }
    for length in [0, 1, end, end + 1, sound.len() - 1] {
        std::fs::write(&own, &sound[..length]).expect("it is ours");
        let error = third.entry.read_part(&third.part).expect_err("it is cut short");
        assert!(matches!(error, StoreError::Damaged { .. }), "{length} bytes: {error}");
    }
    std::fs::write(&own, &sound).expect("it is ours");
    assert!(is_sound(&third));
    // What it shares: the first, and the second's own column.
    for owner in [&files(&first, "parquet")[0], &files(&second, "columns")[0]] {
        let whole = std::fs::read(owner).expect("it is there");
        let mut bytes = whole.clone();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(owner, bytes).expect("it is ours");
        let error = third.entry.read_part(&third.part).expect_err("it is damaged");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        // Whoever reads the part has the damage removed where it is.
        third.entry.discard_part(&third.part).expect("no trouble");
        assert!(!owner.exists() && !own.exists());
        std::fs::write(owner, whole).expect("it is ours");
        std::fs::write(&own, &sound).expect("it is ours");
    }
    let (_, damage) = store.verify(|_| {}).expect("no trouble");
    assert!(damage.is_empty(), "{damage:?}");
}

#[test]
fn results_that_move_are_found() {
    let dir = scratch();
    let store = store(&dir);
    let first = made(&store, "first", base(3000));
    let second = made_of(&store, "second", &first, 0, with(&first.rows, "a", 1));
    let rewrite = |preimage: &Preimage| preimage.clone().with("version", 2);
    assert_eq!(store.rekey(7, &rewrite).expect("no trouble"), 2);
    let moved = |name: &str| store.entry(&rewrite(&Preimage::default().with("is", name)).key());
    let second = Made { entry: moved("second"), ..second };
    assert!(is_sound(&second));
}
