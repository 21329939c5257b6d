//! `run --on ray`: workers on a Ray cluster.

use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use paraloom_exec::Cancel;
use paraloom_pipeline::{Graph, Location};
use paraloom_ray::{Cluster, DRIVER, DRIVER_NAME, JobStatus, Package, RayError, Submission};

use super::run;
use crate::args::{ClusterArgs, RunArgs, StageArgs};
use crate::context::{self, Project};
use crate::error::{CliError, NODE_FAILED, Result, USAGE};
use crate::shell::quoted;
use crate::signals::Signals;
use crate::{place, render};

/// How often it is looked how far the job is.
const LOOK: Duration = Duration::from_secs(1);
/// How long a cluster may take to start before a job is refused.
const STARTS: Duration = Duration::from_mins(1);
/// How many looks in a row may fail: a dashboard that starts anew is no end of a job.
const PATIENCE: u32 = 60;

pub(crate) fn run(args: &RunArgs, stages: &StageArgs) -> Result<ExitCode> {
    let ClusterArgs { address, .. } = &args.cluster;
    let address = address.as_deref().ok_or_else(|| {
        CliError::usage("where the cluster is was not said")
            .hint("name its dashboard: `--address http://HEAD:8265`")
    })?;
    if address.contains(['@', '?']) {
        return Err(CliError::usage(
            "the address of the cluster may not hold credentials or a query",
        )
        .hint(
            "name its dashboard, `--address http://HEAD:8265`, and give a token by RAY_AUTH_TOKEN",
        ));
    }
    let pipeline = &args.work.pipeline;
    let store = pipeline.store.as_deref().unwrap_or(Path::new(""));
    if !store.to_str().is_some_and(paraloom_bucket::is_url) && !store.is_absolute() {
        return Err(CliError::usage(format!(
            "the cluster does not see the store {}",
            store.display()
        ))
        .hint("name a bucket, or the whole path of a directory that every node has"));
    }
    let cancel = Cancel::default();
    let checked = context::check(pipeline, stages)?;
    let signals = Signals::listen(&cancel.flag());
    let opened = Project::fetched(pipeline, checked, None, &cancel, &|_| {})?;
    let Some((project, _store)) = opened else { return Ok(stopped(&signals)) };

    let cluster = Cluster::new(address, token());
    let version = cluster.version().map_err(from_ray)?;
    let travels = Travels::of(pipeline.pipeline.as_path(), &project.graph, stages)?;
    let package = Package::new(&travels.files, &[(DRIVER_NAME, DRIVER)]).map_err(from_ray)?;
    let is_new = cluster.upload(&package).map_err(from_ray)?;
    let sent = if is_new { "sent" } else { "there already" };
    let length = render::bytes(package.bytes().len() as u64);
    render::note(&format!(
        "Ray {version} at {address}: {} files, {length}, {sent}",
        travels.files.len()
    ));

    let name = &project.graph.name;
    let now = Timestamp::now().strftime("%Y%m%dT%H%M%S%3f");
    let id = format!("paraloom-{now}-{}", std::process::id());
    let entrypoint = entrypoint(args, stages, &travels);
    let job =
        Submission { id: &id, entrypoint: &entrypoint, package: &package.name(), title: name };
    if !submit(&cluster, &job, &cancel)? {
        return Ok(stopped(&signals));
    }
    render::note(&format!("job {id}"));
    let (status, log) = follow(&cluster, &id, &cancel)?;
    match status {
        JobStatus::Succeeded => {}
        _ if cancel.is_set() => return Ok(stopped(&signals)),
        JobStatus::Stopped | JobStatus::Active => {
            let failure = CliError::new(NODE_FAILED, format!("the job {id} was stopped"));
            return Err(failure.hint("what is done stays in the store: run again to go on"));
        }
        JobStatus::Failed(reason) => {
            let line = reason.split([',', '\n']).next().unwrap_or_default();
            let failure = CliError::new(NODE_FAILED, format!("the job {id} failed: {line}"));
            let has_no_ray =
                log.contains("No module named 'ray'") || line.ends_with("exit code 127");
            return Err(failure.hint(if has_no_ray {
                "`--python` names the Python of the cluster's nodes that has Ray"
            } else {
                "what is done stays in the store: run again to go on"
            }));
        }
    }
    // All is in the store: this finds it, and says what came of it.
    run::run(&args.work, None, stages)
}

