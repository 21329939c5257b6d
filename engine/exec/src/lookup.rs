//! What of a pipeline is in the store already.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
use paraloom_host::Host;
use paraloom_pipeline::{Endpoint, Graph, Location, Shape};
use paraloom_store::{
    ArtifactRef, Digest, DigestCache, Entry, Key, Output, PartFile, Preimage, Store,
};
use petgraph::graph::NodeIndex;

use crate::context::NodeContext;
use crate::error::Result;
use crate::record::RunRecord;
use crate::reuse::KnownRows;
use crate::slice::slices;

/// A table in the store: some parts of one entry.
#[derive(Clone, Debug)]
pub struct TableRef {
    /// Where the parts are.
    pub entry: Entry,
    /// The schema, ids included.
    pub schema: SchemaRef,
    /// The parts, in order.
    pub parts: Arc<[PartFile]>,
}

impl TableRef {
    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// The digest of the digests of the parts, whose files hold the schema too. Without rows there is no part that would.
    pub fn digest(&self) -> Digest {
        if self.parts.is_empty() {
            let field = |field: &Arc<Field>| {
                let (name, kind) = (field.name(), field.data_type());
                format!("{name:?} {kind} {}\n", field.is_nullable())
            };
            let fields: String = self.schema.fields().iter().map(field).collect();
            return Digest::of(format!("no rows\n{fields}").as_bytes());
        }
        let lines = self.parts.iter().map(|part| format!("{}\n", part.digest));
        Digest::of(lines.collect::<String>().as_bytes())
    }

    /// Reads part by part the columns with these numbers, in the order of the table.
    pub fn batches_of(
        &self,
        columns: Vec<usize>,
    ) -> impl Iterator<Item = paraloom_store::Result<RecordBatch>> + use<> {
        let (entry, parts) = (self.entry.clone(), Arc::clone(&self.parts));
        (0..parts.len()).map(move |part| entry.read_part_columns(&parts[part], &columns))
    }

    /// Reads part by part.
    pub fn batches(&self) -> impl Iterator<Item = paraloom_store::Result<RecordBatch>> + use<> {
        let (entry, parts) = (self.entry.clone(), Arc::clone(&self.parts));
        (0..parts.len()).map(move |part| entry.read_part(&parts[part]))
    }
}

/// What one output port of a finished node holds.
#[derive(Clone, Debug)]
pub enum PortResult {
    /// A table.
    Table(TableRef),
    /// A directory.
    Artifact {
        /// The result that it belongs to.
        entry: Entry,
        /// The port's name, which is part of the directory's name.
        port: String,
        /// Its files.
        artifact: ArtifactRef,
    },
}

/// Rows of the first table among the outputs.
pub(crate) fn rows_of(ports: &[PortResult]) -> Option<u64> {
    ports.iter().find_map(|port| match port {
        PortResult::Table(table) => Some(table.rows()),
        PortResult::Artifact { .. } => None,
    })
}

/// A finished node: one result per output port.
#[derive(Clone, Debug)]
pub struct NodeResult {
    /// The key.
    pub key: Key,
    /// Per output port.
    pub ports: Vec<PortResult>,
    /// Wall time of the work, if it is recorded.
    pub took_ms: Option<u64>,
}

/// The results of finished nodes.
#[derive(Clone, Debug, Default)]
pub struct Results(HashMap<NodeIndex, NodeResult>);

impl Results {
    /// The result of a node.
    pub fn node(&self, node: NodeIndex) -> Option<&NodeResult> {
        self.0.get(&node)
    }

    /// What an output holds.
    pub fn output(&self, endpoint: Endpoint) -> Option<&PortResult> {
        self.node(endpoint.node)?.ports.get(endpoint.port)
    }

    pub(crate) fn insert(&mut self, node: NodeIndex, result: NodeResult) {
        self.0.insert(node, result);
    }
}

/// What the store has of a node.
#[derive(Clone, Debug)]
pub enum Found {
    /// The key is unknown: an input has to be computed first.
    Unknown {
        /// The nodes that it waits for.
        waits_for: Vec<NodeIndex>,
    },
    /// Nothing, or some parts.
    Partial {
        /// The key.
        key: Key,
        /// What the key is the hash of.
        preimage: Preimage,
        /// Parts that are there, of all that there will be.
        parts: (usize, usize),
    },
    /// Everything.
    Complete(NodeResult),
}

/// Looks the nodes of a graph up, in order.
#[derive(Debug)]
pub struct Lookup<'a> {
    store: Option<&'a Store>,
    digests: DigestCache,
    found: HashMap<NodeIndex, Found>,
    results: Results,
}

