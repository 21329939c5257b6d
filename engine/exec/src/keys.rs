//! What decides a result, and so what is in its key.
//!
//! In: stage name and version (and the digest of a library that is not shipped), the
//! configuration with its defaults, the content of the files that it names, the commit of
//! what it takes from a hub, the content of the inputs, the seed where the stage is random, the stage's fingerprint, and for
//! whole stages the number of rows of a part. Not in: paths, times, node names, comments,
//! formatting, parallelism. A map stage's key leaves out the mapped rows: they are the
//! key of each part.

use paraloom_host::Host;
use paraloom_pipeline::{DEFAULT_DEVICE, Edge, Node, Place, PortKind, Shape};
use paraloom_store::{Digest, DigestCache, Preimage};
use serde_json::{Value, json};

use crate::error::{Result, RunError};
use crate::lookup::PortResult;

/// The preimage of a node's key. `inputs` are the edges with what enters them; the mapped
/// table of a map stage is left out.
pub(crate) fn preimage(
    host: &Host,
    node: &Node,
    inputs: &[(&Edge, &PortResult)],
    digests: &mut DigestCache,
) -> Result<Preimage> {
    let stage = &node.stage;
    let mut preimage = Preimage::default()
        .with("stage", stage.name.as_str())
        .with("version", stage.version.as_str())
        .with("config", config(node, digests)?);
    let loaded = host.loaded(stage).map_err(|error| RunError::from_host(&node.name, error))?;
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
    }
    if !node.fingerprint.is_empty() {
        preimage = preimage.with("fingerprint", node.fingerprint.as_str());
    }
    let makes_tables = stage.outputs.iter().any(|port| port.kind == PortKind::Table);
    if stage.shape == Shape::Whole && makes_tables {
        preimage = preimage.with("part_rows", node.part_rows);
    }
    let mapped = stage.mapped_input();
    let edges =
        inputs.iter().filter(|(edge, _)| Some(edge.input) != mapped).map(|(edge, result)| {
            let (kind, digest) = match result {
                PortResult::Table(table) => ("table", table.digest()),
                PortResult::Artifact { artifact, .. } => ("artifact", artifact.digest),
            };
            let port = stage.inputs[edge.input].name.as_str();
            json!({"port": port, "label": edge.label, kind: digest})
        });
    Ok(preimage.with("inputs", edges.collect::<Value>()))
}

/// The configuration with the content of files in place of their paths. What is on a hub is
/// named by its commit, so that a key is known without the files.
fn config(node: &Node, digests: &mut DigestCache) -> Result<Value> {
    let mut config = node.config.clone();
    for used in &node.paths {
        let Some(place) = config.pointer_mut(&used.pointer) else { continue };
        *place = match &used.place {
            Place::Local(path) => json!({"content": digests.digest(path)?}),
            Place::Hub(hub) => json!({"reference": hub.reference, "commit": hub.commit}),
        };
    }
    Ok(config)
}

/// The seed that a node's stage gets: separate for each stage, so that two stages with
/// the same pipeline seed draw different numbers.
pub(crate) fn stage_seed(node: &Node) -> u64 {
    let text = format!("paraloom seed\n{}\n{}", node.seed, node.stage.name);
    let digest = Digest::of(text.as_bytes());
    u64::from_str_radix(&digest.short(), 16).unwrap_or(node.seed)
}

/// An error if the configuration names something that is not on this machine.
pub(crate) fn check_fetched(node: &Node) -> Result<()> {
    let missing = |place: &Place| matches!(place, Place::Hub(hub) if hub.paths.is_none());
    match node.paths.iter().find(|used| missing(&used.place)) {
        None => Ok(()),
        Some(used) => {
            Err(RunError::NotFetched { node: node.name.clone(), text: used.text.clone() })
        }
    }
}
