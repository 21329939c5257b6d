//! What goes through the socket between the engine and the process of a stage.
//!
//! A frame is the length of its message and the number of its blobs (4 bytes each), the length of each blob (8 bytes), the
//! message as JSON, and the blobs: schemas and batches as Arrow IPC streams. Numbers are little-endian.

use std::io::{self, Read, Write};
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use paraloom_pipeline::{PlanInput, StageInfo};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{HostError, StageFailure};
use crate::services::{Level, ServiceError};
use crate::work::{WorkOutput, WorkSettings};

/// Schemas or batches that go with a message.
pub(super) type Blobs = Vec<Vec<u8>>;

/// What the engine says to a stage's process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToStage<C = Command> {
    /// Answered by [`ToEngine::Done`]; one at a time.
    Command(C),
    /// To [`ToEngine::Asked`]. Rows are in a blob.
    Answer(u64, Result<Answer, ServiceError>),
    /// The work should stop.
    Cancel,
}

/// What a stage's process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Command {
    /// Load a library, if it is still the one with this digest.
    Load { path: PathBuf, digest: String },
    /// Plan; the schemas of the tables among the inputs are in blobs.
    Plan(PlanRequest),
    /// Run a whole stage, or open a map stage; the schemas of the tables among the inputs are in blobs.
    Work {
        shape: Shape,
        settings: WorkSettings,
        checkpoint_interval: Duration,
        inputs: Vec<InputKind>,
        outputs: Vec<OutputKind>,
    },
    /// Map the rows in the blob.
    Map,
    /// Close the map stage.
    Close,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PlanRequest {
    pub(super) stage: String,
    pub(super) node: String,
    pub(super) config: serde_json::Value,
    pub(super) inputs: Vec<PlanEdge>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PlanEdge {
    pub(super) port: usize,
    pub(super) label: String,
    pub(super) is_table: bool,
    pub(super) note: String,
}

impl From<&PlanInput> for PlanEdge {
    fn from(input: &PlanInput) -> Self {
        let PlanInput { port, label, schema, note } = input;
        let (label, note) = (label.clone(), note.clone());
        Self { port: *port, label, is_table: schema.is_some(), note }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Shape {
    Whole,
    Map,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum InputKind {
    Table,
    Artifact(PathBuf),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum OutputKind {
    Table,
    Artifact(PathBuf),
}

impl From<&WorkOutput<'_>> for OutputKind {
    fn from(output: &WorkOutput) -> Self {
        match output {
            WorkOutput::Table(_) => Self::Table,
            WorkOutput::Artifact(dir) => Self::Artifact(dir.clone()),
        }
    }
}

/// What a stage's process says to the engine.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToEngine {
    /// Nobody waits for an answer.
    Said(Note),
    /// Answered by [`ToStage::Answer`] of the same number.
    Asked(u64, Request),
    /// The command is done. The schemas of a plan are in blobs.
    Done(Result<Outcome, Failure>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Note {
    Log { level: Level, message: String },
    Progress { done: u64, total: u64, unit: String },
    // JSON has no number for those that are none.
    Metric { name: String, bits: u64, step: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    LatestCheckpoint,
    BeginCheckpoint(u64),
    CommitCheckpoint(u64),
    ScratchDir,
    /// The next batch of an input.
    Pull(usize),
    /// The batch in the blob, for an output.
    Push(usize),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Dir(PathBuf),
    Checkpoint(Option<(PathBuf, u64)>),
    /// A batch is in the blob; without one there are no more.
    Rows,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    Described(Described),
    Planned(Planned),
    Worked,
}

/// What a library says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) built_with: String,
    pub(crate) stages: Vec<StageInfo>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Planned {
    /// By output: whether it is a table, whose schema is the next blob.
    pub(super) tables: Vec<bool>,
    pub(super) fingerprint: String,
    pub(super) notes: Vec<String>,
    pub(super) memory: Option<u64>,
}

/// A [`HostError`] on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Failure {
    Load { path: PathBuf, reason: String },
    Stage(StageFailure),
    Broken { stage: String, what: String },
    Other(String),
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Load { path, reason } => Self::Load { path, reason },
            HostError::Stage(failure) => Self::Stage(failure),
            HostError::Broken { stage, what } => Self::Broken { stage, what },
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<Failure> for HostError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Load { path, reason } => Self::Load { path, reason },
            Failure::Stage(failure) => Self::Stage(failure),
            Failure::Broken { stage, what } => Self::Broken { stage, what },
            Failure::Other(what) => Self::Engine(what.into()),
        }
    }
}

/// A schema, or a batch with it, as an Arrow IPC stream.
pub(super) fn encode(schema: &Schema, rows: Option<&RecordBatch>) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
    rows.map_or(Ok(()), |rows| writer.write(rows))?;
    writer.into_inner()
}

/// Reads what [`encode`] writes. The other side may have lost its mind: nothing that it sends makes this one panic.
pub(super) fn decode(bytes: &[u8]) -> Result<(SchemaRef, Option<RecordBatch>), ArrowError> {
    let read = || {
        let mut reader = StreamReader::try_new(bytes, None)?;
        Ok((reader.schema(), reader.next().transpose()?))
    };
    catch_unwind(read).unwrap_or_else(|_| Err(ArrowError::IpcError("it makes no sense".to_owned())))
}

/// The batch in the one blob of a message.
pub(super) fn rows(blobs: &Blobs) -> Result<RecordBatch, ArrowError> {
    let missing = || ArrowError::IpcError("there are no rows".to_owned());
    decode(blobs.first().ok_or_else(missing)?)?.1.ok_or_else(missing)
}

/// Writes one frame.
pub(super) fn write(
    stream: &mut impl Write,
    message: &impl Serialize,
    blobs: &Blobs,
) -> io::Result<()> {
    let message = serde_json::to_vec(message)?;
    let too_long = |_| io::Error::other("a message of more than 4 GiB");
    let mut head = Vec::with_capacity(HEAD + message.len());
    head.extend(u32::try_from(message.len()).map_err(too_long)?.to_le_bytes());
    head.extend(u32::try_from(blobs.len()).map_err(too_long)?.to_le_bytes());
    blobs.iter().for_each(|blob| head.extend((blob.len() as u64).to_le_bytes()));
    head.extend(message);
    stream.write_all(&head)?;
    blobs.iter().try_for_each(|blob| stream.write_all(blob))
}

/// The length of a message and the number of blobs.
const HEAD: usize = 8;
/// What is read at once.
const CHUNK: usize = 64 << 10;

/// Frames from a stream, whose bytes come in pieces.
#[derive(Debug, Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    /// Bytes at the beginning that belong to frames that were taken.
    taken: usize,
}

impl Frames {
    /// Waits for bytes and adds them; false at the end of the stream.
    pub(super) fn read(&mut self, stream: &mut impl Read) -> io::Result<bool> {
        self.bytes.drain(..std::mem::take(&mut self.taken));
        let before = self.bytes.len();
        self.bytes.resize(before + CHUNK, 0);
        let read = loop {
            match stream.read(&mut self.bytes[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.bytes.truncate(before + read.as_ref().map_or(0, |read| *read));
        read.map(|read| read > 0)
    }

    /// The next frame, if all of it is there.
    pub(super) fn next<M: DeserializeOwned>(&mut self) -> io::Result<Option<(M, Blobs)>> {
        let bytes = &self.bytes[self.taken..];
        let Some((message, blobs, end)) = layout(bytes) else { return Ok(None) };
        if bytes.len() < end {
            return Ok(None);
        }
        let message = serde_json::from_slice(&bytes[message])?;
        let blobs = blobs.into_iter().map(|blob| bytes[blob].to_vec()).collect();
        self.taken += end;
        Ok(Some((message, blobs)))
    }
}

type Span = std::ops::Range<usize>;

/// Where message and blobs of a frame are, and where it ends; none if its head is not there yet. What would end beyond all
/// numbers never ends.
fn layout(bytes: &[u8]) -> Option<(Span, Vec<Span>, usize)> {
    let number = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let (length, count) = (number(0)?, number(4)?);
    let mut at = HEAD + count * 8;
    let lengths = bytes.get(HEAD..at)?.chunks_exact(8);
    let mut span = |length: usize| {
        let start = at;
        at = at.saturating_add(length);
        start..at
    };
    let message = span(length);
    let blobs = lengths.map(|length| {
        let length = length.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
        span(usize::try_from(length).unwrap_or(usize::MAX))
    });
    let blobs: Vec<_> = blobs.collect();
    Some((message, blobs, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut bytes = Vec::new();
        let messages = ["", "one", "two"];
        for (count, message) in messages.iter().enumerate() {
            let blobs = (0..count).map(|blob| vec![7; blob * 70_000]).collect();
            write(&mut bytes, message, &blobs).expect("memory takes all");
        }
        for piece in [1, 3, 1000, bytes.len()] {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for mut piece in bytes.chunks(piece) {
                while frames.read(&mut piece).expect("memory can be read") {}
                while let Some((message, blobs)) = frames.next::<String>().expect("it is JSON") {
                    assert!(
                        blobs.iter().enumerate().all(|(at, blob)| *blob == vec![7; at * 70_000])
                    );
                    assert_eq!(blobs.len(), found.len());
                    found.push(message);
                }
            }
            assert_eq!(found, messages);
            assert!(!frames.read(&mut io::empty()).expect("the end"));
        }
    }

    #[test]
    fn nonsense_is_an_error_or_never_ends() {
        for (bytes, is_error) in [
            (vec![0; 8], true),
            (vec![0xff; 200], false),
            ([&[2, 0, 0, 0, 0, 0, 0, 0][..], b"{]"].concat(), true),
            ([&[0, 0, 0, 0, 1, 0, 0, 0][..], &[0xff; 8]].concat(), false),
        ] {
            let mut frames = Frames::default();
            frames.read(&mut bytes.as_slice()).expect("memory can be read");
            let next = frames.next::<ToEngine>();
            assert_eq!(next.is_err(), is_error, "{bytes:?}: {next:?}");
        }
        for length in 0..200 {
            let whole = encode(&Schema::empty(), None).expect("an empty schema");
            let cut = &whole[..length.min(whole.len() - 1)];
            let nonsense: Vec<_> = cut.iter().map(|byte| byte ^ length as u8).collect();
            assert!(length == 0 || decode(&nonsense).is_err());
        }
    }
}
