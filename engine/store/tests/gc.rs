//! `gc` keeps what it is told, what is pinned, and what cannot be told apart; killed anywhere, it has removed nothing
//! else.

mod common;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{
    Plain, copy, expected, files, half_done, half_preimage, map_entry, map_preimage, results,
    scratch, whole_entry, whole_preimage, work,
};
use paraloom_store::{Key, Operation, Pin, Result, Store, StoreError, Watch};

fn sound(root: &Path) -> Store {
    let store = Store::create(root).expect("no trouble");
    work(&store, &Plain).expect("no trouble");
    half_done(&store).expect("no trouble");
    store
}

fn pin(keys: impl IntoIterator<Item = Key>) -> Pin {
    Pin { pipeline: "sample".to_owned(), results: keys.into_iter().collect() }
}

fn collect(store: &Store, needed: &HashSet<Key>) -> Result<()> {
    let alone = store.lock_exclusive()?;
    let garbage = store.garbage(needed)?;
    store.remove(&garbage, &alone)
}

fn keys(store: &Store) -> BTreeSet<Key> {
    store.entries().expect("it can be read").into_iter().map(|(key, _)| key).collect()
}

/// Refuses everything from the `at`-th operation on, as if the process had been killed.
#[derive(Debug)]
struct Killer {
    at: u64,
    count: AtomicU64,
}

impl Watch for Killer {
    fn before(&self, _: Operation<'_>, _: &Path) -> io::Result<()> {
        match self.count.fetch_add(1, Ordering::Relaxed) {
            count if count >= self.at => Err(io::Error::other("killed")),
            _ => Ok(()),
        }
    }
}

#[test]
fn what_is_neither_needed_nor_pinned_goes() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let (map, whole, half) = (map_preimage().key(), whole_preimage().key(), half_preimage().key());
    let expected = expected();
    store.pin("first", &pin([map.clone()])).expect("no trouble");
    let left_behind = whole_entry(&store).scratch().expect("no trouble");
    std::fs::write(left_behind.join("notes"), [0; 100]).expect("it is ours");
    let before = files(store.root());
    let garbage = store.garbage(&HashSet::from([whole.clone()])).expect("it can be read");
    assert_eq!(files(store.root()), before, "looking removes nothing");
    let found: Vec<_> = garbage.iter().map(|item| (item.path.clone(), item.bytes)).collect();
    let half_dir = store.entry(&half).dir().to_owned();
    let bytes = |dir: &Path| -> u64 {
        files(dir).iter().map(|file| file.metadata().expect("it is there").len()).sum()
    };
    assert_eq!(found, [(half_dir.clone(), bytes(&half_dir)), (left_behind, 100)]);
    collect(&store, &HashSet::from([whole.clone()])).expect("no trouble");
    assert_eq!(keys(&store), BTreeSet::from([map.clone(), whole.clone()]));
    assert_eq!(results(&store).expect("no trouble"), expected);
    // Told to keep nothing, it keeps what is pinned.
    collect(&store, &HashSet::new()).expect("no trouble");
    assert_eq!(keys(&store), BTreeSet::from([map]));
    assert!(store.unpin("first").expect("no trouble"));
    assert!(!store.unpin("first").expect("no trouble"), "it is gone already");
    collect(&store, &HashSet::new()).expect("no trouble");
    assert!(keys(&store).is_empty());
}

#[test]
fn checkpoints_of_what_is_finished_go() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let (whole, half) = (whole_entry(&store), store.entry(&half_preimage().key()));
    // As a run leaves it that was killed before it could remove them.
    let [left, needed] = [&whole, &half].map(|entry| entry.dir().join("checkpoints"));
    copy(&needed, &left);
    let keys = HashSet::from([map_preimage().key(), whole_preimage().key(), half_preimage().key()]);
    let garbage = store.garbage(&keys).expect("it can be read");
    assert_eq!(garbage.iter().map(|item| &item.path).collect::<Vec<_>>(), [&left]);
    collect(&store, &keys).expect("no trouble");
    assert!(!left.exists() && needed.exists());
    assert_eq!(results(&store).expect("no trouble"), expected());
}

