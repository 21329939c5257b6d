//! What can go wrong with a store.

use std::path::{Path, PathBuf};

/// The result of everything that a store does.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What went wrong, and with which file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "write", "read", ...
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no room left.
    #[error("no space left to {action} {}{} ({source})", path.display(), room(*needed, *free))]
    Full {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Bytes that were to be written, if any were.
        needed: Option<u64>,
        /// Bytes that were free, if it is the disk that is full and not a limit or a quota.
        free: Option<u64>,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is not what its record says.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The store has another layout.
    #[error("{} says `{found}`; this engine reads `{wanted}`", path.display())]
    Format {
        /// The format file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What it should say.
        wanted: &'static str,
    },
    /// A directory that is no store has something where a store would keep its own.
    #[error("{} is no store, and has `{what}` where a store would keep its own", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
        /// What is in it.
        what: String,
    },
    /// Another process holds a lock.
    #[error("{} is in use by {holder}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Process, host and time, as its holder wrote them.
        holder: String,
    },
    /// A pin cannot be called this.
    #[error(
        "`{name}` cannot be the name of a pin: use at most 64 letters, digits, `-`, `_` and `.`"
    )]
    PinName {
        /// The name.
        name: String,
    },
    /// A bucket refused something, or cannot be reached.
    #[error("cannot {action} {name}: {reason}")]
    Remote {
        /// What was tried.
        action: &'static str,
        /// The object, by its address.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The bucket of a store is not there.
    #[error("cannot {action} {name}: {reason}")]
    NoBucket {
        /// What was tried.
        action: &'static str,
        /// The object, by its address.
        name: String,
        /// What was said.
        reason: String,
    },
    /// Another process has committed another result under the same key.
    #[error("{name} holds another result of the same key")]
    Conflict {
        /// The object that was to be created.
        name: String,
    },
    /// A bucket without conditional writes.
    #[error("{url} cannot hold a store: {reason}")]
    NoConditions {
        /// Where it is.
        url: String,
        /// What it did.
        reason: String,
    },
    /// Rows could not be written or read as Parquet.
    #[error("cannot {action} rows: {reason}")]
    Rows {
        /// "write" or "read".
        action: &'static str,
        /// Why not.
        reason: String,
    },
}

impl StoreError {
    /// Arrow could not do something with rows.
    pub(crate) fn rows(action: &'static str, error: arrow::error::ArrowError) -> Self {
        Self::Rows { action, reason: error.to_string() }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::writing(action, path, None, source)
    }

    /// The same of an operation that was to write `needed` bytes.
    pub(crate) fn writing(
        action: &'static str,
        path: &Path,
        needed: Option<u64>,
        source: std::io::Error,
    ) -> Self {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let path = path.to_owned();
        match source.kind() {
            StorageFull => Self::Full { action, needed, free: free_bytes(&path), path, source },
            QuotaExceeded | FileTooLarge => Self::Full { action, needed, free: None, path, source },
            _ => Self::Io { action, path, source },
        }
    }

    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.into() }
    }
}

/// Bytes that are free where a path is, or is to be.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn room(needed: Option<u64>, free: Option<u64>) -> String {
    match (needed, free) {
        (Some(needed), Some(free)) => format!(": {needed} bytes are needed, {free} are free"),
        (Some(needed), None) => format!(": {needed} bytes are needed"),
        (None, Some(free)) => format!(": {free} bytes are free"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn a_full_disk_says_what_was_needed_and_what_there_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("results/part");
        let said = |kind: ErrorKind, needed| {
            let error = StoreError::writing("write", &path, needed, kind.into());
            assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
            error.to_string().replacen(path.to_str().expect("text"), "PATH", 1)
        };
        for kind in [ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge] {
            let why = Error::from(kind);
            assert_eq!(said(kind, None), format!("no space left to write PATH ({why})"));
            let needed = format!("no space left to write PATH: 7 bytes are needed ({why})");
            assert_eq!(said(kind, Some(7)), needed);
        }
        // How much is free changes under the test, but it is no little.
        for (needed, before) in [(Some(7), "PATH: 7 bytes are needed, "), (None, "PATH: ")] {
            let said = said(ErrorKind::StorageFull, needed);
            let free = said.split_once(before).expect("it is there").1;
            let free = free.split(' ').next().and_then(|free| free.parse().ok());
            assert!(free.is_some_and(|free: u64| free > 1 << 20), "{said}");
        }
    }
}
