//! A part is a run of consecutive rows of a table: one Parquet file, named by content.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde::{Deserialize, Serialize};

use crate::columns::{self, Origin};
use crate::digest::Digest;
use crate::disk::Disk;
use crate::error::{Result, StoreError};

/// A part file as records name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartFile {
    /// Digest of the file's bytes; also its name.
    pub digest: Digest,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Number of rows.
    pub rows: u64,
}

/// Rows as Parquet bytes: the same rows always give the same bytes.
pub fn write_parquet(schema: &SchemaRef, rows: &RecordBatch) -> Result<Vec<u8>> {
    // The writer would leave out what is too much.
    let (found, wanted) = (rows.num_columns(), schema.fields().len());
    if found != wanted {
        let reason = format!("they have {found} columns, the table has {wanted}");
        return Err(StoreError::Rows { action: "write", reason });
    }
    // Fixed properties and no timestamps: what is written must not depend on the writer's
    // defaults of the day.
    let properties = WriterProperties::builder()
        .set_created_by("paraloom".to_owned())
        .set_compression(Compression::SNAPPY)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(1 << 20))
        .build();
    let written = caught("writer", || {
        let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(schema), Some(properties))?;
        writer.write(rows)?;
        writer.into_inner()
    });
    written.map_err(|reason| StoreError::Rows { action: "write", reason })
}

/// Parquet panics on some malformed files, and on types that it has no answer to.
fn caught<T>(
    what: &str,
    act: impl FnOnce() -> parquet::errors::Result<T>,
) -> std::result::Result<T, String> {
    let done = catch_unwind(AssertUnwindSafe(act));
    let done = done.map_err(|_| format!("the Parquet {what} panicked"))?;
    done.map_err(|error| error.to_string())
}

/// All rows of Parquet bytes that have passed their digest.
pub fn read_parquet(path: &Path, bytes: Vec<u8>) -> Result<RecordBatch> {
    read_columns(path, bytes, |_, _| true)
}

/// The same of some columns, by name and number, in the order of the file.
pub(crate) fn read_columns(
    path: &Path,
    bytes: Vec<u8>,
    is_wanted: impl Fn(&str, usize) -> bool,
) -> Result<RecordBatch> {
    // Bytes with the right digest are what was written; but a digest can be forged.
    let read = caught("reader", || {
        let mut builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes))?;
        let fields = builder.schema().fields().iter().enumerate();
        let wanted: Vec<_> =
            fields.filter(|(at, field)| is_wanted(field.name(), *at)).map(|(at, _)| at).collect();
        if wanted.len() < builder.schema().fields().len() {
            let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
            builder = builder.with_projection(mask);
        }
        let reader = builder.build()?;
        let schema = arrow::array::RecordBatchReader::schema(&reader);
        let batches = reader.collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(concat_batches(&schema, &batches)?)
    });
    read.map_err(|reason| StoreError::damaged(path, reason))
}

impl PartFile {
    /// The part that rows make, and the bytes of its file.
    pub(crate) fn encode(schema: &SchemaRef, rows: &RecordBatch) -> Result<(Self, Vec<u8>)> {
        let bytes = write_parquet(schema, rows)?;
        let file = Self {
            digest: Digest::of(&bytes),
            bytes: bytes.len() as u64,
            rows: rows.num_rows() as u64,
        };
        Ok((file, bytes))
    }

