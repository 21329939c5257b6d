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
mod lock;
mod part;
mod pin;
mod rekey;
mod row_table;
mod rows;
mod run_log;
mod sealed;
mod table;
mod usage;

pub use artifact::{ArtifactFile, ArtifactRef};
pub use columns::Origin;
pub use digest::{Digest, DigestCache};
pub use disk::{Operation, Watch};
pub use entry::{Entry, Manifest, Output, PartRecord};
pub use error::{Result, StoreError, free_bytes};
pub use event::{Event, LogLevel, Logged, Outcome};
pub use gc::{Damage, Garbage, Waste};
pub use key::{Key, Preimage};
pub use lock::Lock;
pub use part::{PartFile, read_parquet, write_parquet};
pub use pin::Pin;
pub use row_table::RowTable;
pub use rows::{RowDigest, RowMap, row_digests};
pub use run_log::{RunLog, RunSummary};
pub use table::{Batches, Identify, PartSize};
pub use usage::{RunInfo, Usage, Use};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use disk::Disk;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of the layout.
pub const FORMAT: &str = "paraloom store 1";

/// A directory of results.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    disk: Disk,
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
            for dir in ["results", "runs", "tmp"] {
                store.disk.create_dir_all(&store.root.join(dir))?;
            }
            store
                .disk
                .write_atomic(&store.root.join("FORMAT"), format!("{FORMAT}\n").as_bytes())?;
        }
        Ok(store)
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
        Ok(Self { disk: Disk::new(root.join("tmp"), watch), root })
    }

    fn format(&self) -> Result<Option<()>> {
        let path = self.root.join("FORMAT");
        let Some(found) = self.disk.read_if_exists(&path)? else { return Ok(None) };
        let found = String::from_utf8_lossy(&found).trim().to_owned();
        if found == FORMAT {
            return Ok(Some(()));
        }
        Err(StoreError::Format { path, found, wanted: FORMAT })
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

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The result under `key`; nothing is read yet.
    pub fn entry(&self, key: &Key) -> Entry {
        let dir = self.root.join("results").join(&key.as_str()[..2]).join(key.as_str());
        Entry::new(dir, self.disk.clone())
    }

    /// Gives ids to rows that are not kept, as [`Entry::identify`] does to those that are.
    pub fn identify(&self, schema: SchemaRef, salt: String) -> Identify {
        Identify::new(schema, salt, RowTable::new(self.disk.clone()))
    }

    /// The entries that are there.
    pub fn entries(&self) -> Result<Vec<(Key, Entry)>> {
        let mut entries = Vec::new();
        for group in self.disk.list(&self.root.join("results"))? {
            for dir in self.disk.list(&group)? {
                let name = dir.file_name().and_then(|name| name.to_str()).and_then(Key::parse);
                entries.extend(name.map(|key| (key, Entry::new(dir, self.disk.clone()))));
            }
        }
        Ok(entries)
    }

    /// Holds the store against `gc`; runs share it.
    pub fn lock_shared(&self) -> Result<Lock> {
        Lock::shared(&self.disk, &self.root.join("lock"))
    }

    /// Holds the store alone; an error names who holds it.
    pub fn lock_exclusive(&self) -> Result<Lock> {
        Lock::try_exclusive(&self.disk, &self.root.join("lock"))
    }

    /// A small note of the engine's own beside the results; a damaged one is as good as none.
    pub fn read_note<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        match sealed::read(&self.disk, &self.root.join(name)) {
            Err(StoreError::Damaged { .. }) => Ok(None),
            result => result,
        }
    }

    /// Writes such a note anew.
    pub fn write_note(&self, name: &str, note: &impl Serialize) -> Result<()> {
        sealed::write(&self.disk, &self.root.join(name), note)
    }

    /// The directory of run logs.
    pub fn runs_dir(&self) -> PathBuf {
        self.root.join("runs")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }
}
