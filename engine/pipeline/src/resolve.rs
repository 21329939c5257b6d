//! Fills in variables, connects the edges and orders the nodes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::diagnostic::{Diagnostic, Span};
use crate::document::{Document, NodeDocument, Reader, ShowDocument, parse};
use crate::expect::ExpectDocument;
use crate::names::suggestion;
use crate::reject::OnError;
use crate::vars::Vars;
use crate::yaml::{Limits, Tree, Value};
use crate::{DEFAULT_BACKEND, DEFAULT_DEVICE, DEFAULT_RETRIES};

/// What comes from outside the file.
pub struct Settings<'a> {
    /// `--set name=value`, in order.
    pub set: &'a [(String, String)],
    /// `--backend`; overrides the pipeline's, but not a node's own.
    pub backend: Option<&'a str>,
    /// `--device`; overrides the pipeline's, but not a node's own.
    pub device: Option<&'a str>,
    /// How large the file may be.
    pub limits: Limits,
    /// The environment, for `${env:NAME}`.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

/// A pipeline whose variables are filled in and whose edges are known.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// The pipeline's name; empty if it has none.
    pub(crate) name: String,
    /// The nodes, in the order of the file.
    pub(crate) nodes: Vec<ResolvedNode>,
    /// Indices into `nodes` in topological order; those in and behind a cycle come last.
    pub(crate) order: Vec<usize>,
    /// What a run prints when it is done.
    pub(crate) show: Vec<ShowDocument>,
    /// What must hold of the results.
    pub(crate) expect: Vec<ExpectDocument>,
}

/// A node with its edges.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedNode {
    /// Its name.
    pub(crate) name: String,
    /// Position of the name.
    pub(crate) name_span: Span,
    /// The stage, with the position of its name.
    pub(crate) stage: (String, Span),
    /// The input ports that are connected, with the positions of their names and of what is connected; none if there is no
    /// telling.
    pub(crate) ports: Option<Vec<(String, Span, Span)>>,
    /// What is connected to which port.
    pub(crate) inputs: Vec<ResolvedInput>,
    /// Whether it is known what it reads and does.
    pub(crate) known: bool,
    /// The configuration, variables filled in.
    pub(crate) with: Tree,
    /// Seed of the node.
    pub(crate) seed: u64,
    /// Rows of a part, if the pipeline says so.
    pub(crate) part_rows: Option<usize>,
    /// What is done when its stage fails, and where that is said.
    pub(crate) on_error: (OnError, Span),
    /// How often a call is made again that failed in a way that may pass.
    pub(crate) retries: u32,
    /// Backend, with its position if it is in the file.
    pub(crate) backend: (String, Option<Span>),
    /// Device, with its position if it is in the file.
    pub(crate) device: (String, Option<Span>),
    /// Keys that no node has, with their positions.
    pub(crate) strays: Vec<(String, Span)>,
}

/// One edge, by name.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedInput {
    /// The input port, with its position.
    pub(crate) port: (String, Span),
    /// Label of the edge, for ports that take many.
    pub(crate) label: Option<String>,
    /// Index of the node that it comes from.
    pub(crate) from: usize,
    /// The output port, if it is named.
    pub(crate) output: Option<String>,
    /// Position of the source's name.
    pub(crate) span: Span,
}

/// Parses and resolves `text`; reports all errors that can be found without the stages.
pub(crate) fn resolve(text: &str, settings: &Settings) -> (Resolved, Vec<Diagnostic>) {
    let (document, mut errors) = parse(text, settings.limits);
    let vars = Vars::new(document.vars.as_deref(), settings.set, settings.env, &mut errors);
    let mut names = Names::new(&document.nodes);
    let mut nodes = Vec::with_capacity(document.nodes.len());
    for node in &document.nodes {
        nodes.push(resolve_node(node, &document, settings, &mut names, &vars, &mut errors));
    }
    let order = order(&mut nodes, &mut errors);
    let expect = document.expect.as_ref().map(|tree| vars.fill(tree, &mut errors));
    let expect = expect.map(|tree| Reader { errors: &mut errors }.expectations(tree));
    let (expect, Document { name, show, .. }) = (expect.unwrap_or_default(), document);
    (Resolved { name, nodes, order, show, expect }, errors)
}

