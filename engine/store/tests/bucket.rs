//! A store in a bucket, whatever the bucket and other machines do.

mod common;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{
    Plain, map_entry, map_preimage, records, rows, scratch, whole_entry, whole_preimage, work,
};
use jiff::Timestamp;
use paraloom_store::{
    Blob, Blobs, Digest, Listed, Manifest, Output, PartRecord, Pin, Store, StoreError, probe,
};

/// What a bucket does wrong at one of its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It fails.
    Fails,
    /// It is done, and the answer is lost.
    IsLost,
    /// An object that is not there is said to be when it is created.
    SaysThere,
    /// An object is created, and said to have been there.
    SaysThereBefore,
}

#[derive(Debug)]
struct Object {
    bytes: Vec<u8>,
    /// The number of the operation that wrote it.
    version: usize,
    modified: Timestamp,
}

impl Object {
    fn new(bytes: &[u8], version: usize) -> Self {
        Self { bytes: bytes.to_vec(), version, modified: Timestamp::now() }
    }
}

#[derive(Debug, Default)]
struct Fake {
    objects: Mutex<BTreeMap<String, Object>>,
    count: AtomicUsize,
    /// Which of its operations goes wrong, and how.
    fault: Mutex<Option<(usize, Fault)>>,
    /// Whether it knows no conditions.
    replaces: bool,
}

impl Fake {
    fn act<T>(&self, act: impl FnOnce(&mut BTreeMap<String, Object>, usize) -> T) -> io::Result<T> {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        let fault = self
            .fault
            .lock()
            .expect("no panic")
            .filter(|(at, _)| *at == number)
            .map(|(_, fault)| fault);
        let refused = || Err(io::Error::other("the network is down"));
        if fault == Some(Fault::Fails) {
            return refused();
        }
        let done = act(&mut self.objects.lock().expect("no panic"), number);
        if fault == Some(Fault::IsLost) { refused() } else { Ok(done) }
    }

    fn names(&self) -> Vec<String> {
        self.objects.lock().expect("no panic").keys().cloned().collect()
    }

    /// All that counts, without how long something took.
    fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let objects = self.objects.lock().expect("no panic");
        let counts = objects
            .iter()
            .filter(|(name, _)| !name.contains("lease") && !name.starts_with("runs/"));
        counts.map(|(name, object)| (name.clone(), object.bytes.clone())).collect()
    }
}

