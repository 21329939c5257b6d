//! A library of stages, loaded into this process or into one of its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use paraloom_pipeline::StageInfo;

use crate::description::Description;
use crate::error::{HostError, Result};
use crate::executor::Executor;
use crate::in_process::InProcess;
use crate::isolated::{Isolated, Isolation};
use crate::library_file::LibraryFile;
use crate::search::Origin;

/// A stage that can be called.
#[derive(Clone, Debug)]
pub struct LoadedStage {
    /// Its name in its library.
    pub name: String,
    /// What it says of itself. If another library offers one of its name, it is called `library/name` here.
    pub info: StageInfo,
    /// Digest of its library if it is not shipped with the engine.
    pub foreign: Option<String>,
    /// Of its library; behind a `+` are the sources that it was built from.
    pub(crate) library_version: String,
    pub(crate) executor: Arc<dyn Executor>,
    /// What it says of itself under its name in its library, for its executor.
    own: OnceLock<Arc<StageInfo>>,
}

impl LoadedStage {
    pub(crate) fn new(
        info: StageInfo,
        foreign: Option<String>,
        library_version: String,
        executor: Arc<dyn Executor>,
    ) -> Self {
        let (name, own) = (info.name.clone(), OnceLock::new());
        Self { name, info, foreign, library_version, executor, own }
    }

    pub(crate) fn own(&self) -> &Arc<StageInfo> {
        let own = || Arc::new(StageInfo { name: self.name.clone(), ..self.info.clone() });
        self.own.get_or_init(own)
    }
}

/// A loaded library.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    /// Of one that is not shipped with the engine.
    digest: Option<String>,
    is_isolated: bool,
    name: String,
    version: String,
    built_with: String,
    stages: Vec<LoadedStage>,
}

impl Library {
    /// Loads a library: into this process, or if it is foreign into one in `isolation`.
    ///
    /// # Errors
    /// Why the file is no library, or its stages cannot be used.
    pub(crate) fn load(file: LibraryFile, isolation: Option<&Isolation>) -> Result<Self> {
        let LibraryFile { path, digest: foreign } = file;
        let (executor, description): (Arc<dyn Executor>, Description) = match (&foreign, isolation)
        {
            (Some(digest), Some(isolation)) => {
                let (isolated, description) = Isolated::load(isolation, &path, digest)?;
                (Arc::new(isolated), description)
            }
            _ => {
                let (in_process, description) = InProcess::load(&path)?;
                (Arc::new(in_process), description)
            }
        };
        let refuse = |reason: String| HostError::Load { path: path.clone(), reason };
        description.check().map_err(refuse)?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stage = |mut info: StageInfo| {
            file.clone_into(&mut info.library);
            let (foreign, version) = (foreign.clone(), description.version.clone());
            LoadedStage::new(info, foreign, version, Arc::clone(&executor))
        };
        Ok(Self {
            is_isolated: foreign.is_some() && isolation.is_some(),
            stages: description.stages.into_iter().map(stage).collect(),
            name: description.name,
            version: description.version.clone(),
            built_with: description.built_with,
            path,
            digest: foreign,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shipped or foreign.
    pub fn origin(&self) -> Origin {
        if self.digest.is_some() { Origin::Foreign } else { Origin::Shipped }
    }

    /// Whether it is of that file, or of a copy.
    pub(crate) fn is_of(&self, file: &LibraryFile) -> bool {
        self.path == file.path || (self.digest.is_some() && self.digest == file.digest)
    }

    /// Whether its stages work in isolated processes.
    pub fn is_isolated(&self) -> bool {
        self.is_isolated
    }

    /// Name and version, as the library gives them.
    pub fn name(&self) -> (&str, &str) {
        (&self.name, &self.version)
    }

    /// SDK and compiler, as the library gives them.
    pub fn built_with(&self) -> &str {
        &self.built_with
    }

    /// The stages that it offers.
    pub fn stages(&self) -> &[LoadedStage] {
        &self.stages
    }
}
