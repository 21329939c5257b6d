//! A stage that reads its inputs whole, at work.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use paraloom_host::WorkOutput;
use paraloom_pipeline::{DEFAULT_PART_BYTES, DEFAULT_PART_ROWS, Endpoint, ID_COLUMN, Node};
use paraloom_store::{
    Batches, Entry, Event, Identify, Manifest, Output, PartFile, PartSize, StoreError,
};

use crate::account::check_whole;
use crate::context::NodeContext;
use crate::error::{Result, RunError};
use crate::input::ReadError;
use crate::lookup::{PortResult, rows_of, whole_result};
use crate::retry::with_retries;
use crate::worker::{Begun, Run, Taken};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<'a> Run<'a> {
    pub(crate) fn whole(&self, begun: Begun<'a>) -> Result<()> {
        let lock = match begun.lock()? {
            Taken::Lock(lock) => lock,
            Taken::By(holder) => {
                self.wait_for(holder, begun);
                return Ok(());
            }
        };
        let NodeContext { index, node, key, preimage, .. } = &begun.context;
        if let Some(result) = whole_result(&begun.entry, key, node)? {
            let rows = rows_of(&result.ports);
            begun.send(Event::NodeCached { node: begun.name(), key: key.clone(), rows });
            drop(lock);
            self.crew.done(*index, result);
            return Ok(());
        }
        let started = Instant::now();
        begun.send(begun.started());
        begun.entry.prepare(preimage)?;
        let outputs = self.make_with_retries(&begun)?;
        begun.context.check_unchanged(self.digests)?;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let names = node.stage.outputs.iter().map(|port| port.name.clone());
        begun.entry.commit(&Manifest { outputs: names.zip(outputs).collect(), took_ms })?;
        let result = whole_result(&begun.entry, key, node)?.ok_or_else(|| RunError::Output {
            node: begun.name(),
            what: "its result was removed while it was made".to_owned(),
        })?;
        // A node that waits for the same result finds it from here on.
        drop(lock);
        self.finish(begun, result, (1, 0, None), started);
        Ok(())
    }

    /// Makes the outputs, again while the stage says that its error may pass. Once others have read a part there is no way
    /// back.
    fn make_with_retries(&self, begun: &Begun) -> Result<Vec<Output>> {
        let NodeContext { node, index, .. } = begun.context;
        with_retries(node, &begun.services, || {
            self.make(begun).map_err(|error| match error {
                RunError::Stage { node, mut failure } if self.crew.has_parts(index) => {
                    failure.retryable = false;
                    RunError::Stage { node, failure }
                }
                error => error,
            })
        })
    }

    /// Has the stage make its outputs, and keeps them.
    fn make(&self, begun: &Begun) -> Result<Vec<Output>> {
        let (context, entry) = (&begun.context, &begun.entry);
        let (node, ports) = (context.node, &context.node.stage.outputs);
        let mut planned = context.plan()?;
        let read_error = ReadError::default();
        let inputs = context.work_inputs(&read_error)?;
        let is_third_party = context.is_third_party();
        let mut making = Vec::with_capacity(ports.len());
        for (port, schema) in ports.iter().zip(&node.outputs).enumerate() {
            making.push(match schema {
                (_, Some(schema)) => {
                    let salt = format!("{}/{}", node.stage.name, ports[port].name);
                    Making::Table(Box::new(Mutex::new(Writer {
                        run: self,
                        endpoint: Endpoint { node: context.index, port },
                        entry: entry.clone(),
                        identify: entry.identify(Arc::clone(schema), salt),
                        batches: Batches::new(Arc::clone(schema), part_size(node)),
                        schema: Arc::clone(schema),
                        parts: Vec::new(),
                        is_third_party,
                    })))
                }
                (port, None) => Making::Artifact(entry.begin_artifact(&port.name)?),
            });
        }
        let outputs = making.iter().map(|making| match making {
            Making::Table(writer) => WorkOutput::Table(Box::new(|rows| {
                writer.lock().unwrap_or_else(PoisonError::into_inner).push(rows)
            })),
            Making::Artifact(dir) => WorkOutput::Artifact(dir.clone()),
        });
        let services = Arc::clone(&begun.services);
        let worked =
            planned.run(&context.settings(self.options), services as _, inputs, outputs.collect());
        if let Err(error) = worked {
            for making in &making {
                if let Making::Artifact(dir) = making {
                    // What cannot be removed now is garbage for `gc`.
                    let _ = entry.discard(dir);
                }
            }
            return Err(read_error.or(&node.name, error));
        }
        let outputs = making.into_iter().zip(ports).map(|(making, port)| match making {
            Making::Table(writer) => {
                let writer = writer.into_inner().unwrap_or_else(PoisonError::into_inner);
                writer.finish().map(Output::Table)
            }
            Making::Artifact(dir) => {
                let artifact = entry.commit_artifact(&port.name, &dir)?;
                if artifact.files.is_empty() {
                    let what = format!("the stage wrote nothing to its output `{}`", port.name);
                    return Err(RunError::Output { node: node.name.clone(), what });
                }
                Ok(Output::Artifact(artifact))
            }
        });
        let outputs = outputs.collect::<Result<Vec<_>>>()?;
        account(context, &outputs)?;
        Ok(outputs)
    }
}

