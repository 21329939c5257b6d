//! Runs one stage through its C table, without an engine: for the tests of a stage.

use std::cell::RefCell;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use paraloom_abi::{self as abi, Str, status};
use paraloom_ffi::{export_schema, export_stream, import_batch, import_schema};
use serde_json::Value;

use crate::error::{Error, Result, Status};
use crate::export::Descriptor;
use crate::{MapStage, Stage, export};

/// What enters a port in a test.
#[derive(Clone, Debug)]
pub enum TestInput {
    /// A table.
    Rows(RecordBatch),
    /// A directory.
    Artifact(PathBuf),
}

/// A stage under test: its configuration and inputs.
#[derive(Clone, Debug, Default)]
pub struct Harness {
    config: Value,
    pub(crate) inputs: Vec<(String, String, TestInput)>,
    pub(crate) output_dir: Option<PathBuf>,
    scratch_dir: Option<PathBuf>,
    seed: u64,
    log: Option<Log>,
    /// Rows of each batch that a whole stage reads; all at once if it is left out.
    pub(crate) batch_rows: Option<usize>,
}

/// What a stage has logged, line by line.
pub type Log = Arc<Mutex<Vec<String>>>;

/// The rows of each table output, in port order.
pub type Outputs = Vec<Vec<RecordBatch>>;

impl Harness {
    /// A stage with this `with:` block; defaults are the stage's own.
    pub fn new(config: Value) -> Self {
        Self { config, ..Self::default() }
    }

    /// Connects `port`.
    #[must_use]
    pub fn input(self, port: &str, input: TestInput) -> Self {
        self.labelled(port, "", input)
    }

    /// Connects an edge of a `many` port.
    #[must_use]
    pub fn labelled(mut self, port: &str, label: &str, input: TestInput) -> Self {
        self.inputs.push((port.to_owned(), label.to_owned(), input));
        self
    }

    /// Connects a table.
    #[must_use]
    pub fn rows(self, port: &str, rows: RecordBatch) -> Self {
        self.input(port, TestInput::Rows(rows))
    }

    /// Where an artifact output is written; one output port at most.
    #[must_use]
    pub fn output_dir(mut self, dir: &Path) -> Self {
        self.output_dir = Some(dir.to_owned());
        self
    }

    /// The scratch directory of stages that ask for one: empty, and left to the test.
    #[must_use]
    pub fn scratch_dir(mut self, dir: &Path) -> Self {
        self.scratch_dir = Some(dir.to_owned());
        self
    }

    /// Keeps what the stage logs, the last words of a worker that is closed included.
    #[must_use]
    pub fn log(mut self, log: &Log) -> Self {
        self.log = Some(Arc::clone(log));
        self
    }

    /// The node's seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Runs a whole stage.
    pub fn run<S: Stage>(&self) -> Result<Outputs> {
        self.drive(export::whole::<S>())
    }

    /// Runs a map stage over its rows as one part.
    pub fn map<S: MapStage>(&self) -> Result<Outputs> {
        self.drive(export::map::<S>())
    }

    /// The rows that enter `port`, the mapped one.
    pub(crate) fn mapped_rows(&self, port: &str) -> Result<RecordBatch> {
        let rows = self.inputs.iter().find_map(|(to, _, input)| match input {
            TestInput::Rows(rows) if to == port => Some(rows.clone()),
            _ => None,
        });
        rows.ok_or_else(|| Error::not_found("a map stage needs rows"))
    }

    pub(crate) fn with_mapped(&self, port: &str, rows: RecordBatch) -> Self {
        let mut other = self.clone();
        let mapped = other.inputs.iter_mut().find(|(to, ..)| to == port);
        if let Some((_, _, input)) = mapped {
            *input = TestInput::Rows(rows);
        }
        other
    }

    fn drive(&self, descriptor: Descriptor) -> Result<Outputs> {
        // SAFETY: descriptors live as long as the process.
        let stage = unsafe { &*descriptor.as_ptr() };
        let mut plan = self.plan(stage)?;
        let result = self.work(stage, &mut plan);
        if let Some(release) = plan.release {
            // SAFETY: release runs once.
            unsafe { release(&raw mut plan) };
        }
        result
    }

    fn port_index(&self, stage: &abi::Stage, name: &str) -> Result<u32> {
        for index in 0..stage.n_inputs {
            // SAFETY: the table has n_inputs ports.
            let port = unsafe { (**stage.inputs.add(index as usize)).name.to_text() };
            if port == name {
                return Ok(index);
            }
        }
        Err(Error::not_found(format!("the stage has no input `{name}`")))
    }

