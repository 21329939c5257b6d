//! Kernel locks: released by the kernel when their holder dies, however it dies.
//!
//! The text in a lock file is for messages only. Correctness never depends on a lock:
//! writers use unique names and atomic renames.

use std::fs::File;
use std::io::{ErrorKind, Seek, Write};
use std::path::Path;
use std::sync::OnceLock;

use crate::disk::Disk;
use crate::error::{Result, StoreError};
use crate::lease::Lease;

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    _lease: Option<Lease>,
}

impl Lock {
    /// Waits until no one holds the lock alone. For this, a store need not be writable.
    pub(crate) fn shared(disk: &Disk, path: &Path) -> Result<Self> {
        let file = match disk.lock(path, File::lock_shared) {
            Err(StoreError::Io { source, .. }) if is_unwritable(&source) => {
                disk.lock_to_read(path, File::lock_shared)?
            }
            locked => locked?,
        };
        // The process that is named in the file has ended: a later message must not name it.
        let _ = file.set_len(0);
        Ok(Self::of(file))
    }

    fn of(file: File) -> Self {
        Self { _file: file, _lease: None }
    }

    /// The same, with a lease that ends with it.
    pub(crate) fn with(self, lease: Lease) -> Self {
        Self { _lease: Some(lease), ..self }
    }

    /// Takes the lock beside others that do so, or says who holds it alone.
    pub(crate) fn try_shared(disk: &Disk, path: &Path) -> Result<Self> {
        Self::taken(disk.lock(path, |file| Ok(file.try_lock_shared()?)), path, |_| {})
    }

    /// Takes the lock alone, or says who holds it.
    pub(crate) fn try_exclusive(disk: &Disk, path: &Path) -> Result<Self> {
        Self::taken(disk.lock(path, |file| Ok(file.try_lock()?)), path, sign)
    }

    fn taken(locked: Result<File>, path: &Path, sign: impl FnOnce(&mut File)) -> Result<Self> {
        match locked {
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::WouldBlock => {
                let holder = std::fs::read_to_string(path).unwrap_or_default();
                let holder =
                    if holder.trim().is_empty() { "another process" } else { holder.trim() };
                Err(StoreError::Locked { path: path.to_owned(), holder: holder.to_owned() })
            }
            locked => locked.map(|mut file| {
                sign(&mut file);
                Self::of(file)
            }),
        }
    }
}

/// Whether a file can perhaps be read, but not written.
pub fn is_unwritable(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

/// Says who holds the lock; a failure here costs a message, not the lock.
fn sign(file: &mut File) {
    let text = format!("{}\n", holder());
    let _ = file.set_len(0);
    let _ = file.rewind();
    let _ = file.write_all(text.as_bytes());
}

/// This process, for messages of others.
pub(crate) fn holder() -> String {
    static HOST: OnceLock<String> = OnceLock::new();
    let host = HOST
        .get_or_init(|| std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default());
    let since = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC");
    format!("process {} on {} since {since}", std::process::id(), host.trim())
}
