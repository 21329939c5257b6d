//! Map nodes at work on rows that are not kept: one after another, each on what the one before made.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use paraloom_host::Worker;
use paraloom_pipeline::{Graph, Node, RowAccount, Shape};
use paraloom_store::{DigestCache, Event, Store};
use petgraph::graph::NodeIndex;

use crate::account::origins;
use crate::context::NodeContext;
use crate::error::{Result, RunError};
use crate::lookup::Lookup;
use crate::rows::map_rows;
use crate::run::{Cancel, Job, RunOptions};
use crate::services::NodeServices;

/// Map nodes, each of which reads a table of the one before, with everything loaded.
pub struct Chain {
    links: Vec<Link>,
    input: SchemaRef,
    store: Store,
}

/// One node of a chain.
struct Link {
    worker: Box<dyn Worker>,
    services: Arc<NodeServices>,
    node: Node,
    /// The output that the next link reads; of the last, the first one.
    next: usize,
}

/// One output of the last node of a chain.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// The rows, with ids.
    pub rows: RecordBatch,
    /// Of each row: the number of the row that it came of. None where that cannot be told, since a stage gave up the ids.
    pub origins: Option<Vec<usize>>,
}

/// The longest chain of map nodes that ends in `last`; empty if it reads its input whole.
pub fn chain_of(graph: &Graph, last: NodeIndex) -> Vec<NodeIndex> {
    let is_map = |index: &NodeIndex| graph.node(*index).stage.shape == Shape::Map;
    let before = |index: &NodeIndex| graph.mapped(*index).map(|from| from.node).filter(is_map);
    let mut nodes: Vec<_> = std::iter::successors(Some(last).filter(is_map), before).collect();
    nodes.reverse();
    nodes
}

impl Chain {
    /// Loads what the nodes of `job`, a chain as [`chain_of`] gives it or the end of one, read beside their rows. That
    /// must be in the store. `events` takes what the stages say.
    pub fn open(
        job: &Job,
        options: &RunOptions,
        cancel: &Cancel,
        events: &Sender<Event>,
    ) -> Result<Self> {
        let Job { graph, nodes, host, store, .. } = *job;
        let first = nodes.first().and_then(|first| graph.mapped(*first));
        let input = first.and_then(|from| graph.schema(from)).ok_or_else(|| {
            RunError::Internal { what: "a chain of map nodes has no rows to begin with".to_owned() }
        })?;
        let readers = nodes.iter().skip(1).map(|node| graph.mapped(*node));
        let next = readers.map(|from| from.map_or(0, |from| from.port)).chain([0]);
        let lookup = Lookup::new(graph, host, Some(store))?;
        let digests = DigestCache::load(store);
        let link = |(index, next): (&NodeIndex, usize)| {
            let node = graph.node(*index);
            let output = |from| lookup.output(from).cloned();
            let bound = NodeContext::bind(graph, host, *index, output, &digests)?;
            let context = bound.map_err(|missing| RunError::Missing {
                node: node.name.clone(),
                input: graph.node(missing[0]).name.clone(),
            })?;
            let (events, stop) = (events.clone(), cancel.flag());
            let every = options.checkpoint_every;
            let services = NodeServices::new(&node.name, None, events, stop, every);
            let worker = context.open(options, &services)?;
            Ok(Link { worker, services, node: node.clone(), next })
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
        let ports = last.node.stage.outputs.iter().zip(&last.node.outputs);
        let ports = ports.filter_map(|(port, schema)| Some((port.name.clone(), schema.clone()?)));
        let exits = before.iter().flat_map(|link| {
            let node = &link.node;
            link.exits().map(|(port, schema)| {
                (format!("{}.{}", node.name, node.stage.outputs[port].name), Arc::clone(schema))
            })
        });
        ports.chain(exits).collect()
    }

    /// Whether a row comes out the same beside any neighbours.
    pub fn is_batch_invariant(&self) -> bool {
        self.links.iter().all(|link| link.node.stage.batch_invariant)
    }

    /// Maps rows of the schema [`Chain::input`], no two with the same id: a table for each of [`Chain::outputs`].
    pub fn map(&mut self, rows: &RecordBatch) -> Result<Vec<Mapped>> {
        let origins = Some((0..rows.num_rows()).collect());
        let mut at = Mapped { rows: rows.clone(), origins };
        let mut left = Vec::new();
        let Some((last, before)) = self.links.split_last_mut() else { return Ok(left) };
        for link in before {
            let mut outputs = link.map(&self.store, &at)?;
            let exits: Vec<_> = link.exits().map(|(port, _)| port).collect();
            left.extend(exits.into_iter().filter_map(|port| outputs[port].take()));
            at =
                outputs.into_iter().nth(link.next).flatten().ok_or_else(|| RunError::Internal {
                    what: format!("`{}` has no rows for the next node", link.node.name),
                })?;
        }
        let mut outputs: Vec<_> = last.map(&self.store, &at)?.into_iter().flatten().collect();
        outputs.append(&mut left);
        Ok(outputs)
    }
}

impl Link {
    /// The table outputs that the next link does not read, of a stage all of whose rows go somewhere: by their numbers.
    fn exits(&self) -> impl Iterator<Item = (usize, &SchemaRef)> {
        let says = matches!(self.node.stage.rows, RowAccount::Divided | RowAccount::Covered)
            || self.node.rejects.is_some();
        let tables = self.node.outputs.iter().enumerate().filter(move |_| says);
        tables
            .filter_map(|(port, schema)| Some((port, schema.as_ref()?)))
            .filter(|(port, _)| *port != self.next)
    }

    /// One table per output port.
    fn map(&mut self, store: &Store, input: &Mapped) -> Result<Vec<Option<Mapped>>> {
        let (node, worker) = (&self.node, &mut *self.worker);
        let tables = map_rows(node, worker, &self.services, &input.rows, |port, schema| {
            let (stage, output) = (&node.stage.name, &node.stage.outputs[port].name);
            store.identify(Arc::clone(schema), format!("{stage}/{output}"))
        })?;
        let mapped = |rows: RecordBatch| {
            let origins = input.origins.as_ref().and_then(|before| {
                let own = origins(&rows, &input.rows)?;
                Some(own.into_iter().map(|origin| before[origin]).collect())
            });
            Mapped { rows, origins }
        };
        Ok(tables.into_iter().map(|rows| rows.map(mapped)).collect())
    }
}
