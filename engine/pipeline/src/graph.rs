//! A [`Graph`] is a pipeline that is typed from end to end and ready to run.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use crate::catalog::{PlanInput, PortKind, StageInfo};
use crate::config::PathUse;
use crate::diagnostic::Span;
use crate::expect::Expectation;
use crate::names::suggestion;
use crate::reject::Rejects;

/// A node, checked.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where the name stands.
    pub span: Span,
    /// Its stage.
    pub stage: Arc<StageInfo>,
    /// Configuration with defaults and absolute paths.
    pub config: serde_json::Value,
    /// The files and directories that the configuration names.
    pub paths: Vec<PathUse>,
    /// Seed of the node.
    pub seed: u64,
    /// How many nodes of the same stage its rows have been through before, whose random draws it must not repeat: a
    /// second split would otherwise find all rows on one side.
    pub repeats: usize,
    /// Rows of a part, if the pipeline says so: of the tables that a whole stage makes, and of what a map stage is given at
    /// once.
    pub part_rows: Option<usize>,
    /// Where rows go that make the stage fail; without it the node fails.
    pub rejects: Option<Rejects>,
    /// How often a call is made again that failed in a way that may pass.
    pub retries: u32,
    /// Device of its stage: `cpu`, `cuda:0`, ...
    pub device: String,
    /// Per output port: the schema of a table, `None` for an artifact.
    pub outputs: Vec<Option<SchemaRef>>,
    /// The stage's own contribution to the key, from its plan.
    pub fingerprint: String,
    /// Per output port: metadata of an artifact that is known before it is computed.
    pub notes: Vec<String>,
    /// Estimated peak memory of the work in bytes, if the stage gives an estimate.
    pub memory: Option<u64>,
}

impl Node {
    /// Per output port of the stage itself: the schema of a table, `None` for an artifact.
    pub fn own_outputs(&self) -> &[Option<SchemaRef>] {
        let added = self.rejects.is_some_and(|rejects| rejects.is_added);
        &self.outputs[..self.outputs.len() - usize::from(added)]
    }

    /// How many rows a map stage is given at once, and commits together; none where it takes parts as they are.
    pub fn rows_at_once(&self) -> Option<usize> {
        self.part_rows.or(self.stage.part_rows.map(|rows| rows as usize))
    }

    /// The input of a downstream stage's plan for an edge from this node.
    pub fn plan_input(&self, edge: &Edge) -> PlanInput {
        PlanInput {
            port: edge.input,
            label: edge.label.clone(),
            schema: self.outputs.get(edge.output).cloned().flatten(),
            note: self.notes.get(edge.output).cloned().unwrap_or_default(),
        }
    }
}

/// An edge: from an output port to an input port.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Index of the output port it leaves.
    pub output: usize,
    /// Index of the input port it enters.
    pub input: usize,
    /// Label, for ports that take many; otherwise empty.
    pub label: String,
    /// Position in the list of the node's inputs.
    pub position: usize,
}

/// An output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The node.
    pub node: NodeIndex,
    /// Index of its output port.
    pub port: usize,
}

/// A table that a run prints when it is done.
#[derive(Clone, Debug)]
pub struct Show {
    /// The table.
    pub endpoint: Endpoint,
    /// What the pipeline calls it.
    pub name: String,
    /// Its columns to print; all but ids if empty.
    pub columns: Vec<String>,
    /// Rows to print.
    pub limit: usize,
}

/// A pipeline that is ready to run.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_field_names, reason = "a graph in the sense of petgraph")]
pub struct Graph {
    /// The pipeline's name; empty if it has none.
    pub name: String,
    /// What a run prints when it is done.
    pub show: Vec<Show>,
    /// What must hold of the results.
    pub expect: Vec<Expectation>,
    pub(crate) graph: DiGraph<Node, Edge>,
    pub(crate) order: Vec<NodeIndex>,
    names: HashMap<String, NodeIndex>,
}

impl Graph {
    pub(crate) fn new(name: String, graph: DiGraph<Node, Edge>, order: Vec<NodeIndex>) -> Self {
        let names = order.iter().map(|index| (graph[*index].name.clone(), *index)).collect();
        Self { name, graph, order, names, ..Self::default() }
    }

    /// A graph of nodes that were checked before: in topological order, each with the edges into it by the position of the node
    /// that they come from.
    ///
    /// # Errors
    /// An edge comes from a later node, or between ports that are not there.
    pub fn assemble(name: String, nodes: Vec<(Node, Vec<(usize, Edge)>)>) -> Result<Self, String> {
        let (mut graph, mut order) = (DiGraph::new(), Vec::with_capacity(nodes.len()));
        for (node, edges) in nodes {
            let (inputs, name) = (node.stage.inputs.len(), node.name.clone());
            let to = graph.add_node(node);
            for (from, edge) in edges {
                let from = order.get(from).copied().filter(|from: &NodeIndex| {
                    let outputs = graph[*from].outputs.len();
                    edge.output < outputs && edge.input < inputs
                });
                let from =
                    from.ok_or_else(|| format!("an edge into `{name}` comes from nowhere"))?;
                graph.add_edge(from, to, edge);
            }
            order.push(to);
        }
        Ok(Self::new(name, graph, order))
    }

