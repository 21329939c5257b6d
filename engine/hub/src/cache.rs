//! The cache on disk, as Python's `huggingface_hub` lays it out:
//!
//! ```text
//! models--google-t5--t5-base/
//!   refs/main                     the commit that the branch was, when it was last asked
//!   blobs/<entity tag>            the bytes of a file
//!   snapshots/<commit>/<path>     a relative link to its blob
//!   .no_exist/<commit>/<path>     the hub was asked for this file and has none
//! .locks/models--google-t5--t5-base/<entity tag>.lock
//! ```
//!
//! A blob appears in one rename, after its bytes were checked; a link appears after its blob.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{HubError, Result};
use crate::reference::{Reference, is_commit};

/// The cached files of one repository.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    name: String,
}

impl Folder {
    pub(crate) fn new(cache: &Path, reference: &Reference) -> Self {
        Self { root: cache.to_owned(), name: reference.folder() }
    }

    fn dir(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.dir().join("blobs")
    }

    /// The directory of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir().join("snapshots").join(commit)
    }

    /// The commit that `revision` was when it was last asked.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.dir().join("refs").join(revision)).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Remembers what `revision` is now.
    pub(crate) fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.dir().join("refs").join(revision);
        let aside = unique(&path);
        create_parent(&path)?;
        let write = || {
            let mut file = File::create_new(&aside)?;
            file.write_all(commit.as_bytes())?;
            file.sync_data()?;
            fs::rename(&aside, &path)
        };
        write().map_err(HubError::io("write", &path)).inspect_err(|_| drop(fs::remove_file(&aside)))
    }

    /// The paths of a snapshot's files that are whole: links whose blob is gone are not.
    pub(crate) fn files(&self, commit: &str) -> Vec<String> {
        let root = self.snapshot(commit);
        let mut found = Vec::new();
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                // Links are followed for files only: a link to a directory may lead in circles.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    dirs.push(path);
                } else if path.is_file() {
                    let name = path.strip_prefix(&root).ok().and_then(Path::to_str);
                    found.extend(name.map(str::to_owned));
                }
            }
        }
        found.sort();
        found
    }

    /// Whether the hub has said that a commit has no such file.
    pub(crate) fn is_known_missing(&self, commit: &str, path: &str) -> bool {
        self.dir().join(".no_exist").join(commit).join(path).exists()
    }

    /// Remembers that a commit has no such file.
    pub(crate) fn mark_missing(&self, commit: &str, path: &str) -> Result<()> {
        let path = self.dir().join(".no_exist").join(commit).join(path);
        create_parent(&path)?;
        File::create(&path).map(drop).map_err(HubError::io("create", &path))
    }

    /// Makes the link from a snapshot to a blob; whatever was there is replaced.
    pub(crate) fn link(&self, commit: &str, path: &str, blob: &str) -> Result<()> {
        let link = self.snapshot(commit).join(path);
        create_parent(&link)?;
        let up = "../".repeat(path.matches('/').count() + 2);
        let target = format!("{up}blobs/{blob}");
        if fs::read_link(&link).is_ok_and(|found| found == Path::new(&target)) {
            return Ok(());
        }
        let aside = unique(&link);
        let make = || {
            std::os::unix::fs::symlink(&target, &aside)?;
            fs::rename(&aside, &link)
        };
        make().map_err(HubError::io("link", &link)).inspect_err(|_| drop(fs::remove_file(&aside)))
    }

    /// The lock that keeps two processes, Python's included, from downloading one blob at
    /// once. `None`: somebody has it. It saves double work only: names are unique and renames
    /// atomic, since on some network file systems a lock locks nothing.
    pub(crate) fn try_lock(&self, blob: &str) -> Result<Option<File>> {
        let path = self.root.join(".locks").join(&self.name).join(format!("{blob}.lock"));
        create_parent(&path)?;
        let mut options = File::options();
        let file = options.create(true).write(true).truncate(false).open(&path);
        let file = file.map_err(HubError::io("open", &path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(None),
            // An error is a file system without locks: go on without one.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(file)),
        }
    }
}

/// Whether a path that a server names stays inside of the directory that it is joined to.
pub(crate) fn is_safe(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && !path.contains(['\0', '\\'])
        && !path.ends_with('/')
        && !path.contains("//")
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
        // `a/./b` has only normal components, but another spelling.
        && path.split('/').all(|part| part != ".")
}

pub(crate) fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(HubError::io("create", parent))
}

/// A name beside `path` that no other process, thread or earlier run uses.
pub(crate) fn unique(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}-{nanos:x}-{count}.incomplete", std::process::id()));
    PathBuf::from(name)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(HubError::io("sync", path))
}

/// Removes a file; one that is gone already is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(HubError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::is_safe;

    #[test]
    fn paths_of_servers_stay_inside() {
        for path in ["config.json", "a/b/c.parquet", "data/train-0.parquet", "..x/y"] {
            assert!(is_safe(path), "{path}");
        }
        for path in [
            "",
            "..",
            "../x",
            "a/../../x",
            "/etc/passwd",
            "a\0b",
            "a\\b",
            "./a",
            "a/./b",
            "a//b",
            "a/",
        ] {
            assert!(!is_safe(path), "{path}");
        }
    }
}
