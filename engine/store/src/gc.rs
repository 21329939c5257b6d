//! Damage, and results that are not needed.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::disk::{is_real_dir, list};
use crate::entry::{Entry, Manifest, Output};
use crate::error::{Result, StoreError};
use crate::key::Key;
use crate::remote::{PROBES, Remote};
use crate::run_log::RunSummary;
use crate::{Lock, Store};

/// A file that is not what its record says.
#[derive(Debug)]
pub struct Damage {
    /// The result it belongs to.
    pub key: Key,
    /// What is wrong with which file.
    pub error: StoreError,
}

/// What can go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waste {
    /// A result that is not needed, finished or begun.
    Result(Key),
    /// Checkpoints of a result that is finished.
    Checkpoints(Key),
    /// What a run that died was writing.
    Unfinished,
    /// The log of a run, by its name.
    RunLog(String),
}

/// A directory or a file that can go.
#[derive(Debug)]
pub struct Garbage {
    /// What it is.
    pub waste: Waste,
    /// Where it is: a path, or of a store in a bucket what the names of its objects start with.
    pub path: PathBuf,
    /// Length of all its files, in bytes.
    pub bytes: u64,
}

impl Store {
    /// Reads every byte that a record names; returns the number of files and the damage.
    /// Damaged results are made incomplete, so that the next run computes them again, and damage is told once.
    pub fn verify(&self, mut progress: impl FnMut(&Key)) -> Result<(u64, Vec<Damage>)> {
        let (mut files, mut damage) = (0, Vec::new());
        for (key, entry) in self.entries()? {
            progress(&key);
            let mut errors = Vec::new();
            files += verify_preimage(&entry, &mut errors)?;
            files += verify_parts(&entry, &mut errors)?;
            files += verify_manifest(&entry, &mut errors)?;
            let name = |error| Damage { key: key.clone(), error };
            damage.extend(errors.into_iter().map(name));
        }
        Ok((files, damage))
    }

    /// The results that are neither among `needed` nor pinned, and what killed runs have left behind: unfinished files, and
    /// checkpoints of what has been finished.
    pub fn garbage(&self, needed: &HashSet<Key>) -> Result<Vec<Garbage>> {
        let pinned = self.pins()?.into_iter().flat_map(|(_, pin)| pin.results);
        let kept = self.with_owners(needed.iter().cloned().chain(pinned).collect())?;
        let mut garbage = Vec::new();
        for (key, entry) in self.entries()? {
            if let Some(remote) = &self.remote {
                let prefix = entry.object_prefix();
                if !kept.contains(&key) {
                    garbage.push(measure_objects(remote, Waste::Result(key), prefix)?);
                } else if entry.manifest()?.is_some() {
                    let prefix = format!("{prefix}checkpoints/");
                    let left = measure_objects(remote, Waste::Checkpoints(key), prefix)?;
                    garbage.extend(Some(left).filter(|left| left.bytes > 0));
                }
            } else if !kept.contains(&key) {
                garbage.push(measure(Waste::Result(key), entry.dir().to_owned())?);
            } else if entry.checkpoints().is_dir() && entry.manifest()?.is_some() {
                garbage.push(measure(Waste::Checkpoints(key), entry.checkpoints())?);
            }
        }
        if let Some(remote) = &self.remote {
            let left = measure_objects(remote, Waste::Unfinished, PROBES.to_owned())?;
            garbage.extend(Some(left).filter(|left| left.bytes > 0));
        }
        for path in self.disk.list(&self.tmp())? {
            garbage.push(measure(Waste::Unfinished, path)?);
        }
        Ok(garbage)
    }

    /// Results, and those that they share columns with.
    fn with_owners(&self, mut keys: HashSet<Key>) -> Result<HashSet<Key>> {
        let mut left: Vec<_> = keys.iter().cloned().collect();
        while let Some(key) = left.pop() {
            for owner in self.entry(&key).owners()? {
                if keys.insert(owner.clone()) {
                    left.push(owner);
                }
            }
        }
        Ok(keys)
    }

    /// The log of a run, as something that can go.
    pub fn garbage_of_run(&self, run: &RunSummary) -> Result<Garbage> {
        let waste = Waste::RunLog(run.id.clone());
        match &self.remote {
            Some(remote) => measure_objects(remote, waste, format!("runs/{}/", run.id)),
            None => measure(waste, run.dir.clone()),
        }
    }

