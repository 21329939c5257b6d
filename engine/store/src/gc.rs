//! What is damaged, and what nobody needs.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::artifact::ArtifactRef;
use crate::digest::list_files;
use crate::entry::{Entry, Manifest, Output};
use crate::error::{Result, StoreError};
use crate::key::Key;
use crate::{Lock, Store};

/// A file that is not what its record says.
#[derive(Debug)]
pub struct Damage {
    /// The result it belongs to.
    pub key: Key,
    /// What is wrong with which file.
    pub error: StoreError,
}

/// A directory that can go.
#[derive(Debug)]
pub struct Garbage {
    /// The directory.
    pub path: PathBuf,
    /// Length of all its files, in bytes.
    pub bytes: u64,
}

impl Store {
    /// Reads every byte that a record names; returns the number of files and the damage.
    /// Damaged results are made incomplete, so that the next run computes them again.
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

    /// The results that are not among `needed`, and what killed runs have left behind.
    pub fn garbage(&self, needed: &HashSet<Key>) -> Result<Vec<Garbage>> {
        let mut garbage = Vec::new();
        for (key, entry) in self.entries()? {
            if !needed.contains(&key) {
                garbage.push(measure(entry.dir().to_owned())?);
            }
        }
        for path in self.disk.list(&self.tmp())? {
            garbage.push(measure(path)?);
        }
        Ok(garbage)
    }

    /// Removes garbage. `_alone` is the proof that no run uses the store.
    pub fn remove(&self, garbage: &[Garbage], _alone: &Lock) -> Result<()> {
        for item in garbage {
            // The manifest goes first: a result must not look complete while it vanishes.
            self.disk.remove_file(&item.path.join("manifest.json"))?;
            self.disk.remove_file(&item.path.join("parts.log"))?;
            if item.path.is_dir() {
                self.disk.remove_dir_all(&item.path)?;
            } else {
                self.disk.remove_file(&item.path)?;
            }
        }
        Ok(())
    }
}

fn verify_preimage(entry: &Entry, errors: &mut Vec<StoreError>) -> Result<u64> {
    match entry.preimage() {
        Ok(found) => Ok(u64::from(found.is_some())),
        Err(error @ StoreError::Damaged { .. }) => {
            errors.push(error);
            Ok(1)
        }
        Err(error) => Err(error),
    }
}

fn verify_parts(entry: &Entry, errors: &mut Vec<StoreError>) -> Result<u64> {
    let parts = entry.recorded_parts()?;
    for part in &parts {
        if let Err(error) = entry.verify_part(part) {
            entry.discard_part(part)?;
            errors.push(error);
        }
    }
    Ok(parts.len() as u64)
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
                errors.extend(parts.iter().filter_map(|part| entry.verify_part(part).err()));
            }
            Output::Artifact(artifact) => {
                files += artifact.files.len() as u64;
                errors.extend(verify_artifact(entry, port, artifact).err());
            }
        }
    }
    if errors.len() > before {
        entry.discard_manifest()?;
    }
    Ok(files)
}

fn verify_artifact(entry: &Entry, port: &str, artifact: &ArtifactRef) -> Result<()> {
    if !artifact.is_well_formed() {
        let path = entry.dir().join("manifest.json");
        return Err(StoreError::damaged(
            &path,
            format!("the files of `{port}` do not fit its digest"),
        ));
    }
    entry.verify_artifact(port, artifact)
}

fn measure(path: PathBuf) -> Result<Garbage> {
    let mut files = Vec::new();
    list_files(&path, &path, &mut files)?;
    let length =
        |file: &PathBuf| std::fs::metadata(path.join(file)).map_or(0, |metadata| metadata.len());
    let bytes = files.iter().map(length).sum();
    Ok(Garbage { path, bytes })
}
