//! Whatever becomes of a file of a store, nothing false is read, nothing outside is touched, and the work goes on to the
//! same bytes.

mod common;

use std::collections::HashSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{
    PARTS, Plain, Results, copy, expected, files, first_part, half_done, half_preimage, map_entry,
    results, scratch, texts, weights, whole_entry, work,
};
use paraloom_store::{Digest, Manifest, Output, Store, StoreError};
use serde_json::{Value, json};

/// A store with everything in it, to be copied and damaged.
fn sound(root: &Path) -> Store {
    let store = Store::create(root).expect("no trouble");
    work(&store, &Plain).expect("no trouble");
    half_done(&store).expect("no trouble");
    store
}

/// Reads a damaged store, mends it and finishes it. What it says before is true or an error that says what is damaged.
fn survives(root: &Path, expected: &Results, case: &str) {
    let store = match Store::create(root) {
        Err(StoreError::Format { .. } | StoreError::Damaged { .. }) => {
            return assert!(case.contains("FORMAT"), "{case}");
        }
        other => other.unwrap_or_else(|error| panic!("{case}: {error}")),
    };
    match results(&store) {
        Ok(found) => {
            let is_true = |record| expected.records.contains(record);
            assert!(found.records.iter().all(is_true), "{case}");
            assert!(found.manifest.is_none() || found.manifest == expected.manifest, "{case}");
        }
        Err(StoreError::Damaged { .. }) => {}
        Err(error) => panic!("{case}: {error}"),
    }
    let half = store.entry(&half_preimage().key());
    if let Some((dir, step)) = half.latest_checkpoint().expect("it can be read") {
        assert_eq!(
            std::fs::read(dir.join("weights")).expect("it is whole"),
            weights("weights", step)
        );
    }
    let _: Option<Value> = store.read_note("hub.json").expect("damage is as good as none");
    store.verify(|_| {}).unwrap_or_else(|error| panic!("{case}: {error}"));
    work(&store, &Plain).unwrap_or_else(|error| panic!("{case}: {error}"));
    let found = results(&store).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(&found, expected, "{case}");
}

/// The files of a store that hold anything, relative to it.
fn kept_files(root: &Path) -> Vec<PathBuf> {
    let files = files(root).into_iter().filter(|path| !path.ends_with("lock"));
    files.map(|path| path.strip_prefix(root).expect("it is inside").to_owned()).collect()
}

#[test]
fn cut_short_longer_zeroed_or_gone() {
    let dir = scratch();
    let (sound_root, root) = (dir.path().join("sound"), dir.path().join("store"));
    sound(&sound_root);
    let expected = expected();
    let step = common::setting("PARALOOM_CUT_STEP", 13) as usize;
    for file in kept_files(&sound_root) {
        let bytes = std::fs::read(sound_root.join(&file)).expect("it is there");
        let mut damaged: Vec<_> = (0..bytes.len())
            .step_by(step)
            .map(|length| (format!("cut to {length}"), Some(bytes[..length].to_vec())))
            .collect();
        damaged.push(("one byte longer".to_owned(), Some([&bytes[..], b"x"].concat())));
        let mut zeroed = bytes.clone();
        zeroed.iter_mut().take(4096).for_each(|byte| *byte = 0);
        damaged.push(("zeroed".to_owned(), Some(zeroed)));
        damaged.push(("gone".to_owned(), None));
        for (how, bytes) in damaged {
            copy(&sound_root, &root);
            match bytes {
                Some(bytes) => std::fs::write(root.join(&file), bytes),
                None => std::fs::remove_file(root.join(&file)),
            }
            .expect("it is ours");
            survives(&root, &expected, &format!("{} {how}", file.display()));
            std::fs::remove_dir_all(&root).expect("it is ours");
        }
    }
}

#[test]
fn in_the_place_of_each_other() {
    let dir = scratch();
    let (sound_root, root) = (dir.path().join("sound"), dir.path().join("store"));
    sound(&sound_root);
    let expected = expected();
    let files = kept_files(&sound_root);
    for one in &files {
        for other in files.iter().filter(|other| *other != one) {
            copy(&sound_root, &root);
            std::fs::copy(sound_root.join(one), root.join(other)).expect("it is ours");
            std::fs::copy(sound_root.join(other), root.join(one)).expect("it is ours");
            survives(&root, &expected, &format!("{} and {}", one.display(), other.display()));
            std::fs::remove_dir_all(&root).expect("it is ours");
        }
    }
}

