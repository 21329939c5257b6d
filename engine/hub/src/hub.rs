//! A [`Hub`] is a hub together with its cache on this machine.

use std::path::PathBuf;

use crate::api::RemoteFile;
use crate::cache::{Folder, create_parent};
use crate::download::{Download, Meter};
use crate::error::{HubError, Result};
use crate::http::Http;
use crate::reference::{Kind, MAIN, Reference, is_commit};
use crate::select::{self, Split};
use crate::settings::{Settings, Watch};

/// The branch on which the hub keeps the Parquet files that it made of other formats.
const CONVERTED: &str = "refs/convert/parquet";
/// Tries of a request that a run can do without.
const PIN_ATTEMPTS: u32 = 2;

/// A hub and its cache.
#[derive(Debug)]
pub struct Hub {
    http: Http,
    settings: Settings,
}

/// What a reference means: a commit, which never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The commit, as 40 hexadecimal digits.
    pub commit: String,
    /// The revision that it is; not the one of the reference where the hub's own conversion
    /// to Parquet is used.
    pub revision: String,
}

/// What the cache has of a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// What the reference was when the hub was last asked.
    pub pinned: Pinned,
    /// The directory of a model or the files of a split, if all is there.
    pub paths: Option<Vec<PathBuf>>,
}

impl Hub {
    /// A hub; nothing is asked yet.
    pub fn new(settings: Settings) -> Self {
        Self { http: Http::new(&settings), settings }
    }

    pub(crate) fn http(&self) -> &Http {
        &self.http
    }

    /// Whether the network may not be used.
    pub fn is_offline(&self) -> bool {
        self.settings.offline
    }

    fn folder(&self, reference: &Reference) -> Folder {
        Folder::new(&self.settings.cache, reference)
    }

    /// What the cache has of a reference. Never uses the network.
    pub fn cached(&self, reference: &Reference) -> Option<Cached> {
        let folder = self.folder(reference);
        let look = |revision: &str| {
            let commit = folder.commit(revision)?;
            let pinned = Pinned { commit, revision: revision.to_owned() };
            Some(Cached { paths: self.paths(reference, &pinned.commit), pinned })
        };
        let asked = look(reference.revision());
        let is_whole =
            |cached: &Option<Cached>| cached.as_ref().is_some_and(|cached| cached.paths.is_some());
        if is_whole(&asked) || !may_be_converted(reference) {
            return asked;
        }
        Some(look(CONVERTED)).filter(is_whole).flatten().or(asked)
    }

    /// The directory of a model or the files of a split, if the cache has them whole.
    pub fn paths(&self, reference: &Reference, commit: &str) -> Option<Vec<PathBuf>> {
        let folder = self.folder(reference);
        let (snapshot, files) = (folder.snapshot(commit), folder.files(commit));
        let has = |name: &str| files.iter().any(|file| file == name);
        match &reference.kind {
            Kind::Model => {
                let is_whole =
                    select::is_whole(has, |name| std::fs::read(snapshot.join(name)).ok());
                is_whole.then(|| vec![snapshot])
            }
            Kind::Dataset { config, split } => {
                let paths = files.iter().map(String::as_str);
                let found = select::split(paths, config.as_deref(), split).ok()?;
                let is_last = |next: &String| folder.is_known_missing(commit, next);
                let is_whole = found.next.as_ref().is_none_or(is_last);
                is_whole.then(|| found.files.iter().map(|file| snapshot.join(file)).collect())
            }
        }
    }

    /// Asks the hub what a reference means now. A commit is taken at its word; anything else
    /// costs a short request or two.
    pub fn pin(&self, reference: &Reference, watch: &Watch) -> Result<Pinned> {
        let revision = reference.revision();
        if self.settings.offline && !is_commit(revision) {
            return Err(self.offline(reference));
        }
        let mut failures = 0;
        self.http.stoppable(watch, || {
            loop {
                match self.pin_once(reference) {
                    Err(error) if error.is_passing() && failures + 1 < PIN_ATTEMPTS => {
                        failures += 1;
                        self.http.pause(failures, error, watch)?;
                    }
                    result => return result,
                }
            }
        })
    }

    fn pin_once(&self, reference: &Reference) -> Result<Pinned> {
        let within = Some(self.settings.pin_timeout);
        let ask = |revision: &str| {
            let commit = self.http.commit(reference, revision, within)?;
            Ok(Pinned { commit, revision: revision.to_owned() })
        };
        let pinned = ask(reference.revision())?;
        if !may_be_converted(reference) || self.paths(reference, &pinned.commit).is_some() {
            return Ok(pinned);
        }
        let tree = self.http.tree(reference, &pinned.commit)?;
        match split(reference, &tree) {
            Err(HubError::NoSplit { known, .. }) if known.is_empty() => {
                // No Parquet at all: the hub converts most formats by itself.
                let converted = ask(CONVERTED);
                converted.map_err(|error| match error {
                    HubError::NoRevision { .. } | HubError::NoRepository { .. } => {
                        no_split(reference, known)
                    }
                    other => other,
                })
            }
            _ => Ok(pinned),
        }
    }

