//! A sealed file is a line of JSON and a line with its digest: whatever happened to it, it is read as it was written or not
//! at all.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::disk::Disk;
use crate::error::{Result, StoreError};

pub(crate) fn write(disk: &Disk, path: &Path, value: &impl Serialize) -> Result<()> {
    disk.write_atomic(path, seal(value).as_bytes())
}

/// The same of a file whose name is made durable later, with the first record beside it.
pub(crate) fn write_whole(disk: &Disk, path: &Path, value: &impl Serialize) -> Result<()> {
    disk.write_whole(path, seal(value).as_bytes())
}

/// The content of a sealed file.
pub(crate) fn seal(value: &impl Serialize) -> String {
    let json = to_json(value);
    format!("{json}\n{}\n", Digest::of(json.as_bytes()))
}

pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("records are plain data")
}

/// None if there is no file; what does not have its digest is damage.
pub(crate) fn read<T: DeserializeOwned>(disk: &Disk, path: &Path) -> Result<Option<T>> {
    let Some(bytes) = disk.read_if_exists(path)? else { return Ok(None) };
    parse(bytes, path).map(Some)
}

/// The value of a sealed file with these bytes.
pub(crate) fn parse<T: DeserializeOwned>(bytes: Vec<u8>, path: &Path) -> Result<T> {
    let damaged = |reason: &str| StoreError::damaged(path, reason);
    let text = String::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let sealed = text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n'));
    let (json, digest) = sealed.ok_or_else(|| damaged("it is cut short"))?;
    if Digest::parse(digest) != Some(Digest::of(json.as_bytes())) {
        return Err(damaged("its content does not have the recorded digest"));
    }
    serde_json::from_str(json).map_err(|error| damaged(&error.to_string()))
}
