//! Work against a store, small and with everything that a store writes.

#![allow(dead_code, clippy::allow_attributes, reason = "each test uses some of this")]

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use paraloom_store::{
    Digest, Entry, Manifest, Output, PartFile, PartRecord, Preimage, Result, RowMap, Store,
    StoreError, row_digests, write_parquet,
};

/// A generator of the tests' own: the seed is printed when a test fails.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// A number that the environment sets.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A directory in memory where there is one: these tests sync thousands of times.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let builder = tempfile::Builder::new();
    let dir = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
    dir.expect("a temporary directory")
}

/// Rows of one text column.
pub(crate) fn rows(texts: &[&str]) -> (SchemaRef, RecordBatch) {
    let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, false)]));
    let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    let rows = RecordBatch::try_new(Arc::clone(&schema), vec![column]).expect("they fit");
    (schema, rows)
}

/// The rows of the parts of the map stage.
pub(crate) const PARTS: [&[&str]; 3] =
    [&["sales rose", "costs fell"], &["profit rose"], &["demand fell"]];

/// The steps at which training makes a checkpoint.
pub(crate) const STEPS: [u64; 2] = [10, 20];

/// What the work has been told is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// The record of a part of the map stage.
    Record(usize),
    /// A checkpoint of the whole stage.
    Checkpoint(u64),
    /// The result of the whole stage.
    Manifest,
}

/// Somebody who writes what a stage writes, and hears what is safe.
pub(crate) trait Hand {
    /// A stage writes a file, of which the store knows nothing yet.
    fn write(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(path, bytes)
    }

    /// Something was committed.
    fn promised(&self, _: Promise) {}
}

/// A hand that does no more than write.
pub(crate) struct Plain;

impl Hand for Plain {}

pub(crate) fn map_preimage() -> Preimage {
    Preimage::default().with("stage", "score").with("version", "1.0.0")
}

pub(crate) fn whole_preimage() -> Preimage {
    Preimage::default().with("stage", "train").with("seed", 7)
}

pub(crate) fn map_entry(store: &Store) -> Entry {
    store.entry(&map_preimage().key())
}

pub(crate) fn whole_entry(store: &Store) -> Entry {
    store.entry(&whole_preimage().key())
}

/// Does what is left of a map stage and of a stage that trains, as the engine does.
pub(crate) fn work(store: &Store, hand: &dyn Hand) -> Result<()> {
    map(&map_entry(store), hand)?;
    whole(&whole_entry(store), hand)?;
    store.write_note("hub.json", &["a note"])
}

fn map(entry: &Entry, hand: &dyn Hand) -> Result<()> {
    entry.prepare(&map_preimage())?;
    for (number, texts) in PARTS.iter().enumerate() {
        if records(entry)?.iter().any(|record| is_of(number, record)) {
            continue;
        }
        entry.commit_part(&record(entry, texts)?)?;
        hand.promised(Promise::Record(number));
    }
    Ok(())
}

/// Writes a part; returns the record that commits it.
fn record(entry: &Entry, texts: &[&str]) -> Result<PartRecord> {
    let (schema, rows) = rows(texts);
    let part = entry.write_part(&schema, &rows)?;
    let digests = row_digests(&rows).expect("they are text");
    let counts = vec![vec![1; digests.len()]];
    let map = RowMap::new(&digests, counts);
    Ok(PartRecord { input: part.digest, outputs: vec![Some(part)], rows: Some(map) })
}

/// Whether a record is of this part of the map stage.
pub(crate) fn is_of(number: usize, record: &PartRecord) -> bool {
    let (schema, rows) = rows(PARTS[number]);
    let bytes = write_parquet(&schema, &rows).expect("no trouble");
    record.outputs[0].as_ref().is_some_and(|part| part.digest == Digest::of(&bytes))
}

/// The records that are there.
pub(crate) fn records(entry: &Entry) -> Result<Vec<PartRecord>> {
    entry.records()?.map(|record| Ok(record?.1)).collect()
}

/// Bytes over several sectors, different for each name and step.
pub(crate) fn weights(name: &str, step: u64) -> Vec<u8> {
    format!("{name} at step {step:06}, ").repeat(60).into_bytes()
}

