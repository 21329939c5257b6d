//! Several processes on one store: locks vanish with their holder, and nothing depends on them.

mod common;

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{
    Dice, Plain, expected, files, map_entry, records, results, scratch, setting, whole_entry,
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

/// Before one operation somebody else, whom no lock keeps out, does all of the work, or dies in the midst of it.
#[derive(Debug)]
struct Overtaken {
    root: PathBuf,
    /// Operations until then.
    left: AtomicU64,
    /// How many operations of the other's come to pass.
    of_other: u64,
}

impl Watch for Overtaken {
    fn before(&self, _: Operation<'_>, _: &Path) -> io::Result<()> {
        if counts_down(&self.left) {
            let other = Dies(AtomicU64::new(self.of_other));
            let store = Store::create_watched(&self.root, Some(Arc::new(other)));
            let done = store.and_then(|store| work(&store, &Plain));
            assert!(done.is_ok() || self.of_other != u64::MAX, "{done:?}");
        }
        Ok(())
    }

    fn locks(&self) -> bool {
        false
    }
}

/// Fails in everything from one operation on, as the dead do.
#[derive(Debug)]
struct Dies(AtomicU64);

impl Watch for Dies {
    fn before(&self, _: Operation<'_>, _: &Path) -> io::Result<()> {
        let died = self.0.load(Ordering::Relaxed) == 0 || counts_down(&self.0);
        if died { Err(io::Error::other("it is dead")) } else { Ok(()) }
    }

    fn locks(&self) -> bool {
        false
    }
}

/// Takes one away; whether that was the last.
fn counts_down(left: &AtomicU64) -> bool {
    let less = |left: u64| left.checked_sub(1);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) == Ok(1)
}

/// Works until it is overtaken before an operation; whether there was such an operation.
fn is_overtaken(before: u64, of_other: u64, expected: &common::Results) -> bool {
    let dir = scratch();
    let root = dir.path().join("store");
    let left = AtomicU64::new(before);
    let overtaken = Arc::new(Overtaken { root: root.clone(), left, of_other });
    let store = Store::create_watched(&root, Some(Arc::clone(&overtaken) as _));
    let done = store.and_then(|store| work(&store, &Plain));
    assert!(done.is_ok(), "overtaken before operation {before} by {of_other}: {done:?}");
    all_is_well(&root, expected);
    overtaken.left.load(Ordering::Relaxed) == 0
}

#[test]
fn another_may_do_all_of_the_work_before_any_operation() {
    let expected = expected();
    let last = (1..10_000).find(|before| !is_overtaken(*before, u64::MAX, &expected));
    assert!(last > Some(100), "few operations: {last:?}");
}

#[test]
fn another_may_do_some_of_the_work_before_any_operation_and_die() {
    let expected = expected();
    for before in 1_u64.. {
        let mut dice = Dice(before.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let deaths = (0..setting("PARALOOM_RACES", 3).max(1)).map(|_| 1 + dice.below(150) as u64);
        // Each is run, whatever comes of it.
        let overtaken = deaths.map(|of_other| is_overtaken(before, of_other, &expected));
        if overtaken.filter(|overtaken| !overtaken).count() > 0 {
            break;
        }
    }
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
