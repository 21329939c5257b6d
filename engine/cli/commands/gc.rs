//! `gc`: results that no pipeline needs any more, by pipeline, node and settings.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use paraloom_exec::{Found, Lookup};
use paraloom_store::{
    Entry, Garbage, Key, RunInfo, RunSummary, Store, StoreError, Usage, Waste, is_unwritable,
};
use serde_json::Value;

use super::print;
use super::store::open;
use crate::args::{GcArgs, PipelineArgs, StageArgs};
use crate::context::Project;
use crate::error::{CliError, Result};
use crate::place;
use crate::render::{self, bytes, printable};

/// Letters of the settings of a result that are shown.
const SETTINGS: usize = 90;

pub(crate) fn run(args: &GcArgs, stages: &StageArgs) -> Result<ExitCode> {
    let path = match (&args.store, args.keep.first()) {
        (None, None) => PathBuf::from(".paraloom"),
        (store, pipeline) => {
            place::of(store.as_deref(), pipeline.map_or(Path::new(""), PathBuf::as_path))
        }
    };
    let store = open(&path)?;
    let lock = match store.lock_exclusive() {
        // Without --delete no write access is needed.
        Err(StoreError::Locked { holder, .. }) if !args.delete => {
            render::note(&format!("{holder} uses the store; what it has not finished is left out"));
            None
        }
        Err(StoreError::Io { ref source, .. }) if !args.delete && is_unwritable(source) => None,
        lock => Some(lock?),
    };
    let runs = store.runs()?;
    let mut keep = Keep::new(args, &runs);
    let mut needed = HashSet::new();
    for pipeline in &args.keep {
        let pipeline = PipelineArgs {
            pipeline: pipeline.clone(),
            store: Some(path.clone()),
            settings: args.settings.clone(),
        };
        keep.add_results_of(&pipeline, stages, &store, &mut needed)?;
    }
    for (key, entry) in store.entries()? {
        if keep.is_recent(&key, &entry) {
            needed.insert(key);
        }
    }
    keep.remember(&needed, &store);
    let mut garbage = store.garbage(&needed)?;
    for number in keep.old_runs() {
        garbage.push(store.garbage_of_run(&runs[number])?);
    }
    if lock.is_none() {
        garbage.retain(|item| matches!(item.waste, Waste::Result(_) | Waste::Checkpoints(_)));
    }
    for item in &garbage {
        print(&format!("{:>10}  {}", bytes(item.bytes), keep.describe(item, &store)))?;
    }
    let total = bytes(garbage.iter().map(|item| item.bytes).sum());
    match lock {
        Some(lock) if args.delete => {
            store.remove(&garbage, &lock)?;
            render::note(&format!("removed {total}"));
        }
        _ => render::note(&format!("{total} could go; --delete removes it")),
    }
    Ok(ExitCode::SUCCESS)
}

/// What stays.
struct Keep {
    usage: Usage,
    /// The runs whose results and logs stay, if that was said.
    newest: Option<HashSet<usize>>,
    /// What was used since then stays, if that was said.
    since: Option<Timestamp>,
    /// The settings of results that stay, by pipeline and node.
    settings: HashMap<(String, String), Value>,
}

impl Keep {
    fn new(args: &GcArgs, runs: &[RunSummary]) -> Self {
        let usage = Usage::of(runs);
        let newest = args.keep_runs.map(|count| usage.newest_runs(count));
        let since = args.older_than.and_then(|age| Timestamp::now().checked_sub(age).ok());
        Self { usage, newest, since, settings: HashMap::new() }
    }

    /// Remembers what stays, to say how that which goes differs from it.
    fn remember(&mut self, needed: &HashSet<Key>, store: &Store) {
        for key in needed {
            let Some((found, run)) = self.usage.newest(key) else { continue };
            let preimage = store.entry(key).preimage().ok().flatten();
            if let Some(config) = preimage.and_then(|preimage| preimage.get("config").cloned()) {
                self.settings.insert((run.pipeline.clone(), found.node.clone()), config);
            }
        }
    }

    /// Whether it was said which results may go besides those that no pipeline needs.
    fn by_use(&self) -> bool {
        self.newest.is_some() || self.since.is_some()
    }

    /// Adds the keys of a pipeline's results, finished or begun. Where there are unknown ones, it has to be said by use what
    /// may go: they may be in the store.
    fn add_results_of(
        &self,
        args: &PipelineArgs,
        stages: &StageArgs,
        store: &Store,
        needed: &mut HashSet<Key>,
    ) -> Result<()> {
        let project = Project::open(args, stages)?;
        let lookup = Lookup::new(&project.graph, &project.workspace.host, Some(store))?;
        for index in project.graph.order() {
            match lookup.found(*index) {
                Found::Complete(result) => needed.insert(result.key.clone()),
                Found::Partial { key, .. } => needed.insert(key.clone()),
                Found::Unknown { .. } if self.by_use() => continue,
                Found::Unknown { .. } => {
                    let node = &project.graph.node(*index).name;
                    return Err(unfinished(args, node).hint(
                        "say what may go by its age or by runs: `--older-than 7d`, `--keep-runs 3`; or finish it with `paraloom run`",
                    ));
                }
            };
        }
        Ok(())
    }

    /// Whether a result was used by a run that stays, or since the time that was said.
    fn is_recent(&self, key: &Key, entry: &Entry) -> bool {
        let used = self.usage.newest(key);
        let by_run = || {
            let newest = self.newest.as_ref()?;
            Some(newest.contains(&used?.0.run))
        };
        let by_time = || Some(used_at(used.map(|(_, run)| run), entry)? >= self.since?);
        by_run() == Some(true) || by_time() == Some(true)
    }

