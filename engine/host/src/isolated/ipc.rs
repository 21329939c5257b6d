//! Schemas and batches as Arrow IPC streams.

use std::panic::catch_unwind;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;

use super::wire::Blobs;

/// A schema, or a batch with it, as an Arrow IPC stream.
pub(super) fn encode(schema: &Schema, rows: Option<&RecordBatch>) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
    rows.map_or(Ok(()), |rows| writer.write(rows))?;
    writer.into_inner()
}

/// Reads what [`encode`] writes. The bytes are not trusted: none make it panic.
pub(super) fn decode(bytes: &[u8]) -> Result<(SchemaRef, Option<RecordBatch>), ArrowError> {
    let read = || {
        let mut reader = StreamReader::try_new(bytes, None)?;
        let rows = reader.next().transpose()?;
        if reader.next().is_some() {
            return Err(ArrowError::IpcError("more than one batch at once".to_owned()));
        }
        Ok((reader.schema(), rows))
    };
    catch_unwind(read)
        .unwrap_or_else(|_| Err(ArrowError::IpcError("it is no Arrow IPC stream".to_owned())))
}

/// The batch in the one blob of a message.
pub(super) fn rows(blobs: &Blobs) -> Result<RecordBatch, ArrowError> {
    let missing = || ArrowError::IpcError("there are no rows".to_owned());
    decode(blobs.first().ok_or_else(missing)?)?.1.ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_an_error() {
        for length in 0..200 {
            let whole = encode(&Schema::empty(), None).expect("an empty schema");
            let cut = &whole[..length.min(whole.len() - 1)];
            let nonsense: Vec<_> = cut.iter().map(|byte| byte ^ length as u8).collect();
            assert!(length == 0 || decode(&nonsense).is_err());
        }
    }
}
