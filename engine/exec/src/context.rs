//! A node with everything that decides its result: the one way from a node of the graph to a stage at work, for runs,
//! plans, `try` and `serve` alike.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use paraloom_host::{Host, PlannedStage, WorkInput, WorkSettings, Worker};
use paraloom_pipeline::{Edge, Endpoint, Graph, Node, with_id};
use paraloom_store::{DigestCache, Key, Preimage};
use petgraph::graph::NodeIndex;

use crate::error::{Result, RunError};
use crate::input::{ReadError, artifact_input, table_input};
use crate::keys::{check_fetched, preimage, stage_seed};
use crate::lookup::PortResult;
use crate::run::RunOptions;
use crate::services::NodeServices;

/// A node, what it reads, and the key of its result.
#[derive(Debug)]
pub(crate) struct NodeContext<'a> {
    pub(crate) index: NodeIndex,
    pub(crate) node: &'a Node,
    pub(crate) key: Key,
    pub(crate) preimage: Preimage,
    /// By port and, within a port that takes many, in the order of the file.
    pub(crate) inputs: Vec<Bound<'a>>,
    graph: &'a Graph,
    host: &'a Host,
}

/// An edge into a node, and what comes along it.
#[derive(Clone, Debug)]
pub(crate) struct Bound<'a> {
    pub(crate) from: Endpoint,
    pub(crate) edge: &'a Edge,
    /// None of the table that a map stage maps, which comes part by part and is in no key.
    pub(crate) content: Option<PortResult>,
}

impl<'a> NodeContext<'a> {
    /// Binds a node to what its sources have made, which `output` finds. Without all that decides the key: the nodes that
    /// it waits for.
    pub(crate) fn bind(
        graph: &'a Graph,
        host: &'a Host,
        index: NodeIndex,
        output: impl Fn(Endpoint) -> Option<PortResult>,
        digests: &DigestCache,
    ) -> Result<std::result::Result<Self, Vec<NodeIndex>>> {
        let mapped = graph.node(index).stage.mapped_input();
        Self::bind_rows(graph, host, index, mapped, output, digests)
    }

    /// As [`NodeContext::bind`], where the rows of the input port `mapped` come one batch at a time, also into a whole stage.
    pub(crate) fn bind_rows(
        graph: &'a Graph,
        host: &'a Host,
        index: NodeIndex,
        mapped: Option<usize>,
        output: impl Fn(Endpoint) -> Option<PortResult>,
        digests: &DigestCache,
    ) -> Result<std::result::Result<Self, Vec<NodeIndex>>> {
        let node = graph.node(index);
        let (mut inputs, mut missing) = (Vec::new(), Vec::new());
        for (from, edge) in graph.inputs(index) {
            let content = if Some(edge.input) == mapped {
                None
            } else {
                let content = output(from);
                if content.is_none() {
                    missing.push(from.node);
                }
                content
            };
            inputs.push(Bound { from, edge, content });
        }
        if !missing.is_empty() {
            return Ok(Err(missing));
        }
        let preimage = preimage(host, node, &inputs, digests)?;
        let key = preimage.key();
        Ok(Ok(Self { index, node, key, preimage, inputs, graph, host }))
    }

    /// The table that a map stage maps.
    pub(crate) fn mapped(&self) -> Option<Endpoint> {
        self.inputs.iter().find(|input| input.content.is_none()).map(|input| input.from)
    }

    /// An error if a file that the node reads was written to since its key was derived: what came of it does not belong
    /// under this key.
    pub(crate) fn check_unchanged(&self, digests: &DigestCache) -> Result<()> {
        let unchanged = self.node.paths.is_empty()
            || preimage(self.host, self.node, &self.inputs, digests)? == self.preimage;
        if unchanged { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> RunError {
        RunError::InputChanged { node: self.node.name.clone() }
    }

    /// Whether the stage's library is not shipped with the engine.
    pub(crate) fn is_third_party(&self) -> bool {
        self.host.loaded(&self.node.stage).is_ok_and(|stage| stage.foreign.is_some())
    }

    /// Has the stage plan again, for work.
    pub(crate) fn plan(&self) -> Result<Box<dyn PlannedStage>> {
        let node = self.node;
        check_fetched(node)?;
        let planned = self.plan_anew().map_err(|error| RunError::from_host(&node.name, error))?;
        let output = planned.output();
        let outputs = output.outputs.iter().map(|schema| schema.clone().map(with_id));
        if !outputs.eq(node.own_outputs().iter().cloned()) || output.fingerprint != node.fingerprint
        {
            // A file may have changed since; without one, the stage cannot make up its mind.
            return Err(if node.paths.is_empty() {
                let (node, stage) = (node.name.clone(), node.stage.name.clone());
                RunError::PlanChanged { node, stage }
            } else {
                self.changed()
            });
        }
        Ok(planned)
    }

    /// Has the stage plan again, whatever comes of it.
    pub(crate) fn plan_anew(&self) -> paraloom_host::Result<Box<dyn PlannedStage>> {
        let node = self.node;
        let source = |input: &Bound| self.graph.node(input.from.node).plan_input(input.edge);
        let inputs: Vec<_> = self.inputs.iter().map(source).collect();
        self.host.plan(&node.stage, &node.name, &node.config, &inputs)
    }

    /// The same with other settings: what comes of it is not that of the key.
    pub(crate) fn with_node<'b>(&'b self, node: &'b Node) -> NodeContext<'b> {
        let Self { index, key, preimage, inputs, graph, host, .. } = self;
        let (preimage, inputs) = (preimage.clone(), inputs.clone());
        NodeContext { index: *index, node, key: key.clone(), preimage, inputs, graph, host }
    }

    /// What a stage at work reads. Why reading fails is kept in `read_error`.
    pub(crate) fn work_inputs(&self, read_error: &ReadError) -> Result<Vec<WorkInput>> {
        self.inputs.iter().map(|input| self.work_input(input, read_error)).collect()
    }

    pub(crate) fn work_input(&self, input: &Bound, read_error: &ReadError) -> Result<WorkInput> {
        match &input.content {
            Some(PortResult::Table(table)) => Ok(table_input(table, read_error)),
            Some(PortResult::Artifact { entry, port, artifact }) => {
                artifact_input(entry, port, artifact)
            }
            // Its rows come through map().
            None => {
                let schema = self.schema(input.from)?;
                Ok(WorkInput::Table(Arc::clone(schema), Box::new(std::iter::empty())))
            }
        }
    }

    /// The schema of a table that the node reads, ids included.
    pub(crate) fn schema(&self, from: Endpoint) -> Result<&'a SchemaRef> {
        self.graph.schema(from).ok_or_else(|| RunError::Internal {
            what: format!("`{}` maps what is no table", self.node.name),
        })
    }

    pub(crate) fn settings(&self, options: &RunOptions) -> WorkSettings {
        WorkSettings {
            threads: options.threads,
            seed: stage_seed(self.node),
            device: self.node.device.clone(),
            map_limit: options.map_limit,
        }
    }

    /// Loads what a map stage reads beside its rows.
    pub(crate) fn open(
        &self,
        options: &RunOptions,
        services: &Arc<NodeServices>,
    ) -> Result<Box<dyn Worker>> {
        let mut planned = self.plan()?;
        let read_error = ReadError::default();
        let inputs = self.work_inputs(&read_error)?;
        let services = Arc::clone(services);
        let worker = planned.open(&self.settings(options), services as _, inputs);
        worker.map_err(|error| read_error.or(&self.node.name, error))
    }
}
