//! The pipeline as a picture: in layers, with lines that keep clear of boxes.
//!
//! An edge over several layers is led through a place of its own in each of them, as in Sugiyama's method; so a line meets no
//! box but those that it connects.

use std::collections::HashMap;
use std::fmt::Write;

use minijinja::HtmlEscape;
use paraloom_pipeline::Graph;
use petgraph::graph::NodeIndex;

/// A box, and the gaps between boxes and layers.
const BOX: (f64, f64) = (148.0, 42.0);
const GAP: (f64, f64) = (22.0, 46.0);
/// Width of the place of an edge that passes a layer.
const LANE: f64 = 10.0;
/// Letters that fit into a box.
const LETTERS: usize = 19;
/// Edges of a graph that needs more places than these are drawn straight, since nobody can follow them anyway.
const MAX_PLACES: usize = 5_000;
/// Passes that move boxes nearer to what they are connected with.
const SWEEPS: usize = 12;

/// How far a node is, which is its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Done,
    Partial,
    Failed,
    Missing,
}

impl State {
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Missing => "missing",
        }
    }

    fn said(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Partial => "partly done",
            Self::Failed => "failed",
            Self::Missing => "not done yet",
        }
    }
}

/// Something in a layer: a box, or the place where an edge passes.
#[derive(Clone, Debug)]
struct Place {
    node: Option<NodeIndex>,
    layer: usize,
    /// Of its middle.
    x: f64,
    above: Vec<usize>,
    below: Vec<usize>,
}

impl Place {
    fn width(&self) -> f64 {
        if self.node.is_some() { BOX.0 } else { LANE }
    }
}

/// The picture as a file of its own.
pub(crate) fn svg(graph: &Graph) -> String {
    Layout::of(graph).svg(graph, None)
}

/// The picture as a part of a page, which gives the colours; boxes are coloured by their state.
pub(crate) fn drawing(graph: &Graph, state: &dyn Fn(NodeIndex) -> State) -> String {
    Layout::of(graph).svg(graph, Some(state))
}

struct Layout {
    places: Vec<Place>,
    layers: Vec<Vec<usize>>,
    /// Per edge: the places from its beginning to its end, and what it carries.
    edges: Vec<(Vec<usize>, String)>,
}

impl Layout {
    fn of(graph: &Graph) -> Self {
        let layer_of = layers(graph);
        let mut layout = Self { places: Vec::new(), layers: Vec::new(), edges: Vec::new() };
        let mut boxes = HashMap::new();
        for index in graph.order() {
            boxes.insert(*index, layout.add(Some(*index), layer_of[index]));
        }
        let edges = super::graph::edges(graph);
        let passed = |(from, to, _): &(NodeIndex, NodeIndex, _)| layer_of[to] - layer_of[from] - 1;
        let are_led = edges.iter().map(passed).sum::<usize>() <= MAX_PLACES;
        for (from, to, label) in edges {
            let mut path = vec![boxes[&from]];
            for layer in (layer_of[&from] + 1..layer_of[&to]).filter(|_| are_led) {
                path.push(layout.add(None, layer));
            }
            path.push(boxes[&to]);
            for pair in path.windows(2) {
                layout.places[pair[0]].below.push(pair[1]);
                layout.places[pair[1]].above.push(pair[0]);
            }
            layout.edges.push((path, label));
        }
        layout.order();
        layout.move_together();
        layout
    }

    fn add(&mut self, node: Option<NodeIndex>, layer: usize) -> usize {
        if self.layers.len() <= layer {
            self.layers.resize(layer + 1, Vec::new());
        }
        self.layers[layer].push(self.places.len());
        let (above, below) = (Vec::new(), Vec::new());
        self.places.push(Place { node, layer, x: 0.0, above, below });
        self.places.len() - 1
    }