#[test]
fn pins_have_names_and_contents() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    assert!(store.pins().expect("no trouble").is_empty());
    let (one, two) = (pin([map_preimage().key()]), pin([whole_preimage().key()]));
    store.pin("a", &one).expect("no trouble");
    store.pin("b-1.0", &one).expect("no trouble");
    store.pin("a", &two).expect("no trouble");
    let pins = store.pins().expect("no trouble");
    assert_eq!(pins, [("a".to_owned(), two), ("b-1.0".to_owned(), one.clone())]);
    for name in ["", ".", "..", ".hidden", "../a", "a/b", "a b", "é", &"a".repeat(65)] {
        assert!(matches!(store.pin(name, &one), Err(StoreError::PinName { .. })), "{name}");
        assert!(matches!(store.unpin(name), Err(StoreError::PinName { .. })), "{name}");
    }
    store.pin(&"a".repeat(64), &one).expect("just short enough");
}

#[test]
fn a_damaged_pin_stops_gc() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    store.pin("first", &pin([map_preimage().key()])).expect("no trouble");
    let path = store.root().join("pins/first.json");
    let text = std::fs::read_to_string(&path).expect("it is there");
    for damaged in [text.replace("sample", "simple"), String::new()] {
        std::fs::write(&path, damaged).expect("it is ours");
        let error = store.garbage(&HashSet::new()).expect_err("what did it keep?");
        assert!(error.to_string().contains("first.json is damaged"), "{error}");
    }
    std::fs::rename(&path, store.root().join("pins/first.bak")).expect("it is ours");
    let error = store.garbage(&HashSet::new()).expect_err("what did it keep?");
    assert!(error.to_string().ends_with("it is not a pin"), "{error}");
}

#[test]
fn gc_waits_for_nobody_and_runs_wait_for_it() {
    let dir = scratch();
    let store = sound(&dir.path().join("store"));
    let run = store.lock_shared().expect("nobody else");
    let another_run = store.lock_shared().expect("runs share it");
    let error = collect(&store, &HashSet::new()).expect_err("a run uses it");
    assert!(error.to_string().ends_with("is in use by another process"), "{error}");
    drop((run, another_run));
    let alone = store.lock_exclusive().expect("nobody else");
    let error = store.lock_exclusive().expect_err("somebody else");
    let holder = format!("is in use by process {} on ", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    drop(alone);
    // Who held it before is not who holds it now.
    let _run = store.lock_shared().expect("nobody else");
    let error = store.lock_exclusive().expect_err("a run uses it");
    assert!(error.to_string().ends_with("is in use by another process"), "{error}");
}

#[test]
fn killed_at_any_operation_it_has_removed_nothing_that_is_needed() {
    let dir = scratch();
    let (sound_root, root) = (dir.path().join("sound"), dir.path().join("store"));
    let store = sound(&sound_root);
    store.pin("first", &pin([map_preimage().key()])).expect("no trouble");
    // Everything in one result of the kind that goes, too.
    let other = paraloom_store::Preimage::default().with("stage", "old");
    let old = store.entry(&other.key());
    copy(whole_entry(&store).dir(), old.dir());
    copy(map_entry(&store).dir(), old.dir());
    drop(whole_entry(&store).scratch().expect("no trouble"));
    let expected = expected();
    let needed = HashSet::from([whole_preimage().key()]);
    for at in 0.. {
        copy(&sound_root, &root);
        let killer = Arc::new(Killer { at, count: AtomicU64::new(0) });
        let outcome =
            Store::create_watched(&root, Some(killer)).and_then(|store| collect(&store, &needed));
        let store = Store::create(&root).expect("no trouble any more");
        assert_eq!(results(&store).expect("it is sound"), expected, "operation {at}");
        // What is half gone does not look whole.
        if let Some(manifest) = store.entry(&other.key()).manifest().expect("it can be read") {
            assert_eq!(Some(manifest), expected.manifest, "operation {at}");
        }
        let (_, damage) = store.verify(|_| {}).expect("it can be read");
        let key_of_another = |text: &str| text.ends_with("it is the key of another result");
        assert!(
            damage.iter().all(|found| key_of_another(&found.error.to_string())),
            "operation {at}: {damage:?}"
        );
        collect(&store, &needed).expect("no trouble any more");
        let kept = BTreeSet::from([map_preimage().key(), whole_preimage().key()]);
        assert_eq!(keys(&store), kept, "operation {at}");
        assert_eq!(results(&store).expect("it is sound"), expected, "operation {at}");
        std::fs::remove_dir_all(&root).expect("it is ours");
        if outcome.is_ok() {
            assert!(at > 10, "{at} operations");
            return;
        }
    }
}