    fn offline(&self, reference: &Reference) -> HubError {
        HubError::Offline { what: reference.to_string(), cache: self.settings.cache.clone() }
    }

    /// Brings the files of a reference into the cache, as far as they are not there. Returns
    /// the directory of a model, or the files of a split in order.
    pub fn fetch(
        &self,
        reference: &Reference,
        pinned: &Pinned,
        watch: &Watch,
    ) -> Result<Vec<PathBuf>> {
        let cached = || self.paths(reference, &pinned.commit);
        if self.settings.offline {
            return cached().ok_or_else(|| self.offline(reference));
        }
        let tree = self.http.stoppable(watch, || {
            self.http.patiently(watch, || self.http.tree(reference, &pinned.commit))
        });
        match tree {
            // What is here whole needs no hub.
            Err(error) if error.is_passing() => cached().ok_or(error),
            Err(error) => Err(error),
            Ok(tree) => {
                self.http.stoppable(watch, || self.download(reference, pinned, &tree, watch))
            }
        }
    }

    fn download(
        &self,
        reference: &Reference,
        pinned: &Pinned,
        tree: &[RemoteFile],
        watch: &Watch,
    ) -> Result<Vec<PathBuf>> {
        let folder = self.folder(reference);
        let commit = &pinned.commit;
        let job = Download { http: &self.http, reference, commit, folder: &folder, watch: *watch };
        let mut meter = Meter::new(*watch);
        match &reference.kind {
            Kind::Model => {
                let model = select::model(tree, &reference.repository())?;
                fetch_files(&job, &model.files, &mut meter)?;
                if let Some(index) = model.index {
                    let shards = shards(&job, tree, index)?;
                    fetch_files(&job, &shards, &mut meter)?;
                }
            }
            Kind::Dataset { .. } => {
                let Split { files, next } = split(reference, tree)?;
                let of_tree = |name: &String| tree.iter().find(|file| file.path == *name);
                let files: Vec<_> = files.iter().filter_map(of_tree).collect();
                fetch_files(&job, &files, &mut meter)?;
                if let Some(next) = next {
                    folder.mark_missing(commit, &next)?;
                }
            }
        }
        folder.write_ref(&pinned.revision, commit)?;
        self.paths(reference, commit).ok_or_else(|| HubError::Malformed {
            address: self.http.address(&reference.repository()),
            reason: format!("what it lists at commit {commit} is not all that `{reference}` needs"),
        })
    }
}

/// Downloads files, after it was checked that there is room for them.
fn fetch_files(job: &Download, files: &[&RemoteFile], meter: &mut Meter) -> Result<()> {
    let blobs = job.folder.blobs();
    create_parent(&blobs.join("x"))?;
    meter.expect(files.iter().map(|file| file.size).sum());
    let need = files.iter().filter(|file| !job.is_here(file)).map(|file| file.size).sum();
    let space = rustix::fs::statvfs(&blobs)
        .map_err(|error| HubError::io("measure", &blobs)(error.into()))?;
    let have = space.f_bavail.saturating_mul(space.f_frsize);
    if need > have {
        return Err(HubError::Full { path: blobs, need, have });
    }
    files.iter().try_for_each(|file| job.file(file, meter))
}

/// Whether the hub's conversion may stand in: it is one of the newest state only.
fn may_be_converted(reference: &Reference) -> bool {
    matches!(reference.kind, Kind::Dataset { .. }) && reference.revision() == MAIN
}

fn split(reference: &Reference, tree: &[RemoteFile]) -> Result<Split> {
    let Kind::Dataset { config, split } = &reference.kind else {
        return Err(no_split(reference, Vec::new()));
    };
    let paths = tree.iter().map(|file| file.path.as_str());
    select::split(paths, config.as_deref(), split).map_err(|known| no_split(reference, known))
}

fn no_split(reference: &Reference, known: Vec<String>) -> HubError {
    let wanted = match &reference.kind {
        Kind::Dataset { config: Some(config), split } => format!("{config}/{split}"),
        Kind::Dataset { config: None, split } => split.clone(),
        Kind::Model => String::new(),
    };
    HubError::NoSplit { repository: reference.repository(), wanted, known }
}

/// The shards that the index of a snapshot names.
fn shards<'a>(job: &Download, tree: &'a [RemoteFile], index: &str) -> Result<Vec<&'a RemoteFile>> {
    let path = job.folder.snapshot(job.commit).join(index);
    let bytes = std::fs::read(&path).map_err(HubError::io("read", &path))?;
    let malformed = |reason| HubError::Malformed {
        address: job.http.file_address(job.reference, job.commit, index),
        reason,
    };
    let names = select::shards(&bytes).map_err(&malformed)?;
    let find = |name: &String| {
        let found = tree.iter().find(|file| file.path == *name);
        found.ok_or_else(|| malformed(format!("it names `{name}`, which the hub does not list")))
    };
    names.iter().map(find).collect()
}
