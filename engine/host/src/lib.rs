//! Finding, loading and calling stage libraries.
//!
//! A [`Host`] holds the libraries that were found; a [`PlannedStage`] is one stage with a
//! configuration, ready to work; a [`Worker`] is a map stage with its model loaded.
//! Libraries are never unloaded: their threads, thread-locals and static data may
//! outlive any moment that would be safe to do it.

mod error;
mod library;
mod search;
mod services;
mod sink;
mod work;

pub use error::{HostError, Result, StageFailure};
pub use library::{Library, LoadedStage};
pub use search::{Origin, shipped_libraries};
pub use services::{Level, ServiceError, Services};
pub use work::{PlannedStage, RowSink, WorkInput, WorkOutput, WorkSettings, Worker};

use std::collections::BTreeMap;
use std::path::Path;

use paraloom_pipeline::{PlanInput, StageInfo};

/// The stages of all loaded libraries.
#[derive(Debug, Default)]
pub struct Host {
    stages: BTreeMap<String, LoadedStage>,
    libraries: Vec<Library>,
}

impl Host {
    /// Loads the library at `path`; its stages must not be there already.
    pub fn load(&mut self, path: &Path, origin: Origin) -> Result<()> {
        let library = Library::load(path, origin)?;
        for stage in library.stages() {
            if let Some(other) = self.stages.get(&stage.info.name) {
                return Err(HostError::Twice {
                    stage: stage.info.name.clone(),
                    first: other.info.library.clone(),
                    second: library.path().display().to_string(),
                });
            }
            self.stages.insert(stage.info.name.clone(), stage.clone());
        }
        self.libraries.push(library);
        Ok(())
    }

    /// The libraries, in the order in which they were loaded.
    pub fn libraries(&self) -> &[Library] {
        &self.libraries
    }

    /// The stages, by name.
    pub fn stages(&self) -> impl Iterator<Item = &LoadedStage> {
        self.stages.values()
    }

    /// The stage called `name`.
    pub fn stage(&self, name: &str) -> Option<&LoadedStage> {
        self.stages.get(name)
    }

    /// Asks a stage what comes out; the result can then be put to work.
    pub fn plan(
        &self,
        stage: &StageInfo,
        node: &str,
        config: &serde_json::Value,
        inputs: &[PlanInput],
    ) -> Result<PlannedStage> {
        let loaded =
            self.stage(&stage.name).ok_or_else(|| HostError::Missing(stage.name.clone()))?;
        PlannedStage::plan(loaded, node, config, inputs)
    }
}
