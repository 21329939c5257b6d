//! What a pipeline takes from hubs: what its references mean, and where their files are.
//!
//! Three places know what a branch is: the hub, which only a run asks; the store, which
//! remembers what its runs took; and the cache on this machine, which other programs share.
//! They are believed in this order, so that between two runs nothing moves.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Instant;

use paraloom_hub::{Hub, HubError, Kind, Notice, Pinned, Reference, Settings, Watch};
use paraloom_pipeline::{HubLocation, Location, Node, PlanFailure, PlanOutput, StageInfo, nearest};
use paraloom_store::{Event, Store};
use serde_json::{Value, json};

use crate::error::{Result, RunError};
use crate::event::{Observer, tell};
use crate::memory::{Memory, plan_key};
use crate::run::Cancel;

/// The hub references of a pipeline.
#[derive(Debug)]
pub struct Remotes {
    hub: Hub,
    memory: Memory,
    /// What the hub says in this run.
    pins: HashMap<Reference, Pinned>,
    /// Why it says nothing.
    failures: HashMap<Reference, HubError>,
    /// What was fetched in this run already.
    fetched: HashSet<Reference>,
    /// The references that the pipeline has been found to name.
    named: RefCell<Vec<Reference>>,
}

/// What is known of a reference without asking a hub.
struct Known {
    pinned: Pinned,
    paths: Option<Vec<PathBuf>>,
}

impl Remotes {
    /// Nothing is asked yet. The store, if there is one, knows what earlier runs took.
    pub fn new(settings: Settings, store: Option<&Store>) -> Self {
        Self {
            hub: Hub::new(settings),
            memory: store.map(Memory::load).unwrap_or_default(),
            pins: HashMap::new(),
            failures: HashMap::new(),
            fetched: HashSet::new(),
            named: RefCell::default(),
        }
    }

    /// Whether the pipeline names nothing on a hub.
    pub(crate) fn is_unused(&self) -> bool {
        self.named.borrow().is_empty()
    }

    /// What a text in the pipeline means, if it means something on a hub.
    pub(crate) fn locate(&self, text: &str) -> Result<Option<HubLocation>, PlanFailure> {
        if !Reference::is_meant(text) {
            return Ok(None);
        }
        let reference = Reference::parse(text).map_err(|error| PlanFailure {
            hint: Some(error.hint.to_owned()),
            message: error.message,
            ..PlanFailure::default()
        })?;
        let known = self.known(&reference);
        let location = HubLocation {
            reference: reference.unpinned(),
            commit: known.as_ref().map(|known| known.pinned.commit.clone()),
            paths: known.and_then(|known| known.paths),
        };
        let mut named = self.named.borrow_mut();
        if !named.contains(&reference) {
            named.push(reference);
        }
        Ok(Some(location))
    }

    fn known(&self, reference: &Reference) -> Option<Known> {
        let at =
            |pinned: Pinned| Known { paths: self.hub.paths(reference, &pinned.commit), pinned };
        if let Some(pinned) = self.pins.get(reference) {
            return Some(at(pinned.clone()));
        }
        let cached = self.hub.cached(reference);
        let cached = cached.map(|cached| Known { pinned: cached.pinned, paths: cached.paths });
        match (self.memory.pinned(reference).map(at), cached) {
            // Another program has replaced what we had.
            (Some(Known { paths: None, .. }), Some(cached)) if cached.paths.is_some() => {
                Some(cached)
            }
            (remembered, cached) => remembered.or(cached),
        }
    }

    /// Asks the hub what the references mean now. Where it does not answer, what is known has
    /// to do, and the observer is told.
    pub(crate) fn pin(&mut self, cancel: &Cancel, observer: Observer) -> Result<()> {
        let stop = cancel.flag();
        for reference in self.named.borrow().clone() {
            let notice = |notice: &Notice| tell_notice(&reference, notice, observer);
            let watch = Watch { stop: &stop, notice: &notice };
            match self.hub.pin(&reference, &watch) {
                Ok(pinned) => drop(self.pins.insert(reference, pinned)),
                Err(HubError::Stopped) => return Err(RunError::Stopped),
                Err(error) => {
                    if let (Some(known), false) = (self.known(&reference), self.hub.is_offline()) {
                        let commit = known.pinned.commit.get(..8).unwrap_or_default();
                        let message =
                            format!("{error}; going on with commit {commit}…, which is known");
                        let reference = reference.to_string();
                        tell(observer, Event::HubNotice { reference, message });
                    }
                    self.failures.insert(reference, error);
                }
            }
        }
        Ok(())
    }

    /// The data sets whose columns are guessed, because their files are not here.
    pub(crate) fn guessed(&self) -> Vec<Reference> {
        let is_guessed = |reference: &&Reference| {
            matches!(reference.kind, Kind::Dataset { .. })
                && self.known(reference).is_none_or(|known| known.paths.is_none())
        };
        self.named.borrow().iter().filter(is_guessed).cloned().collect()
    }