    fn plan(&self, stage: &abi::Stage) -> Result<abi::Plan> {
        let mut schemas = Vec::new();
        for (_, _, input) in &self.inputs {
            schemas.push(match input {
                TestInput::Rows(rows) => Some(export_schema(&rows.schema())?),
                TestInput::Artifact(_) => None,
            });
        }
        let mut edges = Vec::new();
        for ((port, label, _), schema) in self.inputs.iter().zip(&schemas) {
            edges.push(abi::PlanInput {
                struct_size: size_of::<abi::PlanInput>() as u32,
                port: self.port_index(stage, port)?,
                label: Str::new(label),
                schema: schema.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
                note: Str::EMPTY,
            });
        }
        let pointers: Vec<_> = edges.iter().map(std::ptr::from_ref).collect();
        let config = self.config.to_string();
        let args = abi::PlanArgs {
            struct_size: size_of::<abi::PlanArgs>() as u32,
            n_inputs: pointers.len() as u32,
            node: Str::new("test"),
            config_json: Str::new(&config),
            inputs: pointers.as_ptr(),
        };
        let mut plan = abi::Plan::empty();
        let make = stage.plan.ok_or_else(|| Error::internal("a stage without plan"))?;
        // SAFETY: all arguments live through the call.
        let planned = call(|error| unsafe { make(stage, &raw const args, &raw mut plan, error) });
        for mut schema in schemas.into_iter().flatten() {
            if let Some(release) = schema.release {
                // SAFETY: exported above, released once.
                unsafe { release(&raw mut schema) };
            }
        }
        planned.map(|()| plan)
    }

    fn work(&self, stage: &abi::Stage, plan: &mut abi::Plan) -> Result<Outputs> {
        let collectors = collectors(plan)?;
        let sinks: Vec<_> = collectors.iter().map(Collector::sink).collect();
        let dir = self.output_dir.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default();
        let outputs: Vec<_> = sinks
            .iter()
            .map(|sink| abi::Output {
                struct_size: size_of::<abi::Output>() as u32,
                reserved0: 0,
                sink,
                dir: Str::new(&dir),
            })
            .collect();
        let output_pointers: Vec<_> = outputs.iter().map(std::ptr::from_ref).collect();
        // The rows of the mapped port come through map().
        let mapped = stage.map.and(mapped_port(stage));
        let streamed = |port: &String| mapped.as_ref() != Some(port);
        let mut streams: Vec<_> = self
            .inputs
            .iter()
            .map(|(port, _, input)| stream(input, self.batch_rows).filter(|_| streamed(port)))
            .collect();
        let dirs: Vec<_> = self.inputs.iter().map(|(_, _, input)| dir_text(input)).collect();
        let mut inputs = Vec::new();
        for (index, (port, label, _)) in self.inputs.iter().enumerate() {
            inputs.push(abi::Input {
                struct_size: size_of::<abi::Input>() as u32,
                port: self.port_index(stage, port)?,
                label: Str::new(label),
                stream: streams[index].as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut),
                dir: Str::new(&dirs[index]),
            });
        }
        let input_pointers: Vec<_> = inputs.iter().map(std::ptr::from_ref).collect();
        let services = TestServices {
            scratch: self.scratch_dir.as_ref().map(|dir| dir.display().to_string()),
            log: self.log.clone(),
        };
        let host = test_host(&services);
        let args = abi::RunArgs {
            struct_size: size_of::<abi::RunArgs>() as u32,
            threads: 1,
            host: &raw const host,
            n_inputs: input_pointers.len() as u32,
            n_outputs: output_pointers.len() as u32,
            inputs: input_pointers.as_ptr(),
            outputs: output_pointers.as_ptr(),
            seed: self.seed,
            memory_bytes: 0,
            device: Str::new("cpu"),
        };
        if let Some(run) = stage.run {
            // SAFETY: all arguments live through the call.
            call(|error| unsafe { run(stage, plan, &raw const args, error) })?;
        } else {
            self.map_once(stage, plan, &args, &sinks)?;
        }
        Ok(collectors.into_iter().map(|collector| collector.rows.into_inner()).collect())
    }

    fn map_once(
        &self,
        stage: &abi::Stage,
        plan: &mut abi::Plan,
        args: &abi::RunArgs,
        sinks: &[abi::Sink],
    ) -> Result<()> {
        let (Some(open), Some(map), Some(close)) = (stage.open, stage.map, stage.close) else {
            return Err(Error::internal("a map stage needs open, map and close"));
        };
        let rows = self.mapped_rows(&mapped_port(stage).unwrap_or_default())?;
        let mut worker = abi::Worker {
            struct_size: size_of::<abi::Worker>() as u32,
            reserved0: 0,
            private_data: std::ptr::null_mut(),
        };
        // SAFETY: all arguments live through the call.
        call(|error| unsafe { open(stage, plan, args, &raw mut worker, error) })?;
        let pointers: Vec<_> = sinks.iter().map(std::ptr::from_ref).collect();
        let mut array = paraloom_ffi::export_batch(&rows)?;
        // SAFETY: the batch has the planned schema and is moved.
        let result =
            call(|error| unsafe { map(&raw mut worker, &raw mut array, pointers.as_ptr(), error) });
        // SAFETY: opened above, closed once.
        unsafe { close(&raw mut worker) };
        result
    }
}

struct Collector {
    schema: Option<SchemaRef>,
    rows: RefCell<Vec<RecordBatch>>,
}

