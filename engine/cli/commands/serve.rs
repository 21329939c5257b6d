//! `serve`: a chain of map nodes behind HTTP.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use arrow::array::RecordBatch;
use paraloom_exec::{Cancel, Chain, Changes, Job, RunError, RunOptions, chain_of, with_model};
use paraloom_pipeline::{Endpoint, Graph, Shape};
use paraloom_serve::{
    About, Checked, Failure, Mapped, Mapper, Mark, Parameter, ParameterSet, Parameters, RESERVE,
    Server, Settings,
};
use paraloom_store::{Event, LogLevel};
use petgraph::graph::NodeIndex;

use super::run::{find_node, options};
use super::serve_hints::hints;
use super::serve_log::AccessPrinter;
use crate::args::{ServeArgs, StageArgs};
use crate::context::Project;
use crate::error::{CliError, Result};
use crate::render;
use crate::signals::Signals;

pub(crate) fn run(args: &ServeArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let store = project.need_store()?;
    let (graph, host) = (&project.graph, &project.workspace.host);
    let chosen = chosen(&project, args)?;
    let access = AccessPrinter::start(args.log)?;
    let settings = Settings { log: access.log(), ..settings(args)? };
    let bounds = bounds(&settings);
    // Bound first, since loading a model can take long.
    let server = Server::bind(settings)?;
    let cancel = Cancel::default();
    // Requests time out after this.
    let options = RunOptions { map_limit: Some(args.timeout), ..options(args.threads, 1) };
    let (events, printed) = print_logs()?;
    let title = title(graph, args);
    let mut models: Vec<paraloom_serve::Model<'_>> = Vec::new();
    for Chosen { name, graph, nodes } in &chosen {
        let (text, set) = (project.workspace.text.as_str(), &[]);
        let job = Job { graph, nodes, host, store: &store, text, set };
        let mut chain = Chain::open(&job, &options, &cancel, &events)?;
        chain.mark()?;
        let names = nodes.iter().map(|node| graph.node(*node).name.clone());
        let about = About {
            name: name.clone(),
            title: title.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nodes: names.collect(),
            input: Arc::clone(chain.input()),
            outputs: chain.outputs(),
            hints: hints(&project, graph, nodes, &chain),
            batch_invariant: chain.is_batch_invariant(),
            parameters: parameters(&chain),
        };
        models.push((about, Box::new(Served(chain))));
    }
    drop(events);
    // Signals are handled from here on. Before, they end the process, even if a stage hangs while it is opened.
    let stop = Arc::<AtomicBool>::default();
    let _signals = Signals::listen(&stop);
    render::note(&bounds);
    announce(&chosen, &models, server.address());
    let ended = server.run(models, &stop, &cancel.flag());
    access.finish();
    ended?;
    // Prints the last log lines of the stages first. A process that a stage left behind may write more.
    let _ = printed.recv_timeout(LAST_LOGS);
    render::note("stopped");
    Ok(ExitCode::SUCCESS)
}

/// What is served under a name.
struct Chosen {
    name: String,
    /// That of the pipeline, or one where a node has another model.
    graph: Graph,
    nodes: Vec<NodeIndex>,
}

/// The chains to serve: one for each node, or for each model.
fn chosen(project: &Project, args: &ServeArgs) -> Result<Vec<Chosen>> {
    let graph = &project.graph;
    let (node, several) = match args.nodes.as_slice() {
        [node] => (node, false),
        [node, ..] => (node, true),
        [] => return Err(CliError::usage("name a node to serve")),
    };
    let with = [(!args.models.is_empty(), "--model"), (args.from.is_some(), "--from")];
    if let Some((_, option)) = with.iter().find(|(is_given, _)| several && *is_given) {
        let message = format!("`{option}` goes with one node, and there are several");
        return Err(CliError::usage(message));
    }
    let names = if args.models.is_empty() { &args.nodes } else { &args.models };
    if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        return Err(CliError::usage(format!("`{}` is named twice", twice.1)));
    }
    if args.models.is_empty() {
        let chosen = |name: &String| {
            let nodes = nodes(graph, name, args.from.as_deref())?;
            Ok(Chosen { name: name.clone(), graph: graph.clone(), nodes })
        };
        return args.nodes.iter().map(chosen).collect();
    }
    let nodes = nodes(graph, node, args.from.as_deref())?;
    let chosen = |name: &String| {
        let found = with_model(graph, &project.workspace.host, &nodes, model(graph, name)?)?;
        let (graph, nodes) = found.ok_or_else(|| {
            let message = format!("no node on the way to `{node}` reads a model");
            CliError::usage(message)
        })?;
        Ok(Chosen { name: name.clone(), graph, nodes })
    };
    args.models.iter().map(chosen).collect()
}

