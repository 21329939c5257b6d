//! The right to compute a result.

use std::path::PathBuf;

use super::Entry;
use crate::disk::Disk;
use crate::error::{Result, StoreError};
use crate::lease::Lease;
use crate::lock::{self, Lock};

impl Entry {
    fn lock_path(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// Takes the right to compute this result, or says who has it: on all machines.
    pub fn lock(&self) -> Result<Lock> {
        let lock = self.lock_here()?;
        let (Some(remote), Some(bucket)) = (&self.remote, self.in_bucket()) else {
            return Ok(lock);
        };
        let name = bucket.name("lease.json");
        let (holder, nonce) = (lock::holder(), Disk::unique_name());
        let mut seen = remote.known(&bucket.key, |known| known.lease.take());
        let taken = Lease::take(remote, &name, &holder, nonce, &mut seen);
        remote.known(&bucket.key, |known| known.lease = seen);
        match taken? {
            Ok(lease) => Ok(lock.with(lease)),
            Err(holder) => Err(StoreError::Locked { path: self.lock_path(), holder }),
        }
    }

    /// The same among the processes of this machine. On others the same may be computed meanwhile.
    pub fn lock_here(&self) -> Result<Lock> {
        Lock::try_exclusive(&self.disk, &self.lock_path())
    }

    /// Takes part in computing this result, unless one process has the right to do it alone: says which.
    pub fn lock_shared(&self) -> Result<Lock> {
        Lock::try_shared(&self.disk, &self.lock_path())
    }
}
