//! The engine's side of the requests that an isolated process makes during a command: services, inputs and outputs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use paraloom_pipeline::StageInfo;

use super::GRACE;
use super::ipc;
use super::wire::{Answer, Blobs, Notice, Request};
use crate::error::{HostError, Result};
use crate::executor::{Batches, RowSink, WorkOutput};
use crate::services::{ServiceError, Services};

/// How long a library may load, or a stage plan, before that is reported.
const SLOW: Duration = Duration::from_secs(2);

/// Answers the requests of a stage during one command.
#[derive(Default)]
pub(super) struct Handler<'a> {
    services: Option<&'a dyn Services>,
    inputs: Vec<Option<Batches>>,
    outputs: Vec<Option<Output<'a>>>,
    /// What the stage is at work on, for the error of a crash.
    pub(super) during: String,
    /// The engine's own error, which says more than what the stage makes of it.
    pub(super) error: Option<HostError>,
    /// Reports a command that takes long.
    pub(super) slow: Option<Slow<'a>>,
    /// How long the command may take, from its start.
    pub(super) limit: Option<Duration>,
    /// When to stop waiting for a stage that was asked to stop.
    pub(super) give_up: Option<Instant>,
}

/// A report that is due once a command takes longer than [`SLOW`].
pub(super) struct Slow<'a> {
    at: Instant,
    report: Box<dyn FnOnce() + 'a>,
}

impl<'a> Slow<'a> {
    pub(super) fn new(report: impl FnOnce() + 'a) -> Self {
        Self { at: Instant::now() + SLOW, report: Box::new(report) }
    }
}

/// Where the rows of one table go.
struct Output<'a> {
    stage: String,
    port: String,
    schema: SchemaRef,
    take: RowSink<'a>,
}

impl<'a> Handler<'a> {
    pub(super) fn new(services: &'a dyn Services, inputs: Vec<Option<Batches>>) -> Self {
        Self { services: Some(services), inputs, ..Self::default() }
    }

    /// With a deadline for a stage that is being closed.
    pub(super) fn closing(mut self) -> Self {
        self.give_up = Some(Instant::now() + GRACE);
        self
    }

    /// Without rows, and without services where nothing is at work.
    pub(super) fn of(services: Option<&'a Arc<dyn Services>>) -> Self {
        Self { services: services.map(|services| &**services), ..Self::default() }
    }

    /// Where the rows go that the stage pushes.
    pub(super) fn outputs(
        &mut self,
        stage: &StageInfo,
        schemas: &[Option<SchemaRef>],
        outputs: Vec<WorkOutput<'a>>,
    ) {
        let ports = stage.outputs.iter().map(|port| &port.name).zip(schemas);
        let output = |(output, (port, schema)): (WorkOutput<'a>, (&String, &Option<SchemaRef>))| {
            let (stage, port) = (stage.name.clone(), port.clone());
            match output {
                WorkOutput::Table(take) => {
                    Some(Output { stage, port, schema: schema.clone()?, take })
                }
                WorkOutput::Artifact(_) => None,
            }
        };
        self.outputs = outputs.into_iter().zip(ports).map(output).collect();
    }

    /// What is left of the inputs.
    pub(super) fn into_rows(self) -> Vec<Option<Batches>> {
        self.inputs
    }

    /// Reports a command that takes long, once.
    pub(super) fn report_if_slow(&mut self) {
        if let Some(slow) = self.slow.take_if(|slow| slow.at < Instant::now()) {
            (slow.report)();
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.services.is_some_and(Services::is_cancelled)
    }

    /// Passes on what needs no answer.
    pub(super) fn notice(&self, notice: Notice) {
        let Some(services) = self.services else { return };
        match notice {
            Notice::Log { level, message } => services.log(level, &message),
            Notice::Progress { done, total, unit } => services.progress(done, total, &unit),
            Notice::Metric { name, bits, step } => {
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
        let failed = |error: arrow::error::ArrowError| ServiceError::new(error.to_string());
        let batches = self.inputs.get_mut(input).and_then(Option::as_mut);
        let rows = batches.and_then(Iterator::next).transpose().map_err(failed)?;
        let encode = |rows: RecordBatch| ipc::encode(&rows.schema(), Some(&rows));
        Ok(Vec::from_iter(rows.map(encode).transpose().map_err(failed)?))
    }

    fn push(&mut self, output: usize, blobs: &Blobs) -> Result<(), HostError> {
        let table = self.outputs.get_mut(output).and_then(Option::as_mut);
        let table = table.ok_or_else(|| {
            HostError::Engine(format!("its process sent rows for output {output}, no table").into())
        })?;
        let (stage, port) = (&table.stage, &table.port);
        let broken = |what: String| HostError::Broken {
            stage: stage.clone(),
            what: format!("output `{port}`: {what}"),
        };
        let rows = ipc::rows(blobs).map_err(|error| broken(error.to_string()))?;
        if rows.schema().fields() != table.schema.fields() {
            return Err(broken("the batch has other columns than its plan promised".to_owned()));
        }
        let rows = rows.with_schema(Arc::clone(&table.schema));
        let rows = rows.map_err(|error| broken(error.to_string()))?;
        (table.take)(rows).map_err(HostError::Engine)
    }
}
