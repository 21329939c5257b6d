//! From the traits to the C table: what [`crate::export_stages!`] expands to.

use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::SchemaRef;
use paraloom_abi::{self as abi, Str};
use paraloom_alloc::at_work;
use paraloom_ffi::{StreamReader, export_schema, import_batch, import_schema};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result, Status};
use crate::guard::{catch, guard};
use crate::port::{PlanEdge, PlanInputs, Port};
use crate::run::{Edge, Emit, Outlet, Run, Services};
use crate::stage::{About, MapStage, Planned, Stage};

/// A descriptor that lives as long as the process.
#[derive(Clone, Copy)]
pub struct Descriptor(*const abi::Stage);

impl Descriptor {
    pub(crate) fn as_ptr(self) -> *const abi::Stage {
        self.0
    }
}

/// Describes a whole stage.
pub fn whole<S: Stage>() -> Descriptor {
    describe::<S::Config>(&S::about(), |stage| {
        stage.plan = Some(plan_whole::<S>);
        stage.run = Some(run_whole::<S>);
    })
}

/// Describes a map stage.
pub fn map<S: MapStage>() -> Descriptor {
    describe::<S::Config>(&S::about(), |stage| {
        stage.plan = Some(plan_map::<S>);
        stage.open = Some(open_map::<S>);
        stage.map = Some(map_map::<S>);
        stage.close = Some(close_map::<S>);
    })
}

/// What the entry symbol returns: what `describe` makes, or null if that panics, which is then told on stderr.
pub fn entry(describe: impl FnOnce() -> *const abi::Library) -> *const abi::Library {
    catch(|| Ok(describe())).unwrap_or_else(|error| {
        eprintln!("{}: in about(), or over the schema of a configuration", told(&error));
        std::ptr::null()
    })
}

/// The library table; leaked, since it is static for the life of the process.
pub fn library(
    name: &'static str,
    version: &'static str,
    sources: Option<&str>,
    stages: Vec<Descriptor>,
) -> *const abi::Library {
    let stages: Vec<_> = stages.into_iter().map(|stage| stage.0).collect();
    let built_with = concat!("paraloom-sdk ", env!("CARGO_PKG_VERSION"));
    let version = match sources {
        Some(sources) => format!("{version}+{sources}").leak(),
        None => version,
    };
    leak(abi::Library {
        struct_size: size_of::<abi::Library>() as u32,
        abi_major: abi::ABI_MAJOR,
        abi_minor: abi::ABI_MINOR,
        n_stages: stages.len() as u32,
        name: Str::new(name),
        version: Str::new(version),
        built_with: Str::new(built_with),
        stages: stages.leak().as_ptr(),
    })
}

fn leak<T>(value: T) -> *const T {
    Box::leak(Box::new(value))
}

fn describe<C: JsonSchema>(about: &About, work: impl FnOnce(&mut abi::Stage)) -> Descriptor {
    let schema = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = schema.into_generator().into_root_schema_for::<C>().to_value();
    // The name of the Rust type, which an editor would show as the title of the settings.
    if let Some(members) = schema.as_object_mut() {
        members.remove("title");
    }
    let schema = schema.to_string();
    let mut stage = abi::Stage {
        struct_size: size_of::<abi::Stage>() as u32,
        flags: about.flags,
        name: Str::new(about.name),
        version: Str::new(about.version),
        doc: Str::new(about.doc),
        config_schema: Str::new(schema.leak()),
        n_inputs: about.inputs.len() as u32,
        n_outputs: about.outputs.len() as u32,
        inputs: ports(&about.inputs),
        outputs: ports(&about.outputs),
        plan: None,
        run: None,
        open: None,
        map: None,
        close: None,
        part_rows: about.part_rows,
        reserved0: 0,
    };
    work(&mut stage);
    Descriptor(leak(stage))
}

fn ports(ports: &[Port]) -> *const *const abi::Port {
    let table = ports.iter().map(|port| {
        leak(abi::Port {
            struct_size: size_of::<abi::Port>() as u32,
            kind: port.kind,
            flags: port.flags,
            reserved0: 0,
            name: Str::new(port.name),
            doc: Str::new(port.doc),
        })
    });
    table.collect::<Vec<_>>().leak().as_ptr()
}