    /// The references that a node names.
    pub(crate) fn of_node(node: &Node) -> impl Iterator<Item = Reference> {
        let is_hub = |location: &Location| matches!(location, Location::Hub(_));
        node.paths
            .iter()
            .filter(move |used| is_hub(&used.location))
            .filter_map(|used| Reference::parse(&used.text).ok())
    }

    /// Brings references onto this machine, and remembers in the store what they were.
    pub(crate) fn fetch(
        &mut self,
        references: &[Reference],
        store: &Store,
        cancel: &Cancel,
        observer: Observer,
    ) -> Result<()> {
        for reference in references {
            if self.fetched.insert(reference.clone()) {
                let pinned = self.fetch_one(reference, cancel, observer)?;
                self.memory.pin(reference, &pinned);
                self.pins.insert(reference.clone(), pinned);
            }
        }
        Ok(self.memory.save(store)?)
    }

    fn fetch_one(
        &mut self,
        reference: &Reference,
        cancel: &Cancel,
        observer: Observer,
    ) -> Result<Pinned> {
        let Some(Known { pinned, .. }) = self.known(reference) else {
            let error = self.failures.remove(reference).unwrap_or(HubError::Stopped);
            return Err(RunError::from_hub(reference, error));
        };
        let name = reference.to_string();
        let stop = cancel.flag();
        let notice = |notice: &Notice| tell_notice(reference, notice, observer);
        let watch = Watch { stop: &stop, notice: &notice };
        let started = Instant::now();
        tell(
            observer,
            Event::FetchStarted { reference: name.clone(), commit: pinned.commit.clone() },
        );
        let fetched = self.hub.fetch(reference, &pinned, &watch);
        fetched.map_err(|error| RunError::from_hub(reference, error))?;
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tell(observer, Event::FetchFinished { reference: name, ms });
        Ok(pinned)
    }

    /// What a stage puts out whose files were here once, when nothing else can tell.
    pub(crate) fn remembered_plan(&self, stage: &StageInfo, config: &Value) -> Option<PlanOutput> {
        let mut commits = Vec::new();
        self.missing_commits(config, &mut commits)?;
        if commits.is_empty() { None } else { self.memory.plan(&plan_key(stage, config, &commits)) }
    }

    /// The commits of the references in a configuration; `None` if one is not known.
    fn missing_commits(&self, config: &Value, commits: &mut Vec<String>) -> Option<()> {
        match config {
            Value::String(text) if Reference::is_meant(text) => {
                let reference = Reference::parse(text).ok()?;
                commits.push(self.known(&reference)?.pinned.commit);
                Some(())
            }
            Value::Array(items) => {
                items.iter().try_for_each(|item| self.missing_commits(item, commits).ok_or(())).ok()
            }
            Value::Object(members) => members
                .values()
                .try_for_each(|item| self.missing_commits(item, commits).ok_or(()))
                .ok(),
            _ => Some(()),
        }
    }

    /// Remembers in the store what the references of some nodes were, and what those nodes put
    /// out whose files are here now.
    pub(crate) fn remember<'a>(
        &mut self,
        nodes: impl Iterator<Item = &'a Node>,
        store: &Store,
    ) -> Result<()> {
        for node in nodes {
            for reference in Self::of_node(node) {
                if let Some(pinned) = self.pins.get(&reference) {
                    self.memory.pin(&reference, pinned);
                }
            }
            if let Some(key) = self.plan_key(node) {
                self.memory.keep_plan(key, node);
            }
        }
        Ok(self.memory.save(store)?)
    }

    /// The name of a node's plan, if it takes something from a hub and all of that is here.
    fn plan_key(&self, node: &Node) -> Option<String> {
        let mut config = node.config.clone();
        for used in &node.paths {
            if let Location::Hub(hub) = &used.location {
                hub.paths.as_ref()?;
                *config.pointer_mut(&used.pointer)? = json!(used.text);
            }
        }
        let mut commits = Vec::new();
        self.missing_commits(&config, &mut commits)?;
        (!commits.is_empty()).then(|| plan_key(&node.stage, &config, &commits))
    }
}

fn tell_notice(reference: &Reference, notice: &Notice, observer: Observer) {
    let reference = reference.to_string();
    let event = match notice {
        Notice::Progress { done, total } => Event::Fetch { reference, done: *done, total: *total },
        Notice::Retry { reason, pause } => {
            let message = format!("{reason}; trying again in {:.1} s", pause.as_secs_f64());
            Event::HubNotice { reference, message }
        }
        Notice::Waiting { file } => {
            let message = format!("another process downloads {file}; waiting for it");
            Event::HubNotice { reference, message }
        }
    };
    tell(observer, event);
}

/// "did you mean `train`?", where a name of a data set is misspelt.
pub(crate) fn near(error: &HubError) -> Option<String> {
    let HubError::NoSplit { wanted, known, .. } = error else { return None };
    let near = nearest(wanted, known.iter().map(String::as_str))?;
    Some(format!("did you mean `{near}`?"))
}
