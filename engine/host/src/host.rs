//! The stages of all libraries, by name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use paraloom_pipeline::{PlanInput, StageInfo};

use crate::backend::Backend;
use crate::error::{HostError, Result};
use crate::executor::{Executor, PlannedStage};
use crate::guarded;
use crate::isolated::Isolation;
use crate::library::{Library, LoadedStage};
use crate::library_file::LibraryFile;
use crate::search::{self, Origin};
use crate::stages::Stages;

/// The stages of all loaded libraries.
#[derive(Debug, Default)]
pub struct Host {
    isolation: Option<Isolation>,
    stages: Stages,
    libraries: Vec<Library>,
    /// Why libraries of a directory were left out.
    skipped: Vec<HostError>,
    backends: BTreeMap<&'static str, Backend>,
}

/// The backend that is always there: what the libraries compute that are not made for another.
const CPU: &str = "cpu";

impl Host {
    /// A host that has libraries of others work in `isolation`, or in this process without one.
    pub fn new(isolation: Option<Isolation>) -> Self {
        Self { isolation, ..Self::default() }
    }

    /// Loads the library at `path`, unless it is there already. A shipped library for another backend is only noted.
    ///
    /// # Errors
    /// Why the file is no library, or its stages cannot be used.
    pub fn load(&mut self, path: &Path, origin: Origin) -> Result<()> {
        if origin == Origin::Shipped
            && let Some(backend) = search::backend_of(path)
        {
            self.backends.entry(backend).or_default().paths.push(path.to_owned());
            return Ok(());
        }
        let refuse = |reason: String| HostError::Load { path: path.to_owned(), reason };
        let file = LibraryFile::open(path, origin).map_err(refuse)?;
        if self.libraries.iter().any(|library| library.is_of(&file)) {
            return Ok(());
        }
        let library = Library::load(file, self.isolation.as_ref())?;
        // All of them, or none.
        if let Some(stage) = library.stages().iter().find(|stage| self.stages.has_same(stage)) {
            let (stage, full_names) = (stage.name.clone(), Vec::new());
            return Err(HostError::Shared { stage, full_names });
        }
        for stage in library.stages() {
            self.stages.add(stage.clone())?;
        }
        self.libraries.push(library);
        Ok(())
    }

    /// Loads the third-party libraries in the directory `dir`, in the order of their names. One that cannot be
    /// loaded is left out: what of it is used is then missing, and [`Host::skipped`] says why. The number of files that are
    /// there.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn load_dir(&mut self, dir: &Path) -> std::io::Result<usize> {
        let files = search::libraries_of_others(dir)?;
        for file in &files {
            if let Err(error) = self.load(file, Origin::Foreign) {
                self.skipped.push(error);
            }
        }
        Ok(files.len())
    }

    /// Why libraries of directories were left out.
    pub fn skipped(&self) -> &[HostError] {
        &self.skipped
    }

    /// Offers a stage that is in no library: `executor` plans and runs it.
    ///
    /// # Errors
    /// There is a stage of that name already.
    pub fn insert(&mut self, info: StageInfo, executor: Arc<dyn Executor>) -> Result<()> {
        if self.stages.get(&info.name)?.is_some() {
            return Err(HostError::Shared { stage: info.name, full_names: Vec::new() });
        }
        let (foreign, library_version) = (None, info.version.clone());
        self.stages.add(LoadedStage::new(info, foreign, library_version, executor))
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
            Some(found) => found.stages(backend, &self.stages)?.values().collect::<Vec<_>>(),
            None if backend == CPU => self.stages.iter().collect(),
            None => return Err(self.no_backend(backend)),
        };
        Ok(stages.into_iter().map(|stage| stage.info.name.as_str()).collect())
    }

    fn no_backend(&self, backend: &str) -> HostError {
        let known = self.backends().map(str::to_owned).collect();
        HostError::NoBackend { backend: backend.to_owned(), known }
    }

    /// The stages, by name.
    pub fn stages(&self) -> impl Iterator<Item = &LoadedStage> {
        self.stages.iter()
    }

    /// The stage called `name`, or `library/name`, as `backend` computes it: what the backend does not offer is as it always is.
    pub fn stage(&self, name: &str, backend: &str) -> Result<Option<&LoadedStage>> {
        let always = self.stages.get(name)?;
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
    ) -> Result<Box<dyn PlannedStage>> {
        // A node may have outputs of the engine's beside those of its stage.
        let loaded = self.loaded(stage)?;
        guarded::plan(loaded, node, config, inputs)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use paraloom_pipeline::{PlanOutput, RowAccount, Shape};
    use serde_json::{Value, json};

    use super::*;
    use crate::executor::{WorkInput, WorkOutput, WorkSettings, Worker};
    use crate::services::Services;

    /// Its one stage, `fake`, has no outputs and cannot be put to work.
    #[derive(Debug)]
    struct Fake;

    struct FakePlan(PlanOutput);

    impl Executor for Fake {
        fn plan(
            &self,
            stage: &StageInfo,
            node: &str,
            config: &Value,
            _: &[PlanInput],
        ) -> Result<Box<dyn PlannedStage>> {
            let (outputs, notes) = (Vec::new(), Vec::new());
            let fingerprint = format!("{}/{node}/{config}", stage.name);
            Ok(Box::new(FakePlan(PlanOutput { outputs, fingerprint, notes, memory: None })))
        }
    }

    impl PlannedStage for FakePlan {
        fn output(&self) -> &PlanOutput {
            &self.0
        }

        fn run(
            &mut self,
            _: &WorkSettings,
            _: Arc<dyn Services>,
            _: Vec<WorkInput>,
            _: Vec<WorkOutput<'_>>,
        ) -> Result<()> {
            Err(HostError::Missing(self.0.fingerprint.clone()))
        }

        fn open(
            &mut self,
            _: &WorkSettings,
            _: Arc<dyn Services>,
            _: Vec<WorkInput>,
        ) -> Result<Box<dyn Worker>> {
            Err(HostError::Missing(self.0.fingerprint.clone()))
        }
    }

    fn info() -> StageInfo {
        StageInfo {
            name: "fake".to_owned(),
            version: "1.0.0".to_owned(),
            doc: String::new(),
            library: "a test".to_owned(),
            backend: String::new(),
            config_schema: json!({ "type": "object" }),
            inputs: Vec::new(),
            outputs: Vec::new(),
            shape: Shape::Whole,
            uses_seed: false,
            resumable: false,
            batch_invariant: false,
            rows: RowAccount::Any,
            part_rows: None,
        }
    }

    #[test]
    fn any_executor_can_offer_a_stage() {
        let mut host = Host::default();
        host.insert(info(), Arc::new(Fake)).expect("there is none of that name");
        let planned = host.plan(&info(), "n", &json!({}), &[]).expect("it plans");
        assert_eq!(planned.output().fingerprint, "fake/n/{}");
        let twice = host.insert(info(), Arc::new(Fake)).map_err(|error| error.to_string());
        assert_eq!(twice, Err("two libraries of one name offer the stage `fake`".to_owned()));
        let missing = host.load(&PathBuf::from("no/such/library.so"), Origin::Foreign);
        assert!(matches!(missing, Err(HostError::Load { .. })));
    }
}
