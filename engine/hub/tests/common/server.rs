//! A hub on 127.0.0.1 that can misbehave: it serves repositories as the real one does, and
//! plays the tricks that a test asks for.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What the server does to the next request that a trick is for.
#[derive(Clone, Debug)]
pub(crate) enum Trick {
    /// Announces everything, sends so many bytes, and hangs up.
    Cut(usize),
    /// Answers with this status and these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// Announces and sends fewer bytes than the file has.
    Short,
    /// Flips a bit.
    WrongBytes,
    /// Sends the whole file, whatever part was asked for.
    IgnoreRange,
    /// Sends another part than was asked for.
    WrongRange,
    /// Waits before every thousand bytes.
    Slow(Duration),
    /// Accepts the request and never answers.
    Hang,
    /// Answers with this body.
    Body(String),
    /// Sends this entity tag.
    Tag(&'static str),
}

/// A request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// "GET /owner/name/resolve/…".
    pub(crate) line: String,
    /// Lower-case names.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// Path, bytes, whether it is a large file.
type Files = BTreeMap<String, (Vec<u8>, bool)>;

#[derive(Default)]
pub(super) struct State {
    /// By "models/owner/name" and revision.
    refs: BTreeMap<(String, String), String>,
    /// By repository and commit.
    commits: BTreeMap<(String, String), Files>,
    /// Matched against the request line; `true`: plays for ever.
    tricks: Vec<(String, Trick, bool)>,
    seen: Vec<Seen>,
    /// Where large files really are.
    cdn: Option<String>,
    /// Files of a page of a listing.
    page: usize,
    /// What was published.
    pub(super) published: super::publish::Published,
}

/// A server that lives until the test ends.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let state = Arc::new(Mutex::new(State { page: 1000, ..State::default() }));
        let server = Self { address, state };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = serving.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A commit of "models/owner/name" or "datasets/owner/name", which `revision` then is.
    /// Files whose path ends with `.safetensors` or `.parquet` are large files.
    pub(crate) fn commit(
        &self,
        repository: &str,
        revision: &str,
        files: &[(&str, &[u8])],
    ) -> String {
        let mut state = self.state();
        let number = state.commits.len() + 1;
        let commit = format!("{:040x}", 0xc0de_0000_0000_u64 + number as u64);
        let is_large = |path: &str| path.ends_with(".safetensors") || path.ends_with(".parquet");
        let files = files
            .iter()
            .map(|(path, bytes)| ((*path).to_owned(), (bytes.to_vec(), is_large(path))));
        state.commits.insert((repository.to_owned(), commit.clone()), files.collect());
        state.refs.insert((repository.to_owned(), revision.to_owned()), commit.clone());
        commit
    }

