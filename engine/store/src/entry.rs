//! An [`Entry`] is one result: a directory, and where the store is in a bucket, what is there under the same name.

mod checkpoints;
mod in_bucket;
mod locks;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::artifact::{self, ArtifactRef};
use crate::columns::{self, Origin};
use crate::digest::Digest;
use crate::disk::Disk;
use crate::error::{Result, StoreError};
use crate::key::{Key, Preimage};
use crate::part::PartFile;
use crate::remote::Remote;
use crate::row_match::RowMatch;
use crate::row_table::RowTable;
use crate::rows::RowMap;
use crate::sealed;
use crate::table::Identify;
use in_bucket::InBucket;

/// One result: its parts, artifacts, checkpoints and manifest.
#[derive(Clone, Debug)]
pub struct Entry {
    dir: PathBuf,
    disk: Disk,
    remote: Option<Arc<Remote>>,
}

/// One committed step of a map stage: the parts that came of one input part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartRecord {
    /// Digest of the input part.
    pub input: Digest,
    /// One part per output port; `None` where there are no rows, and for artifacts.
    pub outputs: Vec<Option<PartFile>>,
    /// What became of each row, if the stage works row by row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowMap>,
}

/// One output of a finished whole stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Output {
    /// The parts of a table, in order.
    Table(Vec<PartFile>),
    /// A directory.
    Artifact(ArtifactRef),
}

/// What a finished whole stage has made; written last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Per output port, in order: the port's name and what it holds.
    pub outputs: Vec<(String, Output)>,
    /// Wall time that the work took, in milliseconds.
    pub took_ms: u64,
}

impl Entry {
    pub(crate) fn new(dir: PathBuf, disk: Disk, remote: Option<Arc<Remote>>) -> Self {
        Self { dir, disk, remote }
    }

