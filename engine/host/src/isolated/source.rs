//! Where processes for the stages of one library come from.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use paraloom_pipeline::PlanOutput;

use super::handler::{Handler, Slow};
use super::ipc;
use super::process::Process;
use super::wire::{self, Blobs, Command, Outcome, PlanRequest};
use crate::description::Description;
use crate::error::{HostError, Result};
use crate::log_limit::LogLimit;
use crate::services::{Level, Services};

/// The program that a stage works in: it calls [`run_stage_process`](crate::run_stage_process) with its standard input.
#[derive(Clone, Debug)]
pub struct Isolation {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Tells the user what happens before the work begins: what a library prints while it is loaded and plans, and that one
    /// of these takes long.
    pub tell: fn(&str),
}

/// A library, and the program that loads it.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) isolation: Isolation,
    pub(super) path: PathBuf,
    /// Of the file as it was when the engine first saw it.
    pub(super) digest: String,
}

impl Source {
    /// A process that has loaded the library. What it prints is logged by `services`, or else told to the user.
    pub(super) fn start(
        &self,
        services: Option<&Arc<dyn Services>>,
    ) -> Result<(Process, Description)> {
        let refuse = |reason: String| HostError::Load { path: self.path.clone(), reason };
        let mut process = Process::start(&self.isolation, self.log(services))
            .map_err(|error| refuse(format!("cannot start a process for it: {error}")))?;
        let load = Command::Load { path: self.path.clone(), digest: self.digest.clone() };
        let mut handler = Handler::of(services);
        handler.slow = self.slow(services, format!("{} to load", self.path.display()));
        match process.command(&load, &Blobs::new(), &mut handler) {
            Ok((Outcome::Described(described), _)) => Ok((process, described)),
            Ok(_) => Err(refuse(UNEXPECTED.to_owned())),
            Err(HostError::Crashed { how, .. }) => {
                Err(refuse(format!("the process that loaded it has ended ({how})")))
            }
            // Of another version, say.
            Err(HostError::Engine(what)) => Err(refuse(what.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Where a process prints to: the log of a node at work, which is bounded, or the user, with a bound.
    fn log(&self, services: Option<&Arc<dyn Services>>) -> Box<dyn Fn(&str) + Send> {
        if let Some(services) = services.cloned() {
            return Box::new(move |line| services.log(Level::Info, line));
        }
        let (tell, file) = (self.isolation.tell, self.path.file_name().unwrap_or_default());
        let name = file.to_string_lossy().into_owned();
        let limit = LogLimit::new(move |_, line| tell(&format!("{name}: {line}")));
        Box::new(move |line| limit.log(Level::Info, line))
    }

    /// Tells of something that takes long: as a warning of a node at work, or the user.
    pub(super) fn slow<'a>(
        &self,
        services: Option<&'a Arc<dyn Services>>,
        what: String,
    ) -> Option<Slow<'a>> {
        let tell = self.isolation.tell;
        let message = format!("still waiting for {what}");
        Some(Slow::new(move || match services {
            Some(services) => services.log(Level::Warn, &message),
            None => tell(&message),
        }))
    }

    /// The same of a plan.
    pub(super) fn slow_plan<'a>(
        &self,
        services: Option<&'a Arc<dyn Services>>,
        request: &PlanRequest,
    ) -> Option<Slow<'a>> {
        let PlanRequest { stage, node, .. } = request;
        self.slow(services, format!("plan() of `{node}` (stage `{stage}`)"))
    }
}

const UNEXPECTED: &str = "its process sent an unexpected answer";

/// Has the stage of a process plan.
pub(super) fn ask_plan(
    process: &mut Process,
    request: &PlanRequest,
    schemas: &Blobs,
    handler: &mut Handler,
) -> Result<PlanOutput> {
    let broken = |what: String| HostError::Broken { stage: request.stage.clone(), what };
    let plan = Command::Plan(request.clone());
    handler.during = " in plan()".to_owned();
    let (Outcome::Planned(planned), schemas) = process.command(&plan, schemas, handler)? else {
        return Err(broken(UNEXPECTED.to_owned()));
    };
    let mut schemas = schemas.iter();
    let outputs = planned.tables.iter().map(|is_table| {
        let Some(schema) = is_table.then(|| schemas.next()).flatten() else { return Ok(None) };
        ipc::decode(schema).map(|(schema, _)| Some(schema))
    });
    let outputs = outputs.collect::<Result<_, _>>().map_err(|error| broken(error.to_string()))?;
    let wire::Planned { fingerprint, notes, memory, .. } = planned;
    Ok(PlanOutput { outputs, fingerprint, notes, memory })
}
