//! Results on disk, by key.
//!
//! ```text
//! STORE/
//!   FORMAT                      the version of this layout
//!   lock                        shared by runs, exclusive for gc; a kernel lock
//!   results/ab/<key>/           one result (an [`Entry`])
//!     key.json                  what the key is the hash of
//!     parts.log                 committed parts, and those given up; one checked line each
//!     <digest>.parquet          part files, named by content
//!     <digest>.columns          the same of a part that shares columns with those of other results
//!     <port>-<digest>/          artifacts
//!     checkpoints/step-000123/  while a stage trains
//!     manifest.json             written last: the result is complete
//!     lock                      held while the result is computed
//!   pins/<name>.json            results that `gc` leaves alone (a [`Pin`])
//!   runs/<id>/                  event logs
//!   digests.json, hub.json, keys.json   notes that save work; a store without them is whole
//!   tmp/                        what is not visible yet
//! ```
//!
//! Nothing is changed in place: a file is written aside, synced, and renamed; a record
//! that names it follows; readers trust only what a record names, and check its digest
//! before anything parses it. This crate knows no stage.

mod artifact;
mod columns;
mod content;
mod digest;
mod disk;
mod entry;
mod error;
mod event;
mod gc;
mod key;
mod lease;
mod lock;
mod part;
mod pin;
mod rekey;
mod remote;
mod row_match;
mod row_table;
mod rows;
mod run_log;
mod sealed;
mod table;
mod transfer;
mod usage;

pub use artifact::{ArtifactFile, ArtifactRef};
pub use columns::Origin;
pub use digest::{Digest, DigestCache};
pub use disk::{Operation, Watch};
pub use entry::{Entry, Manifest, Output, PartRecord};
pub use error::{Result, StoreError, free_bytes};
pub use event::{Environment, Event, LogLevel, Logged, Outcome};
pub use gc::{Damage, Garbage, Waste};
pub use key::{Key, Preimage};
pub use lock::{Lock, is_unwritable};
pub use part::{PartFile, read_parquet, write_parquet};
pub use pin::Pin;
pub use remote::{Blob, Blobs, Listed, probe};
pub use row_match::{RowChanges, RowMatch};
pub use row_table::RowTable;
pub use rows::{RowDigest, RowMap, row_digests};
pub use run_log::{RunLog, RunSummary};
pub use table::{Batches, Identify, PartSize};
pub use usage::{RunInfo, Usage, Use};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use disk::Disk;
use lease::Presence;
use remote::Remote;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of the layout.
pub const FORMAT: &str = "paraloom store 1";
/// Files and directories beside `results`, `runs` and `tmp`, which come once the store has a format.
const OWN_FILES: [&str; 5] = ["lock", "pins", "digests.json", "keys.json", "hub.json"];
const FORMAT_LINE: &str = "paraloom store 1\n";

/// A directory of results, or a bucket of them with a directory of what of it is on this machine.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    disk: Disk,
    remote: Option<Arc<Remote>>,
}

impl Store {
    /// Opens the store at `root`, and makes it if there is none.
    pub fn create(root: &Path) -> Result<Self> {
        Self::create_watched(root, None)
    }

    /// [`Store::create`] with a [`Watch`] that sees every operation before it happens.
    pub fn create_watched(root: &Path, watch: Option<Arc<dyn Watch>>) -> Result<Self> {
        let disk = Disk::new(root.join("tmp"), watch.clone());
        disk.create_dir_all(root)?;
        let store = Self::at(root, watch)?;
        // Who made it may have died before its name was durable.
        store.disk.sync_parent(&store.root)?;
        store.disk.sync(&store.root)?;
        if store.format()?.is_none() {
            store.refuse_results_of_unknown_format()?;
            store.refuse_what_is_of_others()?;
            for dir in ["results", "runs", "tmp"] {
                store.disk.create_dir_all(&store.root.join(dir))?;
            }
            store.disk.write_atomic(&store.root.join("FORMAT"), FORMAT_LINE.as_bytes())?;
        }
        Ok(store)
    }

