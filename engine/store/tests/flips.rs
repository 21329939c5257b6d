//! Whatever bit of a store flips, nothing false is read.
//!
//! `PARALOOM_FLIPS` says how many bits of each kind of file are flipped, at random places.

mod common;

use std::path::Path;

use common::{Dice, rows, setting};
use paraloom_store::{
    DigestCache, Entry, Manifest, Output, PartFile, PartRecord, Preimage, RowMap, Store,
    StoreError, row_digests,
};

/// A finished result of each shape, with everything that a store writes.
struct Sample {
    _dir: tempfile::TempDir,
    store: Store,
    entry: Entry,
    preimage: Preimage,
    part: PartFile,
    records: Vec<PartRecord>,
}

fn sample() -> Sample {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    let preimage = Preimage::default().with("stage", "sample").with("version", "1.0.0");
    let entry = store.entry(&preimage.key());
    entry.prepare(&preimage).expect("no trouble");
    let (schema, first) = rows(&["sales rose", "costs fell"]);
    let (_, second) = rows(&["profit rose"]);
    let records: Vec<_> = [&first, &second]
        .map(|rows| {
            let part = entry.write_part(&schema, rows).expect("no trouble");
            let digests = row_digests(rows).expect("they are text");
            let counts = vec![vec![1; digests.len()]];
            let map = RowMap::new(&digests, counts);
            PartRecord { input: part.digest, outputs: vec![Some(part)], rows: Some(map) }
        })
        .into();
    for record in &records {
        entry.commit_part(record).expect("no trouble");
    }
    let checkpoint = entry.begin_checkpoint().expect("no trouble");
    std::fs::write(checkpoint.join("weights"), [7; 300]).expect("it is ours");
    let artifact = entry.begin_artifact("model").expect("no trouble");
    std::fs::write(artifact.join("weights"), [8; 300]).expect("it is ours");
    let artifact = entry.commit_artifact("model", &artifact).expect("no trouble");
    let part = records[0].outputs[0].expect("a table");
    let outputs = vec![
        ("rows".to_owned(), Output::Table(vec![part])),
        ("model".to_owned(), Output::Artifact(artifact)),
    ];
    entry.commit(&Manifest { outputs, took_ms: 5 }).expect("no trouble");
    entry.commit_checkpoint(&checkpoint, 12).expect("no trouble");
    Sample { _dir: dir, store, entry, preimage, part, records }
}

/// Flips bits of a file, one at a time; `holds` says whether what is read then is nothing false.
fn flip(path: &Path, holds: impl Fn() -> bool) {
    let (flips, seed) = (setting("PARALOOM_FLIPS", 1_000), setting("PARALOOM_SEED", 0x5eed));
    let sound = std::fs::read(path).expect("it is there");
    assert!(!sound.is_empty(), "{} is empty", path.display());
    let mut dice = Dice(seed);
    for _ in 0..flips {
        let (byte, bit) = (dice.below(sound.len()), dice.below(8));
        let mut damaged = sound.clone();
        damaged[byte] ^= 1 << bit;
        std::fs::write(path, &damaged).expect("it is ours");
        assert!(holds(), "bit {bit} of byte {byte} of {}, seed {seed}", path.display());
    }
    std::fs::write(path, &sound).expect("it is ours");
}

fn is_damaged<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Damaged { .. }))
}

#[test]
fn parts() {
    let sample = sample();
    let path = sample.entry.dir().join(format!("{}.parquet", sample.part.digest));
    flip(&path, || is_damaged(sample.entry.read_part(&sample.part)));
    assert!(sample.entry.read_part(&sample.part).is_ok());
}

#[test]
fn records_of_parts() {
    let sample = sample();
    let read = || {
        let records = sample.entry.records().expect("the file is there");
        records
            .map(|record| record.map(|(_, record)| record))
            .collect::<Result<Vec<_>, _>>()
            .expect("it can be read")
    };
    assert_eq!(read(), sample.records);
    flip(&sample.entry.dir().join("parts.log"), || {
        let found = read();
        found.len() < 2 && found.iter().all(|record| sample.records.contains(record))
    });
}

#[test]
fn manifests_and_keys() {
    let sample = sample();
    let found = || sample.store.verify(|_| {}).expect("it can be read").1;
    let (files, damage) = sample.store.verify(|_| {}).expect("it can be read");
    // The key, two parts of records, the manifest, a part and a file of an artifact.
    assert!(files == 6 && damage.is_empty(), "{files} files, {damage:?}");
    let manifest = sample.entry.dir().join("manifest.json");
    flip(&manifest, || {
        sample.entry.manifest().expect("it can be read").is_none() && found().len() == 1
    });
    assert!(sample.entry.manifest().expect("it can be read").is_some());
    flip(&sample.entry.dir().join("key.json"), || {
        is_damaged(sample.entry.preimage()) && found().len() == 1
    });
    // A damaged key does not stop the work.
    std::fs::write(sample.entry.dir().join("key.json"), "{}").expect("it is ours");
    sample.entry.prepare(&sample.preimage).expect("no trouble");
    assert_eq!(sample.entry.preimage().expect("it is sound"), Some(sample.preimage));
}

#[test]
fn artifacts_and_checkpoints() {
    let sample = sample();
    let manifest = sample.entry.manifest().expect("it can be read").expect("it is there");
    let (port, Output::Artifact(artifact)) = &manifest.outputs[1] else { panic!("an artifact") };
    let path = sample.entry.artifact_dir(port, artifact).join("weights");
    flip(&path, || is_damaged(sample.entry.verify_artifact(port, artifact)));
    let checkpoint = || sample.entry.latest_checkpoint().expect("it can be read");
    let (dir, step) = checkpoint().expect("it is there");
    assert_eq!(step, 12);
    flip(&dir.join("weights"), || checkpoint().is_none());
    flip(&dir.join("checkpoint.json"), || checkpoint().is_none());
}

#[test]
fn the_version_and_the_remembered_digests() {
    let sample = sample();
    let root = sample.store.root().to_owned();
    // White space around the version means nothing.
    flip(&root.join("FORMAT"), || match Store::open(&root) {
        Ok(store) => store.is_some_and(|_| {
            let text = std::fs::read_to_string(root.join("FORMAT")).expect("it was read");
            text.trim() == paraloom_store::FORMAT
        }),
        Err(error) => matches!(error, StoreError::Format { .. }),
    });
    // A file that did not change just now.
    let outside = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let digest = |cache: &DigestCache| cache.digest(&outside).expect("it is there");
    let cache = DigestCache::load(&sample.store);
    let sound = digest(&cache);
    cache.save(&sample.store);
    flip(&root.join("digests.json"), || digest(&DigestCache::load(&sample.store)) == sound);
}
