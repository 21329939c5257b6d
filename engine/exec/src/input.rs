//! What a stage reads of the store: parts and directories, checked before they are used.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use paraloom_host::{HostError, WorkInput};
use paraloom_store::{ArtifactRef, Entry, PartFile, StoreError};

use crate::error::{Result, RunError};
use crate::lookup::TableRef;

/// Directories are checked byte by byte before a stage reads them.
pub(crate) fn artifact_input(
    entry: &Entry,
    port: &str,
    artifact: &ArtifactRef,
) -> Result<WorkInput> {
    match entry.local_artifact(port, artifact) {
        Ok(dir) => Ok(WorkInput::Artifact(dir)),
        Err(error) => {
            if matches!(error, StoreError::Damaged { .. }) {
                entry.discard_manifest()?;
            }
            Err(error.into())
        }
    }
}

/// Reads a part; a damaged file is removed, so that what made it makes it again.
pub(crate) fn read_part(source: &Entry, part: &PartFile) -> Result<RecordBatch> {
    source.read_part(part).map_err(|error| {
        if matches!(error, StoreError::Damaged { .. })
            && let Err(error) = source.discard_part(part)
        {
            return error.into();
        }
        error.into()
    })
}

/// A table, part by part. Why reading fails is kept in `read_error`.
pub(crate) fn table_input(table: &TableRef, read_error: &ReadError) -> WorkInput {
    let (entry, parts, read_error) =
        (table.entry.clone(), Arc::clone(&table.parts), read_error.clone());
    let read = move |part: usize| read_part(&entry, &parts[part]);
    let batches =
        (0..table.parts.len()).map(move |part| read(part).map_err(|error| read_error.keep(error)));
    WorkInput::Table(Arc::clone(&table.schema), Box::new(batches))
}

/// Why reading an input failed, kept from where it happened to where it is reported: the stage between only knows that
/// it did.
#[derive(Clone, Default)]
pub(crate) struct ReadError(Arc<Mutex<Option<RunError>>>);

impl ReadError {
    fn keep(&self, error: RunError) -> ArrowError {
        let text = error.to_string();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        ArrowError::IoError(text.clone(), std::io::Error::other(text))
    }

    /// The error that was kept, or else that of the stage.
    pub(crate) fn or(&self, node: &str, error: HostError) -> RunError {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.unwrap_or_else(|| RunError::from_host(node, error))
    }
}