impl Collector {
    fn sink(&self) -> abi::Sink {
        abi::Sink {
            struct_size: size_of::<abi::Sink>() as u32,
            reserved0: 0,
            ctx: std::ptr::from_ref(self).cast_mut().cast::<c_void>(),
            push: Some(collect),
        }
    }
}

unsafe extern "C" fn collect(
    ctx: *mut c_void,
    batch: *mut abi::ArrowArray,
    error: *mut abi::Error,
) -> u32 {
    crate::guard::guard(error, || {
        // SAFETY: ctx is the Collector that made the sink, used by one thread.
        let collector = unsafe { &*ctx.cast::<Collector>() };
        let schema =
            collector.schema.as_ref().ok_or_else(|| Error::internal("not a table output"))?;
        // SAFETY: the stage pushes batches of its promised schema.
        let rows = unsafe { import_batch(batch, schema) }?;
        collector.rows.borrow_mut().push(rows);
        Ok(())
    })
}

fn collectors(plan: &abi::Plan) -> Result<Vec<Collector>> {
    let schemas = (0..plan.n_outputs as usize).map(|index| -> Result<Option<SchemaRef>> {
        // SAFETY: the plan has n_outputs schemas.
        let schema = unsafe { &*plan.outputs.add(index) };
        if schema.release.is_none() {
            return Ok(None);
        }
        // SAFETY: a schema that is not released is valid.
        Ok(unsafe { import_schema(schema) }?)
    });
    schemas.map(|schema| Ok(Collector { schema: schema?, rows: RefCell::default() })).collect()
}

/// The name of the first table input.
fn mapped_port(stage: &abi::Stage) -> Option<String> {
    let mut ports = (0..stage.n_inputs as usize)
        // SAFETY: the table has n_inputs ports.
        .map(|index| unsafe { &**stage.inputs.add(index) });
    let port = ports.find(|port| port.kind == abi::PORT_TABLE)?;
    // SAFETY: names live as long as the table.
    Some(unsafe { port.name.to_text() })
}

fn stream(input: &TestInput, batch_rows: Option<usize>) -> Option<abi::ArrowArrayStream> {
    let TestInput::Rows(rows) = input else { return None };
    let size = batch_rows.unwrap_or(rows.num_rows()).max(1);
    let starts = (0..rows.num_rows()).step_by(size);
    let batch = |start| Ok(rows.slice(start, size.min(rows.num_rows() - start)));
    let batches: Vec<_> = starts.map(batch).collect();
    Some(export_stream(rows.schema(), batches.into_iter()))
}

fn dir_text(input: &TestInput) -> String {
    match input {
        TestInput::Rows(_) => String::new(),
        TestInput::Artifact(dir) => dir.display().to_string(),
    }
}

unsafe extern "C" fn scratch_dir(ctx: *mut c_void, out: *mut Str, error: *mut abi::Error) -> u32 {
    crate::guard::guard(error, || {
        // SAFETY: ctx is what `test_host` was given.
        let services = unsafe { &*ctx.cast::<TestServices>() };
        let dir = services.scratch.as_ref();
        let dir = dir.ok_or_else(|| Error::unsupported("the test names no scratch directory"))?;
        // SAFETY: the stage passes a place for a text.
        unsafe { *out = Str::new(dir) };
        Ok(())
    })
}

unsafe extern "C" fn log(ctx: *mut c_void, _: u32, message: Str) {
    // SAFETY: ctx is what `test_host` was given.
    let services = unsafe { &*ctx.cast::<TestServices>() };
    if let Some(log) = &services.log {
        // SAFETY: borrowed for the call, copied here.
        let message = unsafe { message.to_text() };
        log.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }
}

/// What a stage under test gets from its host.
struct TestServices {
    scratch: Option<String>,
    log: Option<Log>,
}

/// A host that keeps no checkpoints. `services` live through the work.
fn test_host(services: &TestServices) -> abi::Host {
    abi::Host {
        struct_size: size_of::<abi::Host>() as u32,
        abi_minor: abi::ABI_MINOR,
        ctx: std::ptr::from_ref(services).cast_mut().cast(),
        max_log_level: abi::level::INFO,
        reserved0: 0,
        log: Some(log),
        progress: None,
        metric: None,
        is_cancelled: None,
        checkpoint_latest: None,
        checkpoint_begin: None,
        checkpoint_commit: None,
        scratch_dir: Some(scratch_dir),
        checkpoint_ms: 10_000,
    }
}

/// Calls into the stage and turns a failure into an [`Error`], detail included.
fn call(body: impl FnOnce(*mut abi::Error) -> u32) -> Result<()> {
    let mut error = abi::Error::empty();
    let code = body(&raw mut error);
    if code == status::OK {
        return Ok(());
    }
    // SAFETY: the stage filled the texts, and they live until release.
    let (message, detail) = unsafe { (error.message.to_text(), error.detail.to_text()) };
    if let Some(release) = error.release {
        // SAFETY: release runs once.
        unsafe { release(&raw mut error) };
    }
    let mut failure = Error::new(Status::from_code(code), message);
    if let Ok(Value::Object(detail)) = serde_json::from_str(&detail) {
        failure.detail = detail;
    }
    Err(failure)
}
