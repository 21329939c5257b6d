//! Every write, sync and rename of the store goes through here.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Result, StoreError};

fn with<T>(action: &'static str, path: &Path, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|error| StoreError::io(action, path, error))
}

pub(crate) fn canonical(path: &Path) -> Result<PathBuf> {
    with("find", path, path.canonicalize())
}

pub(crate) fn create_dir_all(path: &Path) -> Result<()> {
    with("create", path, fs::create_dir_all(path))
}

pub(crate) fn remove_dir_all(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => with("remove", path, result),
    }
}

pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => with("remove", path, result),
    }
}

/// The members of a directory, by name; none if there is no directory.
pub(crate) fn list(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        result => with("list", path, result)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(with("list", path, entry)?.path());
    }
    paths.sort();
    Ok(paths)
}

pub(crate) fn read_if_exists(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => with("read", path, result).map(Some),
    }
}

/// The lines of a file, one at a time; none if there is no file.
pub(crate) fn lines_if_exists(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Vec<u8>>> + use<>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        result => Some(with("read", path, result)?),
    };
    let path = path.to_owned();
    let lines = file.into_iter().flat_map(|file| BufReader::new(file).split(b'\n'));
    Ok(lines.map(move |line| with("read", &path, line)))
}

/// A path in `tmp` that no other process, thread or earlier run uses.
pub(crate) fn unique(tmp: &Path, what: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    tmp.join(format!("{what}-{}-{nanos:x}-{count}", std::process::id()))
}

/// Writes a file that appears whole or not at all, and survives a power cut.
pub(crate) fn write_atomic(tmp: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = unique(tmp, "file");
    let written = write_synced(&aside, bytes).and_then(|()| rename(&aside, path));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = with("create", path, File::create_new(path))?;
    with("write", path, file.write_all(bytes))?;
    with("sync", path, file.sync_data())
}

/// Renames and makes the new name durable.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    with("rename", to, fs::rename(from, to))?;
    match to.parent() {
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

/// Makes the content of a file, or the names in a directory, durable.
pub(crate) fn sync(path: &Path) -> Result<()> {
    let file = with("open", path, File::open(path))?;
    with("sync", path, file.sync_all())
}

/// Appends one line in one write, after the end of any torn line.
pub(crate) fn append_line(path: &Path, line: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    let mut file = with("open", path, options.read(true).append(true).create(true).open(path))?;
    let torn = with("read", path, ends_torn(&mut file))?;
    let text = if torn { format!("\n{line}\n") } else { format!("{line}\n") };
    with("write", path, file.write_all(text.as_bytes()))?;
    with("sync", path, file.sync_data())
}

fn ends_torn(file: &mut File) -> std::io::Result<bool> {
    use std::io::{Seek, SeekFrom};
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}