    /// The graph with a copy of `node`, checked as `copy`, that reads `source` where the node reads the artifact of `instead`. The
    /// copy is found by its index alone.
    pub fn with_copy(
        &self,
        node: NodeIndex,
        copy: Node,
        instead: usize,
        source: Endpoint,
    ) -> (Self, NodeIndex) {
        let mut graph = self.clone();
        let index = graph.graph.add_node(copy);
        for (from, edge) in self.inputs(node) {
            let mut edge = edge.clone();
            let mut from = from.node;
            if edge.input == instead {
                (from, edge.output) = (source.node, source.port);
            }
            graph.graph.add_edge(from, index, edge);
        }
        (graph, index)
    }

    /// The nodes in topological order.
    pub fn order(&self) -> &[NodeIndex] {
        &self.order
    }

    /// The node at `index`.
    pub fn node(&self, index: NodeIndex) -> &Node {
        &self.graph[index]
    }

    /// The node called `name`.
    pub fn find(&self, name: &str) -> Option<NodeIndex> {
        self.names.get(name).copied()
    }

    /// The edges into `node`, by port and, within a port that takes many, in the order of the file: where from, and which
    /// edge. The order in which a file names the ports means nothing.
    pub fn inputs(&self, node: NodeIndex) -> Vec<(Endpoint, &Edge)> {
        let edges = self.graph.edges_directed(node, Direction::Incoming);
        let endpoint = |source, edge: &Edge| Endpoint { node: source, port: edge.output };
        let mut inputs: Vec<_> =
            edges.map(|edge| (endpoint(edge.source(), edge.weight()), edge.weight())).collect();
        inputs.sort_by_key(|(_, edge)| (edge.input, edge.position));
        inputs
    }

    /// The table whose rows a map node maps; none of a node that reads its input whole.
    pub fn mapped(&self, node: NodeIndex) -> Option<Endpoint> {
        let port = self.graph[node].stage.mapped_input()?;
        self.inputs(node).into_iter().find(|(_, edge)| edge.input == port).map(|(from, _)| from)
    }

    /// The table from which the rows of a node come, whether it maps them or reads them whole.
    pub fn rows_source(&self, node: NodeIndex) -> Option<Endpoint> {
        let port = self.graph[node].stage.rows_input()?;
        self.inputs(node).into_iter().find(|(_, edge)| edge.input == port).map(|(from, _)| from)
    }

    /// The schema of an output; none if it is an artifact.
    pub fn schema(&self, output: Endpoint) -> Option<&SchemaRef> {
        self.graph[output.node].outputs.get(output.port)?.as_ref()
    }

    /// The downstream neighbours of `node`, each once.
    pub fn readers(&self, node: NodeIndex) -> Vec<NodeIndex> {
        let mut readers: Vec<_> = self.graph.neighbors(node).collect();
        readers.sort_unstable();
        readers.dedup();
        readers
    }

    /// `node` and everything upstream of it, in topological order.
    pub fn ancestors(&self, node: NodeIndex) -> Vec<NodeIndex> {
        let mut needed = HashSet::from([node]);
        for index in self.order.iter().rev() {
            if self.graph.neighbors(*index).any(|reader| needed.contains(&reader)) {
                needed.insert(*index);
            }
        }
        self.order.iter().copied().filter(|index| needed.contains(index)).collect()
    }

    /// The output that `text` names: `node.port`, or `node` for its first output.
    pub fn endpoint(&self, text: &str) -> Result<Endpoint, String> {
        self.find_output(text, |_| true)
    }

    /// The table that `text` names: `node.port`, or `node` for its first table.
    pub fn table(&self, text: &str) -> Result<Endpoint, String> {
        let endpoint = self.find_output(text, |kind| kind == PortKind::Table)?;
        match self.node(endpoint.node).stage.outputs[endpoint.port].kind {
            PortKind::Table => Ok(endpoint),
            PortKind::Artifact => Err(format!("`{text}` is a directory, not a table")),
        }
    }

    fn find_output(&self, text: &str, fits: impl Fn(PortKind) -> bool) -> Result<Endpoint, String> {
        let (name, port) = match text.split_once('.') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        let Some(node) = self.find(name) else {
            let names = self.order.iter().map(|index| self.graph[*index].name.as_str());
            let hint = suggestion(name, names.collect::<Vec<_>>());
            let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            return Err(format!("there is no node `{name}`{hint}"));
        };
        let outputs = &self.graph[node].stage.outputs;
        let found = match port {
            Some(port) => outputs.iter().position(|output| output.name == port),
            None => outputs.iter().position(|output| fits(output.kind)),
        };
        let names: Vec<_> =
            outputs.iter().map(|output| format!("`{name}.{}`", output.name)).collect();
        match found {
            Some(port) => Ok(Endpoint { node, port }),
            None if names.is_empty() => Err(format!("`{name}` has no output")),
            None if port.is_none() => {
                Err(format!("`{name}` has no table; there is {}", names.join(", ")))
            }
            None => {
                Err(format!("there is no such output as `{text}`; there is {}", names.join(", ")))
            }
        }
    }
}