/// Starts a job, also on a cluster that is just starting itself. False if somebody asked to stop before.
fn submit(cluster: &Cluster, job: &Submission, cancel: &Cancel) -> Result<bool> {
    let began = Instant::now();
    let mut is_told = false;
    loop {
        match cluster.submit(job) {
            Err(RayError::NotYet { .. }) if began.elapsed() < STARTS => {
                if !std::mem::replace(&mut is_told, true) {
                    render::note("the cluster is still starting");
                }
                std::thread::sleep(LOOK);
            }
            submitted => return submitted.map(|()| true).map_err(from_ray),
        }
        if cancel.is_set() {
            return Ok(false);
        }
    }
}

fn stopped(signals: &Signals) -> ExitCode {
    render::note("stopped; the same command goes on from here");
    ExitCode::from(signals.exit_code())
}

/// The token, from where Ray's own tools take it.
fn token() -> Option<String> {
    let from_file = |path: PathBuf| std::fs::read_to_string(path).ok();
    let text = std::env::var("RAY_AUTH_TOKEN").ok();
    let text = text.or_else(|| from_file(std::env::var_os("RAY_AUTH_TOKEN_PATH")?.into()));
    let text =
        text.or_else(|| from_file(Path::new(&std::env::var_os("HOME")?).join(".ray/auth_token")));
    text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Shows what the job prints until it is over, also because somebody asked to stop. How it ended, and all that it printed.
fn follow(cluster: &Cluster, id: &str, cancel: &Cancel) -> Result<(JobStatus, String)> {
    let (mut shown, mut failures, mut is_stopping) = (0, 0, false);
    loop {
        if cancel.is_set() && !is_stopping {
            render::note(&format!("stopping the job {id}"));
            cluster.stop(id).map_err(from_ray)?;
            is_stopping = true;
        }
        // First the status: what is printed before the end is then in the log.
        let looked = cluster.status(id).and_then(|status| Ok((status, cluster.logs(id)?)));
        match looked {
            Ok((status, log)) => {
                failures = 0;
                let end = if status == JobStatus::Active {
                    log.rfind('\n').map_or(0, |end| end + 1)
                } else {
                    log.len()
                };
                for line in log.get(shown..end).unwrap_or_default().lines() {
                    let line = without_colors(line);
                    render::note(&render::printable(line_of_worker(&line)));
                }
                shown = shown.max(end);
                if status != JobStatus::Active {
                    return Ok((status, log));
                }
            }
            Err(RayError::Unreachable { .. }) if failures < PATIENCE => failures += 1,
            Err(error) => return Err(from_ray(error)),
        }
        std::thread::sleep(LOOK);
    }
}

/// A line without what Ray puts before those of workers: `(work pid=7, ip=10.0.0.1) [0/3] done corpus`.
fn line_of_worker(line: &str) -> &str {
    match line.split_once(") [") {
        Some((before, _)) if before.starts_with("(work ") => &line[before.len() + 2..],
        _ => line,
    }
}

/// A line without the sequences that color it.
fn without_colors(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest))
}

/// The files that the workers need.
struct Travels {
    /// The name on the cluster, and the file here.
    files: Vec<(String, PathBuf)>,
    /// The name of the pipeline there.
    pipeline: String,
    /// The names of third-party stage libraries there.
    libraries: Vec<String>,
}

impl Travels {
    /// The binary, its stage libraries, those of `stages`, the pipeline, and the files that it names by relative paths. What it
    /// names by absolute ones has to be on each node.
    fn of(pipeline: &Path, graph: &Graph, stages: &StageArgs) -> Result<Self> {
        let mut files = Vec::new();
        let executable = std::env::current_exe().and_then(|path| path.canonicalize())?;
        for library in paraloom_host::shipped_libraries(&executable) {
            // The larger backends are installed on the nodes, if anywhere.
            let name = file_name(&library);
            if name.ends_with("stages_t5.so") || name.ends_with("stages_text.so") {
                files.push((format!("lib/paraloom/stages/{name}"), library));
            }
        }
        files.push(("bin/paraloom".to_owned(), executable));
        let mut libraries = Vec::new();
        for path in stages.paths.iter().filter(|path| !path.as_os_str().is_empty()) {
            let name = format!("stages/{}", file_name(path));
            add(&mut files, &name, path)?;
            libraries.push(name);
        }
        let dir =
            pipeline.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = dir.canonicalize()?;
        let named: Vec<_> =
            graph.order().iter().flat_map(|node| &graph.node(*node).paths).collect();
        let relative = named.iter().filter(|used| !Path::new(&used.text).is_absolute());
        let local: Vec<_> = relative
            .flat_map(|used| match &used.location {
                Location::Local(path) => vec![path.clone()],
                Location::Files(paths) => paths.clone(),
                Location::Hub(_) => Vec::new(),
            })
            .map(plain)
            .collect();
        // Paths that lead out of the directory of the pipeline stay what they are below a directory above it.
        let root = dir
            .ancestors()
            .find(|above| local.iter().all(|path| path.starts_with(above)))
            .unwrap_or(&dir);
        let there =
            |path: &Path| format!("project/{}", path.strip_prefix(root).unwrap_or(path).display());
        let pipeline_there = there(&dir.join(file_name(pipeline)));
        files.push((pipeline_there.clone(), pipeline.to_owned()));
        for path in &local {
            add(&mut files, &there(path), path)?;
        }
        files.sort();
        files.dedup();
        Ok(Self { files, pipeline: pipeline_there, libraries })
    }
}