/// The model that a node makes: its first artifact, or the one of the name behind a dot.
fn model(graph: &Graph, name: &str) -> Result<Endpoint> {
    let node = find_node(graph, name.split_once('.').map_or(name, |(node, _)| node))?;
    let is_model = |endpoint: &Endpoint| graph.schema(*endpoint).is_none();
    let found = if name.contains('.') {
        Some(graph.endpoint(name).map_err(CliError::usage)?).filter(is_model)
    } else {
        let ports = 0..graph.node(node).outputs.len();
        ports.map(|port| Endpoint { node, port }).find(is_model)
    };
    found.ok_or_else(|| {
        let makes = |index: &NodeIndex| graph.node(*index).outputs.iter().any(Option::is_none);
        let names = graph.order().iter().filter(|index| makes(index));
        let names: Vec<_> = names.map(|index| format!("`{}`", graph.node(*index).name)).collect();
        let error = CliError::usage(format!("`{name}` is no model"));
        if names.is_empty() { error } else { error.hint(format!("there is {}", names.join(", "))) }
    })
}

/// What is served, for the page.
fn title(graph: &Graph, args: &ServeArgs) -> String {
    let nodes = args.nodes.join(", ");
    if graph.name.is_empty() { nodes } else { format!("{}: {nodes}", graph.name) }
}

