//! The hub's programming interface: which commit a revision is, what files a commit has, and
//! what a file is.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

use crate::cache::is_safe;
use crate::digest::{Digest, blob_name};
use crate::error::{HubError, Result};
use crate::http::{Answer, Ask, Http, reason};
use crate::reference::{Reference, is_commit};

/// More than any answer needs, and little enough to hold in memory.
const MAX_ANSWER: u64 = 64 << 20;
/// Pages of a listing; each has up to a thousand files.
const MAX_PAGES: usize = 1000;
/// No file on a hub is longer than this.
const MAX_FILE: u64 = 1 << 42;

/// A file of a commit, as the listing has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// Its path in the repository; it stays inside.
    pub(crate) path: String,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// What its bytes must be.
    pub(crate) digest: Option<Digest>,
}

/// What the hub says of a file before it sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// The name of its blob in the cache.
    pub(crate) blob: String,
    /// The strong entity tag, as it was sent.
    pub(crate) tag: Option<String>,
    /// What its bytes must be, if the tag is a digest.
    pub(crate) digest: Option<Digest>,
    /// Its length, if it is said.
    pub(crate) size: Option<u64>,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Http {
    /// The commit that a revision is now.
    pub(crate) fn commit(
        &self,
        reference: &Reference,
        revision: &str,
        within: Option<Duration>,
    ) -> Result<String> {
        if is_commit(revision) {
            return Ok(revision.to_owned());
        }
        let path = format!("{}/revision/{}", reference.api_path(), encode(revision));
        let ask = Ask { within, ..Ask::get(self.address(&path)) };
        let answer = self.expect_success(self.ask(&ask)?, reference, revision)?;
        let address = answer.address.clone();
        let found: Revision = read_json(answer)?;
        if is_commit(&found.sha) {
            return Ok(found.sha);
        }
        let reason = format!("{:?} is not a commit", found.sha);
        Err(HubError::Malformed { address, reason })
    }

    /// The files of a commit.
    pub(crate) fn tree(&self, reference: &Reference, commit: &str) -> Result<Vec<RemoteFile>> {
        let path = format!("{}/tree/{commit}?recursive=true", reference.api_path());
        let mut next = Some(self.address(&path));
        let mut files = Vec::new();
        for _ in 0..MAX_PAGES {
            let Some(address) = next else { return Ok(files) };
            let ask = Ask { leave_hub: false, ..Ask::get(address) };
            let answer = self.expect_success(self.ask(&ask)?, reference, commit)?;
            let address = answer.address.clone();
            next = answer.header("link").and_then(next_page);
            for entry in read_json::<Vec<Entry>>(answer)? {
                if entry.kind == "file" {
                    files.push(remote_file(entry, &address)?);
                }
            }
        }
        let reason = "the listing has no end".to_owned();
        Err(HubError::Malformed { address: self.address(&path), reason })
    }

    /// What the hub says of a file.
    pub(crate) fn metadata(
        &self,
        reference: &Reference,
        commit: &str,
        path: &str,
    ) -> Result<Metadata> {
        let address = self.file_address(reference, commit, path);
        let answer = self.ask(&Ask::head(address))?;
        let redirects = (300..400).contains(&answer.status);
        let answer =
            if redirects { answer } else { self.expect_success(answer, reference, commit)? };
        if let Some(other) = answer.header("x-repo-commit").filter(|found| *found != commit) {
            return Err(answer.malformed(format!("this is the file of commit {other}")));
        }
        let own_tag = answer.header("etag");
        let tag = answer.header("x-linked-etag").or(own_tag);
        let blob = tag
            .and_then(blob_name)
            .ok_or_else(|| answer.malformed("the file has no entity tag"))?;
        let length = |name| answer.header(name).and_then(|text| text.parse().ok());
        let size =
            length("x-linked-size").or_else(|| length("content-length").filter(|_| !redirects));
        let is_strong = |tag: &&str| !redirects && tag.starts_with('"');
        Ok(Metadata {
            digest: Digest::parse(&blob),
            tag: own_tag.filter(is_strong).map(str::to_owned),
            blob,
            size,
        })
    }

    /// Where the bytes of a file are.
    pub(crate) fn file_address(&self, reference: &Reference, commit: &str, path: &str) -> String {
        let path: Vec<_> = path.split('/').map(encode).collect();
        self.address(&format!("{}/resolve/{commit}/{}", reference.repository(), path.join("/")))
    }

    /// The answer if it is a success; otherwise what the refusal means.
    pub(crate) fn expect_success(
        &self,
        answer: Answer,
        reference: &Reference,
        revision: &str,
    ) -> Result<Answer> {
        let status = answer.status;
        if matches!(status, 200..=299) {
            return Ok(answer);
        }
        if !answer.address.starts_with(&self.address("")) {
            // Another host knows nothing of repositories.
            return Err(HubError::Refused { address: answer.address, status });
        }
        let repository = reference.repository();
        let had_token = self.has_token();
        let code = answer.header("x-error-code").unwrap_or_default();
        Err(match (status, code) {
            (_, "GatedRepo") => {
                let page = self.address(&repository);
                HubError::Gated { repository, page, had_token }
            }
            (404, "RevisionNotFound") => {
                HubError::NoRevision { repository, revision: revision.to_owned() }
            }
            (404, "EntryNotFound") => answer.malformed("it lists a file that it does not have"),
            (401 | 403 | 404, _) => HubError::NoRepository { repository, had_token },
            _ => HubError::Refused { address: answer.address, status },
        })
    }
}