    /// Opens the store that is in a bucket, and makes it if there is none. `root` is a directory for copies of what is read
    /// and made; nothing depends on it.
    ///
    /// # Errors
    /// Among others [`StoreError::NoConditions`]: the bucket has no conditional writes.
    pub fn create_in(root: &Path, blobs: Arc<dyn Blobs>) -> Result<Self> {
        let mut store = Self::create(root)?;
        probe(&*blobs, &Disk::unique_name())?;
        let remote = Remote::new(blobs);
        if !remote.has_format()? {
            remote.commit("FORMAT", FORMAT_LINE.as_bytes(), |found| {
                found == FORMAT_LINE.as_bytes()
            })?;
        }
        store.remote = Some(Arc::new(remote));
        Ok(store)
    }

    /// Opens the store that is in a bucket if there is one.
    pub fn open_in(root: &Path, blobs: Arc<dyn Blobs>) -> Result<Option<Self>> {
        let remote = Remote::new(blobs);
        if !remote.has_format()? {
            return Ok(None);
        }
        let store = Self::create(root)?;
        Ok(Some(Self { remote: Some(Arc::new(remote)), ..store }))
    }

    /// Opens the store at `root` if there is one.
    pub fn open(root: &Path) -> Result<Option<Self>> {
        if !root.join("FORMAT").is_file() {
            return Ok(None);
        }
        let store = Self::at(root, None)?;
        Ok(store.format()?.map(|()| store))
    }

    fn at(root: &Path, watch: Option<Arc<dyn Watch>>) -> Result<Self> {
        let root = root.canonicalize().map_err(|error| StoreError::io("find", root, error))?;
        Ok(Self { disk: Disk::new(root.join("tmp"), watch), root, remote: None })
    }

    fn format(&self) -> Result<Option<()>> {
        let path = self.root.join("FORMAT");
        let Some(found) = self.disk.read_if_exists(&path)? else { return Ok(None) };
        check_format(path, &found).map(Some)
    }

    /// The format is written before any result: if results are there and it is not, it was removed.
    fn refuse_results_of_unknown_format(&self) -> Result<()> {
        let has_results = !self.disk.list(&self.root.join("results"))?.is_empty();
        // Another process may have made the store, and results, since its format was looked for.
        if !has_results || self.format()?.is_some() {
            return Ok(());
        }
        let reason = format!(
            "it is missing, though there are results; if they are of this version, put the line `{FORMAT}` there"
        );
        Err(StoreError::damaged(&self.root.join("FORMAT"), reason))
    }

    /// A store empties, replaces and removes what has the names of its own files, and may begin only where there is none. Of a store
    /// that was begun and never finished there are empty directories and perhaps an unfinished file.
    fn refuse_what_is_of_others(&self) -> Result<()> {
        let own = |name: &str| self.disk.list(&self.root.join(name));
        let is_foreign = |path: &PathBuf| !self.disk.is_unfinished_file(path);
        let within = own("runs")?.into_iter().chain(own("tmp")?).find(is_foreign);
        let is_own = |path: &PathBuf| OWN_FILES.iter().any(|name| path.ends_with(name));
        let beside = self.disk.list(&self.root)?.into_iter().find(is_own);
        let Some(found) = within.or(beside) else { return Ok(()) };
        if self.format()?.is_some() {
            // Another process has made the store meanwhile.
            return Ok(());
        }
        let what = found.strip_prefix(&self.root).unwrap_or(&found).display().to_string();
        Err(StoreError::Taken { path: self.root.clone(), what })
    }

    /// Where it is on this machine.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The bucket that it is in, by its address.
    pub fn url(&self) -> Option<&str> {
        self.remote.as_ref().map(|remote| remote.blobs().url())
    }

