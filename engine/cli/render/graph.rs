//! The pipeline as a picture.

use std::fmt::Write;

use paraloom_pipeline::Graph;
use petgraph::graph::NodeIndex;

/// Every edge as (from, to, what it carries).
pub(super) fn edges(graph: &Graph) -> Vec<(NodeIndex, NodeIndex, String)> {
    let of_node = |to: &NodeIndex| {
        let edge = |(from, edge): (paraloom_pipeline::Endpoint, &paraloom_pipeline::Edge)| {
            let output = &graph.node(from.node).stage.outputs[from.port].name;
            (
                from.node,
                *to,
                output.clone() + " -> " + &graph.node(*to).stage.inputs[edge.input].name,
            )
        };
        graph.inputs(*to).into_iter().map(edge).collect::<Vec<_>>()
    };
    graph.order().iter().flat_map(of_node).collect()
}

/// One line per node, in the order of work, with what it reads.
pub(crate) fn terminal(graph: &Graph) -> String {
    let width = graph.order().iter().map(|node| graph.node(*node).name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for index in graph.order() {
        let node = graph.node(*index);
        let inputs: Vec<_> = graph
            .inputs(*index)
            .iter()
            .map(|(from, edge)| {
                let source = &graph.node(from.node).name;
                let label = if edge.label.is_empty() || edge.label == *source {
                    String::new()
                } else {
                    format!(".{}", edge.label)
                };
                let port = &graph.node(from.node).stage.outputs[from.port].name;
                format!("{}{label} <- {source}.{port}", node.stage.inputs[edge.input].name)
            })
            .collect();
        let line = format!("{:width$}  {:12} {}", node.name, node.stage.name, inputs.join(", "));
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// A Mermaid flowchart.
pub(crate) fn mermaid(graph: &Graph) -> String {
    let mut out = "flowchart TD\n".to_owned();
    for index in graph.order() {
        let node = graph.node(*index);
        let _ = writeln!(
            out,
            "  n{}[\"{}<br/><small>{}</small>\"]",
            index.index(),
            node.name,
            node.stage.name
        );
    }
    for (from, to, label) in edges(graph) {
        let label = label.replace(" -> ", " → ");
        let _ = writeln!(out, "  n{} -- \"{label}\" --> n{}", from.index(), to.index());
    }
    out
}

/// Graphviz.
pub(crate) fn dot(graph: &Graph) -> String {
    let mut out = "digraph pipeline {\n  node [shape=box, fontname=\"sans-serif\"];\n".to_owned();
    for index in graph.order() {
        let node = graph.node(*index);
        let _ =
            writeln!(out, "  n{} [label=\"{}\\n{}\"];", index.index(), node.name, node.stage.name);
    }
    for (from, to, label) in edges(graph) {
        let _ = writeln!(
            out,
            "  n{} -> n{} [label=\"{label}\", fontsize=9];",
            from.index(),
            to.index()
        );
    }
    out + "}\n"
}
