//! A stage called in this process, through its C table.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use paraloom_abi::{self as abi, Str};
use paraloom_ffi::{export_batch, export_schema, export_stream, import_schema};
use paraloom_pipeline::{PlanInput, PlanOutput, StageInfo};

use crate::error::{HostError, Result, StageFailure, call};
use crate::library::Table;
use crate::services::{HostTable, Services};
use crate::sink::Sink;
use crate::work::{WorkInput, WorkOutput, WorkSettings};

/// A plan that the stage made.
pub(crate) struct Plan {
    name: String,
    table: Table,
    plan: abi::Plan,
    inputs: Vec<PlanInput>,
    outputs: Vec<Option<SchemaRef>>,
}

// SAFETY: a plan is used by one thread at a time (the methods that work take &mut self)
// and may move between threads.
unsafe impl Send for Plan {}

impl Plan {
    /// Asks the stage `info`, whose table is `table`, what comes out.
    pub(crate) fn new(
        info: &StageInfo,
        table: Table,
        node: &str,
        config: &serde_json::Value,
        inputs: &[PlanInput],
    ) -> Result<(Self, PlanOutput)> {
        let broken = |what: String| HostError::Broken { stage: info.name.clone(), what };
        let mut schemas = Vec::with_capacity(inputs.len());
        for input in inputs {
            let schema = input.schema.as_ref().map(|schema| export_schema(schema)).transpose();
            schemas.push(OwnedSchema(schema.map_err(|error| broken(error.to_string()))?));
        }
        let edges: Vec<_> = inputs
            .iter()
            .zip(&schemas)
            .map(|(input, schema)| abi::PlanInput {
                struct_size: size_of::<abi::PlanInput>() as u32,
                port: input.port as u32,
                label: Str::new(&input.label),
                schema: schema.0.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
                note: Str::new(&input.note),
            })
            .collect();
        let edges: Vec<_> = edges.iter().map(std::ptr::from_ref).collect();
        let config = config.to_string();
        let args = abi::PlanArgs {
            struct_size: size_of::<abi::PlanArgs>() as u32,
            n_inputs: edges.len() as u32,
            node: Str::new(node),
            config_json: Str::new(&config),
            inputs: edges.as_ptr(),
        };
        let make = table.get().plan.ok_or_else(|| broken("it offers no plan".to_owned()))?;
        let mut planned = Self {
            name: info.name.clone(),
            table,
            plan: abi::Plan::empty(),
            inputs: inputs.to_vec(),
            outputs: Vec::new(),
        };
        let table = table.as_ptr();
        // SAFETY: all arguments live through the call.
        call(|error| unsafe { make(table, &raw const args, &raw mut planned.plan, error) })
            .map_err(HostError::Stage)?;
        if planned.plan.n_outputs as usize != info.outputs.len() {
            return Err(broken("plan() returned another number of outputs".to_owned()));
        }
        for index in 0..planned.plan.n_outputs as usize {
            // SAFETY: the plan owns n_outputs schemas.
            let schema = unsafe { &*planned.plan.outputs.add(index) };
            // SAFETY: a schema that is not released is valid.
            let schema = schema.release.map(|_| unsafe { import_schema(schema) }).transpose();
            planned.outputs.push(schema.map_err(|error| broken(error.to_string()))?.flatten());
        }
        let mut notes = vec![String::new(); info.outputs.len()];
        if !planned.plan.notes.is_null() {
            for (index, note) in notes.iter_mut().enumerate() {
                // SAFETY: the plan owns n_outputs texts; copied here.
                *note = unsafe { (*planned.plan.notes.add(index)).to_text() };
            }
        }
        let said = PlanOutput {
            outputs: planned.outputs.clone(),
            // SAFETY: borrowed from the plan, copied here.
            fingerprint: unsafe { planned.plan.fingerprint.to_text() },
            notes,
            memory: Some(planned.plan.memory_bytes).filter(|bytes| *bytes > 0),
        };
        Ok((planned, said))
    }