    /// The files of a revision.
    pub(crate) fn files(&self, repository: &str, revision: &str) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let commit = state.refs.get(&(repository.to_owned(), revision.to_owned()));
        let files =
            commit.and_then(|commit| state.commits.get(&(repository.to_owned(), commit.clone())));
        let files = files.into_iter().flatten();
        files.map(|(path, (bytes, _))| (path.clone(), bytes.clone())).collect()
    }

    /// Plays a trick once, on the next request whose line contains `on`.
    pub(crate) fn play(&self, on: &str, trick: Trick) {
        self.state().tricks.push((on.to_owned(), trick, false));
    }

    /// Plays a trick on every such request.
    pub(crate) fn play_always(&self, on: &str, trick: Trick) {
        self.state().tricks.push((on.to_owned(), trick, true));
    }

    pub(crate) fn stop_tricks(&self) {
        self.state().tricks.clear();
    }

    /// Large files are redirected to another server.
    pub(crate) fn redirect_to(&self, other: &Server) {
        self.state().cdn = Some(other.address.clone());
    }

    pub(crate) fn page(&self, files: usize) {
        self.state().page = files;
    }

    /// The requests so far; the list starts anew.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }

    fn serve(&self, mut stream: TcpStream) {
        let Some(request) = read_request(&stream) else { return };
        let trick = {
            let mut state = self.state();
            state.seen.push(request.clone());
            let found = state.tricks.iter().position(|(on, ..)| request.line.contains(on.as_str()));
            found.map(|at| {
                if state.tricks[at].2 {
                    state.tricks[at].1.clone()
                } else {
                    state.tricks.remove(at).1
                }
            })
        };
        match trick {
            Some(Trick::Hang) => {
                let _ = stream.read(&mut [0; 1]);
            }
            Some(Trick::Status(status, headers)) => {
                drop(respond(&mut stream, status, &headers, b"{}"));
            }
            Some(Trick::Body(body)) => drop(respond(&mut stream, 200, &[], body.as_bytes())),
            trick => self.answer(&mut stream, &request, trick),
        }
    }

    fn answer(&self, stream: &mut TcpStream, request: &Seen, trick: Option<Trick>) {
        let path = request.line.split(' ').nth(1).unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<_> = path.trim_start_matches('/').split('/').map(decode).collect();
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        if !request.line.starts_with("GET") && !request.line.starts_with("HEAD") {
            let (status, headers, body) = self.take(request, &parts);
            drop(respond(stream, status, &headers, body.to_string().as_bytes()));
            return;
        }
        match &parts[..] {
            ["api", kind, owner, name, "revision", revision] => {
                self.revision(stream, &format!("{kind}/{owner}/{name}"), revision);
            }
            ["api", kind, owner, name, "tree", commit] => {
                self.tree(stream, &format!("{kind}/{owner}/{name}"), commit, path, query);
            }
            ["datasets", owner, name, "resolve", commit, file @ ..] => {
                self.file(
                    stream,
                    request,
                    &format!("datasets/{owner}/{name}"),
                    commit,
                    &file.join("/"),
                    trick,
                );
            }
            [owner, name, "resolve", commit, file @ ..] => {
                self.file(
                    stream,
                    request,
                    &format!("models/{owner}/{name}"),
                    commit,
                    &file.join("/"),
                    trick,
                );
            }
            _ => drop(respond(stream, 404, &[], b"")),
        }
    }

    fn revision(&self, stream: &mut TcpStream, repository: &str, revision: &str) {
        let state = self.state();
        let known = state.refs.keys().any(|(known, _)| known == repository);
        let code = |code: &str| vec![("X-Error-Code", code.to_owned())];
        let _ = match state.refs.get(&(repository.to_owned(), revision.to_owned())) {
            Some(commit) => {
                respond(stream, 200, &[], json!({"sha": commit}).to_string().as_bytes())
            }
            None if known => respond(stream, 404, &code("RevisionNotFound"), b""),
            None => respond(stream, 401, &code("RepoNotFound"), b""),
        };
    }

    fn tree(
        &self,
        stream: &mut TcpStream,
        repository: &str,
        commit: &str,
        path: &str,
        query: &str,
    ) {
        let state = self.state();
        let Some(files) = state.commits.get(&(repository.to_owned(), commit.to_owned())) else {
            drop(respond(stream, 404, &[("X-Error-Code", "RevisionNotFound".to_owned())], b""));
            return;
        };
        let start: usize =
            query.split("cursor=").nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        let entry = |(path, (bytes, large)): (&String, &(Vec<u8>, bool))| {
            let mut entry =
                json!({"type": "file", "path": path, "size": bytes.len(), "oid": git(bytes)});
            if *large {
                entry["lfs"] = json!({"oid": sha256(bytes), "size": bytes.len()});
            }
            entry
        };
        let mut entries: Vec<_> = files.iter().skip(start).take(state.page).map(entry).collect();
        entries.push(json!({"type": "directory", "path": "some", "size": 0, "oid": ""}));
        let mut headers = Vec::new();
        if start + state.page < files.len() {
            let next = start + state.page;
            headers.push((
                "Link",
                format!("<{}{path}?recursive=true&cursor={next}>; rel=\"next\"", self.address),
            ));
        }
        drop(respond(stream, 200, &headers, Value::Array(entries).to_string().as_bytes()));
    }

    fn file(
        &self,
        stream: &mut TcpStream,
        request: &Seen,
        repository: &str,
        commit: &str,
        file: &str,
        trick: Option<Trick>,
    ) {
        let state = self.state();
        let found = state
            .commits
            .get(&(repository.to_owned(), commit.to_owned()))
            .and_then(|files| files.get(file));
        let Some((mut bytes, large)) = found.cloned() else {
            drop(respond(stream, 404, &[("X-Error-Code", "EntryNotFound".to_owned())], b""));
            return;
        };
        let cdn = state.cdn.clone();
        drop(state);
        let mut tag = format!("\"{}\"", if large { sha256(&bytes) } else { git(&bytes) });
        if let Some(Trick::Tag(other)) = trick {
            other.clone_into(&mut tag);
        }
        let mut headers = vec![("X-Repo-Commit", commit.to_owned()), ("ETag", tag.clone())];
        if let Some(cdn) = cdn.filter(|_| large) {
            let path = request.line.split(' ').nth(1).unwrap_or_default();
            headers.push(("X-Linked-Etag", tag));
            headers.push(("X-Linked-Size", bytes.len().to_string()));
            headers.push(("Location", format!("{cdn}{path}?X-Amz-Signature=secret")));
            drop(respond(stream, 302, &headers, b"go there"));
            return;
        }
        if request.line.starts_with("HEAD") {
            headers.push(("Content-Length", bytes.len().to_string()));
            drop(respond(stream, 200, &headers, b""));
            return;
        }
        let whole = bytes.len();
        let from = request.headers.get("range").and_then(|range| {
            range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        let from =
            from.filter(|_| request.headers.get("if-range").is_none_or(|tag| headers[1].1 == *tag));
        let mut status = 200;
        if let Some(from) = from.filter(|_| !matches!(trick, Some(Trick::IgnoreRange))) {
            let wrong = usize::from(matches!(trick, Some(Trick::WrongRange)));
            headers
                .push(("Content-Range", format!("bytes {}-{}/{whole}", from - wrong, whole - 1)));
            bytes.drain(..from - wrong);
            status = 206;
        }
        send(stream, status, headers, bytes, trick);
    }
}

fn send(
    stream: &mut TcpStream,
    status: u16,
    mut headers: Vec<(&'static str, String)>,
    mut bytes: Vec<u8>,
    trick: Option<Trick>,
) {
    match trick {
        Some(Trick::WrongBytes) => bytes[0] ^= 1,
        Some(Trick::Short) => drop(bytes.pop()),
        _ => {}
    }
    headers.push(("Content-Length", bytes.len().to_string()));
    let _ = match trick {
        Some(Trick::Cut(at)) => head(stream, status, &headers)
            .and_then(|()| stream.write_all(&bytes[..at.min(bytes.len())])),
        Some(Trick::Slow(pause)) => head(stream, status, &headers).and_then(|()| {
            bytes.chunks(1000).try_for_each(|chunk| {
                std::thread::sleep(pause);
                stream.write_all(chunk)
            })
        }),
        _ => head(stream, status, &headers).and_then(|()| stream.write_all(&bytes)),
    };
}

fn read_request(stream: &TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = BTreeMap::new();
    while let Some((name, value)) =
        line()?.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
    {
        headers.insert(name, value);
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { line: first.trim_end_matches(" HTTP/1.1").to_owned(), headers, body })
}

fn head(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&'static str, String)],
) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} whatever\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{text}\r\n").as_bytes())
}

fn respond(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&'static str, String)],
    body: &[u8],
) -> std::io::Result<()> {
    let mut headers = headers.to_vec();
    if !headers.iter().any(|(name, _)| *name == "Content-Length") {
        headers.push(("Content-Length", body.len().to_string()));
    }
    head(stream, status, &headers)?;
    stream.write_all(body)
}

fn decode(part: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = part.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'%').then(|| std::str::from_utf8(tail.get(..2)?).ok()).flatten();
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The digest that git gives a file.
pub(crate) fn git(bytes: &[u8]) -> String {
    hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}
