//! A stage planned and at work in this process.

use std::cell::UnsafeCell;
use std::panic::catch_unwind;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use paraloom_abi::{self as abi, Str};
use paraloom_ffi::{export_batch, export_schema, import_schema};
use paraloom_pipeline::{PlanInput, PlanOutput, StageInfo};

use super::call::{Arguments, Ports};
use super::host_table::HostTable;
use super::library::Table;
use super::status::call;
use crate::error::{HostError, Result};
use crate::executor::{PlannedStage, WorkInput, WorkOutput, WorkSettings, Worker};
use crate::services::Services;

/// A plan that a stage made.
pub(super) struct Plan {
    info: Arc<StageInfo>,
    table: Table,
    plan: Arc<StagePlan>,
    inputs: Vec<PlanInput>,
    output: PlanOutput,
}

/// The stage's own plan, released once neither [`Plan`] nor a worker opened from it is left.
struct StagePlan(UnsafeCell<abi::Plan>);

// SAFETY: the C plan is passed to the stage by `Plan::run` and `Plan::open` only, which take `&mut self` of the one
// `Plan` that has it, so never twice at once; it may move between threads.
unsafe impl Send for StagePlan {}
// SAFETY: a shared reference gives no access to the C plan but by that one `Plan`.
unsafe impl Sync for StagePlan {}

impl Drop for StagePlan {
    fn drop(&mut self) {
        let plan = self.0.get_mut();
        if let Some(release) = plan.release {
            // SAFETY: filled by plan(), released once.
            unsafe { release(plan) };
        }
    }
}

impl Plan {
    /// Asks the stage `info`, whose table is `table`, what comes out.
    pub(super) fn new(
        info: &StageInfo,
        table: Table,
        node: &str,
        config: &serde_json::Value,
        inputs: &[PlanInput],
    ) -> Result<Self> {
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
        let mut plan = StagePlan(UnsafeCell::new(abi::Plan::empty()));
        let (pointer, out) = (table.as_ptr(), plan.0.get());
        // SAFETY: all arguments live through the call.
        call(|error| unsafe { make(pointer, &raw const args, out, error) })
            .map_err(HostError::Stage)?;
        // SAFETY: filled by plan().
        let output = unsafe { read_output(plan.0.get_mut(), info) }.map_err(broken)?;
        Ok(Self {
            info: Arc::new(info.clone()),
            table,
            plan: Arc::new(plan),
            inputs: inputs.to_vec(),
            output,
        })
    }

    fn broken(&self, what: &str) -> HostError {
        HostError::Broken { stage: self.info.name.clone(), what: what.to_owned() }
    }
}

/// What a plan says comes out.
///
/// # Safety
/// `plan` must have been filled by the stage `info`.
unsafe fn read_output(plan: &abi::Plan, info: &StageInfo) -> Result<PlanOutput, String> {
    let (found, declared) = (plan.n_outputs as usize, info.outputs.len());
    if found != declared {
        return Err(format!("plan() returned {found} outputs, it has {declared} output ports"));
    }
    if declared > 0 && plan.outputs.is_null() {
        return Err("plan() returned a null pointer for its outputs".to_owned());
    }
    let mut outputs = Vec::with_capacity(info.outputs.len());
    for index in 0..info.outputs.len() {
        // SAFETY: the plan owns n_outputs schemas.
        let schema = unsafe { &*plan.outputs.add(index) };
        let wrong = |what: &str| format!("output `{}`: {what}", info.outputs[index].name);
        // SAFETY: a schema that is not released is valid.
        let read = || schema.release.map(|_| unsafe { import_schema(schema) }).transpose();
        let read = catch_unwind(read).map_err(|_| wrong("its schema cannot be imported"))?;
        outputs.push(read.map_err(|error| wrong(&error.to_string()))?.flatten());
    }
    let mut notes = vec![String::new(); info.outputs.len()];
    if !plan.notes.is_null() {
        for (index, note) in notes.iter_mut().enumerate() {
            // SAFETY: the plan owns n_outputs texts; copied here.
            *note = unsafe { (*plan.notes.add(index)).to_text() };
        }
    }
    Ok(PlanOutput {
        outputs,
        // SAFETY: borrowed from the plan, copied here.
        fingerprint: unsafe { plan.fingerprint.to_text() },
        notes,
        memory: Some(plan.memory_bytes).filter(|bytes| *bytes > 0),
    })
}

