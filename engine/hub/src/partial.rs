//! A [`Partial`] is a blob on its way: a file of its own name that grows, and becomes the
//! blob in one rename once its bytes were checked.

use std::fs::{self, File};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::cache::{remove, sync_dir, unique};
use crate::digest::Digest;
use crate::error::{HubError, Result};

pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
    /// Whether the file stays when the download ends without success.
    keep: bool,
}

impl Partial {
    /// Goes on with what an earlier download of `blob` has left, or begins anew.
    ///
    /// The caller holds the blob's lock, so nobody writes the leftovers any more; where locks
    /// do nothing, the rename still gives them to one only, and the digest finds a mixture.
    /// Without a digest nothing could find it, so nothing is taken over then.
    pub(crate) fn open(blob: &Path, digest: Option<&Digest>) -> Result<Self> {
        let path = unique(blob);
        let keep = digest.is_some();
        if keep {
            let ours = leftovers(blob).into_iter().filter(|left| is_ours(left));
            // One is enough; the others are removed in the end.
            let _ = ours.map(|left| fs::rename(left, &path)).find(std::io::Result::is_ok);
        }
        let mut options = File::options();
        let file = options.create(true).read(true).append(true).open(&path);
        let file = file.map_err(HubError::io("create", &path))?;
        let length = file.metadata().map_err(HubError::io("read", &path))?.len();
        Ok(Self { path, file, length, keep })
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(HubError::io("write", &self.path))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Begins anew.
    pub(crate) fn clear(&mut self) -> Result<()> {
        self.length = 0;
        self.file.set_len(0).map_err(HubError::io("write", &self.path))
    }

    pub(crate) fn fits(&self, digest: &Digest) -> Result<bool> {
        let mut file = &self.file;
        let fits = file.seek(SeekFrom::Start(0)).and_then(|_| digest.fits(file, self.length));
        fits.map_err(HubError::io("read", &self.path))
    }

    /// Becomes the blob. Other leftovers of it are of no use any more.
    pub(crate) fn persist(mut self, blob: &Path) -> Result<()> {
        self.file.sync_all().map_err(HubError::io("sync", &self.path))?;
        match fs::rename(&self.path, blob) {
            // Where locks do nothing, another process may have taken the file over and
            // finished it.
            Err(error) if error.kind() == ErrorKind::NotFound && blob.is_file() => {}
            result => result.map_err(HubError::io("rename", &self.path))?,
        }
        self.keep = true;
        leftovers(blob).iter().try_for_each(|left| remove(left))?;
        sync_dir(blob.parent().unwrap_or(blob))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.keep || self.length == 0 {
            // What cannot be removed now is taken over or removed by the next download.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether a leftover is the start of its blob. Python's may have holes: it can fetch the
/// pieces of a file in any order.
fn is_ours(left: &Path) -> bool {
    let name = left.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit('.').next().is_some_and(|unique| unique.matches('-').count() == 2)
}

/// What earlier downloads of a blob have left, ours and Python's, the longest first.
fn leftovers(blob: &Path) -> Vec<PathBuf> {
    let name = blob.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let entries = blob.parent().and_then(|dir| fs::read_dir(dir).ok());
    let mut found: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let file = entry.file_name();
            let rest = file.to_str().and_then(|file| file.strip_prefix(name));
            rest.is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".incomplete"))
        })
        .map(|entry| (entry.metadata().map_or(0, |data| data.len()), entry.path()))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}
