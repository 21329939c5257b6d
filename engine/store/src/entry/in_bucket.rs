//! The side of an [`Entry`] that is in a bucket.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{CHECKPOINT_LISTING, Entry, Manifest, Output, PartRecord, checked_record, line};
use crate::artifact::ArtifactRef;
use crate::digest::Digest;
use crate::error::{Result, StoreError};
use crate::key::Key;
use crate::part::PartFile;
use crate::remote::Remote;
use crate::sealed;

/// Where committed records are, below the result.
const RECORDS: &str = "parts/";
/// Requests that are at work at once where many objects are wanted.
const REQUESTS: usize = 16;

/// What a result is in the bucket.
pub(super) struct InBucket<'a> {
    pub(super) entry: &'a Entry,
    pub(super) remote: &'a Remote,
    pub(super) key: Key,
}

impl InBucket<'_> {
    pub(super) fn name(&self, of: &str) -> String {
        format!("results/{}/{}/{of}", &self.key.as_str()[..2], self.key.as_str())
    }

    fn is_there(&self, of: &str) -> bool {
        self.remote.known(&self.key, |known| known.there.contains(of))
    }

    fn note(&self, of: &str) {
        self.remote.known(&self.key, |known| known.there.insert(of.to_owned()));
    }

    pub(super) fn forget(&self, of: &str) {
        self.remote.known(&self.key, |known| known.there.remove(of));
    }

    /// Creates an object whose name or kind says what is in it.
    pub(super) fn create(&self, of: &str, bytes: &[u8]) -> Result<()> {
        if !self.is_there(of) {
            self.remote.create_named(&self.name(of), bytes)?;
            self.note(of);
        }
        Ok(())
    }

    /// Copies a small object to its place on this machine; whether there is one.
    pub(super) fn fetch(&self, of: &str, to: &Path) -> Result<bool> {
        let Some(bytes) = self.remote.get(&self.name(of))? else { return Ok(false) };
        self.entry.disk.create_dir_all(&self.entry.dir)?;
        self.entry.disk.write_whole(to, &bytes)?;
        self.note(of);
        Ok(true)
    }

    pub(super) fn remove(&self, of: &str) -> Result<()> {
        self.forget(of);
        self.remote.remove(&self.name(of))
    }

    // ---- parts ----

    fn part_name(part: &PartFile) -> String {
        format!("{}.parquet", part.digest)
    }

    pub(super) fn create_part(&self, part: &PartFile, bytes: &[u8]) -> Result<()> {
        let of = Self::part_name(part);
        match self.create(&of, bytes) {
            // What has the name and not the content is damaged.
            Err(StoreError::Conflict { .. }) => self.remote.put(&self.name(&of), bytes),
            created => created,
        }
    }

    /// Copies a part to this machine unless it is there.
    pub(super) fn fetch_part(&self, part: &PartFile) -> Result<()> {
        let path = part.path(&self.entry.dir);
        if part.has_file(&self.entry.dir) || self.fetch(&Self::part_name(part), &path)? {
            return Ok(());
        }
        Err(StoreError::damaged(&path, "it is missing, here and in the bucket"))
    }

    /// Checks every byte that is in the bucket.
    pub(super) fn verify_part(&self, part: &PartFile) -> Result<()> {
        let name = self.name(&Self::part_name(part));
        let found = self.remote.get(&name)?;
        let damaged = |reason: &str| {
            let path = format!("{}/{name}", self.remote.blobs().url());
            Err(StoreError::damaged(Path::new(&path), reason))
        };
        match found {
            None => damaged("it is missing"),
            Some(bytes) if Digest::of(&bytes) != part.digest => {
                damaged("its content does not have the recorded digest")
            }
            Some(_) => Ok(()),
        }
    }

    /// Removes a part from the bucket, and first what says that it is there.
    pub(super) fn discard_part(&self, part: &PartFile) -> Result<()> {
        for record in self.entry.all_records()? {
            let (_, record) = record?;
            if record.outputs.iter().flatten().any(|output| output.digest == part.digest) {
                self.remote.remove(&self.name(&record_name(&record.input)))?;
                self.remote.known(&self.key, |known| known.records.remove(&record.input));
            }
        }
        let is_named = |output: &(String, Output)| match &output.1 {
            Output::Table(parts) => parts.iter().any(|named| named.digest == part.digest),
            Output::Artifact(_) => false,
        };
        match self.entry.raw_manifest() {
            Ok(Some(manifest)) if manifest.outputs.iter().any(is_named) => {
                self.entry.discard_manifest()?;
            }
            Ok(_) | Err(StoreError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        self.remove(&Self::part_name(part))
    }

    // ---- records ----

    /// Learns which records are committed, and copies those that this machine has not.
    pub(super) fn pull_records(&self) -> Result<()> {
        let prefix = self.name(RECORDS);
        let digest = |name: &str| Digest::parse(name.strip_prefix(&prefix)?);
        let listed = self.remote.list(&prefix)?;
        let committed: HashSet<Digest> =
            listed.iter().filter_map(|listed| digest(&listed.name)).collect();
        let mut missing = committed.clone();
        for record in self.entry.all_records()? {
            missing.remove(&record?.1.input);
        }
        let missing: Vec<_> = missing.into_iter().collect();
        let found = in_parallel(&missing, |input| self.read_record(input))?;
        let lines: Vec<_> = found.iter().flatten().map(|(line, _)| line.as_str()).collect();
        self.append(&lines)?;
        // One that was removed since it was listed counts no more.
        let gone: HashSet<_> = missing
            .iter()
            .zip(&found)
            .filter(|(_, found)| found.is_none())
            .map(|(input, _)| *input)
            .collect();
        self.remote.known(&self.key, |known| known.records = &committed - &gone);
        Ok(())
    }

    fn append(&self, lines: &[&str]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.entry.disk.create_dir_all(&self.entry.dir)?;
        self.entry.disk.append_line(&self.entry.log(), &lines.join("\n"))
    }

    fn read_record(&self, input: &Digest) -> Result<Option<(String, PartRecord)>> {
        let name = self.name(&record_name(input));
        let Some(bytes) = self.remote.get(&name)? else { return Ok(None) };
        match checked_record(&bytes).filter(|record| record.input == *input) {
            Some(record) => Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), record))),
            None => {
                // It is as good as none, and in the way of another.
                self.remote.remove(&name)?;
                Ok(None)
            }
        }
    }

    pub(super) fn is_committed(&self, record: &PartRecord) -> bool {
        self.remote.known(&self.key, |known| known.records.contains(&record.input))
    }

    /// The record of what was mapped, if it was committed since the records were pulled.
    pub(super) fn find_record(&self, input: &Digest) -> Result<Option<PartRecord>> {
        let Some((line, record)) = self.read_record(input)? else { return Ok(None) };
        self.append(&[&line])?;
        self.remote.known(&self.key, |known| known.records.insert(*input));
        Ok(Some(record))
    }

    pub(super) fn commit_record(&self, record: &PartRecord) -> Result<()> {
        let is_same = |found: &[u8]| {
            checked_record(found).is_some_and(|found| found.outputs == record.outputs)
        };
        let name = self.name(&record_name(&record.input));
        self.remote.commit(&name, line(record).as_bytes(), is_same)?;
        self.remote.known(&self.key, |known| known.records.insert(record.input));
        Ok(())
    }

    // ---- the manifest ----

    pub(super) fn commit_manifest(&self, bytes: &[u8], manifest: &Manifest) -> Result<()> {
        let is_same = |found: &[u8]| {
            let json = found.split(|byte| *byte == b'\n').next().unwrap_or_default();
            serde_json::from_slice(json)
                .is_ok_and(|found: Manifest| found.outputs == manifest.outputs)
        };
        self.remote.commit(&self.name("manifest.json"), bytes, is_same)?;
        self.note("manifest.json");
        Ok(())
    }

    /// Whether the result is complete there; its manifest is copied to this machine.
    pub(super) fn is_complete(&self) -> Result<bool> {
        Ok(self.is_there("manifest.json")
            || self.fetch("manifest.json", &self.entry.dir.join("manifest.json"))?)
    }

    // ---- directories ----

    /// Uploads the files of a directory, `last` after all others.
    pub(super) fn put_dir(
        &self,
        of: &str,
        dir: &Path,
        files: &[&Path],
        last: Option<&str>,
    ) -> Result<()> {
        in_parallel(files, |file| {
            let name = self.name(&format!("{of}/{}", file.display()));
            self.remote.attempt("write", &name, |blobs| blobs.put_file(&name, &dir.join(file)))
        })?;
        if let Some(last) = last {
            let name = self.name(&format!("{of}/{last}"));
            self.remote.attempt("write", &name, |blobs| blobs.put_file(&name, &dir.join(last)))?;
        }
        Ok(())
    }

    /// Copies files into a directory that is there.
    pub(super) fn get_dir(&self, of: &str, dir: &Path, files: &[&Path]) -> Result<()> {
        for file in files {
            if let Some(above) = dir.join(file).parent() {
                self.entry.disk.create_dir_all(above)?;
            }
        }
        in_parallel(files, |file| {
            let name = self.name(&format!("{of}/{}", file.display()));
            let to = dir.join(file);
            let found = self.remote.attempt("read", &name, |blobs| blobs.get_file(&name, &to))?;
            if found {
                Ok(())
            } else {
                Err(StoreError::damaged(&to, "it is missing in the bucket"))
            }
        })?;
        Ok(())
    }

    // ---- checkpoints ----

    /// The steps of the checkpoints that are there, and their files by step.
    fn checkpoints(&self) -> Result<BTreeMap<u64, Vec<String>>> {
        let prefix = self.name("checkpoints/");
        let mut steps: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for listed in self.remote.list(&prefix)? {
            let file = listed.name.strip_prefix(&prefix).and_then(|rest| rest.split_once('/'));
            let Some((dir, file)) = file else { continue };
            if let Some(step) = dir.strip_prefix("step-").and_then(|step| step.parse().ok()) {
                steps.entry(step).or_default().push(file.to_owned());
            }
        }
        Ok(steps)
    }

    /// Makes a checkpoint that is whole on this machine the newest of all.
    pub(super) fn put_checkpoint(
        &self,
        dir: &Path,
        step: u64,
        listing: &ArtifactRef,
    ) -> Result<()> {
        let files: Vec<_> = listing.files.iter().map(|file| file.path.as_path()).collect();
        self.put_dir(&checkpoint_name(step), dir, &files, Some(CHECKPOINT_LISTING))?;
        self.discard_checkpoints(Some(step))
    }

    /// Removes the checkpoints but that of one step.
    pub(super) fn discard_checkpoints(&self, but: Option<u64>) -> Result<()> {
        for (step, mut files) in self.checkpoints()? {
            if Some(step) == but {
                continue;
            }
            // What makes it whole goes first.
            files.sort_by_key(|file| file != CHECKPOINT_LISTING);
            for file in files {
                self.remote.remove(&self.name(&format!("{}/{file}", checkpoint_name(step))))?;
            }
        }
        Ok(())
    }

    /// Copies the newest checkpoint to this machine, unless it has one that is as new.
    pub(super) fn fetch_checkpoint(&self) -> Result<()> {
        let there = self.checkpoints()?;
        let is_whole = |files: &[String]| files.iter().any(|file| file == CHECKPOINT_LISTING);
        let Some((step, _)) = there.into_iter().rfind(|(_, files)| is_whole(files)) else {
            return Ok(());
        };
        let to = self.entry.checkpoints().join(format!("step-{step:09}"));
        if to.is_dir() {
            return Ok(());
        }
        let name = self.name(&format!("{}/{CHECKPOINT_LISTING}", checkpoint_name(step)));
        let Some(bytes) = self.remote.get(&name)? else { return Ok(()) };
        let listing: ArtifactRef = sealed::parse(bytes, Path::new(&name))?;
        if !listing.is_well_formed() {
            return Ok(());
        }
        let aside = self.entry.begin_checkpoint()?;
        let files = listing.files.iter().map(|file| file.path.as_path());
        let files: Vec<_> = files.chain([Path::new(CHECKPOINT_LISTING)]).collect();
        let placed = self
            .get_dir(&checkpoint_name(step), &aside, &files)
            .and_then(|()| self.entry.disk.place_dir(&aside, &to, || Ok(true)));
        match placed {
            // The process that trains has replaced it meanwhile.
            Err(StoreError::Damaged { .. }) => self.entry.discard(&aside),
            placed => placed,
        }
    }

    // ---- artifacts ----

    /// Copies an artifact to its place on this machine unless it is there.
    pub(super) fn fetch_artifact(&self, port: &str, artifact: &ArtifactRef) -> Result<()> {
        let entry = self.entry;
        if artifact.is_there(&entry.dir, port) {
            return Ok(());
        }
        let to = artifact.path(&entry.dir, port);
        let of = format!("{port}-{}", artifact.digest.short());
        let aside = entry.begin_artifact(port)?;
        let files: Vec<_> = artifact.files.iter().map(|file| file.path.as_path()).collect();
        let placed = self.get_dir(&of, &aside, &files).and_then(|()| {
            entry.disk.place_dir(&aside, &to, || Ok(artifact.is_there(&entry.dir, port)))
        });
        if placed.is_err() {
            entry.discard(&aside)?;
        }
        placed?;
        artifact.verify(&entry.dir, port).inspect_err(|_| drop(entry.disk.remove(&to)))
    }
}

fn checkpoint_name(step: u64) -> String {
    format!("checkpoints/step-{step:09}")
}

fn record_name(input: &Digest) -> String {
    format!("{RECORDS}{input}")
}

/// Does the same with each item, some at once; the results are in the order of the items.
fn in_parallel<I: Sync, T: Send>(
    items: &[I],
    act: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    if items.len() <= 1 {
        return items.iter().map(act).collect();
    }
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<Result<T>>>> = items.iter().map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..REQUESTS.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let result = act(item);
                    *done[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                }
            });
        }
    });
    let result =
        |slot: Mutex<Option<Result<T>>>| slot.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.into_iter().filter_map(result).collect()
}