impl PlannedStage for Plan {
    fn output(&self) -> &PlanOutput {
        &self.output
    }

    fn run(
        &mut self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
        outputs: Vec<WorkOutput<'_>>,
    ) -> Result<()> {
        let run = self.table.get().run;
        let run = run.ok_or_else(|| self.broken("it is not a whole stage"))?;
        let mut arguments = Arguments::new(services, &self.inputs, inputs)?;
        let ports = Ports::new(&self.info, &self.output.outputs, outputs);
        let result = arguments.with(settings, &ports, |args| {
            let (table, plan) = (self.table.as_ptr(), self.plan.0.get());
            // SAFETY: all arguments live through the call.
            call(|error| unsafe { run(table, plan, args, error) })
        });
        ports.outcome(result)
    }

    fn open(
        &mut self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
    ) -> Result<Box<dyn Worker>> {
        let stage = self.table.get();
        let (Some(open), Some(map), Some(close)) = (stage.open, stage.map, stage.close) else {
            return Err(self.broken("it is not a map stage"));
        };
        let mut arguments = Arguments::new(services, &self.inputs, inputs)?;
        let ports = Ports::absent(self.output.outputs.len());
        let mut raw = abi::Worker {
            struct_size: size_of::<abi::Worker>() as u32,
            reserved0: 0,
            private_data: std::ptr::null_mut(),
        };
        arguments
            .with(settings, &ports, |args| {
                let (table, plan) = (self.table.as_ptr(), self.plan.0.get());
                // SAFETY: all arguments live through the call.
                call(|error| unsafe { open(table, plan, args, &raw mut raw, error) })
            })
            .map_err(HostError::Stage)?;
        Ok(Box::new(OpenWorker {
            raw,
            map,
            close,
            info: Arc::clone(&self.info),
            outputs: self.output.outputs.clone(),
            _host: arguments.host,
            _plan: Arc::clone(&self.plan),
        }))
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

type MapFn = unsafe extern "C" fn(
    *mut abi::Worker,
    *mut abi::ArrowArray,
    *const *const abi::Sink,
    *mut abi::Error,
) -> u32;

/// A map stage with everything loaded.
struct OpenWorker {
    raw: abi::Worker,
    map: MapFn,
    close: unsafe extern "C" fn(*mut abi::Worker),
    info: Arc<StageInfo>,
    outputs: Vec<Option<SchemaRef>>,
    /// The services stay usable until the worker is closed.
    _host: HostTable,
    /// What the stage opened; it may use it until the worker is closed.
    _plan: Arc<StagePlan>,
}

// SAFETY: a worker is used by one thread at a time (map takes &mut self) and may move.
unsafe impl Send for OpenWorker {}

impl Worker for OpenWorker {
    fn map(&mut self, rows: &RecordBatch, outputs: Vec<WorkOutput<'_>>) -> Result<()> {
        let ports = Ports::new(&self.info, &self.outputs, outputs);
        let pointers: Vec<_> = (0..ports.count).map(|index| ports.sink(index)).collect();
        let mut array = export_batch(rows).map_err(|error| HostError::Engine(error.into()))?;
        let raw = &raw mut self.raw;
        // SAFETY: the rows have the planned schema; everything lives through the call.
        let result =
            call(|error| unsafe { (self.map)(raw, &raw mut array, pointers.as_ptr(), error) });
        ports.outcome(result)
    }
}

impl Drop for OpenWorker {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once.
        unsafe { (self.close)(&raw mut self.raw) };
    }
}
