//! The arguments of a call of a stage, in the form that the ABI wants.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use paraloom_abi::{self as abi, Str};
use paraloom_ffi::export_stream;
use paraloom_pipeline::{PlanInput, StageInfo};

use super::host_table::HostTable;
use super::sink::Sink;
use crate::error::{HostError, Result, StageFailure};
use crate::executor::{WorkInput, WorkOutput, WorkSettings};
use crate::services::Services;

/// The inputs and services of a call, in the form that the ABI wants.
pub(super) struct Arguments {
    pub(super) host: HostTable,
    labels: Vec<String>,
    ports: Vec<u32>,
    streams: Vec<Option<OwnedStream>>,
    dirs: Vec<String>,
}

impl Arguments {
    pub(super) fn new(
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

    pub(super) fn with<T>(
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
pub(super) struct Ports<'a> {
    pub(super) count: usize,
    sinks: Vec<Option<Sink<'a>>>,
    dirs: Vec<String>,
}

impl<'a> Ports<'a> {
    /// `schemas` are what the stage `info` promised.
    pub(super) fn new(
        info: &StageInfo,
        schemas: &[Option<SchemaRef>],
        outputs: Vec<WorkOutput<'a>>,
    ) -> Self {
        let mut ports = Self { count: outputs.len(), sinks: Vec::new(), dirs: Vec::new() };
        for ((output, schema), port) in outputs.into_iter().zip(schemas).zip(&info.outputs) {
            let (sink, dir) = match (output, schema) {
                (WorkOutput::Table(take), Some(schema)) => {
                    let schema = Arc::clone(schema);
                    (Some(Sink::new(&info.name, &port.name, schema, take)), String::new())
                }
                (WorkOutput::Table(_), None) => (None, String::new()),
                (WorkOutput::Artifact(dir), _) => (None, dir.to_string_lossy().into_owned()),
            };
            ports.sinks.push(sink);
            ports.dirs.push(dir);
        }
        ports
    }

    pub(super) fn absent(count: usize) -> Self {
        Self { count, sinks: Vec::new(), dirs: Vec::new() }
    }

    pub(super) fn sink(&self, index: usize) -> *const abi::Sink {
        self.sinks.get(index).and_then(Option::as_ref).map_or(std::ptr::null(), Sink::as_ptr)
    }

    fn dir(&self, index: usize) -> Str {
        self.dirs.get(index).map_or(Str::EMPTY, |dir| Str::new(dir))
    }

    /// Why a push was refused comes first: the stage only knows that it failed, and may not say so.
    pub(super) fn outcome(&self, result: Result<(), StageFailure>) -> Result<()> {
        match self.sinks.iter().flatten().find_map(Sink::take_error) {
            Some(error) => Err(error),
            None => result.map_err(HostError::Stage),
        }
    }
}
