//! What a hub does with what is published.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::server::{Seen, Server, git, sha256};

/// Repositories that were made, and bytes that came in.
#[derive(Default)]
pub(crate) struct Published {
    /// What was said of each repository when it was made.
    pub(crate) made: BTreeMap<String, Value>,
    /// Large files, by digest.
    pub(crate) large: BTreeMap<String, Vec<u8>>,
    /// Pieces of one that is coming in.
    pieces: BTreeMap<usize, Vec<u8>>,
    /// Bytes of a piece; 0 for files in one piece.
    pub(crate) chunk: usize,
    /// The messages of commits.
    pub(crate) messages: Vec<String>,
}

type Answer = (u16, Vec<(&'static str, String)>, Value);

impl Server {
    /// From now on large files come in pieces of so many bytes; 0: in one.
    pub(crate) fn with_pieces_of(&self, bytes: usize) {
        self.state().published.chunk = bytes;
    }

    /// Whether a repository that was made is private.
    pub(crate) fn was_made(&self, repository: &str) -> Option<bool> {
        self.state().published.made.get(repository)?["private"].as_bool()
    }

    /// Takes what is sent to it.
    pub(super) fn take(&self, request: &Seen, parts: &[&str]) -> Answer {
        let json = || serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
        let fine = |body| (200, Vec::new(), body);
        let is_signed = request.line.contains("X-Amz-Signature");
        if request.headers.contains_key("authorization") == is_signed {
            return (401, Vec::new(), json!({ "error": "a token or a signature, and not both" }));
        }
        match parts {
            ["api", "repos", "create"] => {
                let said = json();
                let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
                let name = format!("{}s/{}/{}", text("type"), text("organization"), text("name"));
                let mut state = self.state();
                if state.published.made.contains_key(&name) {
                    return (409, Vec::new(), json!({ "error": "it is there" }));
                }
                state.published.made.insert(name, said);
                fine(json!({ "url": "" }))
            }
            ["api", kind, owner, name, "preupload", revision] => {
                fine(self.preupload(&format!("{kind}/{owner}/{name}"), revision, &json()))
            }
            ["datasets", _, _, "info", "lfs", "objects", "batch"]
            | [_, _, "info", "lfs", "objects", "batch"] => fine(self.batch(&json())),
            ["lfs", oid] => {
                self.state().published.large.insert((*oid).to_owned(), request.body.clone());
                fine(json!({}))
            }
            ["lfs", oid, number] => {
                let number = number.parse().expect("a number");
                self.state().published.pieces.insert(number, request.body.clone());
                (200, vec![("ETag", format!("\"{oid}-{number}\""))], json!({}))
            }
            ["complete", oid] => {
                let said = json();
                let mut state = self.state();
                let pieces = std::mem::take(&mut state.published.pieces);
                let whole = pieces.into_values().collect::<Vec<_>>().concat();
                let tags = said["parts"].as_array().map_or(0, Vec::len);
                assert!(said["oid"] == *oid && tags > 1, "{said}");
                state.published.large.insert((*oid).to_owned(), whole);
                fine(json!({}))
            }
            ["verify"] => {
                let said = json();
                let oid = said["oid"].as_str().unwrap_or_default();
                let large = self.state().published.large.get(oid).cloned().unwrap_or_default();
                let is_whole = sha256(&large) == oid && said["size"] == large.len();
                (if is_whole { 200 } else { 422 }, Vec::new(), json!({}))
            }
            ["api", kind, owner, name, "commit", revision] => {
                fine(self.take_commit(&format!("{kind}/{owner}/{name}"), revision, &request.body))
            }
            _ => (404, Vec::new(), json!({ "error": "what?" })),
        }
    }

    fn preupload(&self, repository: &str, revision: &str, said: &Value) -> Value {
        let there = self.files(repository, revision);
        let told = said["files"].as_array().expect("files").iter().map(|file| {
            let path = file["path"].as_str().expect("a path");
            let is_large = path.ends_with(".safetensors") || path.ends_with(".parquet");
            let digest = |bytes: &Vec<u8>| if is_large { sha256(bytes) } else { git(bytes) };
            json!({
                "path": path,
                "uploadMode": if is_large { "lfs" } else { "regular" },
                "shouldIgnore": path.ends_with(".ignored"),
                "oid": there.get(path).map(digest),
            })
        });
        json!({ "files": told.collect::<Value>() })
    }

    fn batch(&self, said: &Value) -> Value {
        let state = self.state();
        let chunk = state.published.chunk;
        let object = |object: &Value| {
            let oid = object["oid"].as_str().expect("a digest");
            let size = object["size"].as_u64().expect("a size") as usize;
            if state.published.large.contains_key(oid) {
                return json!({ "oid": oid, "size": size });
            }
            let signed = "X-Amz-Signature=secret";
            let upload = if chunk == 0 {
                json!({ "href": format!("{}/lfs/{oid}?{signed}", self.address), "header": { "x-mine": "1" } })
            } else {
                let piece = |number: usize| {
                    (
                        format!("{number:05}"),
                        json!(format!("{}/lfs/{oid}/{number}?{signed}", self.address)),
                    )
                };
                let mut header: serde_json::Map<_, _> =
                    (1..=size.div_ceil(chunk)).map(piece).collect();
                header.insert("chunk_size".to_owned(), json!(chunk.to_string()));
                json!({ "href": format!("{}/complete/{oid}", self.address), "header": header })
            };
            let verify = json!({ "href": format!("{}/verify", self.address) });
            json!({ "oid": oid, "size": size, "actions": { "upload": upload, "verify": verify } })
        };
        let objects = said["objects"].as_array().expect("objects").iter().map(object);
        json!({ "transfer": "basic", "objects": objects.collect::<Value>() })
    }

    fn take_commit(&self, repository: &str, revision: &str, body: &[u8]) -> Value {
        let mut files = self.files(repository, revision);
        let mut large = self.state().published.large.clone();
        for line in String::from_utf8_lossy(body).lines() {
            let line: Value = serde_json::from_str(line).expect("a line of JSON");
            let value = &line["value"];
            let text = |name: &str| value[name].as_str().unwrap_or_default();
            match line["key"].as_str() {
                Some("header") => self.state().published.messages.push(text("summary").to_owned()),
                Some("file") => {
                    let bytes = BASE64.decode(text("content")).expect("base64");
                    files.insert(text("path").to_owned(), bytes);
                }
                Some("lfsFile") => {
                    let bytes = large.remove(text("oid")).expect("it was sent");
                    files.insert(text("path").to_owned(), bytes);
                }
                other => panic!("{other:?}"),
            }
        }
        let files: Vec<_> =
            files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
        let commit = self.commit(repository, revision, &files);
        json!({ "commitOid": commit, "commitUrl": "" })
    }
}
