//! The pipeline as a picture.

use std::fmt::Write;

use paraloom_pipeline::Graph;
use petgraph::graph::NodeIndex;

/// Every edge as (from, to, what it carries).
fn edges(graph: &Graph) -> Vec<(NodeIndex, NodeIndex, String)> {
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

/// A picture in layers: each node below everything that it reads.
pub(crate) fn svg(graph: &Graph) -> String {
    const BOX: (usize, usize) = (150, 40);
    const GAP: (usize, usize) = (30, 50);
    let mut layers: Vec<Vec<NodeIndex>> = Vec::new();
    let mut place = std::collections::HashMap::new();
    for index in graph.order() {
        let above = graph
            .inputs(*index)
            .iter()
            .map(|(from, _)| place[&from.node])
            .collect::<Vec<(usize, usize)>>();
        let layer = above.iter().map(|(layer, _)| layer + 1).max().unwrap_or(0);
        if layers.len() <= layer {
            layers.resize(layer + 1, Vec::new());
        }
        place.insert(*index, (layer, layers[layer].len()));
        layers[layer].push(*index);
    }
    let columns = layers.iter().map(Vec::len).max().unwrap_or(1);
    let (width, height) =
        (columns * (BOX.0 + GAP.0) + GAP.0, layers.len() * (BOX.1 + GAP.1) + GAP.1);
    let corner = |(layer, column): (usize, usize)| {
        let row_width = layers[layer].len() * (BOX.0 + GAP.0) - GAP.0;
        ((width - row_width) / 2 + column * (BOX.0 + GAP.0), GAP.1 / 2 + layer * (BOX.1 + GAP.1))
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\" text-anchor=\"middle\">\n\
         <defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#678\"/></marker></defs>\n"
    );
    for (from, to, label) in edges(graph) {
        let (a, b) = (corner(place[&from]), corner(place[&to]));
        let (x1, y1, x2, y2) = (a.0 + BOX.0 / 2, a.1 + BOX.1, b.0 + BOX.0 / 2, b.1);
        let middle = usize::midpoint(y1, y2);
        let _ = writeln!(
            out,
            "<path d=\"M{x1} {y1}C{x1} {middle} {x2} {middle} {x2} {y2}\" fill=\"none\" stroke=\"#678\" marker-end=\"url(#a)\"><title>{label}</title></path>",
            label = label.replace('>', "&gt;")
        );
    }
    for index in graph.order() {
        let node = graph.node(*index);
        let (x, y) = corner(place[index]);
        let (center, w, h) = (x + BOX.0 / 2, BOX.0, BOX.1);
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"6\" fill=\"#eef3f8\" stroke=\"#678\"/><text x=\"{center}\" y=\"{}\">{}</text><text x=\"{center}\" y=\"{}\" font-size=\"10\" fill=\"#567\">{}</text>",
            y + 17,
            node.name,
            y + 32,
            node.stage.name
        );
    }
    out + "</svg>\n"
}