#[test]
fn an_older_version_of_itself() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let expected = expected();
    let log = map_entry(&store).dir().join("parts.log");
    let text = std::fs::read_to_string(&log).expect("it is there");
    for lines in 0..PARTS.len() {
        let older: String = text.split_inclusive('\n').take(lines).collect();
        std::fs::write(&log, older).expect("it is ours");
        assert_eq!(results(&store).expect("it is sound").records.len(), lines);
        survives(store.root(), &expected, &format!("the log of {lines} parts"));
    }
    // The listing of an older checkpoint does not fit a newer one.
    let half = store.entry(&half_preimage().key());
    let (first, _) = half.latest_checkpoint().expect("it can be read").expect("it is there");
    let listing = std::fs::read(first.join("checkpoint.json")).expect("it is there");
    let next = half.begin_checkpoint().expect("no trouble");
    std::fs::write(next.join("weights"), weights("weights", 20)).expect("it is ours");
    half.commit_checkpoint(&next, 20).expect("no trouble");
    let (second, step) = half.latest_checkpoint().expect("it can be read").expect("it is there");
    assert_eq!(step, 20);
    assert!(!first.exists(), "the older one is gone");
    std::fs::write(second.join("checkpoint.json"), listing).expect("it is ours");
    assert_eq!(half.latest_checkpoint().expect("it can be read"), None);
}

#[test]
fn the_key_of_another_result_is_not_believed() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let (map, whole) = (map_entry(&store), whole_entry(&store));
    std::fs::copy(map.dir().join("key.json"), whole.dir().join("key.json")).expect("it is ours");
    let error = whole.preimage().expect_err("it is not its own");
    assert!(error.to_string().ends_with("is damaged: it is the key of another result"), "{error}");
}

/// Changes a byte in the middle of a file.
fn corrupt(path: &Path) {
    let mut bytes = std::fs::read(path).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).expect("it is ours");
}

fn damaged_files(store: &Store) -> Vec<PathBuf> {
    let (_, damage) = store.verify(|_| {}).expect("it can be read");
    let path = |error| match error {
        StoreError::Damaged { path, .. } => path,
        error => panic!("{error}"),
    };
    let mut paths: Vec<_> = damage.into_iter().map(|damage| path(damage.error)).collect();
    paths.sort();
    paths
}

/// Nobody may need the result any more, so that no run ever makes again what is damaged.
#[test]
fn damage_is_told_once_and_found_again() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let expected = expected();
    let (map, whole) = (map_entry(&store), whole_entry(&store));
    let part = |number: usize| {
        let part = expected.records[number].outputs[0].expect("a table");
        map.dir().join(format!("{}.parquet", part.digest))
    };
    for number in [0, 1] {
        let mut damaged = [
            part(number),
            part(number + 1),
            map.dir().join("key.json"),
            whole.dir().join("key.json"),
            whole.dir().join("manifest.json"),
        ];
        damaged.iter().for_each(|path| corrupt(path));
        std::fs::remove_file(part(number + 1)).expect("it is ours");
        damaged.sort();
        assert_eq!(damaged_files(&store), damaged);
        assert!(damaged_files(&store).is_empty(), "it was told");
        let left = [&expected.records[..number], &expected.records[number + 2..]].concat();
        assert_eq!(results(&store).expect("it is sound").records, left);
        work(&store, &Plain).expect("no trouble");
        assert_eq!(results(&store).expect("it is sound"), expected);
        assert!(damaged_files(&store).is_empty());
    }
}

