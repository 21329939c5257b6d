//! Finding, loading and calling stage libraries.
//!
//! A [`Host`] holds the libraries that were found; a [`PlannedStage`] is one stage with a
//! configuration, ready to work; a [`Worker`] is a map stage with its model loaded.
//! Libraries of others work in processes of their own ([`Isolation`]).
//! Libraries are never unloaded: their threads, thread-locals and static data may
//! outlive any moment that would be safe to do it.

mod error;
mod in_process;
mod isolated;
mod library;
mod search;
mod services;
mod sink;
mod work;

pub use error::{HostError, Result, StageFailure};
pub use isolated::{Isolation, attend};
pub use library::{Library, LoadedStage};
pub use search::{Origin, shipped_libraries};
pub use services::{Level, ServiceError, Services};
pub use work::{Batches, PlannedStage, RowSink, WorkInput, WorkOutput, WorkSettings, Worker};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use paraloom_pipeline::{PlanInput, StageInfo};

/// The stages of all loaded libraries.
#[derive(Debug, Default)]
pub struct Host {
    isolation: Option<Isolation>,
    stages: Stages,
    libraries: Vec<Library>,
    backends: BTreeMap<&'static str, Backend>,
}

type Stages = BTreeMap<String, LoadedStage>;

/// The backend that is always there: what the libraries compute that are not made for another.
const CPU: &str = "cpu";

/// Libraries that compute stages of other libraries in another way; loaded when one is asked for.
#[derive(Debug, Default)]
struct Backend {
    paths: Vec<PathBuf>,
    loaded: OnceLock<std::result::Result<Stages, String>>,
}

impl Backend {
    /// `always`: the stages of the libraries that are always there.
    fn stages(&self, name: &str, always: &Stages) -> Result<&Stages> {
        let load = || {
            let mut stages = Stages::new();
            for path in &self.paths {
                let library =
                    Library::load(path, Origin::Shipped, None).map_err(|error| match error {
                        HostError::Load { reason, .. } => {
                            missing_library(&reason).unwrap_or(reason)
                        }
                        error => error.to_string(),
                    })?;
                for stage in library.stages() {
                    let ours = always.get(&stage.info.name);
                    if ours.is_some_and(|ours| ours.library_version != stage.library_version) {
                        // Both would put results under the same keys.
                        return Err(format!(
                            "{} was built from other sources than the rest; build it again",
                            path.file_name().unwrap_or_default().display()
                        ));
                    }
                    let mut stage = stage.clone();
                    name.clone_into(&mut stage.info.backend);
                    stages.insert(stage.info.name.clone(), stage);
                }
            }
            Ok(stages)
        };
        let loaded = self.loaded.get_or_init(load).as_ref();
        loaded.map_err(|reason| HostError::Backend {
            backend: name.to_owned(),
            reason: reason.clone(),
        })
    }
}

/// What the dynamic loader means when a library wants another that is not there.
fn missing_library(reason: &str) -> Option<String> {
    let (name, _) = reason.split_once(": cannot open shared object file")?;
    Some(format!(
        "{name} is not where the loader looks; say where with LD_LIBRARY_PATH, or build the backend again"
    ))
}

impl Host {
    /// A host that has libraries of others work in `isolation`, or in this process without one.
    pub fn new(isolation: Option<Isolation>) -> Self {
        Self { isolation, ..Self::default() }
    }

    /// Loads the library at `path`; its stages must not be there already. A shipped library for another backend is only
    /// noted.
    pub fn load(&mut self, path: &Path, origin: Origin) -> Result<()> {
        if origin == Origin::Shipped
            && let Some(backend) = search::backend_of(path)
        {
            self.backends.entry(backend).or_default().paths.push(path.to_owned());
            return Ok(());
        }
        let library = Library::load(path, origin, self.isolation.as_ref())?;
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

    /// The backends that there are libraries for.
    pub fn backends(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(CPU).chain(self.backends.keys().copied())
    }

    /// The names of the stages that a backend computes; an error says why it cannot be used.
    pub fn stages_of(&self, backend: &str) -> Result<Vec<&str>> {
        let stages = match self.backends.get(backend) {
            Some(found) => found.stages(backend, &self.stages)?,
            None if backend == CPU => &self.stages,
            None => return Err(self.no_backend(backend)),
        };
        Ok(stages.keys().map(String::as_str).collect())
    }

    fn no_backend(&self, backend: &str) -> HostError {
        let known = self.backends().map(str::to_owned).collect();
        HostError::NoBackend { backend: backend.to_owned(), known }
    }

    /// The stages, by name.
    pub fn stages(&self) -> impl Iterator<Item = &LoadedStage> {
        self.stages.values()
    }

    /// The stage called `name`, as `backend` computes it: what the backend does not offer is as it always is.
    pub fn stage(&self, name: &str, backend: &str) -> Result<Option<&LoadedStage>> {
        let always = self.stages.get(name);
        if always.is_none() || backend == CPU {
            return Ok(always);
        }
        let found = self.backends.get(backend).ok_or_else(|| self.no_backend(backend))?;
        Ok(found.stages(backend, &self.stages)?.get(name).or(always))
    }

    /// The loaded stage that says `stage` of itself.
    pub fn loaded(&self, stage: &StageInfo) -> Result<&LoadedStage> {
        let backend = if stage.backend.is_empty() { CPU } else { &stage.backend };
        self.stage(&stage.name, backend)?.ok_or_else(|| HostError::Missing(stage.name.clone()))
    }

    /// Asks a stage what comes out; the result can then be put to work.
    pub fn plan(
        &self,
        stage: &StageInfo,
        node: &str,
        config: &serde_json::Value,
        inputs: &[PlanInput],
    ) -> Result<PlannedStage> {
        PlannedStage::plan(self.loaded(stage)?, node, config, inputs)
    }
}
