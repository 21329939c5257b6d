//! What decides a result, and so what is in its key.
//!
//! In: stage name and version (and the digest of a library that is not shipped), what the
//! configuration says beyond its defaults, the content of the files that it names, the commit of
//! what it takes from a hub, the content of the inputs, the seed where the stage is random, the stage's fingerprint (such as
//! the format that a file is read in), whether rows that make it fail are rejected, the kind of device where it computes on one, and for
//! whole stages the number of rows of a part. Not in: paths, times, node names, comments,
//! formatting, the order in which inputs are named, parallelism. A map stage's key leaves out the mapped rows: they are the
//! key of each part.

use std::path::Path;

use paraloom_host::Host;
use paraloom_pipeline::{
    DEFAULT_DEVICE, DEFAULT_PART_ROWS, Location, Node, PortKind, Shape, essential,
};
use paraloom_store::{Digest, DigestCache, Preimage, Store};
use serde_json::{Value, json};

use crate::context::Bound;
use crate::error::{Result, RunError};
use crate::lookup::PortResult;

/// The preimage of a node's key, without the table that a map stage maps.
pub(crate) fn preimage(
    host: &Host,
    node: &Node,
    inputs: &[Bound],
    digests: &DigestCache,
) -> Result<Preimage> {
    let stage = &node.stage;
    let loaded = host.loaded(stage).map_err(|error| RunError::from_host(&node.name, error))?;
    let mut preimage = Preimage::default()
        .with("stage", loaded.name.as_str())
        .with("version", stage.version.as_str())
        .with("config", config(node, digests)?);
    if let Some(digest) = &loaded.foreign {
        preimage = preimage.with("library", digest.as_str());
    }
    // Which one of several does not matter, nor any to a stage that computes nothing and so has no fingerprint.
    let device = node.device.split(':').next().unwrap_or_default();
    if device != DEFAULT_DEVICE && !node.fingerprint.is_empty() {
        preimage = preimage.with("device", device);
    }
    if stage.uses_seed {
        preimage = preimage.with("seed", node.seed);
        if node.repeats > 0 {
            preimage = preimage.with("repeats", node.repeats);
        }
    }
    if !node.fingerprint.is_empty() {
        preimage = preimage.with("fingerprint", node.fingerprint.as_str());
    }
    if node.rejects.is_some() {
        preimage = preimage.with("on_error", "reject");
    }
    let makes_tables = stage.outputs.iter().any(|port| port.kind == PortKind::Table);
    if stage.shape == Shape::Whole && makes_tables {
        preimage = preimage.with("part_rows", node.part_rows.unwrap_or(DEFAULT_PART_ROWS));
    }
    let edges = inputs.iter().filter_map(|Bound { edge, content, .. }| {
        let (kind, digest) = match content.as_ref()? {
            PortResult::Table(table) => ("table", table.digest()),
            PortResult::Artifact { artifact, .. } => ("artifact", artifact.digest),
        };
        let port = stage.inputs[edge.input].name.as_str();
        Some(json!({"port": port, "label": edge.label, kind: digest}))
    });
    Ok(preimage.with("inputs", edges.collect::<Value>()))
}

/// What the configuration says beyond its defaults, with the content of files in place of their paths. What is on a hub
/// is named by its commit, so that a key is known without the files.
fn config(node: &Node, digests: &DigestCache) -> Result<Value> {
    let mut config = node.config.clone();
    for used in &node.paths {
        let Some(place) = config.pointer_mut(&used.pointer) else { continue };
        let content =
            |path: &Path| -> Result<Value> { Ok(json!({"content": digests.digest(path)?})) };
        *place = match &used.location {
            Location::Local(path) => content(path)?,
            Location::Files(paths) => {
                paths.iter().map(|path| content(path)).collect::<Result<_>>()?
            }
            Location::Hub(hub) => json!({"reference": hub.reference, "commit": hub.commit}),
        };
    }
    Ok(essential(&config, &node.stage.config_schema))
}

/// How keys are written. Version 1 held every default, and inputs in the order of the file.
const VERSION: u64 = 2;

/// Moves the results of a store from before to the keys that they have now. The number of results that moved.
pub fn rekey(store: &Store, host: &Host) -> Result<usize> {
    Ok(store.rekey(VERSION, &|preimage| rewritten(host, preimage))?)
}

/// A preimage as this version writes it; that of a stage that is not known stays.
fn rewritten(host: &Host, preimage: &Preimage) -> Preimage {
    let name = preimage.get("stage").and_then(Value::as_str);
    let stage = host.stages().find(|stage| Some(stage.info.name.as_str()) == name);
    let Some(stage) = stage.map(|stage| &stage.info) else { return preimage.clone() };
    let port = |edge: &Value| stage.inputs.iter().position(|port| edge["port"] == *port.name);
    let members = preimage.members().iter().map(|(name, value)| {
        let value = match (name.as_str(), value) {
            ("config", config) => essential(config, &stage.config_schema),
            ("inputs", Value::Array(edges)) => {
                let mut edges = edges.clone();
                edges.sort_by_key(port);
                Value::Array(edges)
            }
            (_, other) => other.clone(),
        };
        (name, value)
    });
    members.fold(Preimage::default(), |preimage, (name, value)| preimage.with(name, value))
}

/// The seed that a node's stage gets: separate for each stage, and for each node of one stage that the same rows pass
/// through, so that two nodes with the same pipeline seed draw different numbers.
pub(crate) fn stage_seed(node: &Node) -> u64 {
    let mut text = format!("paraloom seed\n{}\n{}", node.seed, node.stage.name);
    if node.repeats > 0 {
        text.push_str(&format!("\n{}", node.repeats));
    }
    let digest = Digest::of(text.as_bytes());
    u64::from_str_radix(&digest.short(), 16).unwrap_or(node.seed)
}

/// An error if the configuration names something that is not on this machine.
pub(crate) fn check_fetched(node: &Node) -> Result<()> {
    let missing =
        |location: &Location| matches!(location, Location::Hub(hub) if hub.paths.is_none());
    match node.paths.iter().find(|used| missing(&used.location)) {
        None => Ok(()),
        Some(used) => {
            Err(RunError::NotFetched { node: node.name.clone(), text: used.text.clone() })
        }
    }
}
