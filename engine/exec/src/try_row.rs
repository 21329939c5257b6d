//! One row through a map node of a finished run, without keeping anything.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use paraloom_host::{Host, WorkInput, WorkOutput, WorkSettings};
use paraloom_pipeline::Graph;
use petgraph::graph::NodeIndex;

use crate::error::{Result, RunError};
use crate::keys::stage_seed;
use crate::lookup::{Lookup, PortResult};

/// Maps `rows`, which must have the schema of the node's mapped input. Returns the rows of
/// each output port. The artifacts that the node reads must be there.
pub fn try_row(
    graph: &Graph,
    node: NodeIndex,
    host: &Host,
    lookup: &Lookup,
    rows: &RecordBatch,
    settings: &crate::RunOptions,
) -> Result<Vec<Vec<RecordBatch>>> {
    let index = node;
    let node = graph.node(index);
    let fail = |what: String| RunError::Output { node: node.name.clone(), what };
    let mapped = node.stage.mapped_input().ok_or_else(|| {
        fail(format!("`{}` reads its input whole; only map stages can be tried", node.stage.name))
    })?;
    let (mut planned, mut inputs) = (Vec::new(), Vec::new());
    for (from, edge) in graph.inputs(index) {
        let schema = graph.node(from.node).outputs[from.port].clone();
        let source = &graph.node(from.node).name;
        planned.push(graph.node(from.node).plan_input(edge));
        inputs.push(match (edge.input == mapped, schema, lookup.output(from)) {
            (true, Some(schema), _) => WorkInput::Table(schema, Box::new(std::iter::empty())),
            (_, _, Some(PortResult::Artifact { entry, port, artifact })) => {
                entry.verify_artifact(port, artifact)?;
                WorkInput::Artifact(entry.artifact_dir(port, artifact))
            }
            (_, _, Some(PortResult::Table(table))) => {
                let batches = table.batches().map(|batch| {
                    batch.map_err(|error| arrow::error::ArrowError::ExternalError(Box::new(error)))
                });
                WorkInput::Table(Arc::clone(&table.schema), Box::new(batches))
            }
            _ => {
                return Err(fail(format!(
                    "it reads `{source}`, which has no result yet: run the pipeline first"
                )));
            }
        });
    }
    let host_error = |error| RunError::from_host(&node.name, error);
    let mut stage =
        host.plan(&node.stage, &node.name, &node.config, &planned).map_err(host_error)?;
    let (events, _ignored) = channel();
    let services = crate::services::NodeServices::new(
        &node.name,
        None,
        events,
        Arc::new(AtomicBool::new(false)),
        settings.checkpoint_every,
    );
    let work = WorkSettings {
        threads: settings.threads,
        seed: stage_seed(node),
        device: node.device.clone(),
    };
    let mut worker = stage.open(&work, services, inputs).map_err(host_error)?;
    let collected: Vec<_> = node.outputs.iter().map(|_| Mutex::new(Vec::new())).collect();
    let sinks = collected.iter().map(|rows| {
        WorkOutput::Table(Box::new(|batch| {
            rows.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
            Ok(())
        }))
    });
    worker.map(rows, sinks.collect()).map_err(host_error)?;
    Ok(collected
        .into_iter()
        .map(|rows| rows.into_inner().unwrap_or_else(PoisonError::into_inner))
        .collect())
}
