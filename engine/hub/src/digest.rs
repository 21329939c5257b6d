//! What the hub promises of a file's bytes, by its entity tag.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Read};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// A digest that the bytes of a file must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Digest {
    /// SHA-256 of the bytes: large files.
    Sha256(String),
    /// SHA-1 of `blob LENGTH\0` and the bytes, as git names them: small files.
    Git(String),
}

impl Digest {
    /// The digest that `text` can only be: 64 or 40 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        match text.len() {
            64 => Some(Self::Sha256(text.to_lowercase())),
            40 => Some(Self::Git(text.to_lowercase())),
            _ => None,
        }
    }

    /// Whether the rest of `file`, `length` bytes, has this digest.
    pub(crate) fn fits(&self, file: &File, length: u64) -> std::io::Result<bool> {
        Ok(match self {
            Self::Sha256(wanted) => sha256_digest(file)? == *wanted,
            Self::Git(wanted) => git_digest(file, length)? == *wanted,
        })
    }
}

/// SHA-256 of the rest of a file.
pub(crate) fn sha256_digest(file: &File) -> std::io::Result<String> {
    hash(Sha256::new(), file)
}

/// The digest that git gives the rest of a file, `length` bytes.
pub(crate) fn git_digest(file: &File, length: u64) -> std::io::Result<String> {
    hash(Sha1::new().chain_update(format!("blob {length}\0")), file)
}

fn hash(mut hasher: impl sha2::Digest, file: &File) -> std::io::Result<String> {
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The entity tag as the cache names its files: without `W/` and quotes. A tag that cannot be
/// the name of a file is named by its digest.
pub(crate) fn blob_name(etag: &str) -> Option<String> {
    let plain = etag.trim().trim_start_matches("W/").trim_matches('"');
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '=');
    match plain {
        "" => None,
        name if name.chars().all(is_name) && !name.starts_with('.') && name.len() <= 128 => {
            Some(name.to_owned())
        }
        odd => Some(hex(&Sha256::digest(odd.as_bytes()))).map(|digest| format!("tag-{digest}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::{Digest, blob_name};

    #[test]
    fn digests_of_known_bytes() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(b"hello\n").expect("it is ours");
        let mut fits = |text: &str| {
            file.rewind().expect("it is ours");
            Digest::parse(text).expect("a digest").fits(&file, 6).expect("it reads")
        };
        // `git hash-object` and `sha256sum` of the same bytes.
        assert!(fits("ce013625030ba8dba906f756967f9e9ca394464a"));
        assert!(fits("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"));
        assert!(!fits("ce013625030ba8dba906f756967f9e9ca394464b"));
    }

    #[test]
    fn odd_tags_make_plain_names() {
        let name = |tag: &str| blob_name(tag).unwrap_or_default();
        assert_eq!(name("\"abc\""), "abc");
        assert_eq!(name("W/\"abc-2\""), "abc-2");
        assert_eq!(name("\"\""), "");
        for tag in ["\"a/b\"", "\"../x\"", "\".\"", "\"a\\b\"", "\"é\""] {
            let name = name(tag);
            assert!(name.starts_with("tag-") && name.len() == 68, "{tag}: {name}");
        }
    }
}