    /// The side of it that counts, where the store is in a bucket.
    fn in_bucket(&self) -> Option<InBucket<'_>> {
        let remote = self.remote.as_deref()?;
        Some(InBucket { entry: self, remote, key: self.key()? })
    }

    /// Its key, by the name of its directory.
    pub fn key(&self) -> Option<Key> {
        Key::parse(self.dir.file_name()?.to_str()?)
    }

    pub(crate) fn is_in_bucket(&self) -> bool {
        self.remote.is_some()
    }

    /// What the names of its objects start with.
    pub(crate) fn object_prefix(&self) -> String {
        self.in_bucket().map_or_else(String::new, |bucket| bucket.name(""))
    }

    /// Where it is on this machine.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the directory and stores what its key is the hash of.
    pub fn prepare(&self, preimage: &Preimage) -> Result<()> {
        self.disk.create_dir_durably(&self.dir, 2)?;
        let path = self.dir.join("key.json");
        match self.local_preimage() {
            Ok(Some(_)) => {}
            // Written again where it is damaged.
            Ok(None) | Err(StoreError::Damaged { .. }) => {
                sealed::write_whole(&self.disk, &path, preimage)?;
            }
            Err(error) => return Err(error),
        }
        match self.in_bucket() {
            Some(bucket) => bucket.create("key.json", sealed::seal(preimage).as_bytes()),
            None => Ok(()),
        }
    }

    /// What the key is the hash of.
    pub fn preimage(&self) -> Result<Option<Preimage>> {
        match (self.local_preimage()?, self.in_bucket()) {
            (None, Some(bucket)) if bucket.fetch("key.json", &self.dir.join("key.json"))? => {
                self.local_preimage()
            }
            (found, _) => Ok(found),
        }
    }

    fn local_preimage(&self) -> Result<Option<Preimage>> {
        let path = self.dir.join("key.json");
        let preimage: Option<Preimage> = sealed::read(&self.disk, &path)?;
        let is_ours = |found: &Preimage| self.dir.ends_with(found.key().as_str());
        if preimage.as_ref().is_some_and(|found| !is_ours(found)) {
            return Err(StoreError::damaged(&path, "it is the key of another result"));
        }
        Ok(preimage)
    }

    /// Removes a damaged key; the next run writes it again.
    pub(crate) fn discard_preimage(&self) -> Result<()> {
        if let Some(bucket) = self.in_bucket() {
            bucket.remove("key.json")?;
        }
        self.disk.remove(&self.dir.join("key.json"))
    }

    // ---- parts ----

    /// Gives ids to rows that get the schema `schema`, whose first column is the id. `salt` separates tables that hold
    /// the same rows.
    pub fn identify(&self, schema: SchemaRef, salt: String) -> Identify {
        Identify::new(schema, salt, self.row_table())
    }

    /// An empty table of rows; it leaves nothing behind.
    pub fn row_table(&self) -> RowTable {
        RowTable::new(self.disk.clone())
    }

    /// What compares two tables that have `rows` rows together; it leaves nothing behind.
    pub fn row_match(&self, rows: u64) -> RowMatch {
        RowMatch::new(&self.disk, rows)
    }

    /// Writes rows as a part file. It counts, and is durable, once a record or a manifest names it.
    pub fn write_part(&self, schema: &SchemaRef, rows: &RecordBatch) -> Result<PartFile> {
        self.keep_part(schema, rows, None)
    }

    /// The same of rows that were made of others: columns that are as they were are not written again.
    pub fn write_part_of(
        &self,
        schema: &SchemaRef,
        rows: &RecordBatch,
        origin: &Origin,
    ) -> Result<PartFile> {
        self.keep_part(schema, rows, Some(origin))
    }

    fn keep_part(
        &self,
        schema: &SchemaRef,
        rows: &RecordBatch,
        origin: Option<&Origin>,
    ) -> Result<PartFile> {
        let (part, bytes) = PartFile::encode(schema, rows)?;
        part.write(&self.disk, &self.dir, schema, rows, origin, &bytes)?;
        if let Some(bucket) = self.in_bucket() {
            bucket.create_part(&part, &bytes)?;
        }
        Ok(part)
    }

    /// The keys of the results that parts of this one share columns with.
    pub(crate) fn owners(&self) -> Result<HashSet<Key>> {
        let mut owners = HashSet::new();
        for path in self.disk.list(&self.dir)? {
            if path.extension().is_some_and(|extension| extension == "columns") {
                owners.extend(columns::owners(&self.disk, &path)?);
            }
        }
        Ok(owners)
    }

    /// Reads a part, after its length and digest were checked.
    pub fn read_part(&self, part: &PartFile) -> Result<RecordBatch> {
        self.read(part, None)
    }

    /// The columns of a part, if it is on this machine.
    pub fn part_schema(&self, part: &PartFile) -> Result<Option<SchemaRef>> {
        if self.remote.is_some() && !self.has(part) {
            return Ok(None);
        }
        part.schema(&self.disk, &self.dir).map(Some)
    }

    /// [`Entry::read_part`] of the columns with these numbers, in the order of the table. Others are not decoded.
    pub fn read_part_columns(&self, part: &PartFile, columns: &[usize]) -> Result<RecordBatch> {
        self.read(part, Some(columns))
    }

    fn read(&self, part: &PartFile, columns: Option<&[usize]>) -> Result<RecordBatch> {
        let Some(bucket) = self.in_bucket() else {
            return part.read(&self.disk, &self.dir, columns);
        };
        bucket.fetch_part(part)?;
        match part.read(&self.disk, &self.dir, columns) {
            // The copy may be damaged where the part is not.
            Err(StoreError::Damaged { .. }) => {
                part.remove(&self.disk, &self.dir)?;
                bucket.fetch_part(part)?;
                part.read(&self.disk, &self.dir, columns)
            }
            read => read,
        }
    }

    /// Commits what came of one input part.
    ///
    /// # Errors
    /// Among others [`StoreError::Conflict`]: on another machine something else came of it.
    pub fn commit_part(&self, record: &PartRecord) -> Result<()> {
        if let Some(bucket) = self.in_bucket() {
            bucket.commit_record(record)?;
        }
        self.append(record)
    }

    fn append(&self, content: &impl Serialize) -> Result<()> {
        self.disk.append_line(&self.log(), &line(content))
    }

    /// The record of an input part that another machine may have committed since [`Entry::records`].
    pub fn find_record(&self, input: &Digest) -> Result<Option<PartRecord>> {
        self.in_bucket().map_or(Ok(None), |bucket| bucket.find_record(input))
    }

    /// The committed records whose files are there, newest last, one at a time: a record can be long. With each is the
    /// place for [`Entry::record`]. Lines that a kill has torn and records whose files are gone are passed over: that work
    /// is done again.
    pub fn records(&self) -> Result<impl Iterator<Item = Result<(u64, PartRecord)>> + '_> {
        if let Some(bucket) = self.in_bucket() {
            bucket.pull_records()?;
        }
        let there = |record: &Result<(u64, PartRecord)>| {
            record.as_ref().map_or(true, |(_, record)| self.are_there(record))
        };
        Ok(self.all_records()?.filter(there))
    }

    /// The records that this or another process has appended since the file had this length, and up to where they are whole.
    pub fn records_since(&self, length: u64) -> Result<(Vec<PartRecord>, u64)> {
        let (mut records, mut read_to) = (Vec::new(), length);
        for line in self.disk.whole_lines(&self.log(), length)? {
            read_to += line.len() as u64 + 1;
            records.extend(checked_record(&line).filter(|record| self.are_there(record)));
        }
        Ok((records, read_to))
    }

    /// The record at a place that [`Entry::records`] gave.
    pub fn record(&self, place: u64) -> Result<PartRecord> {
        let path = self.log();
        let line = self.disk.line_at(&path, place)?;
        checked_record(&line).ok_or_else(|| StoreError::damaged(&path, "a record has changed"))
    }

    /// Length of the file of records in bytes: while it stays the same, nothing was committed.
    pub fn log_length(&self) -> u64 {
        std::fs::metadata(self.log()).map_or(0, |metadata| metadata.len())
    }

    fn log(&self) -> PathBuf {
        self.dir.join("parts.log")
    }

    fn are_there(&self, record: &PartRecord) -> bool {
        if let Some(bucket) = self.in_bucket() {
            return bucket.is_committed(record);
        }
        record.outputs.iter().flatten().all(|part| part.is_there(&self.disk, &self.dir))
    }

    fn all_records(&self) -> Result<impl Iterator<Item = Result<(u64, PartRecord)>> + use<>> {
        let lines = self.disk.lines_if_exists(&self.log())?;
        let mut next = 0;
        Ok(lines.filter_map(move |line| match line {
            Ok(line) => {
                let place = next;
                next += line.len() as u64 + 1;
                checked_record(&line).map(|record| Ok((place, record)))
            }
            Err(error) => Some(Err(error)),
        }))
    }

    /// The parts that records name, each once, whether their files are there or not; but for those that were given up and
    /// are not there.
    pub(crate) fn recorded_parts(&self) -> Result<Vec<PartFile>> {
        let mut parts = Vec::new();
        if let Some(bucket) = self.in_bucket() {
            bucket.pull_records()?;
            for record in self.all_records()? {
                let (_, record) = record?;
                if bucket.is_committed(&record) {
                    parts.extend(record.outputs.into_iter().flatten());
                }
            }
            parts.sort_unstable_by_key(|part: &PartFile| part.digest);
            parts.dedup();
            return Ok(parts);
        }
        for line in self.disk.lines_if_exists(&self.log())? {
            let line = line?;
            if let Some(record) = checked_record(&line) {
                parts.extend(record.outputs.into_iter().flatten());
            } else if let Some(GivenUp { gone }) = checked_line(&line) {
                let is_gone = |part: &PartFile| gone.contains(&part.digest) && !self.has(part);
                parts.retain(|part| !is_gone(part));
            }
        }
        parts.sort_unstable_by_key(|part| part.digest);
        parts.dedup();
        Ok(parts)
    }

    fn has(&self, part: &PartFile) -> bool {
        part.has_file(&self.dir)
    }

    /// Removes damaged parts, and records that they are gone, so that they are reported once. While another process computes
    /// this result the log is left alone, since a part may be about to be made again.
    pub(crate) fn give_up_parts(&self, parts: &[PartFile]) -> Result<()> {
        for part in parts {
            self.discard_part(part)?;
        }
        if self.remote.is_some() {
            return Ok(());
        }
        let _lock = match self.lock() {
            Err(StoreError::Locked { .. }) => return Ok(()),
            lock => lock?,
        };
        let gone = parts.iter().filter(|part| !self.has(part)).map(|part| part.digest).collect();
        self.append(&GivenUp { gone })
    }

    /// Checks every byte of a part.
    pub fn verify_part(&self, part: &PartFile) -> Result<()> {
        match self.in_bucket() {
            Some(bucket) => bucket.verify_part(part),
            None => part.verify(&self.disk, &self.dir),
        }
    }

    /// Removes a damaged part file, so that it is computed again, and so what it shares where that is damaged.
    pub fn discard_part(&self, part: &PartFile) -> Result<()> {
        if let Some(bucket) = self.in_bucket() {
            bucket.discard_part(part)?;
        }
        columns::discard_damaged_sources(&self.disk, &self.dir, part)?;
        part.remove(&self.disk, &self.dir)
    }

    // ---- artifacts ----

    /// An empty directory to fill.
    pub fn begin_artifact(&self, port: &str) -> Result<PathBuf> {
        let dir = self.disk.unique(port);
        self.disk.create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Moves a filled directory into the result. It counts once the manifest names it.
    pub fn commit_artifact(&self, port: &str, from: &Path) -> Result<ArtifactRef> {
        let artifact = ArtifactRef::commit(&self.disk, from, &self.dir, port)?;
        if let Some(bucket) = self.in_bucket() {
            let of = format!("{port}-{}", artifact.digest.short());
            let files: Vec<_> = artifact.files.iter().map(|file| file.path.as_path()).collect();
            bucket.put_dir(&of, &artifact.path(&self.dir, port), &files, None)?;
        }
        Ok(artifact)
    }

    /// Where an artifact is, or is copied to from a bucket.
    pub fn artifact_dir(&self, port: &str, artifact: &ArtifactRef) -> PathBuf {
        artifact.path(&self.dir, port)
    }

    /// The directory of an artifact on this machine, every byte of which was checked.
    pub fn local_artifact(&self, port: &str, artifact: &ArtifactRef) -> Result<PathBuf> {
        let dir = self.artifact_dir(port, artifact);
        let Some(bucket) = self.in_bucket() else {
            return artifact.verify(&self.dir, port).map(|()| dir);
        };
        // The copy may be damaged where the artifact is not.
        if artifact.is_there(&self.dir, port) && artifact.verify(&self.dir, port).is_ok() {
            return Ok(dir);
        }
        self.disk.remove(&dir)?;
        bucket.fetch_artifact(port, artifact).map(|()| dir)
    }

    /// Checks every byte of an artifact.
    pub fn verify_artifact(&self, port: &str, artifact: &ArtifactRef) -> Result<()> {
        if let Some(bucket) = self.in_bucket() {
            self.disk.remove(&artifact.path(&self.dir, port))?;
            return bucket.fetch_artifact(port, artifact);
        }
        artifact.verify(&self.dir, port)
    }

    // ---- the manifest ----

    /// Makes the result complete; its checkpoints are no longer needed.
    ///
    /// # Errors
    /// Among others [`StoreError::Conflict`]: another machine has made another result.
    pub fn commit(&self, manifest: &Manifest) -> Result<()> {
        if let Some(bucket) = self.in_bucket() {
            bucket.commit_manifest(sealed::seal(manifest).as_bytes(), manifest)?;
            bucket.discard_checkpoints(None)?;
        }
        sealed::write(&self.disk, &self.dir.join("manifest.json"), manifest)?;
        self.disk.remove(&self.checkpoints())
    }

    /// The manifest, if the result is complete and its files are there.
    pub fn manifest(&self) -> Result<Option<Manifest>> {
        let manifest = match self.raw_manifest() {
            // A damaged manifest is as good as none: `verify` names it, the work is redone. In a bucket it is in the way.
            Err(StoreError::Damaged { .. }) => {
                if self.remote.is_some() {
                    self.discard_manifest()?;
                }
                None
            }
            other => other?,
        };
        Ok(manifest.filter(|manifest| {
            manifest.outputs.iter().all(|(port, output)| self.holds(port, output))
        }))
    }

    fn holds(&self, port: &str, output: &Output) -> bool {
        match output {
            // The manifest in the bucket came after all that it names.
            _ if self.remote.is_some() => true,
            Output::Table(parts) => parts.iter().all(|part| part.is_there(&self.disk, &self.dir)),
            Output::Artifact(artifact) => artifact.is_there(&self.dir, port),
        }
    }

    /// Makes the result incomplete again, so that it is computed again.
    pub fn discard_manifest(&self) -> Result<()> {
        if let Some(bucket) = self.in_bucket() {
            bucket.remove("manifest.json")?;
        }
        self.disk.remove(&self.dir.join("manifest.json"))
    }

    /// The manifest, whether its files are there or not. One that names anything outside is damage.
    pub(crate) fn raw_manifest(&self) -> Result<Option<Manifest>> {
        if let Some(bucket) = self.in_bucket()
            && !bucket.is_complete()?
        {
            return Ok(None);
        }
        let path = self.dir.join("manifest.json");
        let manifest: Option<Manifest> = sealed::read(&self.disk, &path)?;
        let outputs = manifest.iter().flat_map(|manifest| &manifest.outputs);
        for (port, output) in outputs {
            let is_well_formed = match output {
                Output::Table(_) => true,
                Output::Artifact(artifact) => {
                    artifact::is_port_name(port) && artifact.is_well_formed()
                }
            };
            if !is_well_formed {
                let reason = format!("what it says of output `{port}` cannot be true");
                return Err(StoreError::damaged(&path, reason));
            }
        }
        Ok(manifest)
    }

    /// A private directory for a stage at work.
    pub fn scratch(&self) -> Result<PathBuf> {
        self.begin_artifact("scratch")
    }

    /// Removes a directory that `begin_artifact`, `begin_checkpoint` or `scratch` made.
    pub fn discard(&self, dir: &Path) -> Result<()> {
        if self.disk.is_unfinished(dir) { self.disk.remove(dir) } else { Ok(()) }
    }
}

/// A line of the log, without its end.
fn line(content: &impl Serialize) -> String {
    let json = sealed::to_json(content);
    format!("{json}\t{}", Digest::of(json.as_bytes()).short())
}

const CHECKPOINT_LISTING: &str = "checkpoint.json";

/// A line of the log that is not a record: parts that were damaged and removed. That they are missing is not news; what
/// they were made of is done again when it is needed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenUp {
    gone: HashSet<Digest>,
}

/// What a line of the log says, if it is as it was written and says that.
fn checked_line<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (json, digest) = str::from_utf8(line).ok()?.rsplit_once('\t')?;
    (Digest::of(json.as_bytes()).short() == digest).then(|| serde_json::from_str(json).ok())?
}

fn checked_record(line: &[u8]) -> Option<PartRecord> {
    let record: PartRecord = checked_line(line)?;
    let lengths: Vec<_> =
        record.outputs.iter().map(|part| part.as_ref().map(|part| part.rows)).collect();
    let rows = record.rows.as_ref().is_none_or(|rows| rows.fits(&lengths));
    rows.then_some(record)
}
