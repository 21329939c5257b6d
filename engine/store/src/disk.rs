//! The hands of a store: every open, write, sync, rename and removal goes through [`Disk`], and a [`Watch`] sees each of
//! them first. That is how tests make the n-th operation fail, or kill the process before it, for every n.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Result, StoreError};

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Opening, listing and reading.
    Read,
    /// Making a file, if there is none.
    Create,
    /// Making a directory.
    CreateDir,
    /// Writing bytes after those that are there.
    Write(&'a [u8]),
    /// Writing to a file that has no name any more, and of which nothing outlives the process.
    WriteScratch(&'a [u8]),
    /// Making bytes or names durable.
    Sync,
    /// Giving another name; the path is the new one.
    Rename {
        /// The old one.
        from: &'a Path,
    },
    /// Removing a file or a directory.
    Remove,
    /// Taking a lock, whose file is made if there is none.
    Lock,
}

impl Operation<'_> {
    fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Create | Self::CreateDir => "create",
            Self::Write(_) | Self::WriteScratch(_) => "write",
            Self::Sync => "sync",
            Self::Rename { .. } => "rename",
            Self::Remove => "remove",
            Self::Lock => "lock",
        }
    }

    /// How many bytes it writes.
    fn bytes(self) -> Option<u64> {
        match self {
            Self::Write(bytes) | Self::WriteScratch(bytes) => Some(bytes.len() as u64),
            _ => None,
        }
    }
}

/// Sees every operation of a store before it happens, and may refuse it.
pub trait Watch: std::fmt::Debug + Send + Sync {
    /// An error stands for the operating system's: the operation is not tried.
    fn before(&self, operation: Operation<'_>, path: &Path) -> std::io::Result<()>;

    /// Whether locks keep anybody out. On some network file systems they do not.
    fn locks(&self) -> bool {
        true
    }
}

/// How often a directory is tried to be put in a place that others want too, or removed while they put things in.
const ATTEMPTS: usize = 100;

/// A store's access to its files.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    tmp: PathBuf,
    watch: Option<Arc<dyn Watch>>,
}

impl Disk {
    /// The disk of a store whose unfinished files go to `tmp`.
    pub(crate) fn new(tmp: PathBuf, watch: Option<Arc<dyn Watch>>) -> Self {
        Self { tmp, watch }
    }

    /// Tries one operation; an error names it and the file.
    fn try_to<T>(
        &self,
        operation: Operation<'_>,
        path: &Path,
        act: impl FnOnce() -> std::io::Result<T>,
    ) -> Result<T> {
        let allowed = self.watch.as_ref().map_or(Ok(()), |watch| watch.before(operation, path));
        let fail = |error| StoreError::writing(operation.verb(), path, operation.bytes(), error);
        allowed.and_then(|()| act()).map_err(fail)
    }