    /// The runs whose logs can go: those that were not to stay, and those that died before another of their pipeline.
    fn old_runs(&self) -> Vec<usize> {
        let last = self.usage.newest_runs(1);
        let goes = |number: &usize| {
            let run = &self.usage.runs[*number];
            let stays_by_run = self.newest.as_ref().map(|newest| newest.contains(number));
            let stays_by_time = self.since.map(|since| run.time.is_some_and(|time| time >= since));
            let stays = [stays_by_run, stays_by_time];
            if stays.contains(&Some(true)) || last.contains(number) {
                return false;
            }
            stays.contains(&Some(false)) || !run.is_over
        };
        (0..self.usage.runs.len()).filter(goes).collect()
    }

    /// What it is to who made it.
    fn describe(&self, item: &Garbage, store: &Store) -> String {
        let text = match &item.waste {
            Waste::Result(key) => self.describe_result(key, &store.entry(key)),
            Waste::Checkpoints(key) => {
                format!("checkpoints of {}", self.describe_result(key, &store.entry(key)))
            }
            Waste::Unfinished => format!("unfinished: {}", item.path.display()),
            Waste::RunLog(id) => {
                let run = self.usage.runs.iter().find(|run| run.id == *id);
                let of = run.map_or_else(String::new, |run| render::of_pipeline(&run.pipeline));
                let died =
                    if run.is_some_and(|run| run.is_over) { "" } else { ", which was cut short" };
                format!("log of run {id}{of}{died}")
            }
        };
        printable(&text)
    }

    fn describe_result(&self, key: &Key, entry: &Entry) -> String {
        let preimage = entry.preimage().ok().flatten();
        let member = |name: &str| preimage.as_ref().and_then(|preimage| preimage.get(name));
        let stage = member("stage").and_then(|stage| stage.as_str()).unwrap_or("unknown stage");
        let used = self.usage.newest(key);
        let mut text = match used {
            Some((found, run)) => {
                let set = run.set.iter().map(|(name, value)| format!(" {name}={value}"));
                format!(
                    "`{}` ({stage}){}{}",
                    found.node,
                    render::of_pipeline(&run.pipeline),
                    set.collect::<String>()
                )
            }
            None => format!("a result of {stage}"),
        };
        if let Some(time) = used_at(used.map(|(_, run)| run), entry) {
            text.push_str(&format!(", last used {}", time.strftime("%Y-%m-%d %H:%M")));
        }
        let kept = used.and_then(|(found, run)| {
            self.settings.get(&(run.pipeline.clone(), found.node.clone()))
        });
        let settings = member("config").map(|config| settings(config, kept)).unwrap_or_default();
        if !settings.is_empty() {
            text.push_str(&format!(", with {settings}"));
        }
        text + &format!("  {}", &key.as_str()[..16])
    }
}

/// When a result was used last: by a run that names it, or else when it was written.
fn used_at(run: Option<&RunInfo>, entry: &Entry) -> Option<Timestamp> {
    let logged = run.and_then(|run| run.time);
    logged.or_else(|| entry.dir().metadata().ok()?.modified().ok()?.try_into().ok())
}

/// The settings in which a result differs from one of the same node that stays, or all where there is none.
fn settings(config: &Value, kept: Option<&Value>) -> String {
    let differs = |(name, value): &(&String, &Value)| {
        !value.is_null() && kept.is_none_or(|kept| kept.get(name.as_str()) != Some(*value))
    };
    let settings = config.as_object().into_iter().flatten().filter(differs);
    let settings: Vec<_> = settings.map(|(name, value)| format!("{name}: {value}")).collect();
    match kept {
        Some(_) if settings.is_empty() => "other inputs".to_owned(),
        _ => shortened(&settings.join(", ")),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SETTINGS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

pub(super) fn unfinished(args: &PipelineArgs, node: &str) -> CliError {
    CliError::usage(format!(
        "{} is not finished (`{node}` is unknown), so what it needs cannot be told apart",
        args.pipeline.display()
    ))
}

/// An age such as `30d`, `12h`, `45m` or `2w`.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    const FORM: &str = "write an age such as 30d, 12h or 45m";
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(FORM.to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| FORM)?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(|| "it is too long ago".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_goes_is_told_by_what_is_other_about_it() {
        let config = json!({ "rate": 0.02, "steps": 3, "none": null, "prefix": "x".repeat(99) });
        let kept = json!({ "rate": 0.01, "steps": 3, "none": null, "prefix": "x".repeat(99) });
        assert_eq!(settings(&config, Some(&kept)), "rate: 0.02");
        assert_eq!(settings(&config, Some(&config)), "other inputs");
        assert!(settings(&config, None).starts_with("rate: 0.02, steps: 3, prefix: \"xxx"));
        assert!(settings(&config, None).ends_with("x..."));
    }

    #[test]
    fn ages_have_a_number_and_a_unit() {
        let hours = |count: u64| Ok(Duration::from_secs(count * 3_600));
        assert_eq!(age("12h"), hours(12));
        assert_eq!(age("30d"), hours(720));
        assert_eq!(age("2w"), hours(336));
        assert_eq!(age("90m"), Ok(Duration::from_mins(90)));
        for text in ["", "d", "12", "1.5h", "-1d", "1y", "99999999999999999d", "1 d", "１d"] {
            assert!(age(text).is_err(), "{text}");
        }
    }
}