/// What a plan owns: the stage, its schemas, and the texts that it lends to the host.
struct Held<S> {
    stage: S,
    node: String,
    about: About,
    inputs: PlanInputs,
    outputs: Vec<Option<SchemaRef>>,
    c_outputs: Vec<abi::ArrowSchema>,
    fingerprint: String,
    c_notes: Vec<Str>,
    /// What these lend.
    _notes: Vec<String>,
    /// Set by a panic: the state is then unknown and the plan is not used again.
    poisoned: AtomicBool,
}

extern "C" fn plan_whole<S: Stage>(
    _: *const abi::Stage,
    args: *const abi::PlanArgs,
    out: *mut abi::Plan,
    error: *mut abi::Error,
) -> u32 {
    guard(error, || plan(S::about(), args, out, S::plan))
}

extern "C" fn plan_map<S: MapStage>(
    _: *const abi::Stage,
    args: *const abi::PlanArgs,
    out: *mut abi::Plan,
    error: *mut abi::Error,
) -> u32 {
    guard(error, || plan(S::about(), args, out, S::plan))
}

fn plan<S, C: DeserializeOwned>(
    about: About,
    args: *const abi::PlanArgs,
    out: *mut abi::Plan,
    make: impl FnOnce(C, &PlanInputs) -> Result<Planned<S>>,
) -> Result<()> {
    // SAFETY: the host passes valid arguments for the duration of the call.
    let args = unsafe { &*args };
    // SAFETY: as above.
    let config = unsafe { args.config_json.bytes() };
    let config = serde_json::from_slice(config)
        .map_err(|error| Error::config(format!("the configuration does not fit: {error}")))?;
    // SAFETY: as above.
    let inputs = unsafe { plan_inputs(&about, args) }?;
    let planned = make(config, &inputs)?;
    if planned.outputs.len() != about.outputs.len() {
        return Err(Error::internal("plan() must return one entry per output port"));
    }
    let c_outputs = planned.outputs.iter().map(|schema| match schema {
        Some(schema) => export_schema(schema),
        None => Ok(abi::ArrowSchema::empty()),
    });
    let mut held = Box::new(Held {
        stage: planned.stage,
        // SAFETY: borrowed for the call, copied here.
        node: unsafe { args.node.to_text() },
        about,
        inputs,
        c_outputs: c_outputs.collect::<std::result::Result<_, _>>()?,
        outputs: planned.outputs,
        fingerprint: planned.fingerprint,
        c_notes: planned.notes.iter().map(|note| Str::new(note)).collect(),
        _notes: planned.notes,
        poisoned: AtomicBool::new(false),
    });
    // SAFETY: the host passes a plan to fill.
    let out = unsafe { &mut *out };
    out.n_outputs = held.c_outputs.len() as u32;
    out.outputs = held.c_outputs.as_mut_ptr();
    out.fingerprint = Str::new(&held.fingerprint);
    // A host of an earlier minor version has no room for the rest.
    if out.struct_size as usize >= size_of::<abi::Plan>() {
        out.notes = held.c_notes.as_ptr();
        out.memory_bytes = planned.memory;
    }
    out.release = Some(release_plan::<S>);
    out.private_data = Box::into_raw(held).cast::<c_void>();
    Ok(())
}

/// # Safety
/// `input` must be valid for as many bytes as it says.
unsafe fn note(input: *const abi::PlanInput) -> String {
    // SAFETY: the size comes first, in every version.
    let size = unsafe { (*input).struct_size } as usize;
    if size < size_of::<abi::PlanInput>() {
        return String::new();
    }
    // SAFETY: it is there, and borrowed for the call.
    unsafe { (*input).note.to_text() }
}