impl<'a> Lookup<'a> {
    /// Looks up every node of `graph` in `store`; without a store there is nothing. Writes nothing.
    pub fn new(graph: &Graph, host: &Host, store: Option<&'a Store>) -> Result<Self> {
        let digests = store.map(DigestCache::load).unwrap_or_default();
        let (found, results) = (HashMap::new(), Results::default());
        let mut lookup = Self { store, digests, found, results };
        for index in graph.order() {
            let found = lookup.node(graph, host, *index)?;
            lookup.insert(*index, found);
        }
        Ok(lookup)
    }

    /// What a run has left of the nodes of `graph`, as far as the store still has it. No file that the run read is looked at.
    pub fn recorded(graph: &Graph, record: &RunRecord, store: &'a Store) -> Result<Self> {
        let (found, results, digests) = Default::default();
        let mut lookup = Self { store: Some(store), digests, found, results };
        for index in graph.order() {
            let found = match record.node(&graph.node(*index).name) {
                Some(node) if node.is_there(store)? => Found::Complete(node.results(store)?),
                _ => Found::Unknown { waits_for: Vec::new() },
            };
            lookup.insert(*index, found);
        }
        Ok(lookup)
    }

    fn insert(&mut self, index: NodeIndex, found: Found) {
        if let Found::Complete(result) = &found {
            self.results.insert(index, result.clone());
        }
        self.found.insert(index, found);
    }

    /// The store that was looked at.
    pub fn store(&self) -> Option<&'a Store> {
        self.store
    }

    /// The digests of the files that were looked at.
    pub(crate) fn digests(&self) -> &DigestCache {
        &self.digests
    }

    /// What the store has of a node.
    pub fn found(&self, node: NodeIndex) -> &Found {
        &self.found[&node]
    }

    /// The result of a node that is complete.
    pub fn complete(&self, node: NodeIndex) -> Option<&NodeResult> {
        self.results.node(node)
    }

    /// What an output holds, if its node is complete.
    pub fn output(&self, endpoint: Endpoint) -> Option<&PortResult> {
        self.results.output(endpoint)
    }

    /// The results of the nodes that are complete.
    pub fn results(&self) -> &Results {
        &self.results
    }

    /// Of a map node that is partly done: how many of the rows that it reads are new, and how many there are. None where
    /// nothing is done, or rows cannot be told apart.
    pub(crate) fn rows_left(&self, graph: &Graph, index: NodeIndex) -> Result<Option<(u64, u64)>> {
        let node = graph.node(index);
        let (Found::Partial { key, .. }, Some(store)) = (self.found(index), self.store) else {
            return Ok(None);
        };
        let rows = graph.mapped(index);
        let Some(PortResult::Table(table)) = rows.and_then(|from| self.output(from)) else {
            return Ok(None);
        };
        let entry = store.entry(key);
        let committed = Committed::read(&entry)?;
        if committed.is_empty() {
            return Ok(None);
        }
        let known = KnownRows::read(&entry)?;
        let mut left = 0;
        for part in table.parts.iter() {
            let missing: Vec<_> =
                slices(node, part).filter(|slice| committed.get(&slice.digest).is_none()).collect();
            if missing.is_empty() {
                continue;
            }
            // Damage is found, and mended, by the run.
            let rows = table.entry.read_part(part).ok().filter(|_| node.stage.batch_invariant);
            for slice in missing {
                left += match &rows {
                    Some(rows) => {
                        known.count_new(&rows.slice(slice.start as usize, slice.rows as usize))?
                    }
                    None => slice.rows,
                };
            }
        }
        Ok(Some((left, table.rows())))
    }

    fn node(&self, graph: &Graph, host: &Host, index: NodeIndex) -> Result<Found> {
        let output = |from| self.output(from).cloned();
        let bound = NodeContext::bind(graph, host, index, output, &self.digests)?;
        let context = match bound {
            Ok(context) => context,
            Err(waits_for) => return Ok(Found::Unknown { waits_for }),
        };
        let mapped = context.mapped();
        let NodeContext { node, key, preimage, .. } = context;
        let Some(store) = self.store else {
            return Ok(Found::Partial { key, preimage, parts: (0, 0) });
        };
        let entry = store.entry(&key);
        if node.stage.shape == Shape::Whole {
            return Ok(match whole_result(&entry, &key, node)? {
                Some(result) => Found::Complete(result),
                None => Found::Partial { key, preimage, parts: (0, 1) },
            });
        }
        let Some(PortResult::Table(table)) = mapped.and_then(|from| self.output(from)) else {
            return Ok(Found::Unknown {
                waits_for: mapped.map(|from| from.node).into_iter().collect(),
            });
        };
        let committed = Committed::read(&entry)?;
        let slices = || table.parts.iter().flat_map(|part| slices(node, part));
        let there = || slices().filter_map(|slice| committed.get(&slice.digest));
        let parts = (there().count(), slices().count());
        if parts.0 < parts.1 {
            return Ok(Found::Partial { key, preimage, parts });
        }
        let mut outputs = OutputParts::new(node);
        there().for_each(|parts| outputs.push(parts));
        Ok(Found::Complete(outputs.result(&entry, key, node)))
    }
}