/// As many rows as the pipeline says, or else so many that a part is neither long nor large.
fn part_size(node: &Node) -> PartSize {
    match node.part_rows {
        Some(rows) => PartSize { rows, bytes: None },
        None => PartSize { rows: DEFAULT_PART_ROWS, bytes: Some(DEFAULT_PART_BYTES) },
    }
}

/// Holds a stage to what it declares of its rows.
fn account(context: &NodeContext, outputs: &[Output]) -> Result<()> {
    let stage = &context.node.stage;
    let read = context.inputs.iter().filter_map(|input| match &input.content {
        Some(PortResult::Table(table)) if Some(input.edge.input) == stage.rows_input() => {
            Some(table.rows())
        }
        _ => None,
    });
    let Some(read) = read.reduce(|sum, rows| sum + rows) else { return Ok(()) };
    let made = stage.outputs.iter().zip(outputs).filter_map(|(port, output)| match output {
        Output::Table(parts) => {
            Some((port.name.as_str(), parts.iter().map(|part| part.rows).sum()))
        }
        Output::Artifact(_) => None,
    });
    check_whole(stage, read, &made.collect::<Vec<_>>())
        .map_err(|what| RunError::miscounted(&context.node.name, stage.rows, what))
}

/// An output that is being made.
enum Making<'r, 'a> {
    Table(Box<Mutex<Writer<'r, 'a>>>),
    Artifact(PathBuf),
}

/// Writes a table part by part, and has its readers begin with each.
struct Writer<'r, 'a> {
    run: &'r Run<'a>,
    endpoint: Endpoint,
    entry: Entry,
    schema: SchemaRef,
    identify: Identify,
    batches: Batches,
    parts: Vec<PartFile>,
    /// Ids that a third-party stage has made or passed on are not taken on trust.
    is_third_party: bool,
}

impl Writer<'_, '_> {
    fn push(&mut self, rows: RecordBatch) -> Result<(), BoxError> {
        if self.run.crew.should_stop() {
            return Err(RunError::Stopped.into());
        }
        let rows = match rows.column_by_name(ID_COLUMN) {
            Some(ids) => {
                if self.is_third_party {
                    self.identify.accept(ids.as_string())?;
                }
                rows
            }
            None => self.identify.add(&rows)?,
        };
        for batch in self.batches.push(rows)? {
            self.write(&batch)?;
        }
        Ok(())
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<(), StoreError> {
        let part = self.entry.write_part(&self.schema, rows)?;
        self.run.crew.part_made(self.endpoint, &self.entry, part);
        self.parts.push(part);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<PartFile>> {
        let empty = Batches::new(Arc::clone(&self.schema), PartSize { rows: 1, bytes: None });
        let rest = std::mem::replace(&mut self.batches, empty)
            .finish()
            .map_err(|error| StoreError::Rows { action: "write", reason: error.to_string() })?;
        if let Some(rest) = rest {
            self.write(&rest)?;
        }
        Ok(self.parts)
    }
}