    /// Makes a directory and those above it, durably.
    pub(crate) fn create_dir_all(&self, path: &Path) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.create_dir_all(parent)?;
        }
        self.try_to(Operation::CreateDir, path, || match fs::create_dir(path) {
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            result => result,
        })?;
        self.sync_parent(path)
    }

    /// Removes a file, or a directory with all that is in it. Of a link, the link.
    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        self.try_to(Operation::Remove, path, || insist(|| remove(path)))
    }

    /// The members of a directory, by name; none if there is no directory.
    pub(crate) fn list(&self, path: &Path) -> Result<Vec<PathBuf>> {
        self.try_to(Operation::Read, path, || list(path))
    }

    pub(crate) fn read_if_exists(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.try_to(Operation::Read, path, || match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        })
    }

    /// The lines of a file, one at a time; none if there is no file.
    pub(crate) fn lines_if_exists(
        &self,
        path: &Path,
    ) -> Result<impl Iterator<Item = Result<Vec<u8>>> + use<>> {
        let file = self.try_to(Operation::Read, path, || match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        })?;
        let path = path.to_owned();
        let lines = file.into_iter().flat_map(|file| BufReader::new(file).split(b'\n'));
        let fail = move |error| StoreError::io(Operation::Read.verb(), &path, error);
        Ok(lines.map(move |line| line.map_err(&fail)))
    }

    /// The line that starts at `offset`.
    pub(crate) fn line_at(&self, path: &Path, offset: u64) -> Result<Vec<u8>> {
        self.try_to(Operation::Read, path, || {
            let mut file = BufReader::new(File::open(path)?);
            file.seek(SeekFrom::Start(offset))?;
            let mut line = Vec::new();
            file.read_until(b'\n', &mut line)?;
            line.pop_if(|byte| *byte == b'\n');
            Ok(line)
        })
    }

    /// A path for unfinished things that no other process, thread or earlier run uses.
    pub(crate) fn unique(&self, what: &str) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_nanos());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        self.tmp.join(format!("{what}-{}-{nanos:x}-{count}", std::process::id()))
    }

    /// Whether a path is one that [`Disk::unique`] gave.
    pub(crate) fn is_unfinished(&self, path: &Path) -> bool {
        path.starts_with(&self.tmp)
    }

    /// Writes a file that appears whole or not at all, and survives a power cut.
    pub(crate) fn write_atomic(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.create_dir_all(&self.tmp)?;
        let aside = self.unique("file");
        let written = self.write_synced(&aside, bytes).and_then(|()| self.rename(&aside, path));
        if written.is_err() {
            let _ = fs::remove_file(&aside);
        }
        written
    }

    fn write_synced(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut file = self.try_to(Operation::Create, path, || File::create_new(path))?;
        self.try_to(Operation::Write(bytes), path, || {
            // What has found room is given back, so that the error says how much there was.
            file.write_all(bytes).inspect_err(|_| drop(file.set_len(0)))
        })?;
        self.try_to(Operation::Sync, path, || file.sync_data())
    }

    /// Renames and makes the new name durable.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.try_to(Operation::Rename { from }, to, || fs::rename(from, to))?;
        self.sync_parent(to)
    }

    /// Renames a directory to a place that others may want at the same moment. Who comes second keeps what is there if
    /// it `is_sound`; what is not is replaced.
    pub(crate) fn place_dir(
        &self,
        from: &Path,
        to: &Path,
        is_sound: impl Fn() -> Result<bool>,
    ) -> Result<()> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            if let Some(parent) = to.parent() {
                self.create_dir_all(parent)?;
            }
            if to.symlink_metadata().is_ok() {
                if is_sound()? {
                    // Whoever put it there may have died before its name was durable.
                    self.sync_parent(to)?;
                    return self.remove(from);
                }
                self.remove(to)?;
            }
            match self.rename(from, to) {
                Err(StoreError::Io { source, .. })
                    if attempt < ATTEMPTS && is_lost_race(source.kind()) => {}
                result => return result,
            }
        }
    }

    /// Makes everything in a directory durable: its files, its names, and those of the directories in it.
    pub(crate) fn sync_all(&self, dir: &Path) -> Result<()> {
        for path in self.list(dir)? {
            if is_real_dir(&path) { self.sync_all(&path)? } else { self.sync(&path)? }
        }
        self.sync(dir)
    }

    /// Makes the name of a path durable.
    pub(crate) fn sync_parent(&self, path: &Path) -> Result<()> {
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => self.sync(parent),
            None => Ok(()),
        }
    }

    /// Makes the content of a file, or the names in a directory, durable.
    pub(crate) fn sync(&self, path: &Path) -> Result<()> {
        let file = self.try_to(Operation::Read, path, || File::open(path))?;
        self.try_to(Operation::Sync, path, || file.sync_all())
    }

    /// A file to append to, made if there is none.
    pub(crate) fn open_to_append(&self, path: &Path) -> Result<File> {
        self.try_to(Operation::Create, path, || {
            OpenOptions::new().read(true).append(true).create(true).open(path)
        })
    }

    /// Appends one line in one write, after the end of any torn line; it is durable when this returns.
    pub(crate) fn append_line(&self, path: &Path, line: &str) -> Result<()> {
        let mut file = self.open_to_append(path)?;
        let (length, torn) = self.try_to(Operation::Read, path, || ending(&mut file))?;
        if length == 0 {
            // Whoever writes the first line has made the name durable before: what has lines needs no more.
            self.sync_parent(path)?;
        }
        let text = if torn { format!("\n{line}\n") } else { format!("{line}\n") };
        self.try_to(Operation::Write(text.as_bytes()), path, || file.write_all(text.as_bytes()))?;
        self.try_to(Operation::Sync, path, || file.sync_data())
    }

    /// A file for what does not fit in memory. It loses its name at once, so it goes with the process whatever happens.
    pub(crate) fn scratch(&self) -> Result<Scratch> {
        self.create_dir_all(&self.tmp)?;
        let path = self.unique("scratch");
        let file = self.try_to(Operation::Create, &path, || {
            OpenOptions::new().read(true).write(true).create_new(true).open(&path)
        })?;
        self.remove(&path)?;
        Ok(Scratch { disk: self.clone(), path, file })
    }

    /// Whether locks keep anybody out.
    pub(crate) fn locks(&self) -> bool {
        self.watch.as_ref().is_none_or(|watch| watch.locks())
    }

    /// A file to lock, made if there is none.
    pub(crate) fn open_lock(&self, path: &Path) -> Result<File> {
        if let Some(parent) = path.parent() {
            self.create_dir_all(parent)?;
        }
        self.try_to(Operation::Lock, path, || {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
        })
    }
}

