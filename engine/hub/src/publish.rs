//! Publishing: the files of a model or a data set become a commit of a repository.
//!
//! As `huggingface_hub` does it: the hub is told of each file, large ones go to its store of large files (Git LFS) by their
//! SHA-256, and one commit names them all. What the hub has already is not sent again, so a publication that was cut short
//! is taken up by another one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::digest::{Digest, git_digest, sha256_digest};
use crate::error::{HubError, Result};
use crate::http::{Answer, Content, Http};
use crate::hub::Hub;
use crate::reference::{Kind, Reference};
use crate::settings::Watch;

/// How much of a file the hub looks at to say whether it is a large one.
const SAMPLE: u64 = 512;
/// Files that it is told of at once.
const TOLD: usize = 256;
/// More than any answer needs.
const MAX_ANSWER: u64 = 16 << 20;
const LFS: &str = "application/vnd.git-lfs+json";

/// A file to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Its path in the repository, with `/`.
    pub path: String,
    /// Where it is on this machine.
    pub file: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// A file that is there under this path stays, such as a card that people have edited.
    pub only_new: bool,
}

impl Upload {
    /// A file on this machine.
    pub fn new(path: impl Into<String>, file: PathBuf) -> Result<Self> {
        let size = file.metadata().map_err(HubError::io("read", &file))?.len();
        Ok(Self { path: path.into(), file, size, only_new: false })
    }

    /// The same, unless there is a file of this path.
    #[must_use]
    pub fn unless_there(self) -> Self {
        Self { only_new: true, ..self }
    }

    fn open(&self) -> Result<File> {
        File::open(&self.file).map_err(HubError::io("read", &self.file))
    }

    fn digest(&self, kind: Mode) -> Result<String> {
        let digest = match kind {
            Mode::Lfs => sha256_digest(&self.open()?),
            Mode::Regular => git_digest(&self.open()?, self.size),
        };
        digest.map_err(HubError::io("read", &self.file))
    }

    /// The first bytes, or all.
    fn bytes(&self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.open()?.take(limit).read_to_end(&mut bytes);
        read.map_err(HubError::io("read", &self.file))?;
        Ok(bytes)
    }
}

/// What became of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The page of the repository.
    pub page: String,
    /// The commit, unless the hub had all of it.
    pub commit: Option<String>,
    /// Files that the commit names.
    pub files: usize,
    /// Bytes that were sent.
    pub bytes: u64,
}

/// How the hub keeps a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Lfs,
    Regular,
}

/// What the hub says of a file that it was told of.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    path: String,
    upload_mode: Mode,
    #[serde(default)]
    should_ignore: bool,
    /// The digest of the file that it has under this path.
    #[serde(default)]
    oid: Option<String>,
}

/// A step of sending a large file.
#[derive(Debug, Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Debug, Deserialize)]
struct Object {
    oid: String,
    /// None where the hub has it.
    #[serde(default)]
    actions: Option<Actions>,
    #[serde(default)]
    error: Option<ObjectError>,
}

#[derive(Debug, Deserialize)]
struct ObjectError {
    message: String,
}

/// A file that the commit will name.
struct Change<'a> {
    upload: &'a Upload,
    mode: Mode,
    /// SHA-256 of a large file.
    oid: String,
}

impl Hub {
    /// Publishes files in the repository and at the branch that `to` names, which is made if it is not there: private, unless
    /// it is to be `public`. Files that are there and are not among these stay.
    ///
    /// # Errors
    /// Without a token that may write; when a file cannot be read, or the hub refuses.
    pub fn publish(
        &self,
        to: &Reference,
        files: &[Upload],
        message: &str,
        public: bool,
        watch: &Watch,
    ) -> Result<Published> {
        if self.is_offline() {
            return Err(HubError::OfflinePublish);
        }
        if !self.http().has_token() {
            return Err(HubError::NoToken { repository: to.repository() });
        }
        let job = Job { http: self.http(), to, watch };
        self.http().stoppable(watch, || {
            job.create(public)?;
            let changes = job.changes(files)?;
            let mut bytes = 0;
            for change in changes.iter().filter(|change| change.mode == Mode::Lfs) {
                bytes += job.send(change)?;
            }
            let page = self.http().address(&to.repository());
            if changes.is_empty() {
                return Ok(Published { page, commit: None, files: 0, bytes });
            }
            let small = changes.iter().filter(|change| change.mode == Mode::Regular);
            bytes += small.map(|change| change.upload.size).sum::<u64>();
            let commit = Some(job.commit(&changes, message)?);
            Ok(Published { page, commit, files: changes.len(), bytes })
        })
    }
}

