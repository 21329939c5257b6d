//! Map nodes at work on rows that are not kept: one after another, each on what the one before made.

mod link;
mod other_model;
mod parameters;

use std::sync::Arc;
use std::sync::mpsc::Sender;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use paraloom_pipeline::{Graph, Shape};
use paraloom_store::{DigestCache, Event, Store};
use petgraph::graph::NodeIndex;

use crate::context::NodeContext;
use crate::error::{Result, RunError};
use crate::lookup::Lookup;
use crate::run::{Cancel, Job, RunOptions};
use link::Link;

pub use other_model::with_model;
pub use parameters::{Changes, Parameter, Parameters};

/// Map nodes, each of which reads a table of the one before, with everything loaded.
pub struct Chain<'a> {
    links: Vec<Link<'a>>,
    input: SchemaRef,
    store: Store,
}

/// One output of a chain.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// The rows, with ids.
    pub rows: RecordBatch,
    /// Of each row: the number of the row that it came of. None where that cannot be told, since a stage gave up the ids.
    pub origins: Option<Vec<usize>>,
    /// Of each row: what was left out of the texts that it came of, as far as stages tell; none where origins cannot be told.
    pub marks: Option<Vec<Mark>>,
}

/// What stages tell of a row beside its columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// A text was longer than a stage reads, and was cut.
    pub is_cut: bool,
    /// A text that was written was ended for its length.
    pub is_unfinished: bool,
    /// Tokens of the text that was read, where the first stage that reads one tells.
    pub tokens_read: Option<u64>,
    /// Tokens of the text that was written, where the last stage that writes one tells.
    pub tokens_written: Option<u64>,
}

/// The longest chain that ends in `last`, of map nodes and, behind the first of them, of whole ones that can work on the rows of one
/// request; empty if there is none.
pub fn chain_of(graph: &Graph, last: NodeIndex) -> Vec<NodeIndex> {
    let is_map = |index: &NodeIndex| graph.node(*index).stage.shape == Shape::Map;
    let fits = |index: &NodeIndex| is_map(index) || graph.node(*index).stage.works_per_request();
    let before = |index: &NodeIndex| graph.rows_source(*index).map(|from| from.node).filter(fits);
    let mut nodes: Vec<_> = std::iter::successors(Some(last).filter(fits), before).collect();
    nodes.reverse();
    nodes.into_iter().skip_while(|index| !is_map(index)).collect()
}

impl<'a> Chain<'a> {
    /// Loads what the nodes of `job`, a chain as [`chain_of`] gives it or the end of one, read beside their rows. That
    /// must be in the store. `events` takes what the stages say.
    pub fn open(
        job: &Job<'a>,
        options: &RunOptions,
        cancel: &Cancel,
        events: &Sender<Event>,
    ) -> Result<Self> {
        let Job { graph, nodes, host, store, .. } = *job;
        let first = nodes.first().and_then(|first| graph.rows_source(*first));
        let input = first.and_then(|from| graph.schema(from)).ok_or_else(|| {
            RunError::Internal { what: "a chain of map nodes has no rows to begin with".to_owned() }
        })?;
        let readers = nodes.iter().skip(1).map(|node| graph.rows_source(*node));
        let next = readers.map(|from| from.map_or(0, |from| from.port)).chain([0]);
        let lookup = Lookup::new(graph, host, Some(store))?;
        let digests = DigestCache::load(store);
        let link = |(index, next): (&NodeIndex, usize)| {
            let node = graph.node(*index);
            let output = |from| lookup.output(from).cloned();
            let rows = node.stage.rows_input();
            let bound = NodeContext::bind_rows(graph, host, *index, rows, output, &digests)?;
            let context = bound.map_err(|missing| RunError::Missing {
                node: node.name.clone(),
                input: graph.node(missing[0]).name.clone(),
            })?;
            Link::open(context, options, cancel, events, next)
        };
        let links = nodes.iter().zip(next).map(link).collect::<Result<_>>()?;
        Ok(Self { links, input: Arc::clone(input), store: job.store.clone() })
    }

    /// The schema of the rows to map, ids included.
    pub fn input(&self) -> &SchemaRef {
        &self.input
    }

    /// Names and schemas of what [`Chain::map`] gives: the outputs of the last node, and as `NODE.PORT` those at which rows
    /// leave the chain before.
    pub fn outputs(&self) -> Vec<(String, SchemaRef)> {
        let Some((last, before)) = self.links.split_last() else { return Vec::new() };
        let ports = last.node().stage.outputs.iter().zip(&last.node().outputs);
        let ports = ports.filter_map(|(port, schema)| Some((port.name.clone(), schema.clone()?)));
        let exits = before.iter().flat_map(|link| {
            let node = link.node();
            link.exits().map(|(port, schema)| {
                (format!("{}.{}", node.name, node.stage.outputs[port].name), Arc::clone(schema))
            })
        });
        ports.chain(exits).collect()
    }

    /// Whether a row comes out the same beside any neighbours.
    pub fn is_batch_invariant(&self) -> bool {
        self.links.iter().all(|link| {
            let stage = &link.node().stage;
            stage.shape == Shape::Map && stage.batch_invariant
        })
    }

    /// The settings that may be changed for some rows.
    pub fn parameters(&self) -> Parameters {
        Parameters::of(self.links.iter().map(Link::node))
    }

    /// Has the stages that can do so tell what they leave out of texts, in [`Mapped::marks`].
    pub fn mark(&mut self) -> Result<()> {
        self.links.iter_mut().try_for_each(Link::mark)
    }

    /// Maps rows of the schema [`Chain::input`], no two with the same id: a table for each of [`Chain::outputs`].
    pub fn map(&mut self, rows: &RecordBatch) -> Result<Vec<Mapped>> {
        self.map_with(rows, &Changes::default())
    }

    /// As [`Chain::map`], with settings changed.
    ///
    /// # Errors
    /// [`RunError::Refused`] if a stage refuses these settings.
    pub fn map_with(&mut self, rows: &RecordBatch, changes: &Changes) -> Result<Vec<Mapped>> {
        let count = rows.num_rows();
        let origins = Some((0..count).collect());
        let mut at =
            Mapped { rows: rows.clone(), origins, marks: Some(vec![Mark::default(); count]) };
        let mut left = Vec::new();
        let Some((last, before)) = self.links.split_last_mut() else { return Ok(left) };
        for link in before {
            let mut outputs = link.map(&self.store, &at, changes)?;
            let exits: Vec<_> = link.exits().map(|(port, _)| port).collect();
            left.extend(exits.into_iter().filter_map(|port| outputs[port].take()));
            at =
                outputs.into_iter().nth(link.next).flatten().ok_or_else(|| RunError::Internal {
                    what: format!("`{}` has no rows for the next node", link.node().name),
                })?;
        }
        let outputs = last.map(&self.store, &at, changes)?;
        let mut outputs: Vec<_> = outputs.into_iter().flatten().collect();
        outputs.append(&mut left);
        Ok(outputs)
    }
}
