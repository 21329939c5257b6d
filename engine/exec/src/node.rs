//! One node at work.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use paraloom_host::{PlannedStage, WorkInput, WorkOutput, WorkSettings};
use paraloom_pipeline::{Edge, Endpoint, ID_COLUMN, Node, Shape, with_id};
use paraloom_store::{
    Batches, Entry, Identify, Key, Lock, Manifest, Output, PartFile, Preimage, StoreError,
};
use petgraph::graph::NodeIndex;

use crate::account::check_whole;
use crate::error::{Result, RunError};
use crate::event::Event;
use crate::keys::{check_fetched, preimage, stage_seed};
use crate::lookup::{NodeResult, PortResult, TableRef, whole_result};
use crate::run::{Shared, digests, rows};
use crate::services::NodeServices;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One node of a run.
pub(crate) struct NodeRun<'a> {
    pub(crate) shared: &'a Shared<'a>,
    pub(crate) index: NodeIndex,
    pub(crate) node: &'a Node,
    pub(crate) inputs: Vec<(Endpoint, &'a Edge)>,
    events: Sender<Event>,
}

impl<'a> NodeRun<'a> {
    pub(crate) fn new(shared: &'a Shared<'a>, index: NodeIndex, events: Sender<Event>) -> Self {
        let node = shared.graph.node(index);
        Self { shared, index, node, inputs: shared.graph.inputs(index), events }
    }

    pub(crate) fn work(&self) -> Result<()> {
        match self.node.stage.shape {
            Shape::Whole => self.whole(),
            Shape::Map => self.map(),
        }
    }

    pub(crate) fn send(&self, event: Event) {
        // The receiver lives as long as the nodes.
        let _ = self.events.send(event);
    }

    pub(crate) fn name(&self) -> String {
        self.node.name.clone()
    }

    pub(crate) fn host_error(&self, error: paraloom_host::HostError) -> RunError {
        RunError::from_host(&self.node.name, error)
    }

    pub(crate) fn settings(&self) -> WorkSettings {
        let options = self.shared.options;
        WorkSettings {
            threads: options.threads,
            seed: stage_seed(self.node),
            device: self.node.device.clone(),
        }
    }

    /// Waits for everything that decides the key, and finds the result's place.
    pub(crate) fn place(&self) -> Result<(Vec<Option<PortResult>>, Key, Preimage, Entry)> {
        let mapped = self.node.stage.mapped_input();
        let mut results = Vec::with_capacity(self.inputs.len());
        for (from, edge) in &self.inputs {
            let is_mapped = Some(edge.input) == mapped;
            results.push(if is_mapped { None } else { Some(self.shared.board.output(*from)?) });
        }
        let preimage = self.preimage(&results)?;
        let key = preimage.key();
        let entry = self.shared.store.entry(&key);
        Ok((results, key, preimage, entry))
    }

    /// What the key is the hash of, as the files that the node reads are now.
    fn preimage(&self, results: &[Option<PortResult>]) -> Result<Preimage> {
        let known = self.inputs.iter().zip(results);
        let known = known.filter_map(|((_, edge), result)| Some((*edge, result.as_ref()?)));
        let mut digests = digests(self.shared.store);
        preimage(self.shared.host, self.node, &known.collect::<Vec<_>>(), &mut digests)
    }