fn resolve_node(
    node: &NodeDocument,
    document: &Document,
    settings: &Settings,
    names: &mut Names,
    vars: &Vars,
    errors: &mut Vec<Diagnostic>,
) -> ResolvedNode {
    let mut known = node.inputs.is_some()
        && node.on_error.is_none_or(|(on_error, _)| on_error != OnError::Unknown);
    let mut inputs = Vec::new();
    for (port, span, tree) in node.inputs.iter().flatten() {
        let tree = vars.fill(tree, errors);
        let mut connect = |label: Option<String>, source: &Tree| {
            let edge = endpoint(source, names, errors);
            known &= edge.is_some();
            inputs.extend(edge.map(|(from, output)| ResolvedInput {
                port: (port.clone(), *span),
                label,
                from,
                output,
                span: source.span,
            }));
        };
        match &tree.value {
            Value::Map(members) => {
                members.iter().for_each(|(label, _, source)| connect(Some(label.clone()), source));
            }
            Value::List(items) => {
                for (index, source) in items.iter().enumerate() {
                    let label = source.as_text().map_or_else(|| index.to_string(), str::to_owned);
                    connect(Some(label), source);
                }
            }
            _ => connect(None, &tree),
        }
    }
    let named = |(port, span, tree): &(String, Span, Tree)| (port.clone(), *span, tree.span);
    let backend = choose(
        node.compute.backend.as_ref(),
        settings.backend,
        document.compute.backend.as_ref(),
        DEFAULT_BACKEND,
    );
    let device = choose(
        node.compute.device.as_ref(),
        settings.device,
        document.compute.device.as_ref(),
        own_device(&backend.0),
    );
    ResolvedNode {
        name: node.name.clone(),
        name_span: node.name_span,
        stage: node.stage.clone(),
        ports: node.inputs.as_ref().map(|inputs| inputs.iter().map(named).collect()),
        inputs,
        known,
        with: vars.fill(&node.with, errors),
        seed: node.seed.or(document.seed).unwrap_or(0),
        part_rows: node.part_rows.or(document.part_rows),
        on_error: node.on_error.unwrap_or((OnError::Fail, node.name_span)),
        retries: node.retries.unwrap_or(DEFAULT_RETRIES),
        backend,
        device,
        strays: node.strays.clone(),
    }
}

/// The default device of a backend: the first GPU for one that has no CPU implementation.
fn own_device(backend: &str) -> &str {
    match backend {
        "cuda" | "wgpu" => backend,
        _ => DEFAULT_DEVICE,
    }
}

/// The node's value, else the command line's, else the pipeline's, else the default.
fn choose(
    node: Option<&(String, Span)>,
    command: Option<&str>,
    pipeline: Option<&(String, Span)>,
    default: &str,
) -> (String, Option<Span>) {
    let written = |(value, span): &(String, Span)| (value.clone(), Some(*span));
    let said = |value: &str| (value.to_owned(), None);
    let chosen = node.map(written).or(command.map(said)).or(pipeline.map(written));
    chosen.unwrap_or_else(|| said(default))
}

/// The names of the nodes.
struct Names<'a> {
    indices: HashMap<&'a str, usize>,
    /// In order, once a name is misspelt.
    sorted: Vec<&'a str>,
    /// Names that may still be compared with all the others.
    left: usize,
}

impl<'a> Names<'a> {
    fn new(nodes: &'a [NodeDocument]) -> Self {
        let names = nodes.iter().enumerate().map(|(index, node)| (node.name.as_str(), index));
        Self { indices: names.collect(), sorted: Vec::new(), left: 100 }
    }