    /// Orders each layer by the middle of what its places are connected with, so that few edges cross.
    fn order(&mut self) {
        let count = self.layers.len();
        let mut rank = vec![0.0; self.places.len()];
        for layer in &self.layers {
            layer.iter().enumerate().for_each(|(at, place)| rank[*place] = at as f64);
        }
        for sweep in 0..SWEEPS {
            let is_down = sweep % 2 == 0;
            for step in 1..count {
                let layer = if is_down { step } else { count - 1 - step };
                let middle = |place: &usize| {
                    let Place { above, below, .. } = &self.places[*place];
                    let near = if is_down { above } else { below };
                    mean(near, |place| rank[place]).unwrap_or(rank[*place])
                };
                let mut keyed: Vec<_> =
                    self.layers[layer].iter().map(|place| (middle(place), *place)).collect();
                keyed.sort_by(|one, other| one.0.total_cmp(&other.0));
                self.layers[layer] = keyed.into_iter().map(|(_, place)| place).collect();
                let places = self.layers[layer].iter().enumerate();
                places.for_each(|(at, place)| rank[*place] = at as f64);
            }
        }
        for layer in &self.layers {
            let mut x = 0.0;
            for place in layer {
                let half = self.places[*place].width() / 2.0;
                self.places[*place].x = x + half;
                x += 2.0 * half + GAP.0;
            }
        }
    }

    /// Moves every place towards the middle of what it is connected with, as far as its neighbours let it.
    fn move_together(&mut self) {
        let count = self.layers.len();
        for sweep in 0..SWEEPS {
            let is_down = sweep % 2 == 0;
            for step in 0..count {
                let layer = if is_down { step } else { count - 1 - step };
                let x_of = |place: usize| self.places[place].x;
                let wanted: Vec<_> = self.layers[layer]
                    .iter()
                    .map(|place| {
                        let Place { above, below, x, .. } = &self.places[*place];
                        let (first, second) = if is_down { (above, below) } else { (below, above) };
                        mean(first, x_of).or_else(|| mean(second, x_of)).unwrap_or(*x)
                    })
                    .collect();
                let widths: Vec<_> =
                    self.layers[layer].iter().map(|place| self.places[*place].width()).collect();
                for (place, x) in self.layers[layer].iter().zip(spread(&wanted, &widths)) {
                    self.places[*place].x = x;
                }
            }
        }
        let left = |place: &Place| place.x - place.width() / 2.0;
        let least = self.places.iter().map(left).fold(f64::INFINITY, f64::min);
        self.places.iter_mut().for_each(|place| place.x += GAP.0 - least);
    }

    fn top(&self, place: usize) -> f64 {
        GAP.1 / 2.0 + self.places[place].layer as f64 * (BOX.1 + GAP.1)
    }

    fn svg(&self, graph: &Graph, state: Option<&dyn Fn(NodeIndex) -> State>) -> String {
        let right = self.places.iter().map(|place| place.x + place.width() / 2.0);
        let width = right.fold(BOX.0, f64::max) + GAP.0;
        let height = self.layers.len() as f64 * (BOX.1 + GAP.1);
        let names: Vec<_> =
            graph.order().iter().map(|index| graph.node(*index).name.as_str()).collect();
        let name = format!("Graph of {} nodes: {}", names.len(), names.join(", "));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"graph\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-label=\"{}\">\n",
            HtmlEscape(&name)
        );
        if state.is_none() {
            svg.push_str(OWN_STYLE);
        }
        svg.push_str(
            "<defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path class=\"head\" d=\"M0 0.5L8 4L0 7.5z\"/></marker></defs>\n",
        );
        for (path, label) in &self.edges {
            let _ = writeln!(
                svg,
                "<path class=\"edge\" d=\"{}\" marker-end=\"url(#arrow)\"><title>{}</title></path>",
                self.line(path),
                HtmlEscape(label)
            );
        }
        for (at, place) in self.places.iter().enumerate() {
            let Some(index) = place.node else { continue };
            let (node, y) = (graph.node(index), self.top(at));
            let state = state.map(|state| state(index));
            let (class, said) = state.map_or(("", ""), |state| (state.class(), state.said()));
            let _ = writeln!(
                svg,
                "<g class=\"node {class}\"><title>{} ({}){}{said}</title><rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{}\" height=\"{}\" rx=\"7\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\">{}</text><text class=\"stage\" x=\"{x:.1}\" y=\"{:.1}\">{}</text></g>",
                HtmlEscape(&node.name),
                HtmlEscape(&node.stage.name),
                if said.is_empty() { "" } else { ": " },
                place.x - BOX.0 / 2.0,
                BOX.0,
                BOX.1,
                y + 18.0,
                HtmlEscape(&short(&node.name)),
                y + 33.0,
                HtmlEscape(&short(&node.stage.name)),
                x = place.x,
            );
        }
        svg + "</svg>\n"
    }

    /// From the bottom of a box to the top of another: straight through the layers, curved between them.
    fn line(&self, path: &[usize]) -> String {
        let mut line = String::new();
        for pair in path.windows(2) {
            let (from, to) = (&self.places[pair[0]], &self.places[pair[1]]);
            let (y1, y2) = (self.top(pair[0]) + BOX.1, self.top(pair[1]));
            if line.is_empty() {
                let _ = write!(line, "M{:.1} {y1:.1}", from.x);
            } else {
                let _ = write!(line, "V{y1:.1}");
            }
            let middle = f64::midpoint(y1, y2);
            let (x1, x2) = (from.x, to.x);
            let _ = write!(line, "C{x1:.1} {middle:.1} {x2:.1} {middle:.1} {x2:.1} {y2:.1}");
        }
        line
    }
}