    /// Takes the right to compute the result, and waits if another process has it.
    pub(crate) fn lock(&self, entry: &Entry) -> Result<Lock> {
        let mut told = false;
        loop {
            match entry.lock() {
                Err(StoreError::Locked { holder, .. }) => {
                    if !told {
                        self.send(Event::NodeWaiting { node: self.name(), holder });
                        told = true;
                    }
                    self.shared.board.check()?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                result => return Ok(result?),
            }
        }
    }

    pub(crate) fn plan_stage(&self) -> Result<PlannedStage> {
        let graph = &self.shared.graph;
        let inputs = self.inputs.iter().map(|(from, edge)| graph.node(from.node).plan_input(edge));
        let inputs: Vec<_> = inputs.collect();
        let node = self.node;
        let planned = self.shared.host.plan(&node.stage, &node.name, &node.config, &inputs);
        let planned = planned.map_err(|error| self.host_error(error))?;
        let said = planned.said();
        let outputs = said.outputs.iter().map(|schema| schema.clone().map(with_id));
        if !outputs.eq(node.outputs.iter().cloned()) || said.fingerprint != node.fingerprint {
            return Err(RunError::InputChanged { node: self.name() });
        }
        Ok(planned)
    }

    pub(crate) fn services(&self, entry: &Entry) -> Arc<NodeServices> {
        let stop = Arc::clone(&self.shared.stop);
        let every = self.shared.options.checkpoint_every;
        NodeServices::new(&self.node.name, Some(entry.clone()), self.events.clone(), stop, every)
    }

    /// The stage broke its word about its rows.
    pub(crate) fn bad_output(&self, error: &dyn std::error::Error) -> RunError {
        RunError::Output { node: self.name(), what: error.to_string() }
    }

    pub(crate) fn rows_error(&self, error: StoreError) -> RunError {
        RunError::from_store(&self.node.name, error)
    }

    pub(crate) fn finish(
        &self,
        result: NodeResult,
        computed: u64,
        found: u64,
        rows_found: Option<u64>,
        started: Instant,
    ) {
        self.send(Event::NodeFinished {
            node: self.name(),
            key: result.key.to_string(),
            rows: rows(&result.ports),
            computed,
            found,
            rows_found,
            ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
        self.shared.board.publish(self.index, result);
    }

    // ---- whole stages ----

    fn whole(&self) -> Result<()> {
        let (results, key, preimage, entry) = self.place()?;
        let _lock = self.lock(&entry)?;
        if let Some(result) = whole_result(&entry, &key, self.node)? {
            let rows = rows(&result.ports);
            self.send(Event::NodeCached { node: self.name(), key: key.to_string(), rows });
            self.shared.board.publish(self.index, result);
            return Ok(());
        }
        check_fetched(self.node)?;
        let _permit = self.shared.board.permit()?;
        let started = Instant::now();
        let stage = self.node.stage.name.clone();
        self.send(Event::NodeStarted { node: self.name(), key: key.to_string(), stage });
        entry.prepare(&preimage)?;
        let services = self.services(&entry);
        let outcome = self.whole_work(&results, &entry, &services);
        services.clean_up();
        let mut outputs = outcome?;
        self.check_unchanged(&preimage, &results)?;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let names = self.node.stage.outputs.iter().map(|port| port.name.clone());
        entry.commit(&Manifest { outputs: names.zip(outputs.drain(..)).collect(), took_ms })?;
        let result = whole_result(&entry, &key, self.node)?.ok_or_else(|| RunError::Output {
            node: self.name(),
            what: "its result was removed while it was made".to_owned(),
        })?;
        self.finish(result, 1, 0, None, started);
        Ok(())
    }

    /// A file that was written to while the stage read it: what came of it does not belong under this key.
    fn check_unchanged(&self, before: &Preimage, results: &[Option<PortResult>]) -> Result<()> {
        if self.node.paths.is_empty() || self.preimage(results)? == *before {
            return Ok(());
        }
        Err(RunError::InputChanged { node: self.name() })
    }

    fn whole_work(
        &self,
        results: &[Option<PortResult>],
        entry: &Entry,
        services: &Arc<NodeServices>,
    ) -> Result<Vec<Output>> {
        let read_error = ReadError::default();
        let mut inputs = Vec::with_capacity(results.len());
        for result in results.iter().flatten() {
            inputs.push(match result {
                PortResult::Table(table) => table_input(table, &read_error),
                artifact => match artifact_input(artifact)? {
                    Some(input) => input,
                    None => continue,
                },
            });
        }
        let writers: Vec<_> =
            (0..self.node.outputs.len()).map(|port| self.writer(port, entry)).collect();
        let mut outputs = Vec::with_capacity(writers.len());
        let mut dirs = Vec::with_capacity(writers.len());
        for (writer, port) in writers.iter().zip(&self.node.stage.outputs) {
            match writer {
                Some(writer) => {
                    dirs.push(None);
                    outputs.push(WorkOutput::Table(Box::new(|rows| writer.lock().push(rows))));
                }
                None => {
                    let dir = entry.begin_artifact(&port.name)?;
                    dirs.push(Some(dir.clone()));
                    outputs.push(WorkOutput::Artifact(dir));
                }
            }
        }
        let worked =
            self.plan_stage()?.run(&self.settings(), Arc::clone(services) as _, inputs, outputs);
        if let Err(error) = worked {
            dirs.iter().flatten().for_each(|dir| drop(entry.discard(dir)));
            // The stage only knows that reading failed; the engine knows why.
            return Err(read_error.take().unwrap_or_else(|| self.host_error(error)));
        }
        let mut done = Vec::with_capacity(writers.len());
        for ((writer, dir), port) in writers.into_iter().zip(dirs).zip(&self.node.stage.outputs) {
            done.push(match (writer, dir) {
                (Some(writer), _) => Output::Table(writer.into_inner().finish()?),
                (None, Some(dir)) => self.keep_artifact(entry, &port.name, &dir)?,
                (None, None) => continue,
            });
        }
        self.account(results, &done)?;
        Ok(done)
    }

    /// Holds a stage to what it declares of its rows.
    fn account(&self, results: &[Option<PortResult>], outputs: &[Output]) -> Result<()> {
        let stage = &self.node.stage;
        let mut read = None;
        for ((_, edge), result) in self.inputs.iter().zip(results) {
            if let (true, Some(PortResult::Table(table))) =
                (Some(edge.input) == stage.rows_input(), result)
            {
                *read.get_or_insert(0) += table.rows();
            }
        }
        let made: Vec<_> = stage
            .outputs
            .iter()
            .zip(outputs)
            .filter_map(|(port, output)| match output {
                Output::Table(parts) => {
                    Some((port.name.as_str(), parts.iter().map(|part| part.rows).sum()))
                }
                Output::Artifact(_) => None,
            })
            .collect();
        let Some(read) = read else { return Ok(()) };
        check_whole(stage, read, &made)
            .map_err(|what| RunError::miscounted(&self.node.name, stage.rows, what))
    }

    fn keep_artifact(&self, entry: &Entry, port: &str, dir: &std::path::Path) -> Result<Output> {
        let artifact = entry.commit_artifact(port, dir)?;
        if artifact.files.is_empty() {
            let what = format!("the stage wrote nothing to its output `{port}`");
            return Err(RunError::Output { node: self.name(), what });
        }
        Ok(Output::Artifact(artifact))
    }

    fn writer(&self, port: usize, entry: &Entry) -> Option<Guarded<Writer<'a>>> {
        let schema = self.node.outputs[port].clone()?;
        let endpoint = Endpoint { node: self.index, port };
        let salt = format!("{}/{}", self.node.stage.name, self.node.stage.outputs[port].name);
        Some(Guarded(Mutex::new(Writer {
            shared: self.shared,
            endpoint,
            entry: entry.clone(),
            identify: entry.identify(Arc::clone(&schema), salt),
            batches: Batches::new(Arc::clone(&schema), self.node.part_rows),
            schema,
            parts: Vec::new(),
            is_foreign: self
                .shared
                .host
                .loaded(&self.node.stage)
                .is_ok_and(|stage| stage.foreign.is_some()),
        })))
    }
}

/// Directories are checked byte by byte before a stage reads them.
pub(crate) fn artifact_input(result: &PortResult) -> Result<Option<WorkInput>> {
    let PortResult::Artifact { entry, port, artifact } = result else { return Ok(None) };
    if let Err(error) = entry.verify_artifact(port, artifact) {
        if matches!(error, StoreError::Damaged { .. }) {
            entry.discard_manifest()?;
        }
        return Err(error.into());
    }
    Ok(Some(WorkInput::Artifact(entry.artifact_dir(port, artifact))))
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

/// Why reading an input failed, kept from where it happened to where it is reported.
#[derive(Clone, Default)]
pub(crate) struct ReadError(Arc<Mutex<Option<RunError>>>);

impl ReadError {
    fn keep(&self, error: RunError) -> ArrowError {
        let text = error.to_string();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        ArrowError::IoError(text.clone(), std::io::Error::other(text))
    }

    fn take(&self) -> Option<RunError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

pub(crate) fn table_input(table: &TableRef, read_error: &ReadError) -> WorkInput {
    let (entry, parts, read_error) =
        (table.entry.clone(), Arc::clone(&table.parts), read_error.clone());
    let read = move |part: usize| read_part(&entry, &parts[part]);
    let batches =
        (0..table.parts.len()).map(move |part| read(part).map_err(|error| read_error.keep(error)));
    WorkInput::Table(Arc::clone(&table.schema), Box::new(batches))
}

/// A mutex whose poison does not matter: what it guards is thrown away after a panic.
pub(crate) struct Guarded<T>(pub(crate) Mutex<T>);

impl<T> Guarded<T> {
    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a table output of a whole stage, part by part, and publishes each part.
struct Writer<'a> {
    shared: &'a Shared<'a>,
    endpoint: Endpoint,
    entry: Entry,
    schema: SchemaRef,
    identify: Identify,
    batches: Batches,
    parts: Vec<PartFile>,
    /// Ids that a third-party stage has made or passed on are not taken on trust.
    is_foreign: bool,
}

impl Writer<'_> {
    fn push(&mut self, rows: RecordBatch) -> Result<(), BoxError> {
        self.shared.board.check()?;
        let rows = match rows.column_by_name(ID_COLUMN) {
            Some(ids) => {
                if self.is_foreign {
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
        self.shared.board.publish_part(self.endpoint, &self.entry, part);
        self.parts.push(part);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<PartFile>> {
        let batches =
            std::mem::replace(&mut self.batches, Batches::new(Arc::clone(&self.schema), 1));
        let rest = batches
            .finish()
            .map_err(|error| StoreError::Rows { action: "write", reason: error.to_string() })?;
        if let Some(rest) = rest {
            self.write(&rest)?;
        }
        Ok(self.parts)
    }
}
