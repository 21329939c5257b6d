//! The graph of a run as it was planned, so that its results can be looked at later without the pipeline, the files that it
//! read and the libraries of its stages: all of them may be others by then.

use std::collections::HashMap;
use std::sync::Arc;

use paraloom_expr::Expr;
use paraloom_pipeline::{Edge, Endpoint, Expectation, Graph, Node, Show, Span, StageInfo};
use paraloom_store::Store;
use petgraph::graph::NodeIndex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Result, RunError};
use crate::record::{decode, encode};

/// A graph in the store, in `runs/<id>/graph.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GraphRecord {
    pipeline: String,
    /// The stages, which nodes share.
    stages: Vec<StageInfo>,
    /// In topological order.
    nodes: Vec<PlannedNode>,
    expect: Vec<Expected>,
    show: Vec<Shown>,
}

/// A node, without what only a run needs.
#[derive(Debug, Serialize, Deserialize)]
struct PlannedNode {
    name: String,
    /// Index into `stages`.
    stage: usize,
    config: Value,
    seed: u64,
    device: String,
    /// Per output port: the schema of a table, encoded; none of an artifact.
    outputs: Vec<Option<String>>,
    inputs: Vec<PlannedEdge>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PlannedEdge {
    /// Index into `nodes`.
    from: usize,
    output: usize,
    input: usize,
    label: String,
    position: usize,
}

/// An output: the index of its node, and that of its port.
type Output = (usize, usize);

#[derive(Debug, Serialize, Deserialize)]
struct Expected {
    of: Output,
    name: String,
    condition: Option<String>,
    every: Option<String>,
    least: u64,
    most: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Shown {
    of: Output,
    name: String,
    columns: Vec<String>,
    limit: usize,
}

impl GraphRecord {
    fn place(run: &str) -> String {
        format!("runs/{run}/graph.json")
    }

    pub(crate) fn write(graph: &Graph, store: &Store, run: &str) -> Result<()> {
        Ok(store.write_note(&Self::place(run), &Self::new(graph)?)?)
    }

    pub(crate) fn read(store: &Store, run: &str) -> Result<Option<Graph>> {
        let record: Option<Self> = store.read_note(&Self::place(run))?;
        record.map(Self::graph).transpose()
    }

    fn new(graph: &Graph) -> Result<Self> {
        let places: HashMap<NodeIndex, usize> =
            graph.order().iter().enumerate().map(|(place, index)| (*index, place)).collect();
        let (mut stages, mut nodes) = (Vec::<&Arc<StageInfo>>::new(), Vec::new());
        for index in graph.order() {
            let node = graph.node(*index);
            let is_it =
                |stage: &&Arc<StageInfo>| Arc::ptr_eq(stage, &node.stage) || **stage == node.stage;
            let known = stages.iter().position(is_it);
            let stage = known.unwrap_or_else(|| {
                stages.push(&node.stage);
                stages.len() - 1
            });
            let inputs = graph.inputs(*index).into_iter().map(|(from, edge)| PlannedEdge {
                from: places[&from.node],
                output: edge.output,
                input: edge.input,
                label: edge.label.clone(),
                position: edge.position,
            });
            let schemas = node.outputs.iter().map(|schema| schema.as_ref().map(encode).transpose());
            nodes.push(PlannedNode {
                name: node.name.clone(),
                stage,
                config: node.config.clone(),
                seed: node.seed,
                device: node.device.clone(),
                outputs: schemas.collect::<Result<_>>()?,
                inputs: inputs.collect(),
            });
        }
        let output = |at: Endpoint| (places[&at.node], at.port);
        let text = |expr: &Option<Expr>| expr.as_ref().map(|expr| expr.text().to_owned());
        let expected = |expect: &Expectation| Expected {
            of: output(expect.endpoint),
            name: expect.name.clone(),
            condition: text(&expect.condition),
            every: text(&expect.every),
            least: expect.least,
            most: expect.most,
        };
        let shown = |show: &Show| Shown {
            of: output(show.endpoint),
            name: show.name.clone(),
            columns: show.columns.clone(),
            limit: show.limit,
        };
        Ok(Self {
            pipeline: graph.name.clone(),
            stages: stages.into_iter().map(|stage| StageInfo::clone(stage)).collect(),
            nodes,
            expect: graph.expect.iter().map(expected).collect(),
            show: graph.show.iter().map(shown).collect(),
        })
    }

    fn graph(self) -> Result<Graph> {
        let stages: Vec<_> = self.stages.into_iter().map(Arc::new).collect();
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for node in self.nodes {
            let stage = stages.get(node.stage).ok_or_else(|| unreadable("a node has no stage"))?;
            let outputs = node.outputs.iter().map(|schema| schema.as_deref().map(decode));
            let outputs = outputs.map(Option::transpose).collect::<Result<_>>()?;
            let edges = node.inputs.into_iter().map(
                |PlannedEdge { from, output, input, label, position }| {
                    (from, Edge { output, input, label, position })
                },
            );
            let planned = Node {
                name: node.name,
                stage: Arc::clone(stage),
                config: node.config,
                seed: node.seed,
                device: node.device,
                outputs,
                span: Span::default(),
                paths: Vec::new(),
                repeats: 0,
                part_rows: None,
                rejects: None,
                retries: 0,
                fingerprint: String::new(),
                notes: Vec::new(),
                memory: None,
            };
            nodes.push((planned, edges.collect()));
        }
        let mut graph = Graph::assemble(self.pipeline, nodes).map_err(|what| unreadable(&what))?;
        let output = |(place, port): Output| {
            let node = graph.order().get(place).copied();
            let node = node.ok_or_else(|| unreadable("an output has no node"))?;
            Ok::<_, RunError>(Endpoint { node, port })
        };
        let parse = |text: Option<String>| {
            let parsed = text.map(|text| Expr::parse(&text)).transpose();
            parsed.map_err(|error| unreadable(&error.to_string()))
        };
        let expect = self.expect.into_iter().map(|expect| {
            Ok(Expectation {
                endpoint: output(expect.of)?,
                name: expect.name,
                condition: parse(expect.condition)?,
                every: parse(expect.every)?,
                least: expect.least,
                most: expect.most,
                span: Span::default(),
            })
        });
        let expect = expect.collect::<Result<_>>()?;
        let show = self.show.into_iter().map(|show| {
            let Shown { of, name, columns, limit } = show;
            Ok(Show { endpoint: output(of)?, name, columns, limit })
        });
        let show = show.collect::<Result<_>>()?;
        (graph.expect, graph.show) = (expect, show);
        Ok(graph)
    }
}

fn unreadable(what: &str) -> RunError {
    RunError::Internal {
        what: format!("the record of a run has a graph that cannot be read: {what}"),
    }
}
