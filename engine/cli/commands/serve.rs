//! `serve`: a chain of map nodes behind HTTP.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use arrow::array::RecordBatch;
use paraloom_exec::{Cancel, Chain, Job, RunOptions, chain_of};
use paraloom_pipeline::{Graph, Shape};
use paraloom_serve::{About, Mapped, Mapper, Server, Settings};
use paraloom_store::{Event, LogLevel};
use petgraph::graph::NodeIndex;

use super::run::{find_node, options};
use super::serve_hints::hints;
use crate::args::{ServeArgs, StageArgs};
use crate::context::Project;
use crate::error::{CliError, Result};
use crate::render;
use crate::signals::Signals;

pub(crate) fn run(args: &ServeArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let store = project.need_store()?;
    let (graph, host) = (&project.graph, &project.workspace.host);
    let nodes = nodes(graph, args)?;
    // Bound first, since loading a model can take long.
    let server = Server::bind(settings(args)?)?;
    let cancel = Cancel::default();
    let job =
        Job { graph, nodes: &nodes, host, store: &store, text: &project.workspace.text, set: &[] };
    // Requests time out after this.
    let options = RunOptions { map_limit: Some(args.timeout), ..options(args.threads, 1) };
    let (events, printed) = print_logs()?;
    let chain = Chain::open(&job, &options, &cancel, &events)?;
    drop(events);
    let names: Vec<_> = nodes.iter().map(|node| graph.node(*node).name.clone()).collect();
    let last = names.last().cloned().unwrap_or_default();
    let title = if graph.name.is_empty() { last } else { format!("{}: {last}", graph.name) };
    let about = About {
        title,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        nodes: names.clone(),
        input: Arc::clone(chain.input()),
        outputs: chain.outputs(),
        hints: hints(&project, &nodes, &chain),
        batch_invariant: chain.is_batch_invariant(),
    };
    // Signals are handled from here on. Before, they end the process, even if a stage hangs while it is opened.
    let stop = Arc::<AtomicBool>::default();
    let _signals = Signals::listen(&stop);
    render::note(&format!("{} at http://{}", names.join(" → "), server.address()));
    server.run(about, Box::new(Served(chain)), &stop, &cancel.flag())?;
    // Prints the last log lines of the stages first. A process that a stage left behind may write more.
    let _ = printed.recv_timeout(LAST_LOGS);
    render::note("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The nodes to serve: those that end in the one that was asked for.
fn nodes(graph: &Graph, args: &ServeArgs) -> Result<Vec<NodeIndex>> {
    let last = find_node(graph, &args.node)?;
    let nodes = chain_of(graph, last);
    if nodes.is_empty() {
        return Err(not_a_map_node(graph, last));
    }
    let Some(name) = &args.from else { return Ok(nodes) };
    let first = find_node(graph, name)?;
    let Some(start) = nodes.iter().position(|node| *node == first) else {
        let names: Vec<_> = nodes.iter().map(|node| graph.node(*node).name.as_str()).collect();
        let message = format!("rows do not go from `{name}` to `{}`", args.node);
        return Err(CliError::usage(message).hint(format!("they go {}", names.join(" → "))));
    };
    Ok(nodes[start..].to_vec())
}

/// Names the nodes that can be served instead: those that use what this one makes, or else all.
fn not_a_map_node(graph: &Graph, index: NodeIndex) -> CliError {
    let node = graph.node(index);
    let message = format!(
        "`{}` reads its input whole (`{}`); only map nodes can be served",
        node.name, node.stage.name
    );
    let is_map = |index: &NodeIndex| graph.node(*index).stage.shape == Shape::Map;
    let readers: Vec<_> = graph.readers(index).into_iter().filter(is_map).collect();
    let all = graph.order().iter().copied().filter(is_map).collect();
    let others = if readers.is_empty() { all } else { readers };
    let names: Vec<_> =
        others.iter().map(|index| format!("`{}`", graph.node(*index).name)).collect();
    let error = CliError::usage(message);
    if names.is_empty() { error } else { error.hint(format!("such as {}", names.join(", "))) }
}

fn settings(args: &ServeArgs) -> Result<Settings> {
    Ok(Settings {
        bind: args.bind,
        token: token(args.token_file.as_deref())?,
        open: args.insecure_no_token,
        hosts: args.hosts.clone(),
        queue: args.queue as usize,
        timeout: args.timeout,
        drain: args.drain_timeout,
    })
}

/// The token from a file or the environment, but not from the command line, which other users can see.
fn token(file: Option<&Path>) -> Result<Option<String>> {
    let (token, place) = match file {
        Some(path) => {
            let read = std::fs::read_to_string(path);
            let token = read.map_err(|error| {
                CliError::usage(format!("cannot read the token {}: {error}", path.display()))
            })?;
            (token, path.display().to_string())
        }
        None => match std::env::var("PARALOOM_TOKEN") {
            Ok(token) => (token, "PARALOOM_TOKEN".to_owned()),
            Err(_) => return Ok(None),
        },
    };
    match token.trim() {
        "" => Err(CliError::usage(format!("the token in {place} is empty"))),
        token => Ok(Some(token.to_owned())),
    }
}

/// How long the last log lines of the stages are waited for.
const LAST_LOGS: Duration = Duration::from_secs(2);

/// Prints the log events of stages; the receiver is notified when all are printed.
fn print_logs() -> Result<(Sender<Event>, Receiver<()>)> {
    let (events, said) = channel();
    let (printed, all_printed) = channel();
    std::thread::Builder::new().name("logs".to_owned()).spawn(move || {
        for event in said {
            if let Event::Log { node, level, message } = event
                && level <= LogLevel::Warn
            {
                render::note(&format!("{node}: {level}: {}", render::printable(&message)));
            }
        }
        let _ = printed.send(());
    })?;
    Ok((events, all_printed))
}

struct Served(Chain);

impl Mapper for Served {
    fn map(&mut self, rows: &RecordBatch) -> Result<Vec<Mapped>, String> {
        let outputs = self.0.map(rows).map_err(|error| {
            render::error(&error.to_string(), error.hint().as_deref());
            error.to_string()
        })?;
        let output =
            |output: paraloom_exec::Mapped| Mapped { rows: output.rows, origins: output.origins };
        Ok(outputs.into_iter().map(output).collect())
    }
}