/// # Safety
/// `args` must be valid as the header says.
unsafe fn plan_inputs(about: &About, args: &abi::PlanArgs) -> Result<PlanInputs> {
    let mut edges = Vec::with_capacity(args.n_inputs as usize);
    for index in 0..args.n_inputs as usize {
        // SAFETY: n_inputs valid pointers by contract.
        let input = unsafe { &**args.inputs.add(index) };
        // SAFETY: valid or null by contract.
        let schema = unsafe { import_schema(input.schema) }?;
        // SAFETY: borrowed for the call, copied here.
        let label = unsafe { input.label.to_text() };
        // SAFETY: as above; a host of an earlier minor version has no notes.
        let note = unsafe { note(input) };
        edges.push(PlanEdge { port: port_name(about, input.port)?, label, schema, note });
    }
    Ok(PlanInputs { edges })
}

fn port_name(about: &About, index: u32) -> Result<&'static str> {
    let port = about.inputs.get(index as usize);
    port.map(|port| port.name)
        .ok_or_else(|| Error::internal(format!("there is no input port {index}")))
}

unsafe extern "C" fn release_plan<S>(plan: *mut abi::Plan) {
    // SAFETY: plan() leaked a Held<S>, and release runs once.
    let mut held = unsafe {
        (*plan).release = None;
        Box::from_raw((*plan).private_data.cast::<Held<S>>())
    };
    for mut schema in std::mem::take(&mut held.c_outputs) {
        if let Some(release) = schema.release {
            // SAFETY: the schema is ours and not released yet.
            unsafe { release(&raw mut schema) };
        }
    }
    // What the stage does when it is dropped is its own code; there is nobody to tell but those who read stderr.
    if let Err(error) = catch(|| {
        drop(held);
        Ok(())
    }) {
        eprintln!("{}: while its plan was dropped", told(&error));
    }
}

/// An error with its place, for where nobody takes it.
fn told(error: &Error) -> String {
    match error.detail("location") {
        Some(place) => format!("{error}, at {place}"),
        None => error.to_string(),
    }
}

/// # Safety
/// `plan` must come from `plan::<S>`.
unsafe fn held<'a, S>(plan: *const abi::Plan) -> Result<&'a Held<S>> {
    // SAFETY: by contract.
    let held = unsafe { &*(*plan).private_data.cast::<Held<S>>() };
    if held.poisoned.load(Ordering::Acquire) {
        return Err(Error::new(Status::Panic, "this plan panicked before and is not used again"));
    }
    Ok(held)
}

/// Remembers a panic, so that the half-changed state is not used again.
fn poisoning<S>(held: &Held<S>, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let result = catch(body);
    if matches!(&result, Err(error) if error.status() == Status::Panic) {
        held.poisoned.store(true, Ordering::Release);
    }
    result
}

extern "C" fn run_whole<S: Stage>(
    _: *const abi::Stage,
    plan: *mut abi::Plan,
    args: *const abi::RunArgs,
    error: *mut abi::Error,
) -> u32 {
    guard(error, || {
        // SAFETY: the host passes a plan that plan_whole::<S> made.
        let held = unsafe { held::<S>(plan) }?;
        // SAFETY: the arguments are valid for the call.
        let mut run = unsafe { make_run(held, args) }?;
        let _at_work = at_work(&held.node);
        poisoning(held, || held.stage.run(&mut run))
    })
}

/// # Safety
/// `args` must be valid as the header says.
unsafe fn make_run<S>(held: &Held<S>, args: *const abi::RunArgs) -> Result<Run> {
    // SAFETY: by contract.
    let args = unsafe { &*args };
    let mut edges = Vec::with_capacity(args.n_inputs as usize);
    for index in 0..args.n_inputs as usize {
        // SAFETY: n_inputs valid pointers by contract.
        let input = unsafe { &**args.inputs.add(index) };
        // SAFETY: a stream that is not null is ours from here on.
        let stream = (!input.stream.is_null()).then(|| unsafe { StreamReader::take(input.stream) });
        edges.push(Edge {
            port: port_name(&held.about, input.port)?,
            // SAFETY: borrowed for the call, copied here.
            label: unsafe { input.label.to_text() },
            stream: stream.transpose()?,
            // SAFETY: as above.
            dir: path(unsafe { input.dir.to_text() }),
        });
    }
    let mut outlets = Vec::with_capacity(args.n_outputs as usize);
    for (index, port) in held.about.outputs.iter().enumerate().take(args.n_outputs as usize) {
        // SAFETY: n_outputs valid pointers by contract.
        let output = unsafe { &**args.outputs.add(index) };
        outlets.push(Outlet {
            port: port.name,
            sink: output.sink,
            schema: held.outputs[index].clone(),
            // SAFETY: borrowed for the call, copied here.
            dir: path(unsafe { output.dir.to_text() }),
        });
    }
    Ok(Run {
        services: Services::new(args.host),
        edges,
        outlets,
        seed: args.seed,
        threads: (args.threads as usize).max(1),
        // SAFETY: borrowed for the call, copied here.
        device: unsafe { args.device.to_text() },
    })
}

