//! Stages that are called in this process, through the C tables of their library.

mod call;
mod host_table;
mod library;
mod plan;
mod sink;
mod status;

use std::collections::BTreeMap;
use std::path::Path;

use paraloom_pipeline::{PlanInput, StageInfo};

use crate::description::Description;
use crate::error::{HostError, Result};
use crate::executor::{Executor, PlannedStage};
use library::Table;

/// The stages of a library that was loaded into this process.
pub(crate) struct InProcess {
    stages: BTreeMap<String, Table>,
}

impl InProcess {
    /// Loads the library at `path`, an absolute path.
    pub(crate) fn load(path: &Path) -> Result<(Self, Description)> {
        let (description, stages) = library::load(path)?;
        Ok((Self { stages }, description))
    }
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InProcess").field("stages", &self.stages.keys()).finish()
    }
}

impl Executor for InProcess {
    fn plan(
        &self,
        stage: &StageInfo,
        node: &str,
        config: &serde_json::Value,
        inputs: &[PlanInput],
    ) -> Result<Box<dyn PlannedStage>> {
        let table = self.stages.get(&stage.name);
        let table = table.ok_or_else(|| HostError::Missing(stage.name.clone()))?;
        Ok(Box::new(plan::Plan::new(stage, *table, node, config, inputs)?))
    }
}
