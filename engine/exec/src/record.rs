//! The results that a run has left, by the names of its nodes: so that they can be looked at later, whatever has become of
//! the pipeline and of the files that it read.

use arrow::datatypes::SchemaRef;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use paraloom_pipeline::{Graph, nearest};
use paraloom_store::{ArtifactRef, Key, PartFile, Store};
use petgraph::graph::NodeIndex;
use serde::{Deserialize, Serialize};

use crate::error::{Result, RunError};
use crate::graph_record::GraphRecord;
use crate::lookup::{NodeResult, PortResult, Results, TableRef};

/// What a run has left.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RunRecord {
    /// The nodes that were done when it ended, in order.
    pub nodes: Vec<NodeRecord>,
}

/// What a run has left of a node.
#[derive(Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node's name.
    pub node: String,
    /// Its stage.
    pub stage: String,
    /// The key of its result.
    pub key: Key,
    /// Per output port.
    pub outputs: Vec<OutputRecord>,
}

/// What a run has left of an output.
#[derive(Debug, Serialize, Deserialize)]
pub struct OutputRecord {
    /// The port's name.
    pub port: String,
    /// What it holds.
    pub content: Content,
}

/// What an output holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// A table.
    Table {
        /// An Arrow IPC stream without rows, in base64: the schema.
        schema: String,
        /// The parts, in order.
        parts: Vec<PartFile>,
    },
    /// A directory.
    Artifact(ArtifactRef),
}

impl RunRecord {
    pub(crate) fn new(graph: &Graph, nodes: &[NodeIndex], results: &Results) -> Result<Self> {
        let mut record = Self::default();
        for (index, result) in nodes.iter().filter_map(|node| Some((*node, results.node(*node)?))) {
            let node = graph.node(index);
            let outputs = node.stage.outputs.iter().zip(&result.ports).map(|(port, output)| {
                let content = match output {
                    PortResult::Table(table) => Content::Table {
                        schema: encode(&table.schema)?,
                        parts: table.parts.to_vec(),
                    },
                    PortResult::Artifact { artifact, .. } => Content::Artifact(artifact.clone()),
                };
                Ok(OutputRecord { port: port.name.clone(), content })
            });
            record.nodes.push(NodeRecord {
                node: node.name.clone(),
                stage: node.stage.name.clone(),
                key: result.key.clone(),
                outputs: outputs.collect::<Result<_>>()?,
            });
        }
        Ok(record)
    }

    fn place(run: &str) -> String {
        format!("runs/{run}/results.json")
    }

    /// Records what a run of `graph` has left, and the graph.
    pub(crate) fn write(&self, graph: &Graph, store: &Store, run: &str) -> Result<()> {
        GraphRecord::write(graph, store, run)?;
        Ok(store.write_note(&Self::place(run), self)?)
    }

    /// The graph that the run called `run` was of, to look at its results by; none of a run that was cut short, or of an
    /// earlier version. It lacks what a run needs, such as the digests of files.
    pub fn graph(store: &Store, run: &str) -> Result<Option<Graph>> {
        GraphRecord::read(store, run)
    }

    /// What the run called `run` has left; none of a run that was cut short, or of an earlier version.
    pub fn read(store: &Store, run: &str) -> Result<Option<Self>> {
        Ok(store.read_note(&Self::place(run))?)
    }

    /// What the run has left of the node called `name`.
    pub fn node(&self, name: &str) -> Option<&NodeRecord> {
        self.nodes.iter().find(|node| node.node == name)
    }

    /// The output that `text` means, `node.port` or `node` for the first one that `fits`, with its node.
    ///
    /// # Errors
    /// There is none, in the user's words.
    pub fn output(
        &self,
        text: &str,
        fits: impl Fn(&Content) -> bool,
    ) -> Result<(&NodeRecord, &OutputRecord), String> {
        let (name, port) = match text.split_once('.') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        let node = self.node(name).ok_or_else(|| {
            let near = nearest(name, self.nodes.iter().map(|node| node.node.as_str()));
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            format!("the run has no result of `{name}`{near}")
        })?;
        let wanted = |output: &&OutputRecord| match port {
            Some(port) => output.port == port,
            None => fits(&output.content),
        };
        let output = node.outputs.iter().find(wanted).filter(|output| fits(&output.content));
        let output = output.ok_or_else(|| {
            let ports: Vec<_> =
                node.outputs.iter().map(|output| format!("`{name}.{}`", output.port)).collect();
            format!("there is no such output as `{text}`; there is {}", ports.join(", "))
        })?;
        Ok((node, output))
    }
}

impl NodeRecord {
    /// Whether the store still has the result: `gc` may have removed it since.
    pub fn is_there(&self, store: &Store) -> Result<bool> {
        Ok(store.entry(&self.key).preimage()?.is_some())
    }

    /// All outputs as they are in the store.
    pub(crate) fn results(&self, store: &Store) -> Result<NodeResult> {
        let ports = self.outputs.iter().map(|output| self.result(store, output));
        let took_ms = store.entry(&self.key).manifest()?.map(|manifest| manifest.took_ms);
        Ok(NodeResult { key: self.key.clone(), ports: ports.collect::<Result<_>>()?, took_ms })
    }

    /// An output as it is in the store.
    pub fn result(&self, store: &Store, output: &OutputRecord) -> Result<PortResult> {
        let entry = store.entry(&self.key);
        Ok(match &output.content {
            Content::Table { schema, parts } => PortResult::Table(TableRef {
                entry,
                schema: decode(schema)?,
                parts: parts.clone().into(),
            }),
            Content::Artifact(artifact) => PortResult::Artifact {
                entry,
                port: output.port.clone(),
                artifact: artifact.clone(),
            },
        })
    }
}

pub(crate) fn encode(schema: &SchemaRef) -> Result<String> {
    let unwritten = |error: arrow::error::ArrowError| RunError::Internal {
        what: format!("a schema cannot be written: {error}"),
    };
    let mut writer =
        arrow_ipc::writer::StreamWriter::try_new(Vec::new(), schema).map_err(unwritten)?;
    writer.finish().map_err(unwritten)?;
    Ok(STANDARD.encode(writer.into_inner().map_err(unwritten)?))
}

pub(crate) fn decode(text: &str) -> Result<SchemaRef> {
    let unread = |error: &dyn std::fmt::Display| RunError::Internal {
        what: format!("the record of a run has a schema that cannot be read: {error}"),
    };
    let bytes = STANDARD.decode(text).map_err(|error| unread(&error))?;
    let reader = arrow_ipc::reader::StreamReader::try_new(bytes.as_slice(), None);
    Ok(reader.map_err(|error| unread(&error))?.schema())
}