/// A run that was killed after it had made the part again, and before it could say so.
#[test]
fn a_part_that_was_given_up_is_looked_at_where_it_is_there_again() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let map = map_entry(&store);
    let part = first_part(&expected());
    let path = map.dir().join(format!("{}.parquet", part.digest));
    let rows = map.read_part(&part).expect("it is sound");
    corrupt(&path);
    assert_eq!(damaged_files(&store), std::slice::from_ref(&path));
    assert_eq!(map.write_part(&rows.schema(), &rows).expect("no trouble"), part);
    assert!(damaged_files(&store).is_empty());
    corrupt(&path);
    // Whoever writes it meets the damage first.
    assert_eq!(map.write_part(&rows.schema(), &rows).expect("no trouble"), part);
    assert_eq!(map.read_part(&part).expect("it is sound"), rows);
    corrupt(&path);
    assert_eq!(damaged_files(&store), [path]);
}

#[test]
fn a_part_has_the_rows_and_columns_that_are_said_of_it() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let map = map_entry(&store);
    let part = first_part(&expected());
    let more = paraloom_store::PartFile { rows: part.rows + 1, ..part };
    let error = map.read_part(&more).expect_err("there are fewer").to_string();
    assert!(error.ends_with(&format!("{} rows instead of {}", part.rows, more.rows)), "{error}");
    let rows = map.read_part(&part).expect("it is sound");
    let none = Arc::new(arrow::datatypes::Schema::empty());
    let error = map.write_part(&none, &rows).expect_err("there are more columns");
    assert!(matches!(error, StoreError::Rows { action: "write", .. }), "{error}");
}

#[test]
fn what_parquet_has_no_type_for_is_an_error() {
    use arrow::datatypes::{DataType, Field, Fields, Schema, UnionFields, UnionMode};
    let dir = scratch();
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    for (of, reason) in [
        (DataType::Struct(Fields::empty()), "empty structs"),
        (DataType::Union(UnionFields::empty(), UnionMode::Sparse), "the Parquet writer panicked"),
    ] {
        let schema = Arc::new(Schema::new(vec![Field::new("text", of, false)]));
        let rows = arrow::array::RecordBatch::new_empty(Arc::clone(&schema));
        let error = map_entry(&store).write_part(&schema, &rows).expect_err("it is not written");
        let said = error.to_string();
        assert!(said.starts_with("cannot write rows: ") && said.contains(reason), "{said}");
    }
}

#[test]
fn a_record_is_found_at_its_place() {
    let dir = scratch();
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    let map = map_entry(&store);
    assert_eq!(map.log_length(), 0);
    work(&store, &Plain).expect("no trouble");
    let log = map.dir().join("parts.log");
    let length = |path: &Path| std::fs::metadata(path).expect("it is there").len();
    assert_eq!(map.log_length(), length(&log));
    // A line that a kill has torn, and one more after it.
    let text = std::fs::read_to_string(&log).expect("it is there");
    let torn = &text[..text.len() / 2];
    std::fs::write(&log, format!("{torn}\n{text}")).expect("it is ours");
    let all: Vec<_> = map.records().expect("no trouble").map(|item| item.expect("sound")).collect();
    assert_eq!(all.len(), torn.lines().count() - 1 + PARTS.len());
    for (place, record) in all {
        assert_eq!(map.record(place).expect("it is there"), record);
        let error = map.record(place + 1).expect_err("nothing starts there");
        assert!(error.to_string().ends_with("a record has changed"), "{error}");
    }
}

/// Length is looked at before anything is read.
#[test]
fn a_result_whose_files_are_gone_or_cut_is_not_complete() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let entry = whole_entry(&store);
    let manifest = entry.manifest().expect("it can be read").expect("it is complete");
    let [(_, Output::Table(parts)), (port, Output::Artifact(artifact))] = &manifest.outputs[..]
    else {
        panic!("a table and an artifact")
    };
    let lengths = ["weights", "optimizer/state"].map(|name| weights(name, 30).len() as u64);
    assert_eq!(artifact.bytes(), lengths.iter().sum::<u64>());
    let part = entry.dir().join(format!("{}.parquet", parts[0].digest));
    let file = entry.artifact_dir(port, artifact).join("weights");
    for path in [part, file] {
        let bytes = std::fs::read(&path).expect("it is there");
        std::fs::write(&path, &bytes[1..]).expect("it is ours");
        assert!(entry.manifest().expect("it can be read").is_none());
        std::fs::remove_file(&path).expect("it is ours");
        assert!(entry.manifest().expect("it can be read").is_none());
        std::fs::write(&path, bytes).expect("it is ours");
        assert!(entry.manifest().expect("it can be read").is_some());
    }
}