/// The committed parts of a map stage: what came of each input part. There may be millions, so nothing else of their
/// records is kept.
#[derive(Debug, Default)]
pub(crate) struct Committed(HashMap<Digest, Box<[Option<PartFile>]>>);

impl Committed {
    pub(crate) fn read(entry: &Entry) -> Result<Self> {
        let mut committed = Self::default();
        for record in entry.records()? {
            let (_, record) = record?;
            committed.insert(record.input, &record.outputs);
        }
        Ok(committed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By output port.
    pub(crate) fn get(&self, input: &Digest) -> Option<&[Option<PartFile>]> {
        self.0.get(input).map(AsRef::as_ref)
    }

    pub(crate) fn insert(&mut self, input: Digest, outputs: &[Option<PartFile>]) {
        self.0.insert(input, outputs.into());
    }
}

/// The result of a whole stage, if its manifest is there.
pub(crate) fn whole_result(
    entry: &Entry,
    key: &Key,
    node: &paraloom_pipeline::Node,
) -> Result<Option<NodeResult>> {
    let Some(manifest) = entry.manifest()? else { return Ok(None) };
    if manifest.outputs.len() != node.outputs.len() {
        return Ok(None);
    }
    let ports = manifest.outputs.into_iter().zip(&node.outputs).map(|((port, output), schema)| {
        match (output, schema) {
            (Output::Table(parts), Some(schema)) => Some(PortResult::Table(TableRef {
                entry: entry.clone(),
                schema: schema.clone(),
                parts: parts.into(),
            })),
            (Output::Artifact(artifact), None) => {
                Some(PortResult::Artifact { entry: entry.clone(), port, artifact })
            }
            _ => None,
        }
    });
    let Some(ports) = ports.collect::<Option<Vec<_>>>() else { return Ok(None) };
    if !has_planned_columns(node, &ports) {
        return Ok(None);
    }
    Ok(Some(NodeResult { key: key.clone(), ports, took_ms: Some(manifest.took_ms) }))
}

/// Whether tables have the columns that the pipeline was checked with. A file may have become since what it was in an earlier run, and
/// then its table is there, with other columns: it is none that anything can be made of before another check.
fn has_planned_columns(node: &paraloom_pipeline::Node, ports: &[PortResult]) -> bool {
    if node.paths.iter().all(|path| matches!(path.location, Location::Hub(_))) {
        return true;
    }
    let column =
        |field: &Arc<Field>| (field.name().clone(), field.data_type().clone(), field.is_nullable());
    ports.iter().all(|port| {
        let PortResult::Table(table) = port else { return true };
        let Some(part) = table.parts.first() else { return true };
        // A damaged part is told, and made again, when it is read.
        let Ok(Some(found)) = table.entry.part_schema(part) else { return true };
        found.fields().iter().map(column).eq(table.schema.fields().iter().map(column))
    })
}

/// The parts of a map stage's outputs, in the order of its input parts.
pub(crate) struct OutputParts(Vec<Vec<PartFile>>);

impl OutputParts {
    pub(crate) fn new(node: &paraloom_pipeline::Node) -> Self {
        Self(vec![Vec::new(); node.outputs.len()])
    }

    /// Adds what came of the next input part, by output port.
    pub(crate) fn push(&mut self, parts: &[Option<PartFile>]) {
        for (port, part) in self.0.iter_mut().zip(parts) {
            port.extend(part);
        }
    }

    pub(crate) fn result(
        self,
        entry: &Entry,
        key: Key,
        node: &paraloom_pipeline::Node,
    ) -> NodeResult {
        let port = |(parts, schema): (Vec<PartFile>, &Option<SchemaRef>)| {
            let schema = schema.clone()?;
            Some(PortResult::Table(TableRef { entry: entry.clone(), schema, parts: parts.into() }))
        };
        let ports = self.0.into_iter().zip(&node.outputs).filter_map(port).collect();
        NodeResult { key, ports, took_ms: None }
    }
}
