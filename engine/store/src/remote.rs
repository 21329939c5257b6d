//! A store in a bucket: what counts is what is committed there, and this machine keeps a copy of what it has read and made.
//!
//! ```text
//! URL/
//!   FORMAT                               as in a directory
//!   results/ab/<key>/key.json            what the key is the hash of
//!     <digest>.parquet                   parts
//!     parts/<digest of what was mapped>  one committed record each, in place of parts.log
//!     <port>-<digest>/                   artifacts
//!     checkpoints/step-000123/           while a stage trains
//!     manifest.json                      written last
//!     lease.json                         who computes the result
//!   runs/<id>/, pins/                    as in a directory
//! ```
//!
//! A commit is an object that is created only if there is none of its name. Listings only save requests: what one has missed is
//! computed again and found to be there.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::digest::Digest;
use crate::error::{Result, StoreError};
use crate::key::Key;
use crate::lease::Seen;

/// An object in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// What changes whenever it is replaced.
    pub version: String,
}

/// What a listing says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was written last, by the clock of the bucket.
    pub modified: Timestamp,
}

/// The objects of a store, by names such as `runs/ID/events.jsonl`. An error is one that trying again did not mend.
pub trait Blobs: std::fmt::Debug + Send + Sync {
    /// Where they are, for messages: without credentials.
    fn url(&self) -> &str;

    /// Creates an object. False if the bucket says that there is one; it may be wrong, and the one may be ours: a request
    /// whose answer was lost is tried again.
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<bool>;

    /// Creates an object, or replaces it.
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// The same with the content of a file, which need not fit in memory.
    fn put_file(&self, name: &str, from: &Path) -> io::Result<()>;

    /// Replaces an object if it has this version. False if it has another, or is gone.
    fn replace(&self, name: &str, version: &str, bytes: &[u8]) -> io::Result<bool>;

    /// An object, if there is one.
    fn get(&self, name: &str) -> io::Result<Option<Blob>>;

    /// Writes an object to a file that is not there; false if there is no object.
    fn get_file(&self, name: &str, to: &Path) -> io::Result<bool>;

    /// The objects whose names start with `prefix`, which ends in `/`.
    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>>;

    /// The next elements, without `/`, of names that start with `prefix`, which ends in `/`.
    fn list_dirs(&self, prefix: &str) -> io::Result<Vec<String>>;

    /// Removes an object; it need not be there.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// The bucket of a store.
#[derive(Debug)]
pub(crate) struct Remote {
    blobs: Arc<dyn Blobs>,
    known: Mutex<HashMap<Key, Known>>,
}

/// What is known to be in the bucket of one result.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Names, relative to the result, of objects that are there.
    pub(crate) there: HashSet<String>,
    /// The committed records, by what was mapped.
    pub(crate) records: HashSet<Digest>,
    /// What was seen of the lease of somebody else.
    pub(crate) lease: Option<Seen>,
}

impl Remote {
    pub(crate) fn new(blobs: Arc<dyn Blobs>) -> Self {
        Self { blobs, known: Mutex::default() }
    }

    pub(crate) fn blobs(&self) -> &dyn Blobs {
        &*self.blobs
    }

    /// Tries something with an object; an error names both.
    pub(crate) fn attempt<T>(
        &self,
        action: &'static str,
        name: &str,
        act: impl FnOnce(&dyn Blobs) -> io::Result<T>,
    ) -> Result<T> {
        act(&*self.blobs).map_err(|error| self.failed(action, name, &error))
    }

    fn failed(&self, action: &'static str, name: &str, error: &io::Error) -> StoreError {
        let name = format!("{}/{name}", self.blobs.url());
        failed(action, name, error)
    }

