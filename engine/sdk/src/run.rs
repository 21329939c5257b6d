//! A stage at work: what it reads, where it writes, and what the host does for it.

use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Fields, SchemaRef};
use paraloom_abi::{self as abi, Str, level, status};
use paraloom_ffi::{StreamReader, export_batch};

use crate::error::{Error, Result, Status};

/// The host's services. Cheap to clone; usable from any thread that the stage starts.
#[derive(Clone, Copy)]
pub struct Services {
    host: *const abi::Host,
}

// SAFETY: every function of the host table is thread-safe by contract, and the table
// lives until run() returns or close() is called.
unsafe impl Send for Services {}
// SAFETY: as above.
unsafe impl Sync for Services {}

impl Services {
    pub(crate) fn new(host: *const abi::Host) -> Self {
        Self { host }
    }

    fn host(&self) -> &abi::Host {
        // SAFETY: the host passes a table that outlives the work.
        unsafe { &*self.host }
    }

    fn log(&self, level: u32, message: &str) {
        if level <= self.host().max_log_level
            && let Some(log) = self.host().log
        {
            // SAFETY: the text is borrowed for the call.
            unsafe { log(self.host().ctx, level, Str::new(message)) };
        }
    }

    /// Logs something that has gone wrong.
    pub(crate) fn error(&self, message: &str) {
        self.log(level::ERROR, message);
    }

    /// Logs something that the user should look at.
    pub fn warn(&self, message: &str) {
        self.log(level::WARN, message);
    }

    /// Logs something that the user may want to know.
    pub fn info(&self, message: &str) {
        self.log(level::INFO, message);
    }

    /// Reports work done so far, of `total` (0 = unknown), in `unit` ("rows", "steps").
    pub fn progress(&self, done: u64, total: u64, unit: &str) {
        if let Some(progress) = self.host().progress {
            // SAFETY: the text is borrowed for the call.
            unsafe { progress(self.host().ctx, done, total, Str::new(unit)) };
        }
    }

    /// Records one value of a metric, such as the loss at a step.
    pub fn metric(&self, name: &str, value: f64, step: u64) {
        if let Some(metric) = self.host().metric {
            // SAFETY: the text is borrowed for the call.
            unsafe { metric(self.host().ctx, Str::new(name), value, step) };
        }
    }

    /// Whether the host asked to stop.
    pub fn is_cancelled(&self) -> bool {
        // SAFETY: ctx belongs to the function.
        self.host().is_cancelled.is_some_and(|asked| unsafe { asked(self.host().ctx) } != 0)
    }

    /// An error once the host asked to stop; pass it up with `?`.
    pub fn check_cancelled(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// How far apart checkpoints are to be; zero means one after every step.
    pub fn checkpoint_interval(&self) -> Duration {
        // An engine from before this field is served as it was.
        let end = offset_of!(abi::Host, checkpoint_ms) + size_of::<u64>();
        let known = self.host().struct_size as usize >= end;
        Duration::from_millis(if known { self.host().checkpoint_ms } else { 10_000 })
    }

    /// The newest committed checkpoint of this very work, with its step.
    pub fn checkpoint_latest(&self) -> Result<Option<(PathBuf, u64)>> {
        let Some(latest) = self.host().checkpoint_latest else {
            return Ok(None);
        };
        let (mut dir, mut step) = (Str::EMPTY, 0);
        // SAFETY: all pointers are valid for the call.
        call(|error| unsafe { latest(self.host().ctx, &raw mut dir, &raw mut step, error) })?;
        // SAFETY: the host lends the path until the work ends; it is copied here.
        let dir = unsafe { dir.to_text() };
        Ok((!dir.is_empty()).then(|| (PathBuf::from(dir), step)))
    }

    /// Writes a checkpoint: `write` fills an empty directory, which then appears whole.
    pub fn checkpoint(&self, step: u64, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let (Some(begin), Some(commit)) =
            (self.host().checkpoint_begin, self.host().checkpoint_commit)
        else {
            return Ok(());
        };
        let mut dir = Str::EMPTY;
        // SAFETY: all pointers are valid for the call.
        call(|error| unsafe { begin(self.host().ctx, step, &raw mut dir, error) })?;
        // SAFETY: the host lends the path until the work ends.
        write(Path::new(&unsafe { dir.to_text() }))?;
        // SAFETY: as above.
        call(|error| unsafe { commit(self.host().ctx, step, error) })
    }

    /// A private directory, empty at the start of the work and deleted after it.
    pub fn scratch(&self) -> Result<PathBuf> {
        let scratch = self
            .host()
            .scratch_dir
            .ok_or_else(|| Error::unsupported("this engine offers no scratch directory"))?;
        let mut dir = Str::EMPTY;
        // SAFETY: all pointers are valid for the call.
        call(|error| unsafe { scratch(self.host().ctx, &raw mut dir, error) })?;
        // SAFETY: the host lends the path until the work ends.
        Ok(PathBuf::from(unsafe { dir.to_text() }))
    }
}

/// Calls into the host and turns a failure into an [`Error`].
fn call(body: impl FnOnce(*mut abi::Error) -> u32) -> Result<()> {
    let mut error = abi::Error::empty();
    let code = body(&raw mut error);
    if code == status::OK {
        return Ok(());
    }
    // SAFETY: the host filled the texts, and they live until release.
    let message = unsafe { error.message.to_text() };
    if let Some(release) = error.release {
        // SAFETY: release runs once.
        unsafe { release(&raw mut error) };
    }
    Err(Error::new(Status::from_code(code), message))
}

/// One edge into a node at work.
pub(crate) struct Edge {
    pub(crate) port: &'static str,
    pub(crate) label: String,
    pub(crate) stream: Option<StreamReader>,
    pub(crate) dir: Option<PathBuf>,
}

/// One output port of a node at work.
pub(crate) struct Outlet {
    pub(crate) port: &'static str,
    pub(crate) sink: *const abi::Sink,
    pub(crate) schema: Option<SchemaRef>,
    pub(crate) dir: Option<PathBuf>,
}

/// Everything that a stage has at hand while it works.
pub struct Run {
    pub(crate) services: Services,
    pub(crate) edges: Vec<Edge>,
    pub(crate) outlets: Vec<Outlet>,
    pub(crate) seed: u64,
    pub(crate) threads: usize,
    pub(crate) device: String,
}

impl Run {
    /// The host's services.
    pub fn services(&self) -> Services {
        self.services
    }

