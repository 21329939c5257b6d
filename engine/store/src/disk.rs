//! File operations of a store: every open, write, sync, rename and removal goes through [`Disk`], and a [`Watch`] sees each of
//! them first. That is how tests make the n-th operation fail, or kill the process before it, for every n.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Taking a lock where nothing can be written.
    LockToRead,
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
            Self::Lock | Self::LockToRead => "lock",
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
    /// Directories whose names are known to be durable: of them only the first use costs a sync.
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Disk {
    /// The disk of a store whose unfinished files go to `tmp`.
    pub(crate) fn new(tmp: PathBuf, watch: Option<Arc<dyn Watch>>) -> Self {
        Self { tmp, watch, durable: Arc::default() }
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
        self.create_parent(path)?;
        self.try_to(Operation::CreateDir, path, || match fs::create_dir(path) {
            // Another process made it first.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            result => result,
        })?;
        self.sync_parent(path)?;
        self.durable().insert(path.to_owned());
        Ok(())
    }

    /// Makes a directory, and makes its name and those of the `above` directories that it is in durable: they may be of a
    /// process that died before they were.
    pub(crate) fn create_dir_durably(&self, path: &Path, above: usize) -> Result<()> {
        self.create_dir_all(path)?;
        for dir in path.ancestors().take(above + 1) {
            if !self.durable().contains(dir) {
                self.sync_parent(dir)?;
                self.durable().insert(dir.to_owned());
            }
        }
        Ok(())
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create_parent(&self, path: &Path) -> Result<()> {
        parent(path).map_or(Ok(()), |parent| self.create_dir_all(parent))
    }

    /// Removes a file, or a directory with all that is in it. Of a link, the link.
    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        self.try_to(Operation::Remove, path, || retry_removal(|| remove(path)))
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

    /// The lines from `offset` on that have their ends.
    pub(crate) fn whole_lines(&self, path: &Path, offset: u64) -> Result<Vec<Vec<u8>>> {
        let mut bytes = Vec::new();
        self.try_to(Operation::Read, path, || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            file.read_to_end(&mut bytes)
        })?;
        let end = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        let lines = bytes[..end].split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
        Ok(if end == 0 { Vec::new() } else { lines.collect() })
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
        self.tmp.join(format!("{what}-{}", Self::unique_name()))
    }

    /// A name that no other process, thread or earlier run of this machine uses.
    pub(crate) fn unique_name() -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_nanos());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        format!("{}-{nanos:x}-{count}", std::process::id())
    }

    /// Whether a path is one that [`Disk::unique`] gave.
    pub(crate) fn is_unfinished(&self, path: &Path) -> bool {
        path.starts_with(&self.tmp)
    }

    /// Whether a path is one that [`Disk::write_whole`] has for a file until it is whole.
    pub(crate) fn is_unfinished_file(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        self.is_unfinished(path)
            && name.strip_prefix("file-").is_some_and(|name| {
                let parts = name.split('-').collect::<Vec<_>>();
                parts.len() == 3
                    && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
            })
    }

    /// Writes a file that appears whole or not at all, and survives a power cut.
    pub(crate) fn write_atomic(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.write_whole(path, bytes)?;
        self.sync_parent(path)
    }

    /// The same of a file whose name need not be durable yet: the record that names it syncs the directory.
    pub(crate) fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.create_dir_all(&self.tmp)?;
        let aside = self.unique("file");
        let rename =
            || self.try_to(Operation::Rename { from: &aside }, path, || fs::rename(&aside, path));
        let written = self.write_synced(&aside, bytes).and_then(|()| rename());
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
            self.create_parent(to)?;
            if to.symlink_metadata().is_ok() {
                if is_sound()? {
                    // The process that put it there may have died before the name was durable.
                    self.sync_parent_if_there(to)?;
                    return self.remove(from);
                }
                self.remove(to)?;
            }
            match self.try_to(Operation::Rename { from }, to, || fs::rename(from, to)) {
                Err(StoreError::Io { source, .. })
                    if attempt < ATTEMPTS && is_lost_race(source.kind()) => {}
                result => {
                    result?;
                    return self.sync_parent_if_there(to);
                }
            }
        }
    }

    /// Makes the name of a path durable, unless the directory above it was removed meanwhile, and the name with it.
    fn sync_parent_if_there(&self, path: &Path) -> Result<()> {
        match self.sync_parent(path) {
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
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
        parent(path).map_or(Ok(()), |parent| self.sync(parent))
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

    /// Appends one line in one write, after the end of any torn line. It is durable when this returns, and so are all
    /// names in its directory: the line may say what is there.
    pub(crate) fn append_line(&self, path: &Path, line: &str) -> Result<()> {
        let mut file = self.open_to_append(path)?;
        let torn = self.try_to(Operation::Read, path, || is_torn(&mut file))?;
        self.sync_parent(path)?;
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

    /// Opens a file, which is made if there is none, and takes its lock, if locks keep anybody out.
    pub(crate) fn lock(
        &self,
        path: &Path,
        take: impl FnOnce(&File) -> std::io::Result<()>,
    ) -> Result<File> {
        self.create_parent(path)?;
        let locks = self.watch.as_ref().is_none_or(|watch| watch.locks());
        self.try_to(Operation::Lock, path, || {
            let mut open = OpenOptions::new();
            let file = open.read(true).write(true).create(true).truncate(false).open(path)?;
            if locks { take(&file).map(|()| file) } else { Ok(file) }
        })
    }

    /// [`Disk::lock`] of a store that cannot be written: of its directory, if it has no such file.
    pub(crate) fn lock_to_read(
        &self,
        path: &Path,
        take: impl FnOnce(&File) -> std::io::Result<()>,
    ) -> Result<File> {
        let locks = self.watch.as_ref().is_none_or(|watch| watch.locks());
        self.try_to(Operation::LockToRead, path, || {
            let file = match (File::open(path), path.parent()) {
                (Err(error), Some(dir)) if error.kind() == ErrorKind::NotFound => File::open(dir)?,
                (file, _) => file?,
            };
            if locks { take(&file).map(|()| file) } else { Ok(file) }
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

/// The directory that a path is in; none of the root, and of a name alone.
fn parent(path: &Path) -> Option<&Path> {
    path.parent().filter(|parent| !parent.as_os_str().is_empty())
}

/// Whether it is a directory and not a link to one.
pub(crate) fn is_real_dir(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

fn remove(path: &Path) -> std::io::Result<()> {
    if is_real_dir(path) { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Whether a rename fails like this when another process puts a directory in the same place, or removes the one above.
fn is_lost_race(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotFound)
}

/// Removes something, and tries again while other processes put things in. What is not there need not be removed.
fn retry_removal(mut remove: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    let mut result = Ok(());
    for _ in 0..ATTEMPTS {
        result = remove();
        match result.as_ref().map_err(std::io::Error::kind) {
            Err(ErrorKind::NotFound) => return Ok(()),
            // Or it has become something else since it was looked at.
            Err(
                ErrorKind::DirectoryNotEmpty | ErrorKind::IsADirectory | ErrorKind::NotADirectory,
            ) => {}
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

/// Whether the last line of a file is cut short.
fn is_torn(file: &mut File) -> std::io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests;
