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

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until no one holds the lock alone.
    pub(crate) fn shared(disk: &Disk, path: &Path) -> Result<Self> {
        let file = disk.lock(path, File::lock_shared)?;
        // The process that is named in the file has ended: a later message must not name it.
        let _ = file.set_len(0);
        Ok(Self { _file: file })
    }

    /// Takes the lock alone, or says who holds it.
    pub(crate) fn try_exclusive(disk: &Disk, path: &Path) -> Result<Self> {
        match disk.lock(path, |file| Ok(file.try_lock()?)) {
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::WouldBlock => {
                let holder = std::fs::read_to_string(path).unwrap_or_default();
                let holder =
                    if holder.trim().is_empty() { "another process" } else { holder.trim() };
                Err(StoreError::Locked { path: path.to_owned(), holder: holder.to_owned() })
            }
            locked => locked.map(|mut file| {
                sign(&mut file);
                Self { _file: file }
            }),
        }
    }
}

/// Says who holds the lock; a failure here costs a message, not the lock.
fn sign(file: &mut File) {
    static HOST: OnceLock<String> = OnceLock::new();
    let host = HOST
        .get_or_init(|| std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default());
    let since = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC");
    let text = format!("process {} on {} since {since}\n", std::process::id(), host.trim());
    let _ = file.set_len(0);
    let _ = file.rewind();
    let _ = file.write_all(text.as_bytes());
}