fn whole(entry: &Entry, hand: &dyn Hand) -> Result<()> {
    entry.prepare(&whole_preimage())?;
    if entry.manifest()?.is_some() {
        return Ok(());
    }
    let done = entry.latest_checkpoint()?.map_or(0, |(_, step)| step);
    for step in STEPS.into_iter().filter(|step| *step > done) {
        let dir = entry.begin_checkpoint()?;
        fill(hand, &dir, step)?;
        entry.commit_checkpoint(&dir, step)?;
        hand.promised(Promise::Checkpoint(step));
    }
    let dir = entry.begin_artifact("model")?;
    fill(hand, &dir, 30)?;
    let artifact = entry.commit_artifact("model", &dir)?;
    let (schema, rows) = rows(&["loss 0.5", "loss 0.25"]);
    let part = entry.write_part(&schema, &rows)?;
    let outputs = vec![
        ("metrics".to_owned(), Output::Table(vec![part])),
        ("model".to_owned(), Output::Artifact(artifact)),
    ];
    entry.commit(&Manifest { outputs, took_ms: 5 })?;
    hand.promised(Promise::Manifest);
    Ok(())
}

fn fill(hand: &dyn Hand, dir: &Path, step: u64) -> Result<()> {
    for name in ["weights", "optimizer/state"] {
        let path = dir.join(name);
        if let Err(source) = hand.write(&path, &weights(name, step)) {
            return Err(StoreError::Io { action: "write", path, source });
        }
    }
    Ok(())
}

/// Everything that a store says is complete.
#[derive(Debug, PartialEq)]
pub(crate) struct Results {
    pub(crate) records: Vec<PartRecord>,
    pub(crate) manifest: Option<Manifest>,
}

/// What a store says is complete, after every byte of it was read.
pub(crate) fn results(store: &Store) -> Result<Results> {
    let (map, whole) = (map_entry(store), whole_entry(store));
    let mut records = records(&map)?;
    for part in records.iter().flat_map(|record| record.outputs.iter().flatten()) {
        map.read_part(part)?;
    }
    // Two processes may both commit a part.
    let all = std::mem::take(&mut records);
    for record in all {
        if !records.contains(&record) {
            records.push(record);
        }
    }
    // In the order of the parts.
    records.sort_by_key(|record| {
        record.outputs.iter().flatten().map(|part| part.digest).collect::<Vec<_>>()
    });
    let manifest = whole.manifest()?;
    for (port, output) in manifest.iter().flat_map(|manifest| &manifest.outputs) {
        match output {
            Output::Table(parts) => {
                parts.iter().try_for_each(|part| whole.read_part(part).map(drop))?;
            }
            Output::Artifact(artifact) => whole.verify_artifact(port, artifact)?,
        }
    }
    Ok(Results { records, manifest })
}

/// What work without any trouble gives.
pub(crate) fn expected() -> Results {
    let dir = scratch();
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    work(&store, &Plain).expect("no trouble");
    results(&store).expect("no trouble")
}

/// The first part of the map stage.
pub(crate) fn first_part(results: &Results) -> PartFile {
    results.records[0].outputs[0].expect("a table")
}

/// The texts of a part of the map stage.
pub(crate) fn texts(entry: &Entry, record: &PartRecord) -> Vec<String> {
    let part = record.outputs[0].as_ref().expect("a table");
    let rows = entry.read_part(part).expect("it is sound");
    let column = rows.column(0).as_any().downcast_ref::<StringArray>().expect("text");
    column.iter().map(|text| text.expect("not null").to_owned()).collect()
}

/// Copies a directory.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("it is ours");
    for item in std::fs::read_dir(from).expect("it is there") {
        let item = item.expect("it can be read");
        let to = to.join(item.file_name());
        if item.path().is_dir() {
            copy(&item.path(), &to);
        } else {
            std::fs::copy(item.path(), to).expect("it is ours");
        }
    }
}

/// The files below a directory, sorted.
pub(crate) fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let (mut files, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for item in std::fs::read_dir(dir).expect("it is there") {
            let path = item.expect("it can be read").path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

/// A third result: training that is not finished.
pub(crate) fn half_preimage() -> Preimage {
    Preimage::default().with("stage", "train").with("seed", 8)
}

pub(crate) fn half_done(store: &Store) -> Result<()> {
    let entry = store.entry(&half_preimage().key());
    entry.prepare(&half_preimage())?;
    let dir = entry.begin_checkpoint()?;
    fill(&Plain, &dir, STEPS[0])?;
    entry.commit_checkpoint(&dir, STEPS[0])
}
