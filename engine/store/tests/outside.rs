//! Files that are not the store's, or that it cannot read just now.

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use common::{Plain, first_part, map_entry, map_preimage, records, results, scratch, work};
use paraloom_store::{Digest, DigestCache, Operation, Store, StoreError, Watch, is_unwritable};

#[test]
fn a_link_back_to_its_own_directory_is_an_error() {
    let dir = scratch();
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    let input = dir.path().join("input");
    std::fs::create_dir_all(input.join("below")).expect("it is ours");
    std::fs::write(input.join("below/file"), "text").expect("it is ours");
    let digest = || DigestCache::load(&store).digest(&input);
    let plain = digest().expect("it is there");
    // Twice the same directory is no loop.
    symlink(input.join("below"), input.join("again")).expect("it is ours");
    assert_ne!(digest().expect("it is there"), plain);
    for name in ["one", "two"] {
        symlink(&input, input.join("below").join(name)).expect("it is ours");
    }
    let error = digest().expect_err("it never ends").to_string();
    assert!(error.ends_with("a link leads back to a directory that it is in"), "{error}");
}

#[test]
fn names_that_are_not_text_are_told_apart_and_not_remembered() {
    let dir = scratch();
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    // A file that did not change just now.
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let name = |name: &'static [u8]| OsStr::from_bytes(name);
    let inputs = [name(b"caf\xe8"), name(b"caf\xe9")].map(|name| {
        let input = dir.path().join("input-").join(name);
        std::fs::create_dir_all(&input).expect("it is ours");
        symlink(&old, input.join(name)).expect("it is ours");
        input
    });
    let cache = DigestCache::load(&store);
    let digests = inputs.map(|input| cache.digest(&input).expect("it is there"));
    assert_ne!(digests[0], digests[1]);
    cache.save(&store);
    assert_eq!(remembered(&store), Some(serde_json::json!({})));
}

/// Two files that did not change just now, of different content.
const OLD: [&str; 2] = ["Cargo.toml", "src/lib.rs"];

fn link_to_old(which: usize, link: &Path) {
    let _ = std::fs::remove_file(link);
    symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join(OLD[which]), link).expect("it is ours");
}

/// The note of remembered digests.
fn remembered(store: &Store) -> Option<serde_json::Value> {
    store.read_note("digests.json").expect("no trouble")
}

#[test]
fn a_digest_is_remembered_while_the_file_stays_as_it_was() {
    let dir = scratch();
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    let (link, fresh) = (dir.path().join("link"), dir.path().join("fresh"));
    link_to_old(0, &link);
    std::fs::write(&fresh, "just written").expect("it is ours");
    let cache = DigestCache::load(&store);
    let sound = cache.digest(&link).expect("it is there");
    cache.digest(&fresh).expect("it is there");
    cache.save(&store);
    let mut note = remembered(&store).expect("it was saved");
    let names: Vec<_> = note.as_object().expect("a map").keys().cloned().collect();
    assert_eq!(names, [link.to_str().expect("text")], "what is fresh may still change");
    // Another digest shows that it is this one that is used.
    let other = Digest::of(b"another");
    note[&names[0]]["digest"] = serde_json::to_value(other).expect("plain data");
    store.write_note("digests.json", &note).expect("no trouble");
    assert_eq!(DigestCache::load(&store).digest(&link).expect("it is there"), other);
    // Another file at the same place.
    link_to_old(1, &link);
    let cache = DigestCache::load(&store);
    let changed = cache.digest(&link).expect("it is there");
    assert_eq!(changed, Digest::of(&std::fs::read(&link).expect("it is there")));
    assert!(changed != other && changed != sound);
    // What is no more is not remembered.
    std::fs::remove_file(&link).expect("it is ours");
    cache.save(&store);
    assert_eq!(remembered(&store), Some(serde_json::json!({})));
}

/// Each stands for a lack of rights, which root does not know.
#[test]
fn what_cannot_be_read_just_now_is_not_made_again() {
    let dir = scratch();
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    work(&store, &Plain).expect("no trouble");
    let map = map_entry(&store);
    let [key, log] = ["key.json", "parts.log"].map(|name| map.dir().join(name));
    for path in [&key, &log] {
        std::fs::remove_file(path).expect("it is ours");
    }
    symlink(&key, &key).expect("it is ours");
    let error = map.prepare(&map_preimage()).expect_err("it leads nowhere");
    assert!(matches!(error, StoreError::Io { action: "read", .. }), "{error}");
    assert!(key.is_symlink(), "it stays as it was");
    // A directory can be opened like a file, and then not be read like one.
    std::fs::create_dir(&log).expect("it is ours");
    let error = records(&map).expect_err("it is no file");
    assert!(matches!(error, StoreError::Io { action: "read", .. }), "{error}");
}

/// Refuses what a file system refuses that is mounted to be read.
#[derive(Debug)]
struct ReadOnly;

impl Watch for ReadOnly {
    fn before(&self, operation: Operation<'_>, _: &Path) -> std::io::Result<()> {
        match operation {
            Operation::Read | Operation::Sync | Operation::CreateDir | Operation::LockToRead => {
                Ok(())
            }
            _ => Err(std::io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }
}

/// As it lies on a medium or in the folder of a colleague, with the file of its lock or without it.
#[test]
fn a_store_that_cannot_be_written_is_locked_and_read() {
    let dir = scratch();
    let root = dir.path().join("store");
    let store = Store::create(&root).expect("no trouble");
    work(&store, &Plain).expect("no trouble");
    let (files, _) = store.verify(|_| {}).expect("no trouble");
    for _ in 0..2 {
        let read_only =
            Store::create_watched(&root, Some(Arc::new(ReadOnly))).expect("it is there");
        let lock = read_only.lock_shared().expect("it can be read");
        let (found, damage) = read_only.verify(|_| {}).expect("it can be read");
        assert_eq!((found, damage.len()), (files, 0));
        let removed = read_only.lock_exclusive().expect_err("it cannot be written");
        assert!(matches!(&removed, StoreError::Io { source, .. } if is_unwritable(source)));
        if root.join("lock").exists() {
            // Whoever can write does not remove what is being read.
            assert!(matches!(store.lock_exclusive(), Err(StoreError::Locked { .. })));
            drop(lock);
            std::fs::remove_file(root.join("lock")).expect("it is ours");
        }
    }
}

#[test]
fn what_cannot_be_read_is_named_and_stays() {
    let dir = scratch();
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    work(&store, &Plain).expect("no trouble");
    let part = first_part(&results(&store).expect("no trouble"));
    let path = map_entry(&store).dir().join(format!("{}.parquet", part.digest));
    std::fs::remove_file(&path).expect("it is ours");
    std::fs::create_dir(&path).expect("it is ours");
    let (_, damage) = store.verify(|_| {}).expect("the rest can be read");
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert!(damage[0].error.to_string().starts_with("cannot read "), "{damage:?}");
    assert!(path.exists());
}