    /// Removes garbage. `_alone` is the proof that no run uses the store.
    pub fn remove(&self, garbage: &[Garbage], _alone: &Lock) -> Result<()> {
        for item in garbage {
            if let Some(remote) = self.remote.as_ref().filter(|_| item.path.is_relative()) {
                let prefix = item.path.display().to_string();
                remove_objects(remote, &prefix)?;
                self.disk.remove(&self.root.join(prefix.trim_end_matches('/')))?;
                continue;
            }
            // What makes a result count goes first: it must not look complete while it vanishes. A link is not followed:
            // what it leads to is not the store's.
            if is_real_dir(&item.path) {
                self.disk.remove(&item.path.join("manifest.json"))?;
                self.disk.remove(&item.path.join("parts.log"))?;
            }
            self.disk.remove(&item.path)?;
        }
        Ok(())
    }
}

fn verify_preimage(entry: &Entry, errors: &mut Vec<StoreError>) -> Result<u64> {
    match entry.preimage() {
        Ok(found) => Ok(u64::from(found.is_some())),
        Err(error @ StoreError::Damaged { .. }) => {
            entry.discard_preimage()?;
            errors.push(error);
            Ok(1)
        }
        Err(error) => Err(error),
    }
}

fn verify_parts(entry: &Entry, errors: &mut Vec<StoreError>) -> Result<u64> {
    let (parts, mut damaged) = (entry.recorded_parts()?, Vec::new());
    for part in &parts {
        if let Err(error) = entry.verify_part(part) {
            damaged.extend(is_damage(&error).then_some(*part));
            errors.push(error);
        }
    }
    if !damaged.is_empty() {
        entry.give_up_parts(&damaged)?;
    }
    Ok(parts.len() as u64)
}

/// What cannot be read just now, for want of rights or of file handles, is not removed.
fn is_damage(error: &StoreError) -> bool {
    matches!(error, StoreError::Damaged { .. })
}

fn verify_manifest(entry: &Entry, errors: &mut Vec<StoreError>) -> Result<u64> {
    let manifest = match entry.raw_manifest() {
        Ok(manifest) => manifest,
        Err(error @ StoreError::Damaged { .. }) => {
            entry.discard_manifest()?;
            errors.push(error);
            None
        }
        Err(error) => return Err(error),
    };
    let Some(Manifest { outputs, .. }) = manifest else { return Ok(0) };
    let (mut files, before) = (1, errors.len());
    for (port, output) in &outputs {
        match output {
            Output::Table(parts) => {
                files += parts.len() as u64;
                for part in parts {
                    let Err(error) = entry.verify_part(part) else { continue };
                    // In a bucket a damaged part would be in the way of the one that is made again.
                    if entry.is_in_bucket() && is_damage(&error) {
                        entry.discard_part(part)?;
                    }
                    errors.push(error);
                }
            }
            Output::Artifact(artifact) => {
                files += artifact.files.len() as u64;
                errors.extend(entry.verify_artifact(port, artifact).err());
            }
        }
    }
    if errors[before..].iter().any(is_damage) {
        entry.discard_manifest()?;
    }
    Ok(files)
}

/// Objects whose names start with `prefix`.
fn measure_objects(remote: &Remote, waste: Waste, prefix: String) -> Result<Garbage> {
    let bytes = remote.list(&prefix)?.iter().map(|listed| listed.bytes).sum();
    Ok(Garbage { waste, path: prefix.into(), bytes })
}

/// What makes a result count goes first: it must not look complete while it vanishes.
fn remove_objects(remote: &Remote, prefix: &str) -> Result<()> {
    let mut names: Vec<_> = remote.list(prefix)?.into_iter().map(|listed| listed.name).collect();
    let is_record = |name: &str| {
        let rest = name.strip_prefix(prefix).unwrap_or(name);
        rest == "manifest.json" || rest.starts_with("parts/")
    };
    names.sort_by_key(|name| !is_record(name));
    names.iter().try_for_each(|name| remote.remove(name))
}

/// The length of all that is there, without what links lead to.
fn measure(waste: Waste, path: PathBuf) -> Result<Garbage> {
    let (mut bytes, mut paths) = (0, vec![path.clone()]);
    while let Some(path) = paths.pop() {
        if is_real_dir(&path) {
            paths.extend(list(&path).map_err(|error| StoreError::io("list", &path, error))?);
        } else {
            bytes += path.symlink_metadata().map_or(0, |metadata| metadata.len());
        }
    }
    Ok(Garbage { waste, path, bytes })
}
