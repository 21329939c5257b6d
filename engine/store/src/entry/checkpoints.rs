//! Checkpoints of a result that is in training.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{CHECKPOINT_LISTING, Entry};
use crate::artifact::{self, ArtifactRef};
use crate::digest::Digest;
use crate::error::{Result, StoreError};
use crate::sealed;

impl Entry {
    /// The directory that they are in, if there are any.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }

    /// The newest whole checkpoint, with its step.
    pub fn latest_checkpoint(&self) -> Result<Option<(PathBuf, u64)>> {
        if let Some(bucket) = self.in_bucket() {
            bucket.fetch_checkpoint()?;
        }
        for dir in self.disk.list(&self.checkpoints())?.into_iter().rev() {
            let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse().ok()) else {
                continue;
            };
            if self.is_checkpoint(&dir)? {
                return Ok(Some((dir, step)));
            }
        }
        Ok(None)
    }

    /// Whether a directory is a whole checkpoint. That it cannot be read just now does not mean that it is not.
    fn is_checkpoint(&self, dir: &Path) -> Result<bool> {
        let listing: ArtifactRef = match sealed::read(&self.disk, &dir.join(CHECKPOINT_LISTING)) {
            Ok(Some(listing)) => listing,
            Ok(None) | Err(StoreError::Damaged { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        if !listing.is_well_formed() {
            return Ok(false);
        }
        for file in &listing.files {
            let path = dir.join(&file.path);
            match Digest::of_file(&path) {
                Ok((digest, _)) if digest == file.digest => {}
                Err(StoreError::Io { source, .. }) if source.kind() != ErrorKind::NotFound => {
                    return Err(StoreError::io("read", &path, source));
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// An empty directory to fill.
    pub fn begin_checkpoint(&self) -> Result<PathBuf> {
        self.begin_artifact("checkpoint")
    }

    /// Makes a filled directory the newest checkpoint, and removes the ones before it.
    pub fn commit_checkpoint(&self, from: &Path, step: u64) -> Result<()> {
        let listing = artifact::describe_dir(from)?;
        sealed::write(&self.disk, &from.join(CHECKPOINT_LISTING), &listing)?;
        self.disk.sync_all(from)?;
        let checkpoints = self.checkpoints();
        let to = checkpoints.join(format!("step-{step:09}"));
        // A whole one of the same step is kept: while it is replaced there would be none.
        self.disk.place_dir(from, &to, || self.is_checkpoint(&to))?;
        // Who made the directory of checkpoints may have died before its name was durable.
        self.disk.sync(&self.dir)?;
        if let Some(bucket) = self.in_bucket() {
            bucket.put_checkpoint(&to, step, &listing)?;
        }
        for old in self.disk.list(&checkpoints)? {
            if old != to {
                self.disk.remove(&old)?;
            }
        }
        Ok(())
    }
}
