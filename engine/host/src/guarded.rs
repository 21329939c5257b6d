//! What every stage is held to, whatever executes it: that its plan fits its ports, that it stops only when it was asked
//! to, that its log and its numbers are bounded, and that after a panic it begins anew.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use paraloom_pipeline::{PlanInput, PlanOutput, PortKind, StageInfo};

use crate::error::{HostError, Result};
use crate::executor::{Executor, PlannedStage, WorkInput, WorkOutput, WorkSettings, Worker};
use crate::library::LoadedStage;
use crate::limited::Limited;
use crate::log_limit::short;
use crate::services::Services;

/// A plan of a stage, held to the rules.
pub(crate) fn plan(
    loaded: &LoadedStage,
    node: &str,
    config: &serde_json::Value,
    inputs: &[PlanInput],
) -> Result<Box<dyn PlannedStage>> {
    let planner = Planner {
        executor: Arc::clone(&loaded.executor),
        own: Arc::clone(loaded.own()),
        stage: loaded.info.name.clone(),
        node: node.to_owned(),
        config: config.clone(),
        inputs: inputs.to_vec(),
    };
    let inner = planner.plan()?;
    let output = inner.output().clone();
    Ok(Box::new(Guarded { planner: Arc::new(planner), output, inner: Some(inner) }))
}

/// Plans a stage for a node, as often as it is needed: a plan that has panicked is not used again.
struct Planner {
    executor: Arc<dyn Executor>,
    /// The stage, by its name in its library.
    own: Arc<StageInfo>,
    /// Its name in messages.
    stage: String,
    node: String,
    config: serde_json::Value,
    inputs: Vec<PlanInput>,
}

impl Planner {
    fn plan(&self) -> Result<Box<dyn PlannedStage>> {
        let planned = self.executor.plan(&self.own, &self.node, &self.config, &self.inputs);
        // A stage that plans cannot be asked to stop.
        let inner = planned.map_err(|error| unasked(error, &self.stage, "plan()", false))?;
        check_output(&self.own, inner.output()).map_err(|what| self.broken(what))?;
        Ok(inner)
    }

    /// The same plan once more.
    fn plan_again(&self, output: &PlanOutput) -> Result<Box<dyn PlannedStage>> {
        let inner = self.plan()?;
        if inner.output().outputs != output.outputs {
            return Err(self.broken("it planned other columns the second time".to_owned()));
        }
        Ok(inner)
    }

    fn broken(&self, what: String) -> HostError {
        HostError::Broken { stage: self.stage.clone(), what }
    }

    /// What was opened with `inputs` can be opened again with these: all of them, unless there is a table that was read.
    fn inputs_again(&self, inputs: &[WorkInput]) -> Option<Vec<Again>> {
        let mapped = self.own.mapped_input();
        let again = inputs.iter().zip(&self.inputs).map(|(input, planned)| match input {
            WorkInput::Artifact(dir) => Some(Again::Artifact(dir.clone())),
            WorkInput::Table(schema, _) if Some(planned.port) == mapped => {
                Some(Again::Mapped(Arc::clone(schema)))
            }
            WorkInput::Table(..) => None,
        });
        again.collect()
    }
}

/// An input that a worker can have once more.
enum Again {
    /// The table whose rows come through `map()`.
    Mapped(SchemaRef),
    Artifact(PathBuf),
}

impl Again {
    fn input(&self) -> WorkInput {
        match self {
            Self::Mapped(schema) => {
                WorkInput::Table(Arc::clone(schema), Box::new(std::iter::empty()))
            }
            Self::Artifact(dir) => WorkInput::Artifact(dir.clone()),
        }
    }
}

/// That there is a schema for each table, none for an artifact, and no two columns of one name.
fn check_output(stage: &StageInfo, output: &PlanOutput) -> Result<(), String> {
    let (found, declared) = (output.outputs.len(), stage.outputs.len());
    if found != declared {
        return Err(format!("plan() returned {found} outputs, it has {declared} output ports"));
    }
    for (port, schema) in stage.outputs.iter().zip(&output.outputs) {
        let name = &port.name;
        match (port.kind, schema) {
            (PortKind::Table, None) => {
                return Err(format!("plan() returned no schema for output `{name}`"));
            }
            (PortKind::Artifact, Some(_)) => {
                return Err(format!("plan() returned a schema for output `{name}`, an artifact"));
            }
            _ => {}
        }
        let mut columns = HashSet::new();
        let fields = schema.iter().flat_map(|schema| schema.fields());
        if let Some(twice) = fields.into_iter().find(|field| !columns.insert(field.name())) {
            let column = twice.name();
            return Err(format!("plan() returned two columns `{column}` for output `{name}`"));
        }
    }
    Ok(())
}