/// For a picture that stands alone.
const OWN_STYLE: &str = "<style>.graph{font:13px sans-serif;text-anchor:middle;background:#fff}.node rect{fill:#eef3f8;stroke:#678}\
.stage{font-size:10px;fill:#567}.edge{fill:none;stroke:#678}.head{fill:#678}</style>\n";

/// Each node below all that it reads; what reads nothing stands just above its first reader.
fn layers(graph: &Graph) -> HashMap<NodeIndex, usize> {
    let mut layers: HashMap<NodeIndex, usize> = HashMap::new();
    for index in graph.order() {
        let above = graph.inputs(*index).iter().map(|(from, _)| layers[&from.node] + 1).max();
        layers.insert(*index, above.unwrap_or(0));
    }
    for index in graph.order().iter().filter(|index| graph.inputs(**index).is_empty()) {
        let below = graph.readers(*index).iter().map(|reader| layers[reader]).min();
        if let Some(below) = below {
            layers.insert(*index, below.saturating_sub(1));
        }
    }
    layers
}

/// Places in order as near to where they want to be as their widths allow: of two that are too near, both give way.
fn spread(wanted: &[f64], widths: &[f64]) -> Vec<f64> {
    // Groups of places that touch: where the first begins, how many there are, the sum of what they want, their width.
    let mut groups: Vec<(f64, usize, f64)> = Vec::new();
    let mut offsets = Vec::with_capacity(wanted.len());
    for (want, width) in wanted.iter().zip(widths) {
        let mut group = (want - width / 2.0, 1, width + GAP.0);
        offsets.push(width / 2.0);
        while let Some(last) = groups.last().filter(|last| last.0 + last.2 > group.0) {
            let (count, room) = (last.1 + group.1, last.2 + group.2);
            // Where the joint group begins: the mean of where its members would have it begin.
            let begins =
                (last.0 * last.1 as f64 + (group.0 - last.2) * group.1 as f64) / count as f64;
            group = (begins, count, room);
            groups.pop();
        }
        groups.push(group);
    }
    let mut places = Vec::with_capacity(wanted.len());
    for (mut x, count, _) in groups {
        for _ in 0..count {
            let at = places.len();
            places.push(x + offsets[at]);
            x += widths[at] + GAP.0;
        }
    }
    places
}

fn mean(of: &[usize], value: impl Fn(usize) -> f64) -> Option<f64> {
    let sum: f64 = of.iter().map(|place| value(*place)).sum();
    (!of.is_empty()).then(|| sum / of.len() as f64)
}

fn short(text: &str) -> String {
    if text.chars().count() <= LETTERS {
        return text.to_owned();
    }
    text.chars().take(LETTERS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_keep_their_order_and_their_distance() {
        let cases: [(&[f64], &[f64]); 4] = [
            (&[0.0, 0.0, 0.0], &[148.0, 10.0, 148.0]),
            (&[500.0, 0.0], &[148.0, 148.0]),
            (&[0.0, 400.0, 410.0, 900.0], &[148.0; 4]),
            (&[], &[]),
        ];
        for (wanted, widths) in cases {
            let places = spread(wanted, widths);
            assert_eq!(places.len(), wanted.len());
            for at in 1..places.len() {
                let room = f64::midpoint(widths[at - 1], widths[at]) + GAP.0;
                assert!(places[at] - places[at - 1] >= room - 1e-6, "{places:?}");
            }
        }
        assert_eq!(spread(&[0.0, 400.0, 900.0], &[148.0; 3]), [0.0, 400.0, 900.0]);
        assert_eq!(spread(&[100.0, 100.0], &[148.0; 2]), [15.0, 185.0]);
    }
}