    /// This node's seed; see [`crate::identity::row_seed`] for the seed of a row.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The number of compute threads that the stage may use, at least 1.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Where to compute: `cpu`, `cuda:0`, ...
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Takes the one table that enters `port`.
    pub fn table(&mut self, port: &str) -> Result<StreamReader> {
        let table = self.tables(port).into_iter().next();
        table.map(|(_, reader)| reader).ok_or_else(|| not_connected(port))
    }

    /// Takes the labelled tables that enter `port`; each can be taken once.
    pub fn tables(&mut self, port: &str) -> Vec<(String, StreamReader)> {
        let edges = self.edges.iter_mut().filter(|edge| edge.port == port);
        edges.filter_map(|edge| Some((edge.label.clone(), edge.stream.take()?))).collect()
    }

    /// The directory that enters `port`.
    pub fn artifact(&self, port: &str) -> Result<&Path> {
        let edge = self.edges.iter().find(|edge| edge.port == port);
        edge.and_then(|edge| edge.dir.as_deref()).ok_or_else(|| not_connected(port))
    }

    /// The empty directory to fill for the artifact output `port`.
    pub fn output_dir(&self, port: &str) -> Result<&Path> {
        let outlet = self.outlets.iter().find(|outlet| outlet.port == port);
        outlet
            .and_then(|outlet| outlet.dir.as_deref())
            .ok_or_else(|| Error::internal(format!("`{port}` is not an artifact output")))
    }

    /// Hands rows to the table output `port`. Blocks while the host is behind.
    pub fn push(&self, port: &str, rows: &RecordBatch) -> Result<()> {
        let outlet = self.outlets.iter().find(|outlet| outlet.port == port);
        let outlet =
            outlet.ok_or_else(|| Error::internal(format!("there is no output `{port}`")))?;
        push(outlet.sink, outlet.schema.as_ref(), port, rows)
    }
}

fn not_connected(port: &str) -> Error {
    Error::not_found(format!("input `{port}` is not connected")).input(port)
}

/// Where a map stage puts its rows.
pub struct Emit<'a> {
    pub(crate) sinks: &'a [*const abi::Sink],
    pub(crate) ports: &'a [(&'static str, Option<SchemaRef>)],
    pub(crate) services: Services,
}

impl Emit<'_> {
    /// Hands rows to the table output `port`.
    pub fn push(&mut self, port: &str, rows: &RecordBatch) -> Result<()> {
        let index = self.ports.iter().position(|(name, _)| *name == port);
        let index = index.ok_or_else(|| Error::internal(format!("there is no output `{port}`")))?;
        push(self.sinks[index], self.ports[index].1.as_ref(), port, rows)
    }

    /// The host's services.
    pub fn services(&self) -> Services {
        self.services
    }
}

/// The first difference between the columns that rows have and those that were promised.
fn difference(found: &Fields, promised: &Fields) -> String {
    let names = |fields: &Fields| -> Vec<_> {
        fields.iter().map(|field| format!("`{}`", field.name())).collect()
    };
    let (found_names, promised_names) = (names(found), names(promised));
    if found_names != promised_names {
        let told = |names: &[String]| match names {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        return format!(
            "their columns are {}, instead of {}",
            told(&found_names),
            told(&promised_names)
        );
    }
    let pair = found.iter().zip(promised).find(|(found, promised)| found != promised);
    let Some((found, promised)) = pair else { return "they differ in nothing".to_owned() };
    let name = found.name();
    if found.data_type() != promised.data_type() {
        return format!(
            "column `{name}` is {}, instead of {}",
            found.data_type(),
            promised.data_type()
        );
    }
    match (found.is_nullable(), promised.is_nullable()) {
        (true, false) => format!("column `{name}` may have nulls"),
        (false, true) => format!("column `{name}` is not nullable, instead of nullable"),
        _ => format!("the metadata of column `{name}`"),
    }
}

/// Only the array crosses the boundary, so a batch of another schema must stop here.
fn push(
    sink: *const abi::Sink,
    schema: Option<&SchemaRef>,
    port: &str,
    rows: &RecordBatch,
) -> Result<()> {
    let promised =
        schema.ok_or_else(|| Error::internal(format!("`{port}` is not a table output")))?;
    if rows.schema().fields() != promised.fields() {
        let difference = difference(rows.schema().fields(), promised.fields());
        let message =
            format!("the rows pushed to `{port}` are not as plan() promised: {difference}");
        return Err(Error::internal(message));
    }
    // SAFETY: the host passes a sink that lives through the call, or null.
    let sink =
        unsafe { sink.as_ref() }.ok_or_else(|| Error::internal(format!("`{port}` has no sink")))?;
    let push = sink.push.ok_or_else(|| Error::internal("a sink without push"))?;
    let mut array = export_batch(&RecordBatch::try_new_with_options(
        Arc::clone(promised),
        rows.columns().to_vec(),
        &arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows())),
    )?)?;
    // SAFETY: the array is moved to the host; the error is ours.
    call(|error| unsafe { push(sink.ctx, &raw mut array, error) })
}