/// The requests of a publication.
struct Job<'a> {
    http: &'a Http,
    to: &'a Reference,
    watch: &'a Watch<'a>,
}

impl Job<'_> {
    fn api(&self, call: &str) -> String {
        // A slash in the name of a branch is not one of the path.
        let revision = self.to.revision().replace('/', "%2F");
        self.http.address(&format!("{}/{call}/{revision}", self.to.api_path()))
    }

    /// Sends a question that may be asked twice.
    fn ask<T: DeserializeOwned>(&self, address: &str, kind: &str, body: &Value) -> Result<T> {
        let body = body.to_string();
        let answer = self.http.patiently(self.watch, || {
            let headers = [("Content-Type", kind), ("Accept", kind)];
            self.http.post(address, &headers, Content::Bytes(body.as_bytes()))
        })?;
        read(self.checked(answer)?)
    }

    /// The answer, unless it is a refusal.
    fn checked(&self, answer: Answer) -> Result<Answer> {
        let repository = self.to.repository();
        match answer.status {
            200..300 => Ok(answer),
            401 | 403 => Err(HubError::MayNotWrite { repository, reason: said(answer) }),
            404 => {
                Err(HubError::NoRevision { repository, revision: self.to.revision().to_owned() })
            }
            status => Err(HubError::RefusedTo {
                address: answer.address.clone(),
                status,
                reason: said(answer),
            }),
        }
    }

    /// Makes the repository, unless it is there.
    fn create(&self, public: bool) -> Result<()> {
        let (owner, name) = self.to.id.split_once('/').unwrap_or(("", &self.to.id));
        let kind = match self.to.kind {
            Kind::Model => "model",
            Kind::Dataset { .. } => "dataset",
        };
        let body = json!({ "name": name, "organization": owner, "type": kind, "private": !public });
        let body = body.to_string();
        let address = self.http.address("api/repos/create");
        let answer = self.http.patiently(self.watch, || {
            let headers = [("Content-Type", "application/json")];
            self.http.post(&address, &headers, Content::Bytes(body.as_bytes()))
        })?;
        if answer.status == 409 { Ok(()) } else { self.checked(answer).map(drop) }
    }

    /// The files that the hub does not have as they are.
    fn changes<'a>(&self, files: &'a [Upload]) -> Result<Vec<Change<'a>>> {
        #[derive(Deserialize)]
        struct Said {
            files: Vec<Told>,
        }
        let mut changes = Vec::new();
        for some in files.chunks(TOLD) {
            let tell = |file: &Upload| -> Result<Value> {
                let sample = BASE64.encode(file.bytes(SAMPLE)?);
                Ok(json!({ "path": file.path, "size": file.size, "sample": sample }))
            };
            let body = json!({ "files": some.iter().map(tell).collect::<Result<Vec<_>>>()? });
            let said: Said = self.ask(&self.api("preupload"), "application/json", &body)?;
            for upload in some {
                let told = said.files.iter().find(|told| told.path == upload.path);
                let told = told.ok_or_else(|| HubError::Malformed {
                    address: self.api("preupload"),
                    reason: format!("it says nothing of `{}`", upload.path),
                })?;
                let oid = upload.digest(told.upload_mode)?;
                let is_there = told.oid.as_deref().and_then(Digest::parse) == Digest::parse(&oid);
                let stays = is_there || (upload.only_new && told.oid.is_some());
                if !told.should_ignore && !stays {
                    changes.push(Change { upload, mode: told.upload_mode, oid });
                }
            }
        }
        Ok(changes)
    }

    /// Sends a large file, unless the hub has it; how many bytes were sent.
    fn send(&self, change: &Change) -> Result<u64> {
        #[derive(Deserialize)]
        struct Batch {
            objects: Vec<Object>,
        }
        let Change { upload, oid, .. } = change;
        let address =
            self.http.address(&format!("{}.git/info/lfs/objects/batch", self.to.repository()));
        let body = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [{ "oid": oid, "size": upload.size }],
            "hash_algo": "sha256",
            "ref": { "name": self.to.revision() },
        });
        let batch: Batch = self.ask(&address, LFS, &body)?;
        let malformed = |reason: String| HubError::Malformed { address: address.clone(), reason };
        let object = batch.objects.into_iter().find(|object| object.oid == *oid);
        let object =
            object.ok_or_else(|| malformed(format!("it says nothing of `{}`", upload.path)))?;
        if let Some(error) = object.error {
            return Err(malformed(format!("`{}`: {}", upload.path, error.message)));
        }
        let Actions { upload: Some(action), verify } = object.actions.unwrap_or_default() else {
            return Ok(0);
        };
        match action.header.get("chunk_size").and_then(number) {
            Some(0) => return Err(malformed("it wants pieces of no bytes".to_owned())),
            Some(chunk) => self.in_pieces(&action, chunk, change)?,
            None => drop(self.put(&action.href, &action.header, upload, 0, upload.size)?),
        }
        if let Some(verify) = verify {
            let body = json!({ "oid": oid, "size": upload.size }).to_string();
            let answer = self.http.patiently(self.watch, || {
                let headers = [("Content-Type", LFS)];
                self.http.post(&verify.href, &headers, Content::Bytes(body.as_bytes()))
            })?;
            self.checked(answer)?;
        }
        Ok(upload.size)
    }

    /// Sends a file in pieces of `chunk` bytes, whose addresses are in the action's header by their numbers.
    fn in_pieces(&self, action: &Action, chunk: u64, change: &Change) -> Result<()> {
        let Change { upload, oid, .. } = change;
        let mut parts = Vec::new();
        for number in 1..=upload.size.div_ceil(chunk) {
            let malformed = |reason: &str| HubError::Malformed {
                address: self.http.address(&self.to.repository()),
                reason: format!("{reason} for piece {number} of `{}`", upload.path),
            };
            // Written as 1 or as 00001.
            let named = action.header.iter().find(|(name, _)| name.parse() == Ok(number));
            let href = named.and_then(|(_, href)| href.as_str());
            let href = href.ok_or_else(|| malformed("there is no address"))?;
            let from = (number - 1) * chunk;
            let answer =
                self.put(href, &Map::new(), upload, from, chunk.min(upload.size - from))?;
            let etag = answer.header("etag").ok_or_else(|| malformed("there is no ETag"))?;
            parts.push(json!({ "partNumber": number, "etag": etag }));
        }
        let body = json!({ "oid": oid, "parts": parts });
        let _: Value = self.ask(&action.href, LFS, &body)?;
        Ok(())
    }

    /// Sends bytes of a file to a place that the hub has named, which has a signature of its own.
    fn put(
        &self,
        href: &str,
        headers: &Map<String, Value>,
        upload: &Upload,
        from: u64,
        length: u64,
    ) -> Result<Answer> {
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
            .collect();
        let answer = self.http.patiently(self.watch, || {
            let mut file = upload.open()?;
            file.seek(SeekFrom::Start(from)).map_err(HubError::io("read", &upload.file))?;
            self.http.put(href, &headers, Content::Reader(&mut file.take(length), length))
        })?;
        self.checked(answer)
    }

    /// Names all changes in one commit.
    fn commit(&self, changes: &[Change], message: &str) -> Result<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Made {
            commit_oid: String,
        }
        let header = json!({ "summary": message, "description": "" });
        let mut lines = json!({ "key": "header", "value": header }).to_string();
        for Change { upload, mode, oid } in changes {
            let line = match mode {
                Mode::Lfs => json!({
                    "key": "lfsFile",
                    "value": { "path": upload.path, "algo": "sha256", "oid": oid, "size": upload.size },
                }),
                Mode::Regular => json!({
                    "key": "file",
                    "value": {
                        "path": upload.path,
                        "encoding": "base64",
                        "content": BASE64.encode(upload.bytes(u64::MAX)?),
                    },
                }),
            };
            lines.push('\n');
            lines += &line.to_string();
        }
        // Not patiently: one that seems to have failed may have been made.
        let headers = [("Content-Type", "application/x-ndjson")];
        let address = self.api("commit");
        let answer = self.http.post(&address, &headers, Content::Bytes(lines.as_bytes()))?;
        let made: Made = read(self.checked(answer)?)?;
        Ok(made.commit_oid)
    }
}

/// A number, also as text.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// The JSON of an answer.
fn read<T: DeserializeOwned>(mut answer: Answer) -> Result<T> {
    let text = answer.body.with_config().limit(MAX_ANSWER).read_to_string();
    let text = text.map_err(|error| answer.malformed(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| answer.malformed(error.to_string()))
}

/// What a refusal says, in a line.
fn said(mut answer: Answer) -> String {
    const LONGEST: usize = 300;
    let text = answer.body.with_config().limit(MAX_ANSWER).read_to_string().unwrap_or_default();
    let message = serde_json::from_str::<Value>(&text).ok();
    let message = message.and_then(|json| Some(json.get("error")?.as_str()?.to_owned()));
    let message = message.unwrap_or(text);
    message.chars().filter(|char| !char.is_control()).take(LONGEST).collect()
}
