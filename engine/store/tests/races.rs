//! Several processes on one store: locks vanish with their holder, and nothing depends on them.

mod common;

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{
    Plain, expected, files, map_entry, records, results, scratch, setting, whole_entry,
    whole_preimage, work,
};
use paraloom_store::{Manifest, Operation, Result, Store, StoreError, Watch};

/// A file system on which locks keep nobody out.
#[derive(Debug)]
struct NoLocks;

impl Watch for NoLocks {
    fn before(&self, _: Operation<'_>, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn locks(&self) -> bool {
        false
    }
}

fn unlocked(root: &Path) -> Result<Store> {
    Store::create_watched(root, Some(Arc::new(NoLocks)))
}

/// Set for a process that this test starts: what it is to do, and the store.
const PART: &str = "PARALOOM_PART_IN_A_RACE";

fn start(what: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_part", "--nocapture"])
        .env(PART, format!("{what} {}", root.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test runs")
}

/// What such a process does; nothing when it is run as a test.
#[test]
fn a_part() {
    let Ok(text) = std::env::var(PART) else { return };
    let (what, root) = text.split_once(' ').expect("two words");
    let root = Path::new(root);
    match what {
        "work" => work(&unlocked(root).expect("no trouble"), &Plain).expect("no trouble"),
        _ => {
            let store = Store::create(root).expect("no trouble");
            let _lock = whole_entry(&store).lock().expect("nobody else");
            // On a line of its own, whatever the test harness has written.
            std::io::Write::write_all(&mut io::stdout(), b"\nheld\n").expect("it is read");
            std::thread::sleep(Duration::from_mins(10));
        }
    }
}

#[test]
fn eight_processes_without_locks_give_the_same_bytes() {
    let expected = expected();
    for round in 0..setting("PARALOOM_RACES", 3) {
        let dir = scratch();
        let root = dir.path().join("store");
        let children: Vec<_> = (0..8).map(|_| start("work", &root)).collect();
        for mut child in children {
            assert!(child.wait().expect("it was started").success(), "round {round}");
        }
        all_is_well(&root, &expected);
    }
}

#[test]
fn eight_threads_without_locks_give_the_same_bytes() {
    let expected = expected();
    for _ in 0..setting("PARALOOM_RACES", 20) {
        let dir = scratch();
        let root = dir.path().join("store");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    work(&unlocked(&root).expect("no trouble"), &Plain).expect("no trouble");
                });
            }
        });
        all_is_well(&root, &expected);
    }
}

/// Makes a store with results just before somebody else looks for some.
#[derive(Debug, Default)]
struct Faster(AtomicBool);

impl Watch for Faster {
    fn before(&self, operation: Operation<'_>, path: &Path) -> io::Result<()> {
        let looks = operation == Operation::Read && path.ends_with("results");
        if looks && !self.0.swap(true, Ordering::Relaxed) {
            let store = Store::create(path.parent().expect("a store")).expect("no trouble");
            work(&store, &Plain).expect("no trouble");
        }
        Ok(())
    }
}

#[test]
fn a_store_may_be_made_and_filled_while_another_is_about_to() {
    let dir = scratch();
    let faster = Arc::new(Faster::default());
    let store = Store::create_watched(&dir.path().join("store"), Some(Arc::clone(&faster) as _));
    store.expect("it is of this format");
    assert!(faster.0.load(Ordering::Relaxed), "it was filled meanwhile");
}

/// The results are the expected ones, and `gc` finds nothing that it cannot name.
fn all_is_well(root: &Path, expected: &common::Results) {
    let store = Store::create(root).expect("no trouble");
    assert_eq!(&results(&store).expect("no trouble"), expected);
    let (_, damage) = store.verify(|_| {}).expect("no trouble");
    assert!(damage.is_empty(), "{damage:?}");
    let needed: HashSet<_> =
        store.entries().expect("no trouble").into_iter().map(|(key, _)| key).collect();
    let alone = store.lock_exclusive().expect("nobody else");
    store.remove(&store.garbage(&needed).expect("no trouble"), &alone).expect("no trouble");
    let of_records = |path: &std::path::PathBuf| {
        let name = path.strip_prefix(store.root()).expect("it is inside").to_str().expect("text");
        name.starts_with("results/") || ["FORMAT", "hub.json", "lock"].contains(&name)
    };
    let found = files(store.root());
    assert!(found.iter().all(of_records), "{found:?}");
    // FORMAT and the note; a key, a log and three parts; a key, a manifest, a part and two files of an artifact.
    let kept = found.iter().filter(|path| !path.ends_with("lock")).count();
    assert_eq!(kept, 2 + 5 + 5, "{found:?}");
}

/// What the tests without locks rely on.
#[test]
fn where_locks_keep_nobody_out_two_may_hold_one() {
    let dir = scratch();
    let store = unlocked(&dir.path().join("store")).expect("no trouble");
    let held = store.lock_exclusive().expect("nobody else");
    let as_well = store.lock_exclusive().expect("nobody is kept out");
    let shared = store.lock_shared().expect("nobody waits");
    drop((held, as_well, shared));
}

#[test]
fn a_lock_vanishes_with_its_holder() {
    let dir = scratch();
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    let entry = whole_entry(&store);
    entry.prepare(&whole_preimage()).expect("no trouble");
    for _ in 0..setting("PARALOOM_RACES", 5) {
        let mut child = start("hold", store.root());
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        assert!(lines.map_while(io::Result::ok).any(|line| line == "held"));
        let Err(StoreError::Locked { holder, .. }) = entry.lock() else { panic!("it is held") };
        assert!(holder.starts_with(&format!("process {} on ", child.id())), "{holder}");
        child.kill().expect("it is ours");
        child.wait().expect("it was started");
        let killed = Instant::now();
        drop(entry.lock().expect("its holder is dead"));
        assert!(killed.elapsed() < Duration::from_secs(1));
    }
}

/// Ends the writer, whatever becomes of the reader.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn readers_see_nothing_torn() {
    let dir = scratch();
    let store = Store::create(&dir.path().join("store")).expect("no trouble");
    work(&store, &Plain).expect("no trouble");
    let (map, whole) = (map_entry(&store), whole_entry(&store));
    let manifest = whole.manifest().expect("no trouble").expect("it is complete");
    let record = records(&map).expect("no trouble").remove(0);
    store.write_note("hub.json", &vec![0; 1000]).expect("no trouble");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for took_ms in 0.. {
                whole.commit(&Manifest { took_ms, ..manifest.clone() }).expect("no trouble");
                store.write_note("hub.json", &vec![took_ms; 1000]).expect("no trouble");
                if took_ms % 16 == 0 {
                    map.commit_part(&record).expect("no trouble");
                }
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let _done = Done(&done);
        let mut newest = 0;
        for read in 0..setting("PARALOOM_READS", 10_000) {
            let found = whole.manifest().expect("no trouble").expect("it is complete");
            assert_eq!(found.outputs, manifest.outputs, "read {read}");
            let note: Option<Vec<u64>> = store.read_note("hub.json").expect("no trouble");
            if let Some(note) = note {
                assert!(note.len() == 1000 && note[0] >= newest, "read {read}");
                newest = note[0];
            } else {
                panic!("read {read}: a damaged note");
            }
            if read % 64 == 0 {
                let found = records(&map).expect("no trouble");
                assert!(found.len() >= 3 && found[3..].iter().all(|found| *found == record));
            }
        }
    });
}
