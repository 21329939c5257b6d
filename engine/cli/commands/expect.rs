//! Whether what a pipeline expects of its tables holds.

use paraloom_exec::{Lookup, PortResult, TableRef};
use paraloom_pipeline::{Diagnostic, Expectation, Graph};
use petgraph::graph::NodeIndex;

use super::show::passing;
use crate::error::{CliError, Result};

/// What is not as expected of the tables of `nodes`, each at its place in the pipeline.
pub(super) fn unmet(
    graph: &Graph,
    nodes: &[NodeIndex],
    lookup: &Lookup,
) -> Result<Vec<Diagnostic>> {
    let mut unmet = Vec::new();
    for expect in graph.expect.iter().filter(|expect| nodes.contains(&expect.endpoint.node)) {
        if let Some(PortResult::Table(table)) = lookup.output(expect.endpoint) {
            unmet.extend(look_at(expect, table)?);
        }
    }
    Ok(unmet)
}

fn look_at(expect: &Expectation, table: &TableRef) -> Result<Option<Diagnostic>> {
    let (mut rows, mut failing, mut first) = (0, 0, None);
    if expect.condition.is_none() && expect.every.is_none() {
        rows = table.rows();
    } else {
        for batch in table.batches() {
            let batch = passing(batch?, expect.condition.as_ref())?;
            rows += batch.num_rows() as u64;
            let Some(every) = &expect.every else { continue };
            let reasons =
                every.reasons(&batch).map_err(|error| CliError::usage(error.to_string()))?;
            for reason in reasons.into_iter().flatten() {
                failing += 1;
                first.get_or_insert(reason);
            }
        }
    }
    let message = expect.unmet(rows, failing);
    Ok(message.map(|message| {
        let first = first.map(|reason| format!("the first: {reason}"));
        Diagnostic::error(message, expect.span).maybe_hint(first)
    }))
}