    pub(crate) fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.attempt("read", name, |blobs| blobs.get(name))?.map(|blob| blob.bytes))
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.attempt("write", name, |blobs| blobs.put(name, bytes))
    }

    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.attempt("list", prefix, |blobs| blobs.list(prefix))
    }

    pub(crate) fn list_dirs(&self, prefix: &str) -> Result<Vec<String>> {
        self.attempt("list", prefix, |blobs| blobs.list_dirs(prefix))
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        self.attempt("remove", name, |blobs| blobs.remove(name))
    }

    /// Commits an object: creates it, or finds that what is there `is_same`.
    ///
    /// A bucket may say that there is an object when there is none (S3 answers 409 while another request for the name is at
    /// work, and that one may fail), or when it is the one that we have just created.
    pub(crate) fn commit(
        &self,
        name: &str,
        bytes: &[u8],
        is_same: impl Fn(&[u8]) -> bool,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if self.attempt("create", name, |blobs| blobs.create(name, bytes))? {
                return Ok(());
            }
            match self.get(name)? {
                Some(found) if is_same(&found) => return Ok(()),
                Some(_) => {
                    let name = format!("{}/{name}", self.blobs.url());
                    return Err(StoreError::Conflict { name });
                }
                None => {}
            }
        }
        let reason = "the bucket says that it is there when it is created, and that it is not when it is read";
        Err(self.failed("create", name, &io::Error::other(reason)))
    }

    /// Creates an object whose name says what is in it.
    pub(crate) fn create_named(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.commit(name, bytes, |found| found.len() == bytes.len())
    }

    /// Whether there is a store; one of another format is an error.
    pub(crate) fn has_format(&self) -> Result<bool> {
        match self.get("FORMAT")? {
            Some(found) => {
                let place = format!("{}/FORMAT", self.blobs.url());
                crate::check_format(place.into(), &found).map(|()| true)
            }
            None => Ok(false),
        }
    }

    pub(crate) fn known<T>(&self, key: &Key, act: impl FnOnce(&mut Known) -> T) -> T {
        let mut known: MutexGuard<'_, _> =
            self.known.lock().unwrap_or_else(PoisonError::into_inner);
        act(known.entry(key.clone()).or_default())
    }
}

/// How often an object is tried to be created that is there and is not.
const ATTEMPTS: usize = 8;

/// The bucket itself is missing where the error is of the kind `NotFound`: an object that is not there is no error.
fn failed(action: &'static str, name: String, error: &io::Error) -> StoreError {
    let reason = error.to_string();
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::NoBucket { action, name, reason },
        _ => StoreError::Remote { action, name, reason },
    }
}

/// What the names of the objects start with that a bucket is asked to create twice.
pub(crate) const PROBES: &str = "probes/";
/// How many create one object at once to see that one of them does.
const RIVALS: usize = 16;

/// Refuses a bucket that creates an object that is there: in one, two workers would take each other's results for their own.
///
/// # Errors
/// [`StoreError::NoConditions`] where it is such a bucket.
pub fn probe(blobs: &dyn Blobs, unique: &str) -> Result<()> {
    let name = |number: usize| format!("{PROBES}{unique}-{number}");
    let fail = |error: io::Error| failed("write to", blobs.url().to_owned(), &error);
    let refused = |reason: &str| StoreError::NoConditions {
        url: blobs.url().to_owned(),
        reason: reason.to_owned(),
    };
    let checked = || -> Result<()> {
        blobs.create(&name(0), b"first").map_err(fail)?;
        let replaced = blobs.create(&name(0), b"second").map_err(fail)?;
        let found = blobs.get(&name(0)).map_err(fail)?;
        if replaced || found.is_none_or(|found| found.bytes != b"first") {
            return Err(refused(
                "it replaced an object that was to be created only if there was none",
            ));
        }
        let winners = std::thread::scope(|scope| {
            let create = |number: usize| {
                let name = name(1);
                move || blobs.create(&name, number.to_string().as_bytes())
            };
            let rivals: Vec<_> = (0..RIVALS).map(|number| scope.spawn(create(number))).collect();
            rivals
                .into_iter()
                .filter_map(|rival| rival.join().ok()?.ok())
                .filter(|won| *won)
                .count()
        });
        if winners > 1 {
            let reason = format!("{winners} of {RIVALS} requests at once created one object");
            return Err(refused(&reason));
        }
        Ok(())
    };
    let result = checked();
    for number in 0..2 {
        // What is left behind is in nobody's way.
        let _ = blobs.remove(&name(number));
    }
    result
}