/// Says what is served where; of several models each in a line, with what they take.
fn announce(chosen: &[Chosen], models: &[paraloom_serve::Model<'_>], address: SocketAddr) {
    let way = |about: &About| about.nodes.join(" → ");
    if let [(about, _)] = models {
        render::note(&format!("{} at http://{address}", way(about)));
        return;
    }
    for ((about, _), Chosen { graph, nodes, .. }) in models.iter().zip(chosen) {
        let memory = nodes.iter().filter_map(|node| graph.node(*node).memory).max();
        let memory = memory.map(|bytes| format!(", {} at most by estimate", render::bytes(bytes)));
        let memory = memory.unwrap_or_default();
        render::note(&format!("{}: {}{memory}", about.name, way(about)));
    }
    if let Some(bytes) = paraloom_alloc::resident() {
        render::note(&format!("{} of memory with these models loaded", render::bytes(bytes)));
    }
    render::note(&format!("{} models at http://{address}", models.len()));
}

/// The nodes to serve: those that end in the one that was asked for, and begin with `from` if that is named.
fn nodes(graph: &Graph, name: &str, from: Option<&str>) -> Result<Vec<NodeIndex>> {
    let last = find_node(graph, name)?;
    let nodes = chain_of(graph, last);
    if nodes.is_empty() {
        return Err(not_a_map_node(graph, last));
    }
    let Some(from) = from else { return Ok(nodes) };
    let first = find_node(graph, from)?;
    let Some(start) = nodes.iter().position(|node| *node == first) else {
        let names: Vec<_> = nodes.iter().map(|node| graph.node(*node).name.as_str()).collect();
        let message = format!("rows do not go from `{from}` to `{name}`");
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
    let (bind, name) = address(&args.bind)?;
    Ok(Settings {
        bind,
        token: token(args.token_file.as_deref())?,
        open: args.insecure_no_token,
        hosts: args.hosts.iter().cloned().chain(name).collect(),
        max_connections: connections(args.max_connections as usize),
        keep_alive: args.keep_alive,
        queue: args.queue as usize,
        max_batch_rows: args.max_batch_rows as usize,
        max_batch_tokens: args.max_batch_tokens as usize,
        timeout: args.timeout,
        lame_duck: args.lame_duck,
        drain: args.drain_timeout,
        log: None,
    })
}

/// The address that `HOST:PORT` means, and the host if it is a name. A name with several addresses means the first one of IPv4.
fn address(text: &str) -> Result<(SocketAddr, Option<String>)> {
    if let Ok(address) = text.parse() {
        return Ok((address, None));
    }
    let wrong = |why: &str| {
        let message = format!("`--bind {text}` is no address to listen at: {why}");
        CliError::usage(message).hint("write HOST:PORT, such as localhost:8080 or 0.0.0.0:8080")
    };
    let Some((host, _)) = text.rsplit_once(':') else { return Err(wrong("it has no port")) };
    let found = text.to_socket_addrs().map_err(|error| wrong(&error.to_string()))?;
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    let first = found.first().ok_or_else(|| wrong("it has no address"))?;
    Ok((*first, Some(host.to_owned())))
}

/// File descriptors that are not connections: the store, libraries, sockets of stages.
const OTHER_FILES: usize = 256;

/// As many connections as were asked for, or as there may be open files.
fn connections(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let needed = (wanted + RESERVE + OTHER_FILES) as u64;
    let Some(current) = limit.current.filter(|current| *current < needed) else { return wanted };
    let raised = limit.maximum.map_or(needed, |most| most.min(needed));
    let limit = Rlimit { current: Some(raised), maximum: limit.maximum };
    let open = if setrlimit(Resource::Nofile, limit).is_ok() { raised } else { current };
    if open >= needed {
        return wanted;
    }
    let possible = (open as usize).saturating_sub(RESERVE + OTHER_FILES).max(1);
    render::note(&format!(
        "{possible} connections, not {wanted}: this process may open {open} files (`ulimit -n`)"
    ));
    possible
}

/// What requests can take, in a line.
fn bounds(settings: &Settings) -> String {
    let Settings { max_connections, queue, max_batch_rows, max_batch_tokens, .. } = settings;
    format!(
        "at most {max_connections} connections, {queue} rows that wait, {max_batch_rows} rows and {max_batch_tokens} tokens \
         at once; requests take {} of memory at most, beside the stages",
        render::bytes(settings.memory() as u64)
    )
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

/// What requests may set.
fn parameters(chain: &Chain) -> ParameterSet {
    let parameters = chain.parameters();
    let parameter = |parameter: paraloom_exec::Parameter| {
        let paraloom_exec::Parameter { name, nodes, setting, schema } = parameter;
        Parameter { name, nodes, setting, schema }
    };
    let list = parameters.list().into_iter().map(parameter).collect();
    ParameterSet::new(list, move |sent| {
        let changes = parameters.check(sent)?;
        let factor = parameters.factor(&changes);
        Ok(Checked { parameters: changes.0, factor })
    })
}

struct Served<'a>(Chain<'a>);

impl Mapper for Served<'_> {
    fn map(
        &mut self,
        rows: &RecordBatch,
        parameters: &Parameters,
    ) -> std::result::Result<Vec<Mapped>, Failure> {
        let outputs = self.0.map_with(rows, &Changes(parameters.clone()));
        let outputs = outputs.map_err(|error| match error {
            RunError::Refused { .. } => Failure::Refused(error.to_string()),
            error => {
                render::error(&error.to_string(), error.hint().as_deref());
                Failure::Failed(error.to_string())
            }
        })?;
        let mark = |mark: paraloom_exec::Mark| Mark {
            is_cut: mark.is_cut,
            is_unfinished: mark.is_unfinished,
            tokens_read: mark.tokens_read,
            tokens_written: mark.tokens_written,
        };
        let output = |output: paraloom_exec::Mapped| Mapped {
            rows: output.rows,
            origins: output.origins,
            marks: output.marks.map(|marks| marks.into_iter().map(mark).collect()),
        };
        Ok(outputs.into_iter().map(output).collect())
    }
}
