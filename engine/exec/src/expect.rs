//! Whether the tables that a run leaves are as the pipeline expects.

use paraloom_pipeline::{Diagnostic, Expectation, Graph};
use petgraph::graph::NodeIndex;

use crate::error::{Result, RunError};
use crate::lookup::{PortResult, Results, TableRef};

/// What was found of one expectation.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The table, as the pipeline calls it.
    pub table: String,
    /// What is not as expected, at its place in the pipeline; none if all is.
    pub unmet: Option<Diagnostic>,
}

/// Holds what the pipeline expects of `nodes` against their results. What has no result yet is passed over.
pub fn judge(graph: &Graph, nodes: &[NodeIndex], results: &Results) -> Result<Vec<Verdict>> {
    let expected = graph.expect.iter().filter(|expect| nodes.contains(&expect.endpoint.node));
    let verdict = |expect: &Expectation| match results.output(expect.endpoint) {
        Some(PortResult::Table(table)) => {
            Some(look_at(expect, table).map(|unmet| Verdict { table: expect.name.clone(), unmet }))
        }
        _ => None,
    };
    expected.filter_map(verdict).collect()
}

fn look_at(expect: &Expectation, table: &TableRef) -> Result<Option<Diagnostic>> {
    let (mut rows, mut failing, mut first) = (0, 0, None);
    if expect.condition.is_none() && expect.every.is_none() {
        rows = table.rows();
    } else {
        let bad = |error: paraloom_expr::ExprError| RunError::Expectation {
            table: expect.name.clone(),
            what: error.to_string(),
        };
        for batch in table.batches() {
            let mut batch = batch?;
            if let Some(condition) = &expect.condition {
                let passes = condition.evaluate(&batch).map_err(bad)?;
                batch = arrow::compute::filter_record_batch(&batch, &passes).map_err(|error| {
                    RunError::Expectation { table: expect.name.clone(), what: error.to_string() }
                })?;
            }
            rows += batch.num_rows() as u64;
            let Some(every) = &expect.every else { continue };
            for reason in every.reasons(&batch).map_err(bad)?.into_iter().flatten() {
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
