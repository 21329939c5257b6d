//! A part that shares columns with the part that it was made of.
//!
//! A stage that adds a column, such as a score, hands the others on as they are. Where that is so, the part's file
//! `<digest>.columns` has the new columns only, and says in which parts of other results the others are. The part is the
//! same as ever: its digest is that of the whole Parquet file that it stands for, and so neither readers nor keys
//! differ.
//!
//! ```text
//! {"columns":[["_id",0],["text",0],["score",null]],"sources":[{"key":…,"part":…,"row":128}],"own":{…}}\t<digest of that>\n
//! <the Parquet bytes of the columns that are the part's own>
//! ```

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::disk::Disk;
use crate::error::{Result, StoreError};
use crate::key::Key;
use crate::part::{PartFile, read_columns, write_parquet};
use crate::{rekey, sealed};

/// Parts of which there is less to share are written whole.
const LEAST_BYTES: usize = 64 << 10;
/// A part with columns in more parts than this is written whole: reading it opens each of them.
const MOST_SOURCES: usize = 8;

/// What a part was made of: some rows of a part of another result.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The key of the result.
    pub key: &'a Key,
    /// The part.
    pub part: &'a PartFile,
    /// The number of the first of its rows.
    pub row: u64,
    /// The rows.
    pub rows: &'a RecordBatch,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// The names of the columns, in order, and in which source each is; none of one that is in this file.
    columns: Vec<(String, Option<usize>)>,
    sources: Vec<Source>,
    /// The Parquet bytes behind the header; none if all columns are elsewhere.
    own: Option<Own>,
}

/// A part whose own file has columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    key: Key,
    part: PartFile,
    /// The number of the first row.
    row: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    digest: Digest,
    bytes: u64,
}

pub(crate) fn path(dir: &Path, part: &PartFile) -> PathBuf {
    dir.join(format!("{}.columns", part.digest))
}

/// The bytes of a file for `rows`, whose whole Parquet file would have `whole` bytes. None where it is not worth it.
pub(crate) fn encode(
    disk: &Disk,
    dir: &Path,
    schema: &SchemaRef,
    rows: &RecordBatch,
    whole: usize,
    origin: &Origin,
) -> Result<Option<Vec<u8>>> {
    let plain = schema.metadata().is_empty() && origin.rows.schema().metadata().is_empty();
    if whole < LEAST_BYTES || rows.num_rows() != origin.rows.num_rows() || !plain {
        return Ok(None);
    }
    let is_shared = |(field, column): (&FieldRef, &ArrayRef)| {
        origin.rows.schema().column_with_name(field.name()).is_some_and(|(at, before)| {
            before == field.as_ref() && origin.rows.column(at) == column
        })
    };
    let shared: Vec<_> = schema.fields().iter().zip(rows.columns()).map(is_shared).collect();
    if !shared.contains(&true) {
        return Ok(None);
    }
    let own: Vec<_> = (0..shared.len()).filter(|at| !shared[*at]).collect();
    let own_bytes = match own.as_slice() {
        [] => None,
        own => {
            let project = |error| StoreError::rows("write", error);
            let schema = schema.project(own).map_err(project)?;
            let rows = rows.project(own).map_err(project)?;
            Some(write_parquet(&Arc::new(schema), &rows)?)
        }
    };
    let length = own_bytes.as_ref().map_or(0, Vec::len);
    if length > whole / 4 * 3 {
        return Ok(None);
    }
    let before = match owner_dir(disk, dir, origin.key)? {
        Some(owner) => Header::read(disk, &path(&owner, origin.part))?,
        None => return Ok(None),
    };
    let header = Header::new(schema, &shared, before.as_ref(), origin, own_bytes.as_deref());
    if header.sources.len() > MOST_SOURCES {
        return Ok(None);
    }
    let json = sealed::to_json(&header);
    let mut bytes = format!("{json}\t{}\n", Digest::of(json.as_bytes())).into_bytes();
    bytes.extend(own_bytes.unwrap_or_default());
    Ok(Some(bytes))
}

