//! BLAKE3 digests of bytes, files and directories.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Result, StoreError};
use crate::sealed;

/// A BLAKE3 digest; shown and recorded as 64 hexadecimal digits. Kept as bytes, since a table has one per part.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of a file's bytes, with their number. Large files are read by all cores.
    pub fn of_file(path: &Path) -> Result<(Self, u64)> {
        let fail = |error| StoreError::io("read", path, error);
        let mut file = File::open(path).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        if length > PIECE {
            let left = hazmat::left_subtree_len(length);
            let (left, right) = halves(&file, 0, left, length).map_err(fail)?;
            let root = hazmat::merge_subtrees_root(&left, &right, Mode::Hash);
            return Ok((Self(*root.as_bytes()), length));
        }
        let mut hasher = blake3::Hasher::new();
        let bytes = std::io::copy(&mut file, &mut hasher).map_err(fail)?;
        Ok((Self(*hasher.finalize().as_bytes()), bytes))
    }

    /// Reads the 64 digits. Digests become file names, so there is one way only to write each.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let hash = blake3::Hash::from_hex(text).ok().filter(|_| text.bytes().all(hex))?;
        Some(Self(*hash.as_bytes()))
    }

    /// The first 16 digits: for file names that people see.
    pub fn short(&self) -> String {
        format!("{self:.16}")
    }
}

/// Bytes of a file that one core hashes in one go: few enough to stay in its cache, and a power of two, as BLAKE3's tree has it.
const PIECE: u64 = 1 << 19;

/// What BLAKE3's tree has at the subtree of the bytes from `start` to `end`, of which there are more than none.
fn subtree(file: &File, start: u64, end: u64) -> io::Result<ChainingValue> {
    if end - start > PIECE {
        let middle = start + hazmat::left_subtree_len(end - start);
        let (left, right) = halves(file, start, middle, end)?;
        return Ok(hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash));
    }
    let mut bytes = vec![0; (end - start) as usize];
    file.read_exact_at(&mut bytes, start)?;
    Ok(blake3::Hasher::new().set_input_offset(start).update(&bytes).finalize_non_root())
}

