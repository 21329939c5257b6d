//! An artifact is an immutable directory, such as a model.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, list_files};
use crate::disk::Disk;
use crate::error::{Result, StoreError};

/// An artifact as records name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactRef {
    /// Digest of the names and digests of its files.
    pub digest: Digest,
    /// Its files, by name.
    pub files: Vec<ArtifactFile>,
}

/// A file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactFile {
    /// Path relative to the artifact.
    pub path: PathBuf,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub bytes: u64,
}

/// Reads and hashes every file of a directory.
pub fn describe_dir(dir: &Path) -> Result<ArtifactRef> {
    let mut names = Vec::new();
    list_files(dir, dir, &mut names)?;
    let mut files = Vec::with_capacity(names.len());
    for path in names {
        let (digest, bytes) = Digest::of_file(&dir.join(&path))?;
        files.push(ArtifactFile { path, digest, bytes });
    }
    Ok(ArtifactRef { digest: listing_digest(&files), files })
}

fn listing_digest(files: &[ArtifactFile]) -> Digest {
    let line = |file: &ArtifactFile| format!("{} {}\n", file.digest.as_str(), file.path.display());
    Digest::of(files.iter().map(line).collect::<Vec<_>>().concat().as_bytes())
}

impl ArtifactRef {
    /// Length of all its files, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Moves the directory `from` to its place in `dir`; it is durable when this returns.
    pub(crate) fn commit(disk: &Disk, from: &Path, dir: &Path, port: &str) -> Result<Self> {
        let artifact = describe_dir(from)?;
        for file in &artifact.files {
            disk.sync(&from.join(&file.path))?;
        }
        disk.sync(from)?;
        let to = artifact.path(dir, port);
        if to.exists() {
            // Either the same content from an earlier, killed run, or damage.
            if describe_dir(&to).is_ok_and(|found| found == artifact) {
                disk.remove_dir_all(from)?;
                return Ok(artifact);
            }
            disk.remove_dir_all(&to)?;
        }
        disk.rename(from, &to)?;
        Ok(artifact)
    }

    pub(crate) fn path(&self, dir: &Path, port: &str) -> PathBuf {
        dir.join(format!("{port}-{}", self.digest.short()))
    }

    /// Whether files of the right lengths are there.
    pub(crate) fn is_there(&self, dir: &Path, port: &str) -> bool {
        let dir = self.path(dir, port);
        self.files.iter().all(|file| {
            std::fs::metadata(dir.join(&file.path))
                .is_ok_and(|metadata| metadata.len() == file.bytes)
        })
    }

    /// Checks every byte.
    pub(crate) fn verify(&self, dir: &Path, port: &str) -> Result<()> {
        let dir = self.path(dir, port);
        for file in &self.files {
            let path = dir.join(&file.path);
            if !path.is_file() {
                return Err(StoreError::damaged(&path, "it is missing"));
            }
            let (digest, bytes) = Digest::of_file(&path)?;
            if bytes != file.bytes {
                let reason = format!("{bytes} bytes instead of {}", file.bytes);
                return Err(StoreError::damaged(&path, reason));
            }
            if digest != file.digest {
                return Err(StoreError::damaged(
                    &path,
                    "its content does not have the recorded digest",
                ));
            }
        }
        Ok(())
    }

    /// Records come from disk: paths must stay inside, and the digest must be theirs.
    pub(crate) fn is_well_formed(&self) -> bool {
        use std::path::Component::Normal;
        let inside =
            |file: &ArtifactFile| file.path.components().all(|part| matches!(part, Normal(_)));
        self.files.iter().all(inside) && listing_digest(&self.files) == self.digest
    }
}
