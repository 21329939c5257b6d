//! The stages of several libraries, by name.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{HostError, Result};
use crate::library::LoadedStage;

/// Stages by the name that a pipeline writes. Those that several libraries offer are `library/stage` each.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    by_name: BTreeMap<String, LoadedStage>,
    /// The full names of those that share one.
    shared: BTreeMap<String, Vec<String>>,
}

impl Stages {
    /// Adds a stage; one of its name that is there already, and it, get their full names.
    ///
    /// # Errors
    /// There is one of its full name, too.
    pub(crate) fn add(&mut self, stage: LoadedStage) -> Result<()> {
        let name = stage.name.clone();
        if let Some(first) = self.by_name.get(&name)
            && full_name(first) == full_name(&stage)
        {
            return Err(HostError::Shared { stage: name, full_names: Vec::new() });
        }
        if let Some(first) = self.by_name.remove(&name) {
            self.shared.insert(name.clone(), Vec::new());
            self.add_full(&name, first)?;
        }
        if self.shared.contains_key(&name) {
            return self.add_full(&name, stage);
        }
        self.by_name.insert(name, stage);
        Ok(())
    }

    fn add_full(&mut self, name: &str, mut stage: LoadedStage) -> Result<()> {
        let full = full_name(&stage);
        if self.by_name.contains_key(&full) {
            return Err(HostError::Shared { stage: name.to_owned(), full_names: Vec::new() });
        }
        self.shared.entry(name.to_owned()).or_default().push(full.clone());
        stage.info.name.clone_from(&full);
        self.by_name.insert(full, stage);
        Ok(())
    }

    /// Whether there is a stage of the same library and name.
    pub(crate) fn has_same(&self, stage: &LoadedStage) -> bool {
        let full = full_name(stage);
        let plain = self.by_name.get(&stage.name).filter(|other| full_name(other) == full);
        plain.is_some() || self.by_name.contains_key(&full)
    }

    /// The stage of a name, or of a full name.
    ///
    /// # Errors
    /// Several libraries offer it, and the name says not which.
    pub(crate) fn get(&self, name: &str) -> Result<Option<&LoadedStage>> {
        if let Some(full_names) = self.shared.get(name) {
            let (stage, full_names) = (name.to_owned(), full_names.clone());
            return Err(HostError::Shared { stage, full_names });
        }
        let plain = || {
            let (_, plain) = name.split_once('/')?;
            self.by_name.get(plain).filter(|stage| full_name(stage) == name)
        };
        Ok(self.by_name.get(name).or_else(plain))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &LoadedStage> {
        self.by_name.values()
    }
}

/// `unruly/count` of the stage `count` of `libunruly.so`.
fn full_name(stage: &LoadedStage) -> String {
    let file = Path::new(&stage.info.library).file_stem().unwrap_or_default().to_string_lossy();
    let library = file.strip_prefix("lib").unwrap_or(&file);
    let library = library.strip_prefix("paraloom_stages_").unwrap_or(library);
    format!("{library}/{}", stage.name)
}
