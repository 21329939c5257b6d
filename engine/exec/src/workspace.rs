//! A pipeline file, the stages, and what both say together.

use std::path::{Path, PathBuf};

use paraloom_host::{Host, HostError, Origin};
use paraloom_pipeline::{
    Catalog, Diagnostic, Graph, Limits, Location, PlanFailure, PlanInput, PlanOutput, Settings,
    StageInfo, check_text, nearest,
};

use crate::locate::locate;
use crate::remotes::Remotes;

/// A pipeline's text and directory, and the stages that it may use.
#[derive(Debug)]
pub struct Workspace {
    /// The stages.
    pub host: Host,
    /// The directory of the pipeline file: what relative paths are relative to.
    pub dir: PathBuf,
    /// The text of the pipeline.
    pub text: String,
    /// How large the text may be.
    pub limits: Limits,
    /// The backend to compute with, instead of the pipeline's.
    pub backend: Option<String>,
    /// The device to compute on, instead of the pipeline's.
    pub device: Option<String>,
    /// What the pipeline takes from hubs.
    pub remotes: Remotes,
}

impl Workspace {
    /// A pipeline that computes with what it says itself, of the ordinary size. `dir` is what relative paths are relative to;
    /// what is taken from hubs is in the cache `hub`.
    pub fn new(host: Host, dir: &Path, text: &str, hub: &Path) -> Self {
        Self {
            host,
            dir: dir.to_owned(),
            text: text.to_owned(),
            backend: None,
            device: None,
            limits: Limits::default(),
            remotes: Remotes::new(paraloom_hub::Settings::new(hub.to_owned()), None),
        }
    }

    /// Checks the pipeline from end to end.
    pub fn check(
        &self,
        set: &[(String, String)],
        env: &dyn Fn(&str) -> Option<String>,
    ) -> (Option<Graph>, Vec<Diagnostic>) {
        let (backend, device) = (self.backend.as_deref(), self.device.as_deref());
        let settings = Settings { set, env, backend, device, limits: self.limits };
        check_text(&self.text, &settings, self)
    }
}

/// How a backend gets there.
const MAKE_BACKENDS: &str =
    "`cargo xtask torch` (`cuda`, `wgpu`) makes a backend; `paraloom doctor` says what is there";

impl Workspace {
    /// That no library offers a stage: where it was looked for, and which libraries could not be asked.
    fn no_stage(&self, name: &str) -> PlanFailure {
        let near = nearest(name, self.names()).map(|near| format!("did you mean `{near}`?"));
        let libraries = self.host.libraries().iter();
        let others = libraries.filter(|library| library.origin() == Origin::Foreign);
        let others: Vec<_> = others.map(|library| library.path().display().to_string()).collect();
        let looked = if others.is_empty() {
            "only the libraries that ship with paraloom were looked at; \
             `--stages` names others, `paraloom stages` lists what there is"
                .to_owned()
        } else {
            format!("looked in {}, and in those that ship", others.join(", "))
        };
        let looked = Some(looked).filter(|_| near.is_none() || !others.is_empty());
        let skipped = self.host.skipped().iter().map(ToString::to_string);
        let all: Vec<_> = near.into_iter().chain(looked).chain(skipped).collect();
        PlanFailure::new(format!("there is no stage `{name}`")).hint(all.join("\n"))
    }
}

impl Catalog for Workspace {
    fn stage(&self, name: &str, backend: &str) -> Result<Option<&StageInfo>, PlanFailure> {
        let found = self.host.stage(name, backend).map_err(|error| {
            let hint = match &error {
                HostError::NoBackend { known, .. } => {
                    let near = nearest(backend, known.iter().map(String::as_str));
                    let near = near.map(|near| format!("did you mean `{near}`?"));
                    near.unwrap_or_else(|| {
                        format!("there is {}; {MAKE_BACKENDS}", known.join(", "))
                    })
                }
                HostError::Shared { .. } => error.hint().unwrap_or_default(),
                _ => MAKE_BACKENDS.to_owned(),
            };
            PlanFailure { message: error.to_string(), hint: Some(hint), ..PlanFailure::default() }
        })?;
        found.map(|stage| Some(&stage.info)).ok_or_else(|| self.no_stage(name))
    }

    fn names(&self) -> Vec<&str> {
        self.host.stages().map(|stage| stage.info.name.as_str()).collect()
    }

    fn plan(
        &self,
        stage: &StageInfo,
        node: &str,
        config: &serde_json::Value,
        inputs: &[PlanInput],
    ) -> Result<PlanOutput, PlanFailure> {
        // What a finished node put out is known, also when its files are gone from the cache.
        if let Some(planned) = self.remotes.remembered_plan(stage, config) {
            return Ok(planned);
        }
        match self.host.plan(stage, node, config, inputs) {
            Ok(planned) => Ok(planned.output().clone()),
            Err(HostError::Stage(failure)) => Err(PlanFailure {
                message: failure.message,
                pointer: failure.pointer,
                input: failure.input,
                hint: failure.hint,
                spans: failure.spans,
            }),
            Err(other) => Err(PlanFailure {
                message: other.to_string(),
                hint: other.hint(),
                ..PlanFailure::default()
            }),
        }
    }

    fn resolve_path(&self, text: &str) -> Result<Location, PlanFailure> {
        if let Some(location) = self.remotes.locate(text)? {
            return Ok(Location::Hub(location));
        }
        locate(&self.dir, text)
    }
}