impl Blobs for Fake {
    fn url(&self) -> &'static str {
        "s3://fake/store"
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        let number = self.count.load(Ordering::SeqCst);
        let fault = self
            .fault
            .lock()
            .expect("no panic")
            .filter(|(at, _)| *at == number)
            .map(|(_, fault)| fault);
        self.act(|objects, number| {
            if fault == Some(Fault::SaysThere) {
                return false;
            }
            if objects.contains_key(name) && !self.replaces {
                return false;
            }
            objects.insert(name.to_owned(), Object::new(bytes, number));
            fault != Some(Fault::SaysThereBefore)
        })
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.act(|objects, number| {
            drop(objects.insert(name.to_owned(), Object::new(bytes, number)));
        })
    }

    fn put_file(&self, name: &str, from: &Path) -> io::Result<()> {
        let bytes = std::fs::read(from)?;
        self.put(name, &bytes)
    }

    fn replace(&self, name: &str, version: &str, bytes: &[u8]) -> io::Result<bool> {
        self.act(|objects, number| match objects.get_mut(name) {
            Some(object) if object.version.to_string() == version => {
                *object = Object::new(bytes, number);
                true
            }
            _ => false,
        })
    }

    fn get(&self, name: &str) -> io::Result<Option<Blob>> {
        self.act(|objects, _| {
            let object = objects.get(name)?;
            Some(Blob { bytes: object.bytes.clone(), version: object.version.to_string() })
        })
    }

    fn get_file(&self, name: &str, to: &Path) -> io::Result<bool> {
        match self.get(name)? {
            Some(found) => std::fs::write(to, found.bytes).map(|()| true),
            None => Ok(false),
        }
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        self.act(|objects, _| {
            let under = objects.iter().filter(|(name, _)| name.starts_with(prefix));
            let listed = under.map(|(name, object)| Listed {
                name: name.clone(),
                bytes: object.bytes.len() as u64,
                modified: object.modified,
            });
            listed.collect()
        })
    }

    fn list_dirs(&self, prefix: &str) -> io::Result<Vec<String>> {
        self.act(|objects, _| {
            let rest = objects.keys().filter_map(|name| name.strip_prefix(prefix));
            let mut dirs: Vec<_> =
                rest.filter_map(|rest| Some(rest.split_once('/')?.0.to_owned())).collect();
            dirs.dedup();
            dirs
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.act(|objects, _| drop(objects.remove(name)))
    }
}

/// A machine: a directory for copies of what is in a bucket.
struct Machine {
    store: Store,
    _dir: tempfile::TempDir,
}

fn machine(bucket: &Arc<Fake>) -> Result<Machine, StoreError> {
    let dir = scratch();
    let store = Store::create_in(&dir.path().join("copies"), Arc::clone(bucket) as _)?;
    Ok(Machine { store, _dir: dir })
}

fn new(bucket: &Arc<Fake>) -> Machine {
    machine(bucket).expect("a bucket that works")
}

/// All that a machine sees of the work.
fn seen(store: &Store) -> Vec<String> {
    let (map, whole) = (map_entry(store), whole_entry(store));
    let mut seen = Vec::new();
    let mut all = records(&map).expect("no trouble");
    all.sort_by_key(|record| record.input);
    // What was damaged is recorded once more.
    all.dedup();
    for record in all {
        let rows = map.read_part(record.outputs[0].as_ref().expect("a part")).expect("it is whole");
        seen.push(format!("{record:?} {rows:?}"));
    }
    let manifest = whole.manifest().expect("no trouble").expect("it is complete");
    for (port, output) in &manifest.outputs {
        match output {
            Output::Table(parts) => {
                seen.extend(
                    parts
                        .iter()
                        .map(|part| format!("{:?}", whole.read_part(part).expect("it is whole"))),
                );
            }
            Output::Artifact(artifact) => {
                let dir = whole.local_artifact(port, artifact).expect("it is whole");
                for file in &artifact.files {
                    let bytes = std::fs::read(dir.join(&file.path)).expect("it is there");
                    seen.push(format!("{} {}", file.path.display(), Digest::of(&bytes)));
                }
            }
        }
    }
    seen
}

/// A bucket in which all is done, and what is seen of it.
fn done() -> (Arc<Fake>, Vec<String>) {
    let bucket = Arc::new(Fake::default());
    let machine = new(&bucket);
    work(&machine.store, &Plain).expect("no trouble");
    let seen = seen(&machine.store);
    (bucket, seen)
}

#[test]
fn another_machine_finds_all_that_was_done() {
    let (bucket, expected) = done();
    let before = bucket.content();
    let other = new(&bucket);
    assert_eq!(seen(&other.store), expected);
    work(&other.store, &Plain).expect("no trouble");
    assert_eq!(bucket.content(), before, "nothing was left to do");
    // And so does a directory, to which all is copied, and another bucket from there.
    let dir = scratch();
    let local = Store::create(dir.path()).expect("an empty directory");
    for (from, to) in [
        (map_entry(&other.store), map_entry(&local)),
        (whole_entry(&other.store), whole_entry(&local)),
    ] {
        assert!(from.copy_to(&to).expect("no trouble").is_some_and(|bytes| bytes > 0));
        assert_eq!(from.copy_to(&to).expect("no trouble"), None);
    }
    assert_eq!(seen(&local), expected);
    let second = Arc::new(Fake::default());
    let machine = new(&second);
    for (from, to) in [
        (map_entry(&local), map_entry(&machine.store)),
        (whole_entry(&local), whole_entry(&machine.store)),
    ] {
        from.copy_to(&to).expect("no trouble");
    }
    assert_eq!(seen(&new(&second).store), expected);
    assert_eq!(second.content(), before);
}

/// One operation after the other goes wrong in each way. Whatever the machine says, another goes on, and the end is the same.
#[test]
fn no_operation_of_a_bucket_can_go_wrong_and_spoil_a_result() {
    let (clean, expected) = done();
    let all = clean.count.load(Ordering::SeqCst);
    let content = clean.content();
    let (mut told, mut silent) = (0, 0);
    for fault in [Fault::Fails, Fault::IsLost, Fault::SaysThere, Fault::SaysThereBefore] {
        for number in 0..all {
            let bucket = Arc::new(Fake::default());
            *bucket.fault.lock().expect("no panic") = Some((number, fault));
            let outcome = machine(&bucket).and_then(|machine| work(&machine.store, &Plain));
            match outcome {
                Ok(()) => silent += 1,
                Err(StoreError::Remote { .. } | StoreError::NoConditions { .. }) => told += 1,
                Err(other) => panic!("{fault:?} at {number}: {other}"),
            }
            *bucket.fault.lock().expect("no panic") = None;
            let other = new(&bucket);
            work(&other.store, &Plain).expect("it works again");
            assert_eq!(seen(&other.store), expected, "{fault:?} at {number}");
            let mut left = bucket.content();
            // What is left behind is nothing that counts, and goes with what is not needed.
            let keys = [&map_entry(&other.store), &whole_entry(&other.store)]
                .map(paraloom_store::Entry::key);
            let needed = keys.into_iter().flatten().collect();
            for waste in other.store.garbage(&needed).expect("no trouble") {
                left.retain(|name, _| {
                    !waste.path.to_str().is_some_and(|prefix| name.starts_with(prefix))
                });
            }
            assert!(left == content, "{fault:?} at {number}: {:?}", left.keys());
        }
    }
    assert!(told > 20 && silent > 20, "{told} {silent}");
}

/// S3 may say that an object is there while another request to create it is at work, and that one fails.
#[test]
fn an_object_that_is_said_to_be_there_is_looked_for() {
    let bucket = Arc::new(Fake::default());
    let machine = new(&bucket);
    let next = bucket.count.load(Ordering::SeqCst);
    *bucket.fault.lock().expect("no panic") = Some((next, Fault::SaysThere));
    let (schema, rows) = rows(&["a"]);
    std::fs::create_dir_all(map_entry(&machine.store).dir()).expect("it is ours");
    let part = map_entry(&machine.store).write_part(&schema, &rows).expect("no trouble");
    assert!(bucket.names().iter().any(|name| name.contains(&part.digest.to_string())));
}

#[test]
fn a_bucket_without_conditions_is_refused() {
    let bucket = Arc::new(Fake { replaces: true, ..Fake::default() });
    let error = machine(&bucket).map(drop).expect_err("it replaces");
    assert!(matches!(error, StoreError::NoConditions { .. }), "{error}");
    assert!(bucket.names().is_empty(), "{:?}", bucket.names());
    assert!(probe(&Fake::default(), "x").is_ok());
}

#[test]
fn two_results_of_one_key_are_told() {
    let bucket = Arc::new(Fake::default());
    let machines = [new(&bucket), new(&bucket)];
    let part = |machine: &Machine, text: &str| {
        let (schema, rows) = rows(&[text]);
        map_entry(&machine.store).prepare(&map_preimage()).expect("no trouble");
        map_entry(&machine.store).write_part(&schema, &rows).expect("no trouble")
    };
    let parts = [part(&machines[0], "one"), part(&machines[1], "other")];
    let input = Digest::of(b"what was mapped");
    let record = |part| PartRecord { input, outputs: vec![Some(part)], rows: None };
    let commit =
        |number: usize, part| map_entry(&machines[number].store).commit_part(&record(part));
    commit(0, parts[0]).expect("it is the first");
    commit(0, parts[0]).expect("it is the same");
    let error = commit(1, parts[1]).expect_err("it is another");
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    assert_eq!(records(&map_entry(&machines[1].store)).expect("no trouble"), [record(parts[0])]);

    let manifest = |part| Manifest {
        outputs: vec![("rows".to_owned(), Output::Table(vec![part]))],
        took_ms: 1,
    };
    let whole = |number: usize| whole_entry(&machines[number].store);
    (0..2).for_each(|number| whole(number).prepare(&whole_preimage()).expect("no trouble"));
    whole(0).commit(&manifest(parts[0])).expect("it is the first");
    let later = Manifest { took_ms: 2, ..manifest(parts[0]) };
    whole(1).commit(&later).expect("it is the same but for the time that it took");
    let error = whole(1).commit(&manifest(parts[1])).expect_err("it is another");
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
}

#[test]
fn what_is_committed_on_one_machine_is_found_on_another_at_work() {
    let bucket = Arc::new(Fake::default());
    let machines = [new(&bucket), new(&bucket)];
    let other = map_entry(&machines[1].store);
    assert!(records(&other).expect("no trouble").is_empty());
    work(&machines[0].store, &Plain).expect("no trouble");
    for record in records(&map_entry(&machines[0].store)).expect("no trouble") {
        assert_eq!(other.find_record(&record.input).expect("no trouble").as_ref(), Some(&record));
        let place = other.records().expect("no trouble").find_map(|found| {
            let (place, found) = found.expect("no trouble");
            (found == record).then_some(place)
        });
        assert_eq!(other.record(place.expect("it is there")).expect("no trouble"), record);
    }
    assert_eq!(other.find_record(&Digest::of(b"nothing")).expect("no trouble"), None);
}

#[test]
fn damage_in_the_bucket_is_found_and_made_again() {
    let (clean, expected) = done();
    let content = clean.content();
    let is_result = |name: &&String| name.starts_with("results/") && !name.contains("checkpoints");
    for name in content.keys().filter(is_result) {
        for bytes in [None, Some(Vec::new()), Some(b"something else".to_vec())] {
            let bucket = Arc::new(Fake::default());
            let objects = content.iter().map(|(name, bytes)| (name.clone(), Object::new(bytes, 0)));
            bucket.objects.lock().expect("no panic").extend(objects);
            let mut objects = bucket.objects.lock().expect("no panic");
            match &bytes {
                Some(bytes) => objects.insert(name.clone(), Object::new(bytes, 1)),
                None => objects.remove(name),
            };
            drop(objects);
            let machine = new(&bucket);
            let (_, damage) = machine.store.verify(|_| {}).expect("it can be read");
            // What says that something is there may be gone; what it says to be there may not.
            let is_record = name.contains("/parts/") || name.contains(".json");
            assert!(is_record || !damage.is_empty(), "{name}");
            work(&machine.store, &Plain).expect("it is made again");
            assert_eq!(seen(&machine.store), expected, "{name} {bytes:?}");
            assert_eq!(seen(&new(&bucket).store), expected, "{name} {bytes:?}");
            let (_, damage) = machine.store.verify(|_| {}).expect("it can be read");
            assert!(damage.is_empty(), "{name} {damage:?}");
        }
    }
}

#[test]
fn a_damaged_copy_is_fetched_again() {
    let (bucket, expected) = done();
    let machine = new(&bucket);
    assert_eq!(seen(&machine.store), expected);
    let mut dirs = vec![machine.store.root().join("results")];
    while let Some(dir) = dirs.pop() {
        for file in std::fs::read_dir(dir)
            .expect("it is there")
            .map(|file| file.expect("no trouble").path())
        {
            if file.is_dir() {
                dirs.push(file);
            } else if file.extension().is_some_and(|extension| extension == "parquet")
                || file.ends_with("weights")
            {
                let mut bytes = std::fs::read(&file).expect("it is there");
                bytes[0] ^= 1;
                std::fs::write(&file, bytes).expect("it is ours");
            }
        }
    }
    assert_eq!(seen(&machine.store), expected);
}

#[test]
fn what_is_not_needed_goes_while_nobody_works() {
    let (bucket, _) = done();
    let [at_work, other] = [new(&bucket), new(&bucket)];
    let needed = std::collections::HashSet::from([map_entry(&other.store).key().expect("a key")]);
    let used = at_work.store.lock_shared().expect("nobody is alone");
    let both = other.store.lock_shared().expect("nobody is alone");
    drop(both);
    let error = other.store.lock_exclusive().map(drop).expect_err("somebody works");
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    drop(used);
    // One that was killed a while ago keeps nobody out.
    let killed = Object { modified: Timestamp::UNIX_EPOCH, ..Object::new(b"{}", 0) };
    bucket.objects.lock().expect("no panic").insert("leases/use-killed".to_owned(), killed);
    drop(other.store.lock_exclusive().expect("nobody works"));
    assert!(!bucket.names().iter().any(|name| name.starts_with("leases/")), "{:?}", bucket.names());
    let pin = Pin {
        pipeline: "p".to_owned(),
        results: [whole_entry(&other.store).key().expect("a key")].into(),
    };
    other.store.pin("kept", &pin).expect("no trouble");
    assert_eq!(at_work.store.pins().expect("no trouble"), [("kept".to_owned(), pin)]);
    assert!(at_work.store.garbage(&needed).expect("no trouble").is_empty());
    assert!(at_work.store.unpin("kept").expect("no trouble"));
    assert!(other.store.pins().expect("no trouble").is_empty());

    let alone = other.store.lock_exclusive().expect("nobody works");
    assert!(at_work.store.lock_shared().is_err(), "somebody is alone");
    let garbage = other.store.garbage(&needed).expect("no trouble");
    assert_eq!(garbage.len(), 1, "{garbage:?}");
    assert!(garbage[0].bytes > 1_000);
    other.store.remove(&garbage, &alone).expect("no trouble");
    drop(alone);
    let left: Vec<_> =
        at_work.store.entries().expect("no trouble").into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, needed.into_iter().collect::<Vec<_>>());
    assert!(whole_entry(&new(&bucket).store).manifest().expect("no trouble").is_none());
}

#[test]
fn one_machine_computes_a_result() {
    let bucket = Arc::new(Fake::default());
    let machines = [new(&bucket), new(&bucket)];
    let [one, other] = [&machines[0], &machines[1]].map(|machine| whole_entry(&machine.store));
    let held = one.lock().expect("nobody has it");
    let error = other.lock().map(drop).expect_err("one has it");
    let StoreError::Locked { holder, .. } = error else { panic!("{error}") };
    assert!(holder.starts_with(&format!("process {} on ", std::process::id())), "{holder}");
    drop(held);
    // Somebody who waits does not ask at every look.
    let taken = (0..40).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        other.lock().ok()
    });
    assert!(taken.is_some());
}