fn halves(
    file: &File,
    start: u64,
    middle: u64,
    end: u64,
) -> io::Result<(ChainingValue, ChainingValue)> {
    let (left, right) = rayon::join(|| subtree(file, start, middle), || subtree(file, middle, end));
    Ok((left?, right?))
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a digest has 64 hexadecimal digits")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Digests of files outside the store, remembered by what the file system says of them.
///
/// A remembered digest is used only if device, inode, size, modification and change time
/// are all the same, and the file was already a while old when it was read: the change
/// time cannot be set back by a user, so a restored modification time does not deceive.
///
/// It is shared by the nodes of a run: no file is read while it is locked.
#[derive(Debug, Default)]
pub struct DigestCache {
    path: PathBuf,
    known: Mutex<HashMap<PathBuf, Remembered>>,
    changed: AtomicBool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    stamp: [i64; 7],
    digest: Digest,
}

/// A file changed less than this many seconds ago may change again within one tick.
const SETTLED_SECONDS: i64 = 3;

fn is_settled(changed: i64, now: i64) -> bool {
    now.saturating_sub(changed) > SETTLED_SECONDS
}

impl DigestCache {
    /// Reads the cache of a store; a damaged one is as good as none.
    pub fn load(store: &crate::Store) -> Self {
        let path = store.root().join("digests.json");
        let known = sealed::read(&store.disk, &path).ok().flatten().unwrap_or_default();
        Self { path, known: Mutex::new(known), changed: AtomicBool::new(false) }
    }

    /// The digest of a file, or of a directory: of the names and digests of its files.
    pub fn digest(&self, path: &Path) -> Result<Digest> {
        let fail = |error| StoreError::io("read", path, error);
        if !std::fs::metadata(path).map_err(fail)?.is_dir() {
            return self.file(path);
        }
        let mut files = Vec::new();
        list_files(path, path, &mut Vec::new(), &mut files)?;
        let mut listing = Vec::new();
        for name in files {
            let digest = self.file(&path.join(&name))?;
            // As the system has the name: two that are not UTF-8 may look alike.
            let name = name.as_os_str().as_encoded_bytes();
            listing.extend([digest.to_string().as_bytes(), b" ", name, b"\n"].concat());
        }
        Ok(Digest::of(&listing))
    }

    fn file(&self, path: &Path) -> Result<Digest> {
        let fail = |error| StoreError::io("read", path, error);
        let stamp = stamp(&std::fs::metadata(path).map_err(fail)?);
        if let Some(known) = self.known().get(path)
            && known.stamp == stamp
        {
            return Ok(known.digest);
        }
        let (digest, _) = Digest::of_file(path)?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0, |elapsed| elapsed.as_secs() as i64);
        // Index 5 is the change time.
        if is_settled(stamp[5], now) {
            self.known().insert(path.to_owned(), Remembered { stamp, digest });
            self.changed.store(true, Ordering::Release);
        }
        Ok(digest)
    }

    /// Writes what was learnt. Losing it costs time only, so failures are ignored.
    pub fn save(&self, store: &crate::Store) {
        if !self.changed.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut known = self.known();
        // The note is JSON, which holds text only.
        known.retain(|path, _| path.to_str().is_some() && path.exists());
        let _ = sealed::write(&store.disk, &self.path, &*known);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, Remembered>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(metadata: &Metadata) -> [i64; 7] {
    [
        metadata.dev() as i64,
        metadata.ino() as i64,
        metadata.size() as i64,
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ]
}

/// The files below `dir`, as sorted paths relative to `root`; links are followed. `above` are the directories that `dir`
/// is in, by what they really are: a link back to one of them never ends.
fn list_files(
    root: &Path,
    dir: &Path,
    above: &mut Vec<(u64, u64)>,
    out: &mut Vec<PathBuf>,
) -> Result<()> {
    let fail = |error| StoreError::io("list", dir, error);
    let metadata = std::fs::metadata(dir).map_err(fail)?;
    let identity = (metadata.dev(), metadata.ino());
    if above.contains(&identity) {
        return Err(fail(std::io::Error::other("a link leads back to a directory that it is in")));
    }
    above.push(identity);
    for path in disk::list(dir).map_err(fail)? {
        if path.is_dir() {
            list_files(root, &path, above, out)?;
        } else if let Ok(name) = path.strip_prefix(root) {
            out.push(name.to_owned());
        }
    }
    above.pop();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_settles_once_its_change_is_seconds_ago() {
        // A clock that was set back makes a change lie ahead.
        let settled = [(100, 104), (100, 103), (100, 100), (100, 50)]
            .map(|(changed, now)| is_settled(changed, now));
        assert_eq!(settled, [true, false, false, false]);
    }

    #[test]
    fn a_file_has_the_digest_of_its_bytes_whatever_its_length() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let piece = PIECE as usize;
        for length in
            [0, 1, 1024, piece - 1, piece, piece + 1, 2 * piece, 3 * piece, 5 * piece + 77]
        {
            let bytes: Vec<u8> = (0..length).map(|at| (at / 3 + at / 1021) as u8).collect();
            std::fs::write(&path, &bytes).expect("it is written");
            let (digest, count) = Digest::of_file(&path).expect("it is read");
            assert_eq!((digest, count), (Digest::of(&bytes), length as u64), "{length}");
        }
    }

    #[test]
    fn there_is_one_way_to_write_a_digest() {
        let digest = Digest::of(b"text");
        let digits = digest.to_string();
        assert_eq!(Digest::parse(&digits), Some(digest));
        assert_eq!(digest.short(), digits[..16]);
        assert_eq!(format!("{digest:?}"), format!("Digest({digits})"));
        for wrong in [digits.to_uppercase(), digits[1..].to_owned(), format!("{digits}0")] {
            assert_eq!(Digest::parse(&wrong), None, "{wrong}");
        }
    }
}
