//! An artifact is an immutable directory, such as a model.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::disk::{self, Disk};
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

/// Reads and hashes every file of a directory. A directory that another program filled may hold what no record can
/// name: links, which change when what they lead to does, and names that are not text.
pub(crate) fn describe_dir(dir: &Path) -> Result<ArtifactRef> {
    let mut files = Vec::new();
    let refuse = |path: &Path, reason| StoreError::io("keep", path, std::io::Error::other(reason));
    for path in list_own_files(dir, refuse)? {
        let (digest, bytes) = Digest::of_file(&dir.join(&path))?;
        files.push(ArtifactFile { path, digest, bytes });
    }
    Ok(ArtifactRef { digest: listing_digest(&files), files })
}

/// The files below a directory, as sorted relative paths; `refuse` makes the error for what is neither a file nor a
/// directory, or cannot be named.
fn list_own_files(
    dir: &Path,
    refuse: impl Fn(&Path, &'static str) -> StoreError,
) -> Result<Vec<PathBuf>> {
    let (mut files, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(at) = dirs.pop() {
        for path in disk::list(&at).map_err(|error| StoreError::io("list", &at, error))? {
            let metadata =
                path.symlink_metadata().map_err(|error| StoreError::io("read", &path, error))?;
            let name = path.strip_prefix(dir).unwrap_or(&path);
            if name.to_str().is_none_or(|name| name.contains('\n')) {
                return Err(refuse(&path, "its name is not one line of UTF-8"));
            } else if metadata.is_dir() {
                dirs.push(path);
            } else if metadata.is_file() {
                files.push(name.to_owned());
            } else {
                return Err(refuse(&path, "it is neither a file nor a directory"));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn listing_digest(files: &[ArtifactFile]) -> Digest {
    let line = |file: &ArtifactFile| format!("{} {}\n", file.digest, file.path.display());
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
        disk.sync_all(from)?;
        // What is there already is either the same content, from an earlier, killed run, or damage.
        let to = artifact.path(dir, port);
        let is_sound = || Ok(describe_dir(&to).is_ok_and(|found| found == artifact));
        disk.place_dir(from, &to, is_sound)?;
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
            if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
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
        // A stage looks for files by name: one too many is read as well.
        let found = list_own_files(&dir, StoreError::damaged)?;
        match found.iter().find(|found| !self.files.iter().any(|file| file.path == **found)) {
            Some(extra) => Err(StoreError::damaged(&dir.join(extra), "no record names it")),
            None => Ok(()),
        }
    }

    /// Records come from disk: paths must stay inside, and the digest must be theirs.
    pub(crate) fn is_well_formed(&self) -> bool {
        self.files.iter().all(|file| is_inside(&file.path))
            && listing_digest(&self.files) == self.digest
    }
}

/// Whether a path leads down and nowhere else.
fn is_inside(path: &Path) -> bool {
    use std::path::Component::Normal;
    path.file_name().is_some() && path.components().all(|part| matches!(part, Normal(_)))
}

/// Whether a port's name, as a record has it, can be the start of a file name.
pub(crate) fn is_port_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\', '\0']) && !name.starts_with('.')
}