/// A file without a name.
#[derive(Debug)]
pub(crate) struct Scratch {
    disk: Disk,
    /// The name that it had.
    path: PathBuf,
    file: File,
}

impl Scratch {
    /// Fills `bytes` from `offset` on.
    pub(crate) fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let read = || self.file.read_exact_at(bytes, offset);
        self.disk.try_to(Operation::Read, &self.path, read)
    }

    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let write = || self.file.write_all_at(bytes, offset);
        self.disk.try_to(Operation::WriteScratch(bytes), &self.path, write)
    }
}

/// Whether it is a directory and not a link to one.
pub(crate) fn is_real_dir(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

fn remove(path: &Path) -> std::io::Result<()> {
    if is_real_dir(path) { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Whether a rename fails like this when somebody else puts a directory in the same place, or removes the one above.
fn is_lost_race(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotFound)
}

/// Tries to remove something, again while somebody puts things in. What is not there need not be removed.
fn insist(mut remove: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    let mut result = Ok(());
    for _ in 0..ATTEMPTS {
        result = remove();
        match result.as_ref().map_err(std::io::Error::kind) {
            Err(ErrorKind::NotFound) => return Ok(()),
            Err(ErrorKind::DirectoryNotEmpty) => {}
            _ => break,
        }
    }
    result
}

/// The members of a directory, by name; none if there is no directory.
pub(crate) fn list(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        result => result?,
    };
    let mut paths: Vec<_> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    Ok(paths)
}

/// The length of a file, and whether its last line is cut short.
fn ending(file: &mut File) -> std::io::Result<(u64, bool)> {
    let length = file.seek(SeekFrom::End(0))?;
    if length == 0 {
        return Ok((0, false));
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok((length, last != *b"\n"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::Mutex;

    use super::*;

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
        use ErrorKind::{DirectoryNotEmpty, NotFound, PermissionDenied};
        // How often which error comes, and then none; how often it is tried, and whether that was enough.
        for (errors, error, tries, succeeds) in [
            (0, NotFound, 1, true),
            (1, NotFound, 1, true),
            (2, DirectoryNotEmpty, 3, true),
            (1, PermissionDenied, 1, false),
            (1000, DirectoryNotEmpty, ATTEMPTS, false),
        ] {
            let mut tried = 0;
            let result = insist(|| {
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
    fn a_watch_that_says_nothing_of_locks_has_them() {
        let dir = dir();
        let (disk, _) = meddled(dir.path(), "read", 0, |_| Ok(()));
        assert!(disk.locks());
    }
}