fn path(text: String) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

/// The schema of the rows that a map stage maps: of the edge into its first table port, whatever the order of the edges.
fn mapped_schema(about: &About, inputs: &PlanInputs) -> Result<SchemaRef> {
    let port = about.mapped_input();
    let port = port.ok_or_else(|| Error::internal("a map stage needs a table input"))?;
    let edge = inputs.edges.iter().find(|edge| edge.port == port);
    edge.and_then(|edge| edge.schema.clone())
        .ok_or_else(|| Error::internal(format!("input `{port}` is not connected")))
}

/// What a worker owns.
struct HeldWorker<W> {
    worker: W,
    node: String,
    rows: SchemaRef,
    ports: Vec<(&'static str, Option<SchemaRef>)>,
    services: Services,
    poisoned: bool,
}

extern "C" fn open_map<S: MapStage>(
    _: *const abi::Stage,
    plan: *mut abi::Plan,
    args: *const abi::RunArgs,
    out: *mut abi::Worker,
    error: *mut abi::Error,
) -> u32 {
    guard(error, || {
        // SAFETY: the host passes a plan that plan_map::<S> made.
        let held = unsafe { held::<S>(plan) }?;
        // SAFETY: the arguments are valid for the call.
        let run = unsafe { make_run(held, args) }?;
        let rows = mapped_schema(&held.about, &held.inputs)?;
        let names = held.about.outputs.iter().map(|port| port.name);
        let _at_work = at_work(&held.node);
        let worker = HeldWorker {
            worker: held.stage.open(&run)?,
            node: held.node.clone(),
            rows,
            ports: names.zip(held.outputs.iter().cloned()).collect(),
            services: run.services,
            poisoned: false,
        };
        // SAFETY: the host passes a worker to fill.
        unsafe { (*out).private_data = Box::into_raw(Box::new(worker)).cast::<c_void>() };
        Ok(())
    })
}

extern "C" fn map_map<S: MapStage>(
    worker: *mut abi::Worker,
    batch: *mut abi::ArrowArray,
    sinks: *const *const abi::Sink,
    error: *mut abi::Error,
) -> u32 {
    guard(error, || {
        // SAFETY: open_map::<S> made the worker, and it is used by one thread at a time.
        let held = unsafe { &mut *(*worker).private_data.cast::<HeldWorker<S::Worker>>() };
        // SAFETY: the host promises a batch of the planned schema; it is moved.
        let rows = unsafe { import_batch(batch, &held.rows) }?;
        if held.poisoned {
            return Err(Error::new(
                Status::Panic,
                "this worker panicked before and is not used again",
            ));
        }
        // SAFETY: one sink per output port, for the duration of the call.
        let sinks = unsafe { std::slice::from_raw_parts(sinks, held.ports.len()) };
        let mut emit = Emit { sinks, ports: &held.ports, services: held.services };
        let _at_work = at_work(&held.node);
        let result = catch(|| S::map(&mut held.worker, rows, &mut emit));
        held.poisoned = matches!(&result, Err(error) if error.status() == Status::Panic);
        result
    })
}

extern "C" fn close_map<S: MapStage>(worker: *mut abi::Worker) {
    // SAFETY: open_map::<S> leaked the worker, and close runs once.
    let held = unsafe { Box::from_raw((*worker).private_data.cast::<HeldWorker<S::Worker>>()) };
    let services = held.services;
    // A panic in a destructor must not leave either. Its rows are done, so it is logged.
    if let Err(error) = catch(|| {
        drop(held);
        Ok(())
    }) {
        services.error(&format!("{}: while it was closed", told(&error)));
    }
}
