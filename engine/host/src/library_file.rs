//! The file of a library: whether it is whole, and its digest.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::search::Origin;

/// A file that may hold a library.
#[derive(Debug)]
pub(crate) struct LibraryFile {
    /// Absolute, and without links.
    pub(crate) path: PathBuf,
    /// Of one that is not shipped with the engine.
    pub(crate) digest: Option<String>,
}

impl LibraryFile {
    /// Looks at the file, without loading it.
    pub(crate) fn open(path: &Path, origin: Origin) -> Result<Self, String> {
        // Without a slash, dlopen would search the system's paths.
        let path = path.canonicalize().map_err(|error| error.to_string())?;
        check_is_whole(&path)?;
        let digest = match origin {
            Origin::Shipped => None,
            Origin::Foreign => Some(digest(&path).map_err(|error| error.to_string())?),
        };
        Ok(Self { path, digest })
    }
}

/// The dynamic loader dies of SIGBUS on a file that is cut short, before any check of
/// ours; so see first that all segments of an ELF file are there.
pub(crate) fn check_is_whole(path: &Path) -> Result<(), String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let mut head = Vec::new();
    file.by_ref().take(1 << 16).read_to_end(&mut head).map_err(|error| error.to_string())?;
    if !cfg!(all(target_os = "linux", target_pointer_width = "64")) {
        return Ok(());
    }
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let field = head.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    if head.get(..4) != Some(b"\x7fELF") {
        return Err("it is not a shared library".to_owned());
    }
    let segments = || -> Option<u64> {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let mut end = 64;
        for index in 0..count {
            let at = usize::try_from(table.checked_add(index * size)?).ok()?;
            end = end.max(number(at + 8, 8)?.checked_add(number(at + 32, 8)?)?);
        }
        Some(end)
    };
    match segments() {
        Some(end) if end <= length => Ok(()),
        _ => Err("the file is cut short".to_owned()),
    }
}

/// What tells a library from another build of it.
pub(crate) fn digest(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}
