//! A chain with another model in the place of the one that the pipeline gives it, so that several can be served side by side.

use paraloom_host::{Host, HostError};
use paraloom_pipeline::{Endpoint, Graph, Node, PlanInput, with_id};
use petgraph::graph::NodeIndex;

use crate::error::{Result, RunError};

/// The node of a chain that [`with_model`] gives another model: the first that reads one. With it, the input port and what the
/// pipeline gives it.
fn reader(graph: &Graph, nodes: &[NodeIndex]) -> Option<(usize, usize, Endpoint)> {
    nodes.iter().enumerate().find_map(|(at, node)| {
        let mut inputs = graph.inputs(*node).into_iter();
        let (from, edge) = inputs.find(|(from, _)| graph.schema(*from).is_none())?;
        Some((at, edge.input, from))
    })
}

/// The chain `nodes` where its first node that reads an artifact, such as a model, reads that of `model`; none if no node does.
///
/// The node is planned anew with what is known of the model, in a copy of the graph that has it beside the one of the pipeline: a
/// model may come of the very rows that the node makes, so it cannot stand in its place there.
///
/// # Errors
/// The stage does not work with this model, or what comes out would have other columns.
pub fn with_model(
    graph: &Graph,
    host: &Host,
    nodes: &[NodeIndex],
    model: Endpoint,
) -> Result<Option<(Graph, Vec<NodeIndex>)>> {
    let Some((at, port, own)) = reader(graph, nodes) else { return Ok(None) };
    if own == model {
        return Ok(Some((graph.clone(), nodes.to_vec())));
    }
    let node = graph.node(nodes[at]);
    let refused = |what: String| RunError::Refused { node: node.name.clone(), what };
    let input = |(from, edge): (Endpoint, &paraloom_pipeline::Edge)| {
        let planned = graph.node(from.node).plan_input(edge);
        if edge.input != port {
            return planned;
        }
        let note = graph.node(model.node).notes.get(model.port).cloned().unwrap_or_default();
        PlanInput { note, ..planned }
    };
    let inputs: Vec<_> = graph.inputs(nodes[at]).into_iter().map(input).collect();
    let planned = host.plan(&node.stage, &node.name, &node.config, &inputs);
    let planned = planned.map_err(|error| match error {
        HostError::Stage(failure) => refused(failure.message),
        error => RunError::from_host(&node.name, error),
    })?;
    let output = planned.output();
    let outputs = output.outputs.iter().map(|schema| schema.clone().map(with_id));
    if !outputs.eq(node.own_outputs().iter().cloned()) {
        let model = &graph.node(model.node).name;
        return Err(refused(format!("with `{model}` it would have other columns")));
    }
    let copy = Node {
        fingerprint: output.fingerprint.clone(),
        notes: output.notes.clone(),
        memory: output.memory,
        ..node.clone()
    };
    let (graph, index) = graph.with_copy(nodes[at], copy, port, model);
    let mut nodes = nodes.to_vec();
    nodes[at] = index;
    Ok(Some((graph, nodes)))
}