    /// Writes the rows into `dir`. The content is durable when this returns; the name is with the record of it. Columns
    /// that are those of the `origin` need not be written again.
    pub(crate) fn write(
        &self,
        disk: &Disk,
        dir: &Path,
        schema: &SchemaRef,
        rows: &RecordBatch,
        origin: Option<&Origin>,
        bytes: &[u8],
    ) -> Result<()> {
        let path = self.path(dir);
        // A file of this name has this content, unless it is damaged: then it is replaced.
        if Digest::of_file(&path).is_ok_and(|(digest, _)| digest == self.digest) {
            return Ok(());
        }
        let shared = match origin {
            Some(origin) => columns::encode(disk, dir, schema, rows, bytes.len(), origin)?,
            None => None,
        };
        match shared {
            Some(columns) => disk.write_whole(&columns::path(dir, self), &columns),
            None => disk.write_whole(&path, bytes),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self, dir: &Path) -> std::path::PathBuf {
        dir.join(format!("{}.parquet", self.digest))
    }

    /// Whether a file of the right length is there, or one of columns and all that it shares; the content is checked when
    /// it is read.
    pub(crate) fn is_there(&self, disk: &Disk, dir: &Path) -> bool {
        self.is_whole_there(dir) || columns::is_there(disk, dir, self)
    }

    /// Whether there is a file, of whatever kind.
    pub(crate) fn has_file(&self, dir: &Path) -> bool {
        self.is_whole_there(dir) || columns::path(dir, self).is_file()
    }

    fn is_whole_there(&self, dir: &Path) -> bool {
        std::fs::metadata(self.path(dir)).is_ok_and(|metadata| metadata.len() == self.bytes)
    }

    /// Checks every byte: the rows are those that the digest is of.
    pub(crate) fn verify(&self, disk: &Disk, dir: &Path) -> Result<()> {
        if self.path(dir).exists() {
            return self.checked_bytes(disk, dir).map(drop);
        }
        let rows = self.read(disk, dir, None)?;
        if Digest::of(&write_parquet(&rows.schema(), &rows)?) != self.digest {
            let path = columns::path(dir, self);
            return Err(StoreError::damaged(&path, "its rows are not those of its digest"));
        }
        Ok(())
    }

    /// Removes the file.
    pub(crate) fn remove(&self, disk: &Disk, dir: &Path) -> Result<()> {
        disk.remove(&self.path(dir))?;
        disk.remove(&columns::path(dir, self))
    }

    /// Some columns of a part that is whole.
    pub(crate) fn read_named(
        &self,
        disk: &Disk,
        dir: &Path,
        names: &[&str],
    ) -> Result<RecordBatch> {
        let bytes = self.checked_bytes(disk, dir)?;
        read_columns(&self.path(dir), bytes, |name, _| names.contains(&name))
    }

    /// The columns of its rows.
    pub(crate) fn schema(&self, disk: &Disk, dir: &Path) -> Result<SchemaRef> {
        let path = self.path(dir);
        if !path.exists() {
            return self.read(disk, dir, None).map(|rows| rows.schema());
        }
        let bytes = bytes::Bytes::from(self.checked_bytes(disk, dir)?);
        let schema = caught("reader", || {
            Ok(Arc::clone(ParquetRecordBatchReaderBuilder::try_new(bytes)?.schema()))
        });
        schema.map_err(|reason| StoreError::damaged(&path, reason))
    }

    /// Reads the rows, after length and digest were checked; of the columns with these numbers, or of all.
    pub(crate) fn read(
        &self,
        disk: &Disk,
        dir: &Path,
        wanted: Option<&[usize]>,
    ) -> Result<RecordBatch> {
        let path = self.path(dir);
        let shared = if path.exists() { None } else { columns::read(disk, dir, self, wanted)? };
        let rows = match shared {
            Some(rows) => rows,
            None => {
                let is_wanted = |_: &str, at| wanted.is_none_or(|wanted| wanted.contains(&at));
                read_columns(&path, self.checked_bytes(disk, dir)?, is_wanted)?
            }
        };
        if rows.num_rows() as u64 != self.rows {
            return Err(StoreError::damaged(
                &path,
                format!("{} rows instead of {}", rows.num_rows(), self.rows),
            ));
        }
        Ok(rows)
    }

    pub(crate) fn checked_bytes(&self, disk: &Disk, dir: &Path) -> Result<Vec<u8>> {
        let path = self.path(dir);
        let Some(bytes) = disk.read_if_exists(&path)? else {
            return Err(StoreError::damaged(&path, "it is missing"));
        };
        if bytes.len() as u64 != self.bytes {
            let reason = format!("{} bytes instead of {}", bytes.len(), self.bytes);
            return Err(StoreError::damaged(&path, reason));
        }
        if Digest::of(&bytes) != self.digest {
            return Err(StoreError::damaged(
                &path,
                "its content does not have the recorded digest",
            ));
        }
        Ok(bytes)
    }
}
