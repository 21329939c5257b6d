//! Results move to other keys when a version of the engine writes keys in another way.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::error::{Result, StoreError};
use crate::key::{Key, Preimage};
use crate::{Store, sealed};

/// The name of the note that says how the keys of a store are written, and where results were before.
const NOTE: &str = "keys.json";

/// How keys are written, and which keys are of results that have moved.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Keys {
    version: u64,
    /// The old key and the new one.
    moved: BTreeMap<Key, Key>,
}

impl Store {
    /// Moves every result whose preimage `rewrite` changes to the key of the new one, pins with it; once for each `version`
    /// of how keys are written. The number of results that moved.
    ///
    /// A result appears under its new key in one step, so a kill loses nothing: the next call goes on.
    pub fn rekey(&self, version: u64, rewrite: &dyn Fn(&Preimage) -> Preimage) -> Result<usize> {
        let mut keys: Keys = self.read_note(NOTE)?.unwrap_or_default();
        // Stores in buckets are younger than all versions.
        if keys.version >= version || self.remote.is_some() {
            return Ok(0);
        }
        let _lock = self.lock_shared()?;
        let mut moves = Vec::new();
        for (old, entry) in self.entries()? {
            // What is damaged is left to `verify`.
            let path = entry.dir().join("key.json");
            let preimage: Option<Preimage> = match sealed::read(&self.disk, &path) {
                Err(StoreError::Damaged { .. }) => continue,
                result => result?,
            };
            let Some(preimage) = preimage else { continue };
            let rewritten = rewrite(&preimage);
            let new = rewritten.key();
            let place = self.entry(&new);
            if new == old || place.dir().exists() {
                continue;
            }
            keys.moved.insert(old, new);
            moves.push((entry, place, path, (rewritten != preimage).then_some(rewritten)));
        }
        // Pins keep a result under either key, wherever this is cut short.
        for (name, mut pin) in self.pins()? {
            let moved: Vec<_> = pin.results.iter().filter_map(|key| keys.moved.get(key)).collect();
            pin.results.extend(moved.into_iter().cloned());
            self.pin(&name, &pin)?;
        }
        self.write_note(NOTE, &keys)?;
        for (entry, place, path, rewritten) in &moves {
            let moved = rewritten
                .as_ref()
                .map_or(Ok(()), |rewritten| sealed::write(&self.disk, path, rewritten))
                .and_then(|()| self.disk.place_dir(entry.dir(), place.dir(), || Ok(true)));
            // Another process may have moved it at the same moment.
            if !place.dir().exists() {
                moved?;
            }
        }
        keys.version = version;
        self.write_note(NOTE, &keys)?;
        Ok(moves.len())
    }

    /// Where a result is now that a log of an earlier version names.
    pub fn moved_keys(&self) -> Result<impl Fn(Key) -> Key + use<>> {
        let keys: Keys = self.read_note(NOTE)?.unwrap_or_default();
        Ok(move |key| keys.current(key))
    }
}

/// Where a result is now that a file of an earlier version names.
pub(crate) fn current(disk: &Disk, root: &Path, key: &Key) -> Result<Key> {
    let keys: Keys = match sealed::read(disk, &root.join(NOTE)) {
        Err(StoreError::Damaged { .. }) => Keys::default(),
        keys => keys?.unwrap_or_default(),
    };
    Ok(keys.current(key.clone()))
}

impl Keys {
    fn current(&self, key: Key) -> Key {
        self.moved.get(&key).cloned().unwrap_or(key)
    }
}
