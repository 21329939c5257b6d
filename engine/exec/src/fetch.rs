//! Before a run: what it needs from hubs comes onto this machine, and is checked.

use paraloom_hub::Reference;
use paraloom_pipeline::{Diagnostic, Graph};
use paraloom_store::Store;
use petgraph::graph::NodeIndex;

use crate::error::Result;
use crate::event::Observer;
use crate::lookup::Lookup;
use crate::remotes::Remotes;
use crate::run::Cancel;
use crate::workspace::Workspace;

/// The variables of a pipeline, as the command line and the environment set them.
#[derive(Clone, Copy)]
pub struct Variables<'a> {
    /// From the command line.
    pub set: &'a [(String, String)],
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

impl std::fmt::Debug for Variables<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Variables").field("set", &self.set).finish_non_exhaustive()
    }
}

impl Workspace {
    /// Whether the pipeline takes something from a hub, as far as it has been checked.
    pub fn uses_hub(&self) -> bool {
        !self.remotes.is_unused()
    }

    /// Checks a pipeline once more, after what is needed to make `until` (everything, if it is
    /// left out) was fetched from hubs: only the nodes that are left need files, and no stage
    /// starts before their real columns were checked.
    pub fn check_fetched(
        &mut self,
        variables: Variables,
        until: Option<&str>,
        store: &Store,
        cancel: &Cancel,
        observer: Observer,
    ) -> Result<(Option<Graph>, Vec<Diagnostic>)> {
        self.remotes.pin(cancel, observer)?;
        let mut checked = self.check(variables.set, variables.env);
        if checked.0.is_none() {
            // An error may come of guessed columns, so it counts once they are known.
            let guessed = self.remotes.guessed();
            self.remotes.fetch(&guessed, store, cancel, observer)?;
            checked = self.check(variables.set, variables.env);
        }
        let Some(graph) = &checked.0 else { return Ok(checked) };
        let needed = self.needed(graph, until, store)?;
        if !needed.is_empty() {
            self.remotes.fetch(&needed, store, cancel, observer)?;
            checked = self.check(variables.set, variables.env);
        }
        if let Some(graph) = &checked.0 {
            let nodes = selected(graph, until);
            self.remotes.remember(nodes.iter().map(|index| graph.node(*index)), store)?;
        }
        Ok(checked)
    }

    /// The references of the nodes that are left, each once.
    fn needed(&self, graph: &Graph, until: Option<&str>, store: &Store) -> Result<Vec<Reference>> {
        let lookup = Lookup::new(graph, &self.host, Some(store))?;
        let mut needed = Vec::new();
        let nodes = selected(graph, until).into_iter();
        for index in nodes.filter(|index| lookup.complete(*index).is_none()) {
            for reference in Remotes::of_node(graph.node(index)) {
                if !needed.contains(&reference) {
                    needed.push(reference);
                }
            }
        }
        Ok(needed)
    }
}

/// The node called `until` and what it needs; all nodes if there is none.
fn selected(graph: &Graph, until: Option<&str>) -> Vec<NodeIndex> {
    match until.and_then(|name| graph.find(name)) {
        Some(node) => graph.ancestors(node),
        None => graph.order().to_vec(),
    }
}
