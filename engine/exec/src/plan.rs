//! What a run would do, and why.

use paraloom_pipeline::Graph;
use paraloom_store::Store;
use petgraph::graph::NodeIndex;
use serde::Serialize;

use crate::error::Result;
use crate::lookup::{Found, Lookup, rows_of};
use crate::reason::{History, explain};

/// What a run would do with one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing: the result is there.
    Cached,
    /// What is left.
    Partial,
    /// Everything.
    Run,
}

/// The plan for one node.
#[derive(Clone, Debug, Serialize)]
pub struct NodePlan {
    /// The node.
    pub node: String,
    /// Its stage.
    pub stage: String,
    /// What a run would do.
    pub state: State,
    /// Why, in the user's words; empty for what is cached.
    pub reason: String,
    /// Parts that are there, of all that there will be; `None` if that is not known yet.
    pub parts: Option<(usize, usize)>,
    /// The key, if it is known yet.
    pub key: Option<String>,
    /// Rows of the first table output, if the result is there.
    pub rows: Option<u64>,
    /// What its stage computes on.
    pub device: String,
    /// Bytes of memory that the work is likely to take, if there is work and that is known.
    pub memory_bytes: Option<u64>,
}

/// The plan for a pipeline.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// In the order of work.
    pub nodes: Vec<NodePlan>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_done(&self) -> bool {
        self.nodes.iter().all(|node| node.state == State::Cached)
    }
}

/// Says what a run of `nodes` would do, of which `lookup` knows what there is.
pub fn plan(graph: &Graph, nodes: &[NodeIndex], lookup: &Lookup) -> Result<Plan> {
    let store = lookup.store();
    let history = match store {
        Some(store) => History::read(store, &graph.name)?,
        None => History::default(),
    };
    let plan = |index: &NodeIndex| plan_node(graph, *index, lookup, &history, store);
    Ok(Plan { nodes: nodes.iter().map(plan).collect::<Result<_>>()? })
}

fn plan_node(
    graph: &Graph,
    index: NodeIndex,
    lookup: &Lookup,
    history: &History,
    store: Option<&Store>,
) -> Result<NodePlan> {
    let node = graph.node(index);
    let mut plan = NodePlan {
        node: node.name.clone(),
        stage: node.stage.name.clone(),
        state: State::Run,
        reason: String::new(),
        parts: None,
        key: None,
        rows: None,
        device: node.device.clone(),
        memory_bytes: node.memory,
    };
    match lookup.found(index) {
        Found::Complete(result) => {
            plan.state = State::Cached;
            plan.memory_bytes = None;
            plan.key = Some(result.key.to_string());
            plan.rows = rows_of(&result.ports);
        }
        Found::Unknown { waits_for } => {
            let names: Vec<_> =
                waits_for.iter().map(|from| format!("`{}`", graph.node(*from).name)).collect();
            plan.reason = format!("reads {}", names.join(", "));
        }
        Found::Partial { key, preimage, parts } => {
            plan.key = Some(key.to_string());
            plan.parts = Some(*parts);
            let rows = lookup.rows_left(graph, index)?;
            if parts.0 > 0 || rows.is_some_and(|(left, all)| left < all) {
                plan.state = State::Partial;
            }
            plan.reason = explain(node, key, preimage, rows, history, store)?;
        }
    }
    Ok(plan)
}