    /// The result under `key`; nothing is read yet.
    pub fn entry(&self, key: &Key) -> Entry {
        let dir = self.root.join("results").join(&key.as_str()[..2]).join(key.as_str());
        Entry::new(dir, self.disk.clone(), self.remote.clone())
    }

    /// Gives ids to rows that are not kept, as [`Entry::identify`] does to those that are.
    pub fn identify(&self, schema: SchemaRef, salt: String) -> Identify {
        Identify::new(schema, salt, RowTable::new(self.disk.clone()))
    }

    /// The entries that are there.
    pub fn entries(&self) -> Result<Vec<(Key, Entry)>> {
        let mut entries = Vec::new();
        if let Some(remote) = &self.remote {
            for group in remote.list_dirs("results/")? {
                for name in remote.list_dirs(&format!("results/{group}/"))? {
                    entries.extend(Key::parse(&name).map(|key| (key.clone(), self.entry(&key))));
                }
            }
            return Ok(entries);
        }
        for group in self.disk.list(&self.root.join("results"))? {
            for dir in self.disk.list(&group)? {
                let name = dir.file_name().and_then(|name| name.to_str()).and_then(Key::parse);
                entries.extend(name.map(|key| (key, Entry::new(dir, self.disk.clone(), None))));
            }
        }
        Ok(entries)
    }

    /// Holds the store against `gc`; runs share it.
    pub fn lock_shared(&self) -> Result<Lock> {
        let lock = Lock::shared(&self.disk, &self.root.join("lock"))?;
        self.present(lock, Presence::Use)
    }

    /// Holds the store alone; an error names who holds it.
    pub fn lock_exclusive(&self) -> Result<Lock> {
        let lock = Lock::try_exclusive(&self.disk, &self.root.join("lock"))?;
        self.present(lock, Presence::Alone)
    }

    /// Says in the bucket that the store is in use.
    fn present(&self, lock: Lock, presence: Presence) -> Result<Lock> {
        let Some(remote) = &self.remote else { return Ok(lock) };
        match presence.enter(remote, Disk::unique_name())? {
            Ok(lease) => Ok(lock.with(lease)),
            Err(holder) => Err(StoreError::Locked { path: remote.blobs().url().into(), holder }),
        }
    }

    /// A small note of the engine's own beside the results; a damaged one is as good as none.
    pub fn read_note<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        if is_shared(name) {
            self.pull(name)?;
        }
        match sealed::read(&self.disk, &self.root.join(name)) {
            Err(StoreError::Damaged { .. }) => Ok(None),
            result => result,
        }
    }

    /// Writes such a note anew.
    pub fn write_note(&self, name: &str, note: &impl Serialize) -> Result<()> {
        if let (Some(remote), true) = (&self.remote, is_shared(name)) {
            remote.put(name, sealed::seal(note).as_bytes())?;
        }
        sealed::write(&self.disk, &self.root.join(name), note)
    }

    /// Copies an object to this machine, unless its file is there; whether it is then.
    pub(crate) fn pull(&self, name: &str) -> Result<bool> {
        let path = self.root.join(name);
        if path.is_file() {
            return Ok(true);
        }
        let Some(remote) = &self.remote else { return Ok(false) };
        let Some(bytes) = remote.get(name)? else { return Ok(false) };
        if let Some(above) = path.parent() {
            self.disk.create_dir_all(above)?;
        }
        self.disk.write_atomic(&path, &bytes)?;
        Ok(true)
    }

    /// The directory of run logs.
    pub fn runs_dir(&self) -> PathBuf {
        self.root.join("runs")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }
}

/// Whether a note is of all machines: what one remembers to save work is its own.
fn is_shared(name: &str) -> bool {
    name.starts_with("runs/")
}

fn check_format(path: PathBuf, found: &[u8]) -> Result<()> {
    let found = String::from_utf8_lossy(found).trim().to_owned();
    if found == FORMAT {
        return Ok(());
    }
    Err(StoreError::Format { path, found, wanted: FORMAT })
}