impl Header {
    /// The columns that the origin has in its own file are there, and the others where it has them.
    fn new(
        schema: &Schema,
        shared: &[bool],
        before: Option<&Self>,
        origin: &Origin,
        own: Option<&[u8]>,
    ) -> Self {
        let mut sources: Vec<Source> = Vec::new();
        let columns = schema.fields().iter().zip(shared).map(|(field, shared)| {
            let name = field.name().clone();
            if !shared {
                return (name, None);
            }
            let elsewhere = before.and_then(|before| {
                let (_, source) = before.columns.iter().find(|(known, _)| *known == name)?;
                before.sources.get((*source)?)
            });
            let source = match elsewhere {
                Some(source) => Source { row: source.row + origin.row, ..source.clone() },
                None => Source { key: origin.key.clone(), part: *origin.part, row: origin.row },
            };
            let at = sources.iter().position(|known| *known == source).unwrap_or_else(|| {
                sources.push(source);
                sources.len() - 1
            });
            (name, Some(at))
        });
        let columns = columns.collect();
        let own = own.map(|own| Own { digest: Digest::of(own), bytes: own.len() as u64 });
        Self { columns, sources, own }
    }

    /// The header of a file; none if there is no file.
    fn read(disk: &Disk, path: &Path) -> Result<Option<Self>> {
        match disk.line_at(path, 0) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(None)
            }
            line => Self::parse(&line?, path).map(Some),
        }
    }

    fn parse(line: &[u8], path: &Path) -> Result<Self> {
        let damaged = |reason: &str| StoreError::damaged(path, reason);
        let line = str::from_utf8(line).ok().and_then(|line| line.rsplit_once('\t'));
        let (json, digest) = line.ok_or_else(|| damaged("its header is cut short"))?;
        if Digest::parse(digest) != Some(Digest::of(json.as_bytes())) {
            return Err(damaged("its header does not have the recorded digest"));
        }
        let header: Self =
            serde_json::from_str(json).map_err(|error| damaged(&error.to_string()))?;
        let is_known = |(_, source): &(String, Option<usize>)| match source {
            Some(source) => *source < header.sources.len(),
            None => header.own.is_some(),
        };
        if !header.columns.iter().all(is_known) {
            return Err(damaged("its header cannot be true"));
        }
        Ok(header)
    }
}

/// Where the result `key` is; none if it is gone. A version of the engine that writes keys in another way may have moved it.
fn owner_dir(disk: &Disk, dir: &Path, key: &Key) -> Result<Option<PathBuf>> {
    let results = dir.parent().and_then(Path::parent).unwrap_or(dir);
    let place = |key: &Key| results.join(&key.as_str()[..2]).join(key.as_str());
    let owner = place(key);
    if owner.is_dir() {
        return Ok(Some(owner));
    }
    let root = results.parent().unwrap_or(results);
    let moved = place(&rekey::current(disk, root, key)?);
    Ok(Some(moved).filter(|moved| moved.is_dir()))
}

