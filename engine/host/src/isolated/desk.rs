//! What the engine does for a stage while a process of its own works on a command: its services, inputs and outputs.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::GRACE;
use super::ipc;
use super::wire::{Answer, Blobs, Note, Request};
use crate::error::Result;
use crate::executor::{Batches, RowSink, WorkOutput};
use crate::services::{ServiceError, Services};

/// What is done for a stage while it works on a command.
#[derive(Default)]
pub(super) struct Desk<'a> {
    services: Option<&'a dyn Services>,
    inputs: Vec<Option<Batches>>,
    outputs: Vec<Option<(SchemaRef, RowSink<'a>)>>,
    /// The engine's own error, which says more than what the stage makes of it.
    pub(super) error: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// When a stage that should be done is not waited for any longer.
    pub(super) give_up: Option<Instant>,
}

impl<'a> Desk<'a> {
    pub(super) fn new(services: &'a dyn Services, inputs: Vec<Option<Batches>>) -> Self {
        Self { services: Some(services), inputs, ..Self::default() }
    }

    /// The work is over: there is only so much time left.
    pub(super) fn winding_up(mut self) -> Self {
        self.give_up = Some(Instant::now() + GRACE);
        self
    }

    /// Without rows, and without services where nothing is at work.
    pub(super) fn of(services: Option<&'a Arc<dyn Services>>) -> Self {
        Self { services: services.map(|services| &**services), ..Self::default() }
    }

    /// Where the rows go that the stage pushes.
    pub(super) fn outputs(&mut self, schemas: &[Option<SchemaRef>], outputs: Vec<WorkOutput<'a>>) {
        let output = |(output, schema): (WorkOutput<'a>, &Option<SchemaRef>)| match output {
            WorkOutput::Table(take) => Some((schema.clone()?, take)),
            WorkOutput::Artifact(_) => None,
        };
        self.outputs = outputs.into_iter().zip(schemas).map(output).collect();
    }

    /// What is left of the inputs.
    pub(super) fn into_rows(self) -> Vec<Option<Batches>> {
        self.inputs
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.services.is_some_and(Services::is_cancelled)
    }

    pub(super) fn note(&self, note: Note) {
        let Some(services) = self.services else { return };
        match note {
            Note::Log { level, message } => services.log(level, &message),
            Note::Progress { done, total, unit } => services.progress(done, total, &unit),
            Note::Metric { name, bits, step } => {
                services.metric(&name, f64::from_bits(bits), step);
            }
        }
    }

    pub(super) fn answer(
        &mut self,
        request: Request,
        blobs: &Blobs,
    ) -> Result<(Answer, Blobs), ServiceError> {
        let services = self.services.ok_or_else(|| ServiceError::new("nothing is at work"))?;
        let answer = match request {
            Request::LatestCheckpoint => Answer::Checkpoint(services.checkpoint_latest()?),
            Request::BeginCheckpoint(step) => Answer::Dir(services.checkpoint_begin(step)?),
            Request::CommitCheckpoint(step) => {
                services.checkpoint_commit(step)?;
                Answer::Done
            }
            Request::ScratchDir => Answer::Dir(services.scratch_dir()?),
            Request::Pull(input) => return Ok((Answer::Rows, self.pull(input)?)),
            Request::Push(output) => {
                if let Err(error) = self.push(output, blobs) {
                    let message = error.to_string();
                    self.error.get_or_insert(error);
                    return Err(ServiceError::new(message));
                }
                Answer::Done
            }
        };
        Ok((answer, Blobs::new()))
    }

    fn pull(&mut self, input: usize) -> Result<Blobs, ServiceError> {
        let said = |error: arrow::error::ArrowError| ServiceError::new(error.to_string());
        let batches = self.inputs.get_mut(input).and_then(Option::as_mut);
        let rows = batches.and_then(Iterator::next).transpose().map_err(said)?;
        let encode = |rows: RecordBatch| ipc::encode(&rows.schema(), Some(&rows));
        Ok(Vec::from_iter(rows.map(encode).transpose().map_err(said)?))
    }

    fn push(
        &mut self,
        output: usize,
        blobs: &Blobs,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let place = self.outputs.get_mut(output).and_then(Option::as_mut);
        let (schema, take) = place.ok_or("rows for an output that is no table")?;
        let rows = ipc::rows(blobs)?;
        if rows.schema().fields() != schema.fields() {
            return Err("rows of other columns than its plan promised".into());
        }
        take(rows.with_schema(Arc::clone(schema))?)
    }
}