    /// A suggestion for a misspelt name. Limited to the first misspelt names, since each is compared with all names.
    fn suggestion(&mut self, name: &str) -> Option<String> {
        self.left = self.left.checked_sub(1)?;
        if self.sorted.is_empty() {
            self.sorted = self.indices.keys().copied().collect();
            self.sorted.sort_unstable();
        }
        suggestion(name, self.sorted.iter().copied())
    }
}

/// `node` or `node.port`.
fn endpoint(
    source: &Tree,
    names: &mut Names,
    errors: &mut Vec<Diagnostic>,
) -> Option<(usize, Option<String>)> {
    if source.value == Value::Unknown {
        return None;
    }
    let Some(text) = source.as_text() else {
        let message = format!("an input is the name of a node, not {}", source.kind());
        errors.push(Diagnostic::error(message, source.span).hint("write `node` or `node.port`"));
        return None;
    };
    let (node, port) = match text.split_once('.') {
        Some((node, port)) => (node, Some(port.to_owned())),
        None => (text, None),
    };
    if let Some(index) = names.indices.get(node) {
        return Some((*index, port));
    }
    let hint = names.suggestion(node);
    let message = format!("there is no node `{}`", node.escape_debug());
    errors.push(Diagnostic::error(message, source.span).maybe_hint(hint));
    None
}

/// A topological order that keeps the file's order where edges leave a choice. Cycles are errors; their nodes, and those that read
/// them, come last, and what they read is unknown.
fn order(nodes: &mut [ResolvedNode], errors: &mut Vec<Diagnostic>) -> Vec<usize> {
    let mut graph = DiGraph::<usize, Span>::new();
    let indices: Vec<_> = (0..nodes.len()).map(|node| graph.add_node(node)).collect();
    for (to, node) in nodes.iter().enumerate() {
        for input in &node.inputs {
            graph.add_edge(indices[input.from], indices[to], input.span);
        }
    }
    let mut waits: Vec<_> = nodes.iter().map(|node| node.inputs.len()).collect();
    let ready = indices.iter().filter(|index| waits[index.index()] == 0);
    let mut ready: BinaryHeap<_> = ready.map(|index| Reverse(*index)).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(graph[index]);
        for reader in graph.neighbors(index) {
            waits[reader.index()] -= 1;
            if waits[reader.index()] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    if order.len() == nodes.len() {
        return order;
    }
    // Not Tarjan's algorithm, whose recursion is as deep as the cycle is long.
    for component in kosaraju_scc(&graph) {
        let first = component[0];
        if component.len() > 1 || graph.contains_edge(first, first) {
            errors.push(cycle(&graph, &component, nodes));
        }
    }
    let ordered: HashSet<_> = order.iter().copied().collect();
    for (index, node) in nodes.iter_mut().enumerate() {
        if !ordered.contains(&index) {
            node.known = false;
            order.push(index);
        }
    }
    order
}

/// How many nodes of a cycle a message names.
const MAX_CYCLE: usize = 12;

/// Walks from the first node of a component, staying inside, until a node repeats.
fn cycle(
    graph: &DiGraph<usize, Span>,
    component: &[NodeIndex],
    nodes: &[ResolvedNode],
) -> Diagnostic {
    let members: HashSet<_> = component.iter().copied().collect();
    let start = component.iter().copied().min().unwrap_or_default();
    let (mut path, mut places) = (vec![start], HashMap::from([(start, 0)]));
    let repeated = loop {
        let here = path[path.len() - 1];
        let next = graph.neighbors(here).find(|next| members.contains(next)).unwrap_or(start);
        if let Some(at) = places.get(&next) {
            break path.split_off(*at);
        }
        places.insert(next, path.len());
        path.push(next);
    };
    let name = |index: &NodeIndex| nodes[graph[*index]].name.as_str();
    let mut names: Vec<_> = repeated.iter().map(name).take(MAX_CYCLE).collect();
    if repeated.len() > MAX_CYCLE {
        names.push("…");
    }
    names.push(name(&repeated[0]));
    let span = nodes[graph[repeated[0]]].name_span;
    let message = format!("the nodes form a cycle: {}", names.join(" -> "));
    Diagnostic::error(message, span).hint("one of these edges has to go")
}