/// A path without `..`, which the directories that it leads through are there for.
fn plain(path: PathBuf) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Adds a file, or all files of a directory.
fn add(files: &mut Vec<(String, PathBuf)>, name: &str, path: &Path) -> Result<()> {
    if !path.is_dir() {
        files.push((name.to_owned(), path.to_owned()));
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        add(files, &format!("{name}/{}", entry.file_name().to_string_lossy()), &entry.path())?;
    }
    Ok(())
}

/// The command line of the job: the driver, its options, and after `--` that of each worker.
fn entrypoint(args: &RunArgs, stages: &StageArgs, travels: &Travels) -> String {
    let ClusterArgs { workers, worker_cpus, worker_gpus, python, .. } = &args.cluster;
    let mut words = vec![
        python.clone(),
        DRIVER_NAME.to_owned(),
        "--machine".to_owned(),
        std::env::consts::ARCH.to_owned(),
    ];
    words.extend([
        "--cpus".to_owned(),
        worker_cpus.to_string(),
        "--gpus".to_owned(),
        worker_gpus.to_string(),
    ]);
    words.extend(workers.iter().flat_map(|count| ["--workers".to_owned(), count.to_string()]));
    words.extend(["--".to_owned(), "bin/paraloom".to_owned()]);
    words.extend(travels.libraries.iter().flat_map(|name| ["--stages".to_owned(), name.clone()]));
    words.extend(stages.in_process.then(|| "--in-process".to_owned()));
    let work = &args.work;
    let store = place::of(work.pipeline.store.as_deref(), Path::new("")).display().to_string();
    words.extend(["worker".to_owned(), travels.pipeline.clone(), "--store".to_owned(), store]);
    let settings = &work.pipeline.settings;
    words.extend(
        settings
            .set
            .iter()
            .flat_map(|(name, value)| ["--set".to_owned(), format!("{name}={value}")]),
    );
    let named = [("--backend", &settings.backend), ("--device", &settings.device)];
    words.extend(
        named
            .iter()
            .filter_map(|(option, value)| Some([(*option).to_owned(), value.as_ref()?.clone()]))
            .flatten(),
    );
    let threads = work.threads.unwrap_or((*worker_cpus).max(1));
    words.extend([
        "--threads".to_owned(),
        threads.to_string(),
        "--jobs".to_owned(),
        work.jobs.to_string(),
    ]);
    words.extend(work.keep_going.then(|| "--keep-going".to_owned()));
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn from_ray(error: RayError) -> CliError {
    let hint = match &error {
        RayError::Unreachable { .. } => {
            "`--address` names the dashboard, `http://HEAD:8265`; is it reached from here?"
        }
        RayError::Token { .. } => {
            "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to the file that has it"
        }
        RayError::Other { .. } => {
            "`--address` names the dashboard of a cluster of Ray 2: `http://HEAD:8265`"
        }
        RayError::TooLarge { .. } => {
            "put it where every node has it and name it by its whole path, or take it from a hub"
        }
        RayError::NotYet { .. } => "is its head healthy? `ray status` tells",
        RayError::Refused { .. } | RayError::File { .. } => "",
    };
    let code = if matches!(error, RayError::File { .. } | RayError::TooLarge { .. }) {
        USAGE
    } else {
        NODE_FAILED
    };
    let failure = CliError::new(code, error.to_string());
    if hint.is_empty() { failure } else { failure.hint(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ray_puts_before_a_line_goes() {
        let line = "(work pid=7, ip=10.0.0.1) [0/3]        done corpus";
        assert_eq!(line_of_worker(line), "[0/3]        done corpus");
        assert_eq!(
            without_colors("\u{1b}[36m(work pid=7)\u{1b}[0m [1/3] x"),
            "(work pid=7) [1/3] x"
        );
        assert_eq!(line_of_worker("3 workers on 2 nodes"), "3 workers on 2 nodes");
    }

    #[test]
    fn a_path_leads_where_it_led() {
        assert_eq!(plain("/a/b/../c/./d".into()), PathBuf::from("/a/c/d"));
    }
}