/// A stage that returns `CANCELLED` although it was not asked to stop has failed, and what it says is one line and no book.
fn unasked(error: HostError, stage: &str, call: &str, asked: bool) -> HostError {
    match error {
        HostError::Stage(mut failure) if !failure.is_cancelled() => {
            failure.message = short(&failure.message);
            failure.hint = failure.hint.as_deref().map(short);
            HostError::Stage(failure)
        }
        HostError::Stage(failure) if failure.is_cancelled() && !asked => HostError::Broken {
            stage: stage.to_owned(),
            what: format!("{call} returned CANCELLED, and nobody had asked it to stop"),
        },
        error => error,
    }
}

/// Whether a stage panicked: neither its plan nor what it opened is used again.
fn has_panicked<T>(result: &Result<T>) -> bool {
    matches!(result, Err(HostError::Stage(failure)) if failure.is_panic())
}

struct Guarded {
    planner: Arc<Planner>,
    output: PlanOutput,
    /// None after a panic.
    inner: Option<Box<dyn PlannedStage>>,
}

impl Guarded {
    /// Has the stage do something, which may be the last thing that this plan does.
    fn call<T>(&mut self, body: impl FnOnce(&mut dyn PlannedStage) -> Result<T>) -> Result<T> {
        let mut inner = match self.inner.take() {
            Some(inner) => inner,
            None => self.planner.plan_again(&self.output)?,
        };
        let done = body(&mut *inner);
        self.inner = Some(inner).filter(|_| !has_panicked(&done));
        done
    }
}

impl PlannedStage for Guarded {
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
        let limited = Arc::new(Limited::new(Arc::clone(&services)));
        let given = Arc::clone(&limited) as _;
        let done = self.call(|inner| inner.run(settings, given, inputs, outputs));
        limited.flush();
        done.map_err(|error| unasked(error, &self.planner.stage, "run()", services.is_cancelled()))
    }

    fn open(
        &mut self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
    ) -> Result<Box<dyn Worker>> {
        let limited = Arc::new(Limited::new(services));
        let again = self.planner.inputs_again(&inputs);
        let given = Arc::clone(&limited) as _;
        let opened = self.call(|inner| inner.open(settings, given, inputs));
        let mut worker = GuardedWorker {
            planner: Arc::clone(&self.planner),
            output: self.output.clone(),
            settings: settings.clone(),
            again,
            inner: None,
            limited,
        };
        worker.inner = Some(opened.map_err(|error| worker.unasked(error, "open()"))?);
        Ok(Box::new(worker))
    }
}

struct GuardedWorker {
    planner: Arc<Planner>,
    output: PlanOutput,
    settings: WorkSettings,
    /// What it is opened with after a panic; none if that is not to be had.
    again: Option<Vec<Again>>,
    /// None after a panic, and once it is closed.
    inner: Option<Box<dyn Worker>>,
    limited: Arc<Limited>,
}

impl GuardedWorker {
    fn unasked(&self, error: HostError, call: &str) -> HostError {
        unasked(error, &self.planner.stage, call, self.limited.is_cancelled())
    }

    /// What is open, or is opened now after a panic.
    fn worker(&mut self) -> Result<&mut Box<dyn Worker>> {
        if self.inner.is_none() {
            let Some(again) = &self.again else {
                let how = "at an earlier part".to_owned();
                return Err(HostError::Crashed {
                    how,
                    during: String::new(),
                    stderr_tail: Vec::new(),
                });
            };
            let inputs = again.iter().map(Again::input).collect();
            let mut planned = self.planner.plan_again(&self.output)?;
            let opened = planned.open(&self.settings, Arc::clone(&self.limited) as _, inputs);
            self.inner = Some(opened.map_err(|error| self.unasked(error, "open()"))?);
        }
        self.inner.as_mut().ok_or_else(|| HostError::Engine("the worker is closed".into()))
    }
}

impl Worker for GuardedWorker {
    fn map(&mut self, rows: &RecordBatch, outputs: Vec<WorkOutput<'_>>) -> Result<()> {
        let mapped = self.worker()?.map(rows, outputs);
        if has_panicked(&mapped) {
            self.inner = None;
        }
        mapped.map_err(|error| self.unasked(error, "map()"))
    }
}

impl Drop for GuardedWorker {
    fn drop(&mut self) {
        // What it logs while it closes comes before the last lines.
        self.inner = None;
        self.limited.flush();
    }
}