/// Whether a part that has a file of its own columns is there with all that it shares; the content is checked when it is read.
pub(crate) fn is_there(disk: &Disk, dir: &Path, part: &PartFile) -> bool {
    let found = || -> Result<bool> {
        let path = path(dir, part);
        let Some(header) = Header::read(disk, &path)? else { return Ok(false) };
        for source in &header.sources {
            let owner = owner_dir(disk, dir, &source.key)?;
            if owner.is_none_or(|owner| !source.part.has_file(&owner)) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    found().unwrap_or(false)
}

/// Removes what a part shares and is damaged, so that its own result makes it again.
pub(crate) fn discard_damaged_sources(disk: &Disk, dir: &Path, part: &PartFile) -> Result<()> {
    let Ok(Some(header)) = Header::read(disk, &path(dir, part)) else { return Ok(()) };
    for source in &header.sources {
        let Some(owner) = owner_dir(disk, dir, &source.key)? else { continue };
        let file = path(&owner, &source.part);
        let found = match ColumnFile::read(disk, &file) {
            Ok(None) => source.part.checked_bytes(disk, &owner).map(drop),
            found => found.map(drop),
        };
        if matches!(found, Err(StoreError::Damaged { .. })) {
            source.part.remove(disk, &owner)?;
        }
    }
    Ok(())
}

/// The results that a part shares columns with.
pub(crate) fn owners(disk: &Disk, path: &Path) -> Result<HashSet<Key>> {
    match Header::read(disk, path) {
        Ok(header) => Ok(header
            .into_iter()
            .flat_map(|header| header.sources)
            .map(|source| source.key)
            .collect()),
        // Nothing can be read of it, so nothing of others is needed for it.
        Err(StoreError::Damaged { .. }) => Ok(HashSet::new()),
        Err(error) => Err(error),
    }
}

/// Reads a part that has a file of its own columns; none if it has no such file. Of the columns with these numbers, or of all.
pub(crate) fn read(
    disk: &Disk,
    dir: &Path,
    part: &PartFile,
    wanted: Option<&[usize]>,
) -> Result<Option<RecordBatch>> {
    let path = path(dir, part);
    let Some(file) = ColumnFile::read(disk, &path)? else { return Ok(None) };
    let is_wanted = |at: usize| wanted.is_none_or(|wanted| wanted.contains(&at));
    let columns: Vec<_> =
        file.header.columns.iter().enumerate().filter(|(at, _)| is_wanted(*at)).collect();
    let names = |from: Option<usize>| -> Vec<&str> {
        let of_source = columns.iter().filter(|(_, (_, source))| *source == from);
        of_source.map(|(_, (name, _))| name.as_str()).collect()
    };
    let own = file.own(&path, &names(None))?;
    let mut borrowed = Vec::with_capacity(file.header.sources.len());
    for (at, source) in file.header.sources.iter().enumerate() {
        let names = names(Some(at));
        borrowed.push(if names.is_empty() {
            None
        } else {
            Some(source.read(disk, dir, &path, &names, part.rows)?)
        });
    }
    let missing =
        |name: &str| StoreError::damaged(&path, format!("its column `{name}` is missing"));
    let mut fields = Vec::with_capacity(columns.len());
    let mut arrays = Vec::with_capacity(columns.len());
    for (_, (name, source)) in &columns {
        let rows = match source {
            Some(source) => borrowed[*source].as_ref(),
            None => own.as_ref(),
        };
        let schema = rows.map(RecordBatch::schema).ok_or_else(|| missing(name))?;
        let (at, _) = schema.column_with_name(name).ok_or_else(|| missing(name))?;
        fields.push(Arc::clone(&schema.fields()[at]));
        arrays.extend(rows.map(|rows| Arc::clone(rows.column(at))));
    }
    let count = RecordBatchOptions::new().with_row_count(Some(part.rows as usize));
    let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &count);
    rows.map(Some).map_err(|error| StoreError::damaged(&path, error.to_string()))
}

impl Source {
    /// Some columns of the rows from its first one on.
    fn read(
        &self,
        disk: &Disk,
        dir: &Path,
        path: &Path,
        names: &[&str],
        rows: u64,
    ) -> Result<RecordBatch> {
        let gone = || {
            let reason = format!("columns of it are in the result {}, which is gone", self.key);
            StoreError::damaged(path, reason)
        };
        let owner = owner_dir(disk, dir, &self.key)?.ok_or_else(gone)?;
        let theirs = self::path(&owner, &self.part);
        let found = match ColumnFile::read(disk, &theirs)? {
            Some(file) => file.own(&theirs, names)?.ok_or_else(gone)?,
            None => self.part.read_named(disk, &owner, names)?,
        };
        let (start, count) = (self.row as usize, rows as usize);
        if start + count > found.num_rows() {
            return Err(StoreError::damaged(path, "it has more rows than what it shares"));
        }
        Ok(found.slice(start, count))
    }
}

/// A file of columns.
struct ColumnFile {
    header: Header,
    own: Vec<u8>,
}

impl ColumnFile {
    /// Reads a file, and checks its digests; none if there is no file.
    fn read(disk: &Disk, path: &Path) -> Result<Option<Self>> {
        let Some(mut bytes) = disk.read_if_exists(path)? else { return Ok(None) };
        let damaged = |reason: &str| StoreError::damaged(path, reason);
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| damaged("its header is cut short"))?;
        let own = bytes.split_off(end + 1);
        let header = Header::parse(&bytes[..end], path)?;
        let is_whole = match &header.own {
            Some(wanted) => wanted.bytes == own.len() as u64 && wanted.digest == Digest::of(&own),
            None => own.is_empty(),
        };
        if !is_whole {
            return Err(damaged("its content does not have the recorded digest"));
        }
        Ok(Some(Self { header, own }))
    }

    /// Some of the columns that are in this file; none if it has none.
    fn own(&self, path: &Path, names: &[&str]) -> Result<Option<RecordBatch>> {
        if names.is_empty() || self.own.is_empty() {
            return Ok(None);
        }
        read_columns(path, self.own.clone(), |name, _| names.contains(&name)).map(Some)
    }
}
