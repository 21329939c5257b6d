//! The section on the work: which node took how long, when, and what was there before.

use paraloom_exec::Found;
use petgraph::graph::NodeIndex;

use super::super::run::outcome;
use super::subject::Subject;
use crate::render::{self, NodeLine, State, duration};

/// Digits of a key that tell it from others.
const SHORT: usize = 12;
/// A bar that can be seen, in percent.
const THIN: f64 = 0.4;

impl Subject<'_> {
    /// Why a node failed, if the run left it so.
    pub(super) fn failure(&self, index: NodeIndex) -> Option<&str> {
        let is_done = self.lookup.complete(index).is_some();
        self.history.failure(&self.graph.node(index).name).filter(|_| !is_done)
    }

    /// How far a node is.
    pub(super) fn state(&self, index: NodeIndex) -> State {
        match self.lookup.found(index) {
            Found::Complete(_) => State::Done,
            _ if self.failure(index).is_some() => State::Failed,
            Found::Partial { parts, .. } if parts.0 > 0 => State::Partial,
            _ => State::Missing,
        }
    }

    /// The line of a node.
    pub(super) fn node_line(&self, index: NodeIndex) -> NodeLine {
        let node = self.graph.node(index);
        let state = self.state(index).class();
        let (name, stage) = (self.cut(&node.name), node.stage.name.clone());
        let bar = self.history.span(&node.name).map(|span| {
            let length = self.history.length().max(1) as f64;
            let from = 100.0 * span.from as f64 / length;
            let width = (100.0 * span.ms as f64 / length).max(THIN);
            (from.min(100.0 - THIN), width.min(100.0 - from).max(THIN))
        });
        let Some(result) = self.lookup.complete(index) else {
            let outcome = match self.lookup.found(index) {
                Found::Partial { parts, .. } if parts.0 > 0 => {
                    format!("{} of {} parts", parts.0, parts.1)
                }
                _ => "not done yet".to_owned(),
            };
            let outcome = match self.failure(index) {
                Some(why) => {
                    // The line names the node already.
                    let named = format!("node `{}`: ", node.name);
                    format!("failed: {}", self.cut(why.strip_prefix(&named).unwrap_or(why)))
                }
                None => outcome,
            };
            let (time, reused, memory, key) = Default::default();
            return NodeLine { name, stage, outcome, state, time, reused, memory, key, bar };
        };
        let made = self.history.made(&result.key);
        let run = self.history.run().map(|run| run.id.as_str());
        let reused = match made {
            Some(made) if Some(made.run.as_str()) == run && made.found == 0 => String::new(),
            Some(made) if Some(made.run.as_str()) == run => match made.rows {
                Some(_) => format!("{} rows reused", number(made.found)),
                None => "partly reused".to_owned(),
            },
            Some(made) => format!("reused, of {}", self.history.began(&made.run)),
            None => "reused".to_owned(),
        };
        let took = made.map(|made| made.ms).or(result.took_ms);
        let memory = made.and_then(|made| made.peak_memory).map(render::bytes);
        NodeLine {
            name,
            stage,
            outcome: outcome(self.graph, index, result, self.lookup.results()),
            state,
            time: took.map(duration).unwrap_or_default(),
            reused,
            memory: memory.unwrap_or_default(),
            key: result.key.to_string().chars().take(SHORT).collect(),
            bar,
        }
    }

    /// Milliseconds that went into the results that are there.
    pub(super) fn total_ms(&self) -> u64 {
        let results = self.graph.order().iter().filter_map(|node| self.lookup.complete(*node));
        let took = results.filter_map(|result| {
            self.history.made(&result.key).map(|made| made.ms).or(result.took_ms)
        });
        took.sum()
    }
}

fn number(count: u64) -> String {
    render::number(count as f64)
}
