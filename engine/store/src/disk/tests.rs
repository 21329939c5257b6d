//! A disk on which somebody else is at work, or on which something fails.

use std::os::unix::fs::symlink;
use std::sync::Mutex;

use super::*;
use crate::lock::Lock;

/// Does what another process might do just before an operation, as often as it is asked to.
struct Meddler {
    before: &'static str,
    times: Mutex<usize>,
    act: Box<Act>,
}

type Act = dyn Fn(&Path) -> std::io::Result<()> + Send + Sync;

impl std::fmt::Debug for Meddler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Meddler({})", self.before)
    }
}

impl Watch for Meddler {
    fn before(&self, operation: Operation<'_>, path: &Path) -> std::io::Result<()> {
        let mut times = self.times.lock().expect("no panic");
        if operation.verb() != self.before || *times == 0 {
            return Ok(());
        }
        *times -= 1;
        (self.act)(path)
    }
}

/// A disk on which somebody does something before an operation; with it, how often he still would.
fn meddled(
    dir: &Path,
    before: &'static str,
    times: usize,
    act: impl Fn(&Path) -> std::io::Result<()> + Send + Sync + 'static,
) -> (Disk, impl Fn() -> usize) {
    let meddler = Arc::new(Meddler { before, times: Mutex::new(times), act: Box::new(act) });
    let disk = Disk::new(dir.join("tmp"), Some(Arc::clone(&meddler) as _));
    (disk, move || *meddler.times.lock().expect("no panic"))
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn two_may_make_a_directory_at_once() {
    let dir = dir();
    let path = dir.path().join("a/b");
    let (disk, left) = meddled(dir.path(), "create", 2, |path| fs::create_dir(path));
    disk.create_dir_all(&path).expect("somebody was faster");
    assert!(path.is_dir() && left() == 0);
    let path = dir.path().join("c");
    let (disk, _) = meddled(dir.path(), "create", 1, |path| fs::write(path, ""));
    disk.create_dir_all(&path).expect_err("that is no directory");
}

fn place(disk: &Disk, dir: &Path, content: &str) -> Result<String> {
    let (from, to) = (dir.join("from"), dir.join("place/to"));
    fs::create_dir_all(&from).expect("it is ours");
    fs::write(from.join("file"), content).expect("it is ours");
    let read = || fs::read_to_string(to.join("file")).expect("it is there");
    disk.place_dir(&from, &to, || Ok(read() == content))?;
    assert!(!from.exists());
    Ok(read())
}

fn put(content: &'static str) -> impl Fn(&Path) -> std::io::Result<()> {
    move |to| {
        fs::create_dir(to)?;
        fs::write(to.join("file"), content)
    }
}

#[test]
fn many_may_want_the_same_place() {
    let dir = dir();
    for (theirs, times) in [("ours", 1), ("damaged", 1), ("damaged", 3)] {
        let (disk, left) = meddled(dir.path(), "rename", times, put(theirs));
        assert_eq!(place(&disk, dir.path(), "ours").expect("no trouble"), "ours");
        assert_eq!(left(), 0, "{theirs} {times}");
        fs::remove_dir_all(dir.path().join("place")).expect("it is ours");
    }
}

#[test]
fn a_place_is_not_tried_for_ever_nor_after_another_error() {
    let dir = dir();
    let (disk, left) = meddled(dir.path(), "rename", 1000, put("damaged"));
    place(&disk, dir.path(), "ours").expect_err("somebody always wins");
    assert_eq!(left(), 1000 - ATTEMPTS);
    fs::remove_dir_all(dir.path().join("place")).expect("it is ours");
    let refuse = |_: &Path| Err(ErrorKind::PermissionDenied.into());
    let (disk, left) = meddled(dir.path(), "rename", 1000, refuse);
    place(&disk, dir.path(), "ours").expect_err("it is not allowed");
    assert_eq!(left(), 999);
}

#[test]
fn removing_is_tried_again_only_while_somebody_puts_things_in() {
    use ErrorKind::{DirectoryNotEmpty, IsADirectory, NotADirectory, NotFound, PermissionDenied};
    // How often which error comes, and then none; how often it is tried, and whether that was enough.
    for (errors, error, tries, succeeds) in [
        (0, NotFound, 1, true),
        (1, NotFound, 1, true),
        (2, DirectoryNotEmpty, 3, true),
        (1, IsADirectory, 2, true),
        (1, NotADirectory, 2, true),
        (1, PermissionDenied, 1, false),
        (1000, DirectoryNotEmpty, ATTEMPTS, false),
    ] {
        let mut tried = 0;
        let result = retry_removal(|| {
            tried += 1;
            if tried <= errors { Err(error.into()) } else { Ok(()) }
        });
        assert_eq!((tried, result.is_ok()), (tries, succeeds), "{error}");
    }
}

/// What cannot be opened may well be there.
#[test]
fn an_error_is_not_the_same_as_nothing() {
    let dir = dir();
    let disk = Disk::new(dir.path().join("tmp"), None);
    let (absent, circle) = (dir.path().join("absent"), dir.path().join("circle"));
    symlink(&circle, &circle).expect("it is ours");
    assert!(disk.read_if_exists(&absent).expect("no trouble").is_none());
    assert_eq!(disk.lines_if_exists(&absent).expect("no trouble").count(), 0);
    assert!(disk.list(&absent).expect("no trouble").is_empty());
    disk.read_if_exists(&circle).expect_err("it leads nowhere");
    assert!(disk.lines_if_exists(&circle).is_err(), "it leads nowhere");
    disk.list(&circle).expect_err("it leads nowhere");
    // A directory can be opened, and not be read as a file.
    let mut lines = disk.lines_if_exists(dir.path()).expect("no trouble");
    assert!(lines.next().is_some_and(|line| line.is_err()));
}

#[test]
fn a_line_follows_the_last_whole_one_or_ends_a_torn_one() {
    let dir = dir();
    let disk = Disk::new(dir.path().join("tmp"), None);
    let path = dir.path().join("log");
    for line in ["one", "two"] {
        disk.append_line(&path, line).expect("no trouble");
    }
    let mut file = disk.open_to_append(&path).expect("no trouble");
    file.write_all(b"to").expect("it is ours");
    disk.append_line(&path, "three").expect("no trouble");
    assert_eq!(fs::read(&path).expect("it is there"), b"one\ntwo\nto\nthree\n");
    for (place, line) in [(0, "one"), (4, "two"), (8, "to"), (11, "three")] {
        assert_eq!(disk.line_at(&path, place).expect("no trouble"), line.as_bytes());
    }
}

#[test]
fn a_full_disk_says_what_it_was_to_write() {
    let dir = dir();
    let full = |_: &Path| Err(ErrorKind::StorageFull.into());
    let (disk, _) = meddled(dir.path(), "write", 2, full);
    let path = dir.path().join("file");
    let aside = disk.write_atomic(&path, b"12345").expect_err("it is full").to_string();
    assert!(aside.contains(": 5 bytes are needed, "), "{aside}");
    let log = disk.append_line(&path, "1234").expect_err("it is full").to_string();
    assert!(log.contains("file: 5 bytes are needed, "), "{log}");
    let (disk, _) = meddled(dir.path(), "sync", 1, full);
    let sync = disk.sync(&path).expect_err("it is full").to_string();
    assert!(sync.contains("sync ") && !sync.contains("needed"), "{sync}");
}

#[test]
fn a_lock_that_cannot_be_taken_is_not_somebody_elses() {
    let dir = dir();
    let path = dir.path().join("locks/lock");
    let refuse = |_: &Path| Err(ErrorKind::Unsupported.into());
    let (disk, _) = meddled(dir.path(), "lock", 2, refuse);
    for error in [Lock::shared(&disk, &path), Lock::try_exclusive(&disk, &path)] {
        let error = error.expect_err("there are none here");
        assert!(matches!(error, StoreError::Io { action: "lock", .. }), "{error}");
    }
    // A watch that says nothing of locks has them.
    let held = Lock::try_exclusive(&disk, &path).expect("nobody else");
    let error = Lock::try_exclusive(&disk, &path).expect_err("it is held");
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    drop(held);
    let _shared = Lock::shared(&disk, &path).expect("nobody alone");
    let error = Lock::try_exclusive(&disk, &path).expect_err("it is held").to_string();
    assert!(error.ends_with(" is in use by another process"), "who shares does not sign: {error}");
}