    /// Runs a whole stage; returns when it is done. `inputs` are as planned.
    pub(crate) fn run(
        &mut self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
        outputs: Vec<WorkOutput>,
    ) -> Result<()> {
        let run = self.table.get().run;
        let run = run.ok_or_else(|| self.broken("it is not a whole stage"))?;
        let mut arguments = Arguments::new(services, &self.inputs, inputs)?;
        let ports = Ports::new(&self.outputs, outputs);
        let result = arguments.with(settings, &ports, |args| {
            let (table, plan) = (self.table.as_ptr(), &raw mut self.plan);
            // SAFETY: all arguments live through the call.
            call(|error| unsafe { run(table, plan, args, error) })
        });
        ports.outcome(result)
    }

    /// Loads what a map stage needs. The mapped table is not among `inputs`' streams.
    pub(crate) fn open(
        &mut self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
    ) -> Result<Worker> {
        let stage = self.table.get();
        let (Some(open), Some(map), Some(close)) = (stage.open, stage.map, stage.close) else {
            return Err(self.broken("it is not a map stage"));
        };
        let mut arguments = Arguments::new(services, &self.inputs, inputs)?;
        let ports = Ports::absent(self.outputs.len());
        let mut raw = abi::Worker {
            struct_size: size_of::<abi::Worker>() as u32,
            reserved0: 0,
            private_data: std::ptr::null_mut(),
        };
        arguments
            .with(settings, &ports, |args| {
                let (table, plan) = (self.table.as_ptr(), &raw mut self.plan);
                // SAFETY: all arguments live through the call.
                call(|error| unsafe { open(table, plan, args, &raw mut raw, error) })
            })
            .map_err(HostError::Stage)?;
        Ok(Worker { raw, map, close, outputs: self.outputs.clone(), _host: arguments.host })
    }

    fn broken(&self, what: &str) -> HostError {
        HostError::Broken { stage: self.name.clone(), what: what.to_owned() }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        if let Some(release) = self.plan.release {
            // SAFETY: filled by plan(), released once.
            unsafe { release(&raw mut self.plan) };
        }
    }
}

/// Releases a schema that was exported for a call.
struct OwnedSchema(Option<abi::ArrowSchema>);

impl Drop for OwnedSchema {
    fn drop(&mut self) {
        if let Some(schema) = &mut self.0
            && let Some(release) = schema.release
        {
            // SAFETY: exported by us, released once.
            unsafe { release(schema) };
        }
    }
}

/// The inputs and services of a call, in the form that the ABI wants.
struct Arguments {
    host: HostTable,
    labels: Vec<String>,
    ports: Vec<u32>,
    streams: Vec<Option<OwnedStream>>,
    dirs: Vec<String>,
}

impl Arguments {
    fn new(
        services: Arc<dyn Services>,
        planned: &[PlanInput],
        inputs: Vec<WorkInput>,
    ) -> Result<Self> {
        debug_assert_eq!(planned.len(), inputs.len(), "inputs are as planned");
        let mut arguments = Self {
            host: HostTable::new(services),
            labels: planned.iter().map(|input| input.label.clone()).collect(),
            ports: planned.iter().map(|input| input.port as u32).collect(),
            streams: Vec::new(),
            dirs: Vec::new(),
        };
        for input in inputs {
            let (stream, dir) = match input {
                WorkInput::Table(schema, batches) => {
                    (Some(OwnedStream(export_stream(schema, batches))), String::new())
                }
                WorkInput::Artifact(dir) => (None, utf8(&dir)?),
            };
            arguments.streams.push(stream);
            arguments.dirs.push(dir);
        }
        Ok(arguments)
    }

    fn with<T>(
        &mut self,
        settings: &WorkSettings,
        ports: &Ports,
        body: impl FnOnce(*const abi::RunArgs) -> T,
    ) -> T {
        let inputs: Vec<_> = (0..self.ports.len())
            .map(|index| abi::Input {
                struct_size: size_of::<abi::Input>() as u32,
                port: self.ports[index],
                label: Str::new(&self.labels[index]),
                stream: self.streams[index]
                    .as_mut()
                    .map_or(std::ptr::null_mut(), |stream| &raw mut stream.0),
                dir: Str::new(&self.dirs[index]),
            })
            .collect();
        let outputs: Vec<_> = (0..ports.count)
            .map(|index| abi::Output {
                struct_size: size_of::<abi::Output>() as u32,
                reserved0: 0,
                sink: ports.sink(index),
                dir: ports.dir(index),
            })
            .collect();
        let input_pointers: Vec<_> = inputs.iter().map(std::ptr::from_ref).collect();
        let output_pointers: Vec<_> = outputs.iter().map(std::ptr::from_ref).collect();
        let args = abi::RunArgs {
            struct_size: size_of::<abi::RunArgs>() as u32,
            threads: settings.threads,
            host: self.host.as_ptr(),
            n_inputs: input_pointers.len() as u32,
            n_outputs: output_pointers.len() as u32,
            inputs: input_pointers.as_ptr(),
            outputs: output_pointers.as_ptr(),
            seed: settings.seed,
            memory_bytes: 0,
            device: Str::new(&settings.device),
        };
        body(&raw const args)
    }
}

