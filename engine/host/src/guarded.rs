//! What every stage is held to, whatever executes it: that its plan fits its ports, that it stops only when it was asked
//! to, and that its log and its numbers are bounded.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use paraloom_pipeline::{PlanInput, PlanOutput, PortKind, StageInfo};

use crate::error::{HostError, Result};
use crate::executor::{Executor, PlannedStage, WorkInput, WorkOutput, WorkSettings, Worker};
use crate::limited::Limited;
use crate::log_limit::short;
use crate::services::Services;

/// A plan of `executor` for `stage`, which its library calls `name`, held to the rules.
pub(crate) fn plan(
    executor: &dyn Executor,
    stage: &StageInfo,
    name: &str,
    node: &str,
    config: &serde_json::Value,
    inputs: &[PlanInput],
) -> Result<Box<dyn PlannedStage>> {
    let own = (stage.name != name).then(|| StageInfo { name: name.to_owned(), ..stage.clone() });
    let planned = executor.plan(own.as_ref().unwrap_or(stage), node, config, inputs);
    // A stage that plans cannot be asked to stop.
    let inner = planned.map_err(|error| unasked(error, &stage.name, "plan()", false))?;
    check_output(stage, inner.output())
        .map_err(|what| HostError::Broken { stage: stage.name.clone(), what })?;
    Ok(Box::new(Guarded { stage: stage.name.clone(), inner }))
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

struct Guarded {
    stage: String,
    inner: Box<dyn PlannedStage>,
}

impl PlannedStage for Guarded {
    fn output(&self) -> &PlanOutput {
        self.inner.output()
    }

    fn run(
        &mut self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
        outputs: Vec<WorkOutput<'_>>,
    ) -> Result<()> {
        let limited = Arc::new(Limited::new(Arc::clone(&services)));
        let done = self.inner.run(settings, Arc::clone(&limited) as _, inputs, outputs);
        limited.flush();
        done.map_err(|error| unasked(error, &self.stage, "run()", services.is_cancelled()))
    }

    fn open(
        &mut self,
        settings: &WorkSettings,
        services: Arc<dyn Services>,
        inputs: Vec<WorkInput>,
    ) -> Result<Box<dyn Worker>> {
        let limited = Arc::new(Limited::new(Arc::clone(&services)));
        match self.inner.open(settings, Arc::clone(&limited) as _, inputs) {
            Ok(worker) => {
                let stage = self.stage.clone();
                Ok(Box::new(GuardedWorker { stage, inner: Some(worker), limited }))
            }
            Err(error) => {
                limited.flush();
                Err(unasked(error, &self.stage, "open()", services.is_cancelled()))
            }
        }
    }
}

struct GuardedWorker {
    stage: String,
    /// None once it is closed.
    inner: Option<Box<dyn Worker>>,
    limited: Arc<Limited>,
}

impl Worker for GuardedWorker {
    fn map(&mut self, rows: &RecordBatch, outputs: Vec<WorkOutput<'_>>) -> Result<()> {
        let Some(worker) = &mut self.inner else {
            return Err(HostError::Engine("the worker is closed".into()));
        };
        let asked = || self.limited.is_cancelled();
        worker.map(rows, outputs).map_err(|error| unasked(error, &self.stage, "map()", asked()))
    }
}

impl Drop for GuardedWorker {
    fn drop(&mut self) {
        // What it logs while it closes comes before the last lines.
        self.inner = None;
        self.limited.flush();
    }
}