/// It may be the best that there is of hours of work.
#[test]
fn a_checkpoint_that_cannot_be_read_just_now_is_an_error() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let half = store.entry(&half_preimage().key());
    let (checkpoint, _) = half.latest_checkpoint().expect("it can be read").expect("it is there");
    for name in ["weights", "checkpoint.json"] {
        let path = checkpoint.join(name);
        std::fs::rename(&path, dir.path().join(name)).expect("it is ours");
        assert_eq!(half.latest_checkpoint().expect("it is not whole"), None, "{name}");
        // Stands for a lack of rights, which root does not know.
        symlink(&path, &path).expect("it is ours");
        half.latest_checkpoint().expect_err("it cannot be read");
        std::fs::remove_file(&path).expect("it is ours");
        std::fs::rename(dir.path().join(name), &path).expect("it is ours");
    }
    // The last of all names, but none that a checkpoint has.
    for name in ["step-one-too-many", "the-last"] {
        std::fs::create_dir(checkpoint.with_file_name(name)).expect("it is ours");
    }
    let found = half.latest_checkpoint().expect("it can be read");
    assert_eq!(found.map(|(dir, _)| dir), Some(checkpoint));
}

/// It may just make the part again, and then its record counts.
#[test]
fn damage_is_told_again_while_somebody_computes_the_result() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let map = map_entry(&store);
    let part = first_part(&expected());
    let path = map.dir().join(format!("{}.parquet", part.digest));
    corrupt(&path);
    let lock = map.lock().expect("nobody else");
    for _ in 0..2 {
        assert_eq!(damaged_files(&store), std::slice::from_ref(&path));
        assert!(!path.exists(), "it is not read any more");
    }
    drop(lock);
    assert_eq!(damaged_files(&store), [path]);
    assert!(damaged_files(&store).is_empty());
}

/// Seals what somebody has written by hand.
fn seal(path: &Path, value: &impl serde::Serialize) {
    let json = serde_json::to_string(value).expect("plain data");
    std::fs::write(path, format!("{json}\n{}\n", Digest::of(json.as_bytes()))).expect("it is ours");
}

fn listed(files: &[(&str, &[u8])]) -> Value {
    let line = |(path, bytes): &(&str, &[u8])| format!("{} {path}\n", Digest::of(bytes));
    let listing = files.iter().map(line).collect::<Vec<_>>().concat();
    let files: Vec<_> = files
        .iter()
        .map(|(path, bytes)| json!({"path": path, "digest": Digest::of(bytes), "bytes": bytes.len()}))
        .collect();
    json!({"digest": Digest::of(listing.as_bytes()), "files": files})
}

#[test]
fn a_manifest_that_leads_outside_is_refused() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let entry = whole_entry(&store);
    let victim = dir.path().join("victim.parquet");
    std::fs::write(&victim, "mine").expect("it is ours");
    let path = entry.dir().join("manifest.json");
    let sound_bytes = std::fs::read(&path).expect("it is there");
    let absolute = dir.path().join("victim");
    let absolute = absolute.to_str().expect("text");
    let table =
        |digest: &str| json!(["metrics", {"table": [{"digest": digest, "bytes": 4, "rows": 1}]}]);
    let artifact = |port: &str, file: &str| json!([port, {"artifact": listed(&[(file, b"mine")])}]);
    let outputs = [
        table("../../../../victim"),
        table(absolute),
        table(""),
        table(&"A".repeat(64)),
        table(&"/".repeat(64)),
        artifact("model", "../../../../../victim.parquet"),
        artifact("model", &format!("{absolute}.parquet")),
        artifact("model", ""),
        artifact("../model", "weights"),
        artifact("/model", "weights"),
        artifact("", "weights"),
        artifact(".", "weights"),
    ];
    for output in outputs {
        seal(&path, &json!({"outputs": [output], "took_ms": 5}));
        assert!(entry.manifest().expect("it can be read").is_none(), "{output}");
        let (_, damage) = store.verify(|_| {}).expect("it can be read");
        let message = damage.first().map(|damage| damage.error.to_string()).unwrap_or_default();
        let reason = if output[1].get("table").is_some() {
            "a digest has 64 hexadecimal digits"
        } else {
            "cannot be true"
        };
        assert!(message.contains(reason), "{output}: {message}");
        assert!(!path.exists() && victim.exists(), "{output}");
    }
    // The same by hand, and true.
    let manifest: Manifest =
        serde_json::from_slice(sound_bytes.split(|byte| *byte == b'\n').next().expect("a line"))
            .expect("it is sound");
    seal(&path, &manifest);
    assert_eq!(entry.manifest().expect("it can be read"), Some(manifest));
}

