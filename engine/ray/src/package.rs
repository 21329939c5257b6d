//! What travels to the cluster: files in one archive, named by its content.

use std::fs::File;
use std::io::{Cursor, Read, Seek, Write};
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::{RayError, Result};

/// What Ray takes in one request (`DASHBOARD_CLIENT_MAX_SIZE`).
const MOST_BYTES: u64 = 100 << 20;

/// An archive of files.
#[derive(Debug)]
pub struct Package {
    bytes: Vec<u8>,
}

impl Package {
    /// Packs files: each under a name such as `project/p.yaml`, and the path of what it is, on this machine. The same files give
    /// the same package.
    pub fn new(files: &[(String, PathBuf)], texts: &[(&str, &str)]) -> Result<Self> {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let mut largest = (0, PathBuf::new());
        for (name, text) in texts {
            let packed = pack(&mut archive, name, &mut text.as_bytes(), 0o644);
            packed.map_err(|source| RayError::File { path: (*name).into(), source })?;
        }
        for (name, path) in files {
            let fail = |source| RayError::File { path: path.clone(), source };
            let mut file = File::open(path).map_err(fail)?;
            let length = file.metadata().map_err(fail)?.len();
            if length > largest.0 {
                largest = (length, path.clone());
            }
            // That much never packs to what Ray takes, and would be packed in vain.
            if length > MOST_BYTES * 8 {
                return Err(RayError::TooLarge {
                    bytes: length,
                    most: MOST_BYTES,
                    largest: largest.1,
                });
            }
            pack(&mut archive, name, &mut file, mode(path)).map_err(fail)?;
        }
        let bytes = archive
            .finish()
            .map_err(|error| RayError::File { path: largest.1.clone(), source: error.into() })?;
        let bytes = bytes.into_inner();
        if bytes.len() as u64 > MOST_BYTES {
            let bytes = bytes.len() as u64;
            return Err(RayError::TooLarge { bytes, most: MOST_BYTES, largest: largest.1 });
        }
        Ok(Self { bytes })
    }

    /// Its name on the cluster.
    pub fn name(&self) -> String {
        format!("_ray_pkg_{}.zip", &blake3::hash(&self.bytes).to_hex()[..32])
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn pack(
    archive: &mut ZipWriter<impl Write + Seek>,
    name: &str,
    from: &mut impl Read,
    mode: u32,
) -> std::io::Result<()> {
    // No times: they are not content.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default())
        .unix_permissions(mode);
    archive.start_file(name, options)?;
    std::io::copy(from, archive).map(drop)
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().map_or(0o644, |metadata| metadata.permissions().mode() & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_are_the_same_package() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        let package = |text: &str| {
            std::fs::write(&path, text).expect("it is ours");
            Package::new(&[("project/a".to_owned(), path.clone())], &[("driver.py", "pass")])
                .expect("they are small")
        };
        let (one, same, other) = (package("one"), package("one"), package("other"));
        assert_eq!(one.name(), same.name());
        assert_ne!(one.name(), other.name());
        let mut archive = zip::ZipArchive::new(Cursor::new(one.bytes())).expect("an archive");
        let mut text = String::new();
        archive.by_name("project/a").expect("it is there").read_to_string(&mut text).expect("text");
        assert_eq!(text, "one");
    }

    #[test]
    fn what_cannot_travel_is_named() {
        let missing = vec![("a".to_owned(), PathBuf::from("/not/there"))];
        let error = Package::new(&missing, &[]).map(drop).expect_err("it is not there");
        assert!(error.to_string().contains("/not/there"), "{error}");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("large");
        File::create(&path).and_then(|file| file.set_len(MOST_BYTES * 9)).expect("it is ours");
        let error =
            Package::new(&[("large".to_owned(), path)], &[]).map(drop).expect_err("it is large");
        assert!(
            error.to_string().contains("large") && error.to_string().contains("104857600"),
            "{error}"
        );
    }
}
