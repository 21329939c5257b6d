//! A pin keeps results, whatever `gc` is told: a sealed file in `pins/` that names their keys.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::error::{Result, StoreError};
use crate::key::Key;
use crate::sealed;

/// Results that are to stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The name of the pipeline that they are of.
    pub pipeline: String,
    /// Their keys.
    pub results: BTreeSet<Key>,
}

/// Letters that a pin's name can have: it becomes a file name.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

/// The name of a pin's object.
fn object(name: &str) -> String {
    format!("pins/{name}.json")
}

impl Store {
    fn pin_path(&self, name: &str) -> Result<std::path::PathBuf> {
        if is_name(name) {
            Ok(self.root.join("pins").join(format!("{name}.json")))
        } else {
            Err(StoreError::PinName { name: name.to_owned() })
        }
    }

    /// Copies the pins that are in the bucket to this machine, and removes those that are no more.
    fn pull_pins(&self) -> Result<()> {
        let Some(remote) = &self.remote else { return Ok(()) };
        self.disk.remove(&self.root.join("pins"))?;
        for listed in remote.list("pins/")? {
            self.pull(&listed.name)?;
        }
        Ok(())
    }

    /// What is kept under a name, and since when, where the system knows.
    pub fn pinned(&self, name: &str) -> Result<Option<(Pin, Option<Timestamp>)>> {
        let path = self.pin_path(name)?;
        self.pull_pins()?;
        let Some(pin) = sealed::read(&self.disk, &path)? else { return Ok(None) };
        let modified = path.metadata().and_then(|metadata| metadata.modified());
        Ok(Some((pin, modified.ok().and_then(|time| time.try_into().ok()))))
    }

    /// Keeps results under a name; what was kept under that name before no longer is. Durable when this returns.
    pub fn pin(&self, name: &str, pin: &Pin) -> Result<()> {
        let path = self.pin_path(name)?;
        if let Some(remote) = &self.remote {
            remote.put(&object(name), sealed::seal(pin).as_bytes())?;
        }
        self.disk.create_dir_all(&self.root.join("pins"))?;
        sealed::write(&self.disk, &path, pin)
    }

    /// Lets go what is kept under a name; whether there was anything.
    pub fn unpin(&self, name: &str) -> Result<bool> {
        let path = self.pin_path(name)?;
        self.pull_pins()?;
        let was_there = path.exists();
        if let Some(remote) = &self.remote {
            remote.remove(&object(name))?;
        }
        self.disk.remove(&path)?;
        Ok(was_there)
    }

    /// The pins, by name. A damaged one is an error, since what it keeps is no longer known.
    pub fn pins(&self) -> Result<Vec<(String, Pin)>> {
        self.pull_pins()?;
        let mut pins = Vec::new();
        for path in self.disk.list(&self.root.join("pins"))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let name = name.strip_suffix(".json").filter(|name| is_name(name)).map(str::to_owned);
            let name = name.ok_or_else(|| StoreError::damaged(&path, "it is not a pin"))?;
            let pin = sealed::read(&self.disk, &path)?;
            pins.extend(pin.map(|pin| (name, pin)));
        }
        Ok(pins)
    }
}