#[test]
fn a_record_or_a_listing_that_leads_outside_is_passed_over() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let entry = map_entry(&store);
    let victim = dir.path().join("victim.parquet");
    std::fs::write(&victim, "mine").expect("it is ours");
    let part = json!({"digest": "../../../../victim", "bytes": 4, "rows": 1});
    let record = json!({"input": Digest::of(b""), "outputs": [part]}).to_string();
    let line = format!("{record}\t{}\n", Digest::of(record.as_bytes()).short());
    std::fs::write(entry.dir().join("parts.log"), line).expect("it is ours");
    assert!(common::records(&entry).expect("it can be read").is_empty());
    let half = store.entry(&half_preimage().key());
    let (checkpoint, _) = half.latest_checkpoint().expect("it can be read").expect("it is there");
    let out = "../../../../../../victim.parquet";
    assert!(checkpoint.join(out).exists());
    seal(&checkpoint.join("checkpoint.json"), &listed(&[(out, b"mine")]));
    assert_eq!(half.latest_checkpoint().expect("it can be read"), None);
    store.verify(|_| {}).expect("it can be read");
    assert!(victim.exists());
}

#[test]
fn links_are_not_followed_out_of_the_store() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let outside = dir.path().join("outside");
    copy(whole_entry(&store).dir(), &outside);
    let count = files(&outside).len();
    // A file of an artifact.
    let entry = whole_entry(&store);
    let manifest = entry.manifest().expect("it can be read").expect("it is there");
    let (port, Output::Artifact(artifact)) = &manifest.outputs[1] else { panic!("an artifact") };
    let weights = entry.artifact_dir(port, artifact).join("weights");
    std::fs::rename(&weights, dir.path().join("moved")).expect("it is ours");
    symlink(dir.path().join("moved"), &weights).expect("it is ours");
    assert!(matches!(entry.verify_artifact(port, artifact), Err(StoreError::Damaged { .. })));
    // A whole result.
    std::fs::remove_dir_all(entry.dir()).expect("it is ours");
    symlink(&outside, entry.dir()).expect("it is ours");
    let garbage = store.garbage(&HashSet::new()).expect("it can be read");
    let alone = store.lock_exclusive().expect("nobody else");
    store.remove(&garbage, &alone).expect("no trouble");
    assert!(!entry.dir().exists());
    assert_eq!(files(&outside).len(), count, "what the link leads to is as it was");
}

#[test]
fn an_artifact_that_no_record_can_name_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let entry = whole_entry(&store);
    let refused = |make: &dyn Fn(&Path)| {
        let from = entry.begin_artifact("model").expect("no trouble");
        make(&from);
        let error = entry.commit_artifact("model", &from).expect_err("it cannot be kept");
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
        entry.discard(&from).expect("no trouble");
        assert!(!from.exists());
        error.to_string()
    };
    let link = refused(&|dir| symlink("/", dir.join("everything")).expect("it is ours"));
    assert!(link.ends_with("everything: it is neither a file nor a directory"), "{link}");
    for name in [&b"caf\xe9"[..], b"two\nlines"] {
        let path = Path::new(std::ffi::OsStr::from_bytes(name));
        let message = refused(&|dir| std::fs::write(dir.join(path), "").expect("it is ours"));
        assert!(message.ends_with("its name is not one line of UTF-8"), "{message}");
    }
    // What is not the store's is not discarded.
    entry.discard(dir.path()).expect("no trouble");
    assert!(dir.path().exists());
}