fn utf8(dir: &Path) -> Result<String> {
    let text = dir.to_str().map(str::to_owned);
    text.ok_or_else(|| HostError::Engine(format!("{} is not UTF-8", dir.display()).into()))
}

/// A stream that was exported for a call, if the stage did not take it.
struct OwnedStream(abi::ArrowArrayStream);

impl Drop for OwnedStream {
    fn drop(&mut self) {
        // A stream that the stage took is marked as released.
        if let Some(release) = self.0.release {
            // SAFETY: exported by us, released once.
            unsafe { release(&raw mut self.0) };
        }
    }
}

/// The outputs of a call.
struct Ports<'a> {
    count: usize,
    sinks: Vec<Option<Sink<'a>>>,
    dirs: Vec<String>,
}

impl<'a> Ports<'a> {
    fn new(schemas: &[Option<SchemaRef>], outputs: Vec<WorkOutput<'a>>) -> Self {
        let mut ports = Self { count: outputs.len(), sinks: Vec::new(), dirs: Vec::new() };
        for (output, schema) in outputs.into_iter().zip(schemas) {
            let (sink, dir) = match (output, schema) {
                (WorkOutput::Table(take), Some(schema)) => {
                    (Some(Sink::new(Arc::clone(schema), take)), String::new())
                }
                (WorkOutput::Table(_), None) => (None, String::new()),
                (WorkOutput::Artifact(dir), _) => (None, dir.to_string_lossy().into_owned()),
            };
            ports.sinks.push(sink);
            ports.dirs.push(dir);
        }
        ports
    }

    fn absent(count: usize) -> Self {
        Self { count, sinks: Vec::new(), dirs: Vec::new() }
    }

    fn sink(&self, index: usize) -> *const abi::Sink {
        self.sinks.get(index).and_then(Option::as_ref).map_or(std::ptr::null(), Sink::as_ptr)
    }

    fn dir(&self, index: usize) -> Str {
        self.dirs.get(index).map_or(Str::EMPTY, |dir| Str::new(dir))
    }

    /// The engine's own error comes first: the stage only knows that a push failed.
    fn outcome(&self, result: Result<(), StageFailure>) -> Result<()> {
        match self.sinks.iter().flatten().find_map(Sink::take_error) {
            Some(error) => Err(HostError::Engine(error)),
            None => result.map_err(HostError::Stage),
        }
    }
}

type MapFn = unsafe extern "C" fn(
    *mut abi::Worker,
    *mut abi::ArrowArray,
    *const *const abi::Sink,
    *mut abi::Error,
) -> u32;

/// A map stage with everything loaded.
pub(crate) struct Worker {
    raw: abi::Worker,
    map: MapFn,
    close: unsafe extern "C" fn(*mut abi::Worker),
    outputs: Vec<Option<SchemaRef>>,
    /// The services stay usable until the worker is closed.
    _host: HostTable,
}

// SAFETY: a worker is used by one thread at a time (map takes &mut self) and may move.
unsafe impl Send for Worker {}

impl Worker {
    /// Works on all rows of one part; `sinks` has one entry per output port.
    pub(crate) fn map<'a>(&mut self, rows: &RecordBatch, sinks: Vec<WorkOutput<'a>>) -> Result<()> {
        let ports = Ports::new(&self.outputs, sinks);
        let pointers: Vec<_> = (0..ports.count).map(|index| ports.sink(index)).collect();
        let mut array = export_batch(rows).map_err(|error| HostError::Engine(error.into()))?;
        let raw = &raw mut self.raw;
        // SAFETY: the rows have the planned schema; everything lives through the call.
        let result =
            call(|error| unsafe { (self.map)(raw, &raw mut array, pointers.as_ptr(), error) });
        ports.outcome(result)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once.
        unsafe { (self.close)(&raw mut self.raw) };
    }
}
