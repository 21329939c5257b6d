//! Libraries that compute stages of other libraries in another way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::error::{HostError, Result};
use crate::library::{Library, LoadedStage};
use crate::library_file::LibraryFile;
use crate::search::Origin;
use crate::stages::Stages;

/// Stages by name.
type Found = BTreeMap<String, LoadedStage>;

/// Libraries that compute stages of other libraries in another way; loaded when one is asked for.
#[derive(Debug, Default)]
pub(crate) struct Backend {
    pub(crate) paths: Vec<PathBuf>,
    loaded: OnceLock<std::result::Result<Found, String>>,
}

impl Backend {
    /// `always`: the stages of the libraries that are always there.
    pub(crate) fn stages(&self, name: &str, always: &Stages) -> Result<&Found> {
        let load = || {
            let mut stages = Found::new();
            for path in &self.paths {
                let file = LibraryFile::open(path, Origin::Shipped)?;
                let library = Library::load(file, None).map_err(|error| match error {
                    HostError::Load { reason, .. } => missing_library(&reason).unwrap_or(reason),
                    error => error.to_string(),
                })?;
                for stage in library.stages() {
                    let ours = always.get(&stage.info.name).ok().flatten();
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