#[test]
fn a_file_too_many_in_an_artifact_is_damage() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let entry = whole_entry(&store);
    let manifest = entry.manifest().expect("it can be read").expect("it is there");
    let (port, Output::Artifact(artifact)) = &manifest.outputs[1] else { panic!("an artifact") };
    entry.verify_artifact(port, artifact).expect("it is sound");
    let extra = entry.artifact_dir(port, artifact).join("optimizer").join("more");
    std::fs::write(extra, "").expect("it is ours");
    let error = entry.verify_artifact(port, artifact).expect_err("one too many");
    assert!(error.to_string().ends_with("more is damaged: no record names it"), "{error}");
}

#[test]
fn results_without_a_format_are_refused() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    std::fs::remove_file(store.root().join("FORMAT")).expect("it is ours");
    let error = Store::create(store.root()).expect_err("of which version?");
    assert!(error.to_string().contains("put the line `paraloom store 1` there"), "{error}");
    assert!(Store::open(store.root()).expect("no trouble").is_none());
}

/// `gc` would remove it, or the store would write over it.
#[test]
fn a_directory_of_others_becomes_no_store() {
    for (name, content) in [
        ("tmp/mine", "x"),
        ("tmp/file-of-mine", "x"),
        ("runs/mine/log", "x"),
        ("lock", "x"),
        ("keys.json", "{}"),
        ("digests.json", "{}"),
        ("pins/mine", "x"),
    ] {
        let dir = scratch();
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("it is ours");
        std::fs::write(&path, content).expect("it is ours");
        let error = Store::create(dir.path()).expect_err(name).to_string();
        assert!(error.contains(" is no store, and has `"), "{name}: {error}");
        assert_eq!(std::fs::read_to_string(&path).expect("it stays"), content);
        assert!(!dir.path().join("FORMAT").exists());
    }
    // What is beside all of that, and what a killed process has left of a store that it began.
    let dir = scratch();
    for folder in ["results", "runs", "tmp", "mine"] {
        std::fs::create_dir_all(dir.path().join(folder)).expect("it is ours");
    }
    std::fs::write(dir.path().join("tmp/file-4711-1b2c3d-0"), "parlo").expect("it is ours");
    std::fs::write(dir.path().join("mine/file"), "x").expect("it is ours");
    Store::create(dir.path()).expect("it was begun");
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    std::fs::write(store.root().join("FORMAT"), "paraloom store 2\n").expect("it is ours");
    for outcome in [Store::create(store.root()).map(Some), Store::open(store.root())] {
        let message = outcome.expect_err("it is newer").to_string();
        let end = "FORMAT says `paraloom store 2`; this engine reads `paraloom store 1`";
        assert!(message.ends_with(end), "{message}");
    }
}

/// A store that an earlier release wrote: every release must read it. `PARALOOM_GOLDEN=write` makes it anew, which is
/// right only while no release has written this format.
#[test]
fn a_store_of_format_1_is_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store-1");
    if std::env::var("PARALOOM_GOLDEN").is_ok_and(|what| what == "write") {
        let _ = std::fs::remove_dir_all(&golden);
        sound(&golden);
    }
    let dir = scratch();
    copy(&golden, &dir.path().join("store"));
    let store = Store::open(&dir.path().join("store")).expect("it is sound").expect("it is there");
    let map = map_entry(&store);
    let records = common::records(&map).expect("it can be read");
    let found: Vec<_> = records.iter().map(|record| texts(&map, record)).collect();
    assert_eq!(found, PARTS);
    assert!(records.iter().all(|record| record.rows.is_some()));
    let manifest = whole_entry(&store).manifest().expect("it can be read").expect("it is complete");
    assert_eq!(manifest.took_ms, 5);
    let (port, Output::Artifact(artifact)) = &manifest.outputs[1] else { panic!("an artifact") };
    let model = whole_entry(&store).artifact_dir(port, artifact);
    assert_eq!(std::fs::read(model.join("weights")).expect("it is there"), weights("weights", 30));
    let half = store.entry(&half_preimage().key());
    let (_, step) = half.latest_checkpoint().expect("it can be read").expect("it is there");
    assert_eq!(step, 10);
    assert_eq!(half.preimage().expect("it is sound"), Some(half_preimage()));
    let (files, damage) = store.verify(|_| {}).expect("it can be read");
    assert!(damage.is_empty() && files == 10, "{files} files, {damage:?}");
}