fn read_json<T: DeserializeOwned>(mut answer: Answer) -> Result<T> {
    let read = answer.body.with_config().limit(MAX_ANSWER).read_to_vec();
    let bytes = read.map_err(|error| match error {
        ureq::Error::BodyExceedsLimit(_) => answer.malformed("the answer is too long"),
        error => HubError::Unreachable { address: answer.address.clone(), reason: reason(&error) },
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| answer.malformed(format!("not the JSON of a hub ({error})")))
}

fn remote_file(entry: Entry, address: &str) -> Result<RemoteFile> {
    let malformed = |reason: String| HubError::Malformed { address: address.to_owned(), reason };
    let Entry { path, size, oid, lfs, .. } = entry;
    if !is_safe(&path) {
        return Err(malformed(format!(
            "a file called {path:?}, which would lie outside of the cache"
        )));
    }
    let (size, digest) = match lfs {
        Some(lfs) => (lfs.size, lfs.oid),
        None => (size, oid),
    };
    if size > MAX_FILE {
        return Err(malformed(format!("`{path}` would have {size} bytes")));
    }
    Ok(RemoteFile { path, size, digest: Digest::parse(&digest) })
}

/// The address of the next page: `<https://…>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (before, _) = link.split_once("rel=\"next\"")?;
    let (_, next) = before.rsplit_once('<')?;
    Some(next.split_once('>')?.0.to_owned())
}

/// A text as one part of a path of an address.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let encoded = text.bytes().map(|byte| {
        if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    });
    encoded.collect()
}

#[cfg(test)]
mod tests {
    use super::{encode, next_page};

    #[test]
    fn addresses() {
        assert_eq!(encode("refs/convert/parquet"), "refs%2Fconvert%2Fparquet");
        assert_eq!(encode("a b#c?é.txt"), "a%20b%23c%3F%C3%A9.txt");
        let link =
            "<https://hub.test/a?cursor=x>; rel=\"next\", <https://hub.test/b>; rel=\"last\"";
        assert_eq!(next_page(link).as_deref(), Some("https://hub.test/a?cursor=x"));
        assert_eq!(next_page("<https://hub.test/b>; rel=\"prev\""), None);
    }
}
