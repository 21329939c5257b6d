//! What a report is about, and what all its sections need.

use std::collections::HashSet;
use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Schema};
use paraloom_exec::{Lookup, PortResult, TableRef};
use paraloom_expr::Expr;
use paraloom_pipeline::{Endpoint, Graph, is_identity};
use petgraph::graph::NodeIndex;

use super::against::Before;
use super::history::History;
use crate::error::{CliError, Result};
use crate::finished::Finished;
use crate::render::{self, Badge, Report};

/// More nodes than this cannot be followed in a drawing.
const MAX_DRAWN: usize = 120;

/// How much of everything is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Letters of a cell.
    pub(super) cell: usize,
    /// Rows of a table.
    pub(super) rows: usize,
    pub(super) nodes: usize,
    pub(super) charts: usize,
    /// Bytes of the pipeline.
    pub(super) text: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { cell: 280, rows: 200, nodes: 400, charts: 60, text: 100_000 }
    }
}

impl Sizes {
    /// Half of it, unless that would say nothing any more.
    pub(super) fn shrink(&mut self) -> bool {
        let half = |size: &mut usize, least: usize| {
            let smaller = (*size / 2).max(least);
            std::mem::replace(size, smaller) > smaller
        };
        let halved = [
            half(&mut self.cell, 60),
            half(&mut self.rows, 5),
            half(&mut self.nodes, 40),
            half(&mut self.charts, 10),
            half(&mut self.text, 4_000),
        ];
        halved.contains(&true)
    }
}

/// What the report is about.
pub(super) struct Subject<'a> {
    /// The pipeline's file.
    pub(super) file: &'a Path,
    pub(super) finished: &'a Finished,
    pub(super) graph: &'a Graph,
    pub(super) lookup: &'a Lookup<'a>,
    pub(super) history: &'a History,
    /// The run to compare with.
    pub(super) before: Option<&'a Before<'a>>,
    pub(super) sizes: Sizes,
}

impl Subject<'_> {
    /// The page.
    pub(super) fn page(&self) -> Result<String> {
        let graph = self.graph;
        let expectations = self.expectations()?;
        let done =
            graph.order().iter().filter(|node| self.lookup.complete(**node).is_some()).count();
        let of = graph.order().len();
        let unmet = expectations.iter().filter(|check| check.met == Some(false)).count();
        let failed = graph.order().iter().filter(|node| self.failure(**node).is_some()).count();
        let (kind, word) = match (done == of, unmet) {
            _ if failed > 0 => ("bad", "failed".to_owned()),
            (true, 0) => ("good", "complete".to_owned()),
            (true, 1) => ("bad", "1 expectation is not met".to_owned()),
            (true, unmet) => ("bad", format!("{unmet} expectations are not met")),
            (false, _) => ("quiet", "not complete".to_owned()),
        };
        let status = Badge { kind, word, detail: format!("{done} of {of} nodes are done") };
        let chain = self.main_chain();
        let nodes: Vec<_> = graph.order().iter().take(self.sizes.nodes).collect();
        let (tables, more_tables) = self.tables()?;
        let report = Report {
            name: self.name(),
            version: env!("CARGO_PKG_VERSION"),
            made: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            status,
            run: self.history.told(),
            figures: self.figures(&chain, &expectations)?,
            expectations,
            funnel: self.funnel(&chain),
            measured: self.measured()?,
            against: self.before.map(|before| self.against(before, &chain)).transpose()?,
            scores: self.scores(&chain)?,
            reasons: self.reasons(&chain)?,
            findings: self.findings(&chain)?,
            examples: self.examples(&chain)?,
            tables,
            more_tables,
            training: self.training()?,
            nodes: nodes.into_iter().map(|node| self.node_line(*node)).collect(),
            more_nodes: of.saturating_sub(self.sizes.nodes),
            ticks: self.history.ticks(),
            drawing: (of <= MAX_DRAWN).then(|| render::drawing(graph, &|node| self.state(node))),
            again: self.again(),
        };
        render::report(report).map_err(|error| CliError::new(1, error.to_string()))
    }

    fn name(&self) -> String {
        match self.graph.name.as_str() {
            "" => self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            name => name.to_owned(),
        }
    }

    /// The table at an output, if its node is done.
    pub(super) fn table(&self, endpoint: Endpoint) -> Option<&TableRef> {
        match self.lookup.output(endpoint) {
            Some(PortResult::Table(table)) => Some(table),
            _ => None,
        }
    }

    /// The same table as the run left it that the report compares with.
    pub(super) fn table_before(&self, endpoint: Endpoint) -> Option<TableRef> {
        let node = self.graph.node(endpoint.node);
        self.before?.table(&node.name, &node.stage.outputs[endpoint.port].name)
    }

    /// All tables of a node.
    pub(super) fn tables_of(&self, node: NodeIndex) -> Vec<(Endpoint, &TableRef)> {
        let ports = 0..self.graph.node(node).outputs.len();
        let endpoints = ports.map(|port| Endpoint { node, port });
        endpoints.filter_map(|endpoint| Some((endpoint, self.table(endpoint)?))).collect()
    }

    /// The chain of nodes that most rows go through: the longest of those along which the columns are kept, and among equals
    /// one that a model learns from. Of each step: the output whose rows go on.
    pub(super) fn main_chain(&self) -> Vec<Endpoint> {
        let graph = self.graph;
        let mut length = std::collections::HashMap::new();
        for index in graph.order() {
            let above = self.carries(*index).map_or(0, |from| length[&from.node]);
            length.insert(*index, above + 1);
        }
        let is_table =
            |index: &NodeIndex| graph.node(*index).outputs.first().is_some_and(Option::is_some);
        let feeds = |index: NodeIndex| graph.readers(index).iter().any(|reader| !is_table(reader));
        let tables = graph.order().iter().copied().filter(is_table);
        let Some(end) = tables.rev().max_by_key(|node| (length[node], feeds(*node))) else {
            return Vec::new();
        };
        let mut chain = vec![Endpoint { node: end, port: 0 }];
        while let Some(from) = chain.last().and_then(|last| self.carries(last.node)) {
            chain.push(from);
        }
        chain.reverse();
        chain
    }

    /// The table whose rows a node passes on, changed or not: what it maps, or what it has all columns of.
    pub(super) fn carries(&self, index: NodeIndex) -> Option<Endpoint> {
        let graph = self.graph;
        if let Some(mapped) = graph.mapped(index) {
            return Some(mapped);
        }
        let own: HashSet<_> = own_names(graph.node(index).outputs.first()?.as_ref()?).collect();
        let inputs = graph.inputs(index).into_iter().map(|(from, _)| from);
        inputs.into_iter().find(|from| {
            graph
                .schema(*from)
                .is_some_and(|schema| own_names(schema).all(|name| own.contains(name)))
        })
    }

    /// The conditions that nodes set, by the mark that the schema of their configuration has, each with its node.
    pub(super) fn conditions(&self) -> Vec<(NodeIndex, Expr)> {
        let mut found = Vec::new();
        for index in self.graph.order() {
            found.extend(conditions_of(self.graph, *index).map(|expr| (*index, expr)));
        }
        found
    }

    /// A text of a cell, cut where it is too long.
    pub(super) fn cut(&self, text: &str) -> String {
        cut(text, self.sizes.cell)
    }
}

/// The conditions of one node.
pub(in crate::commands) fn conditions_of(
    graph: &Graph,
    index: NodeIndex,
) -> impl Iterator<Item = Expr> + '_ {
    let node = graph.node(index);
    let properties = node.stage.config_schema.get("properties").and_then(|found| found.as_object());
    let marked = properties.into_iter().flatten().filter(|(_, property)| {
        property.get("x-paraloom-expression").and_then(serde_json::Value::as_bool) == Some(true)
    });
    marked.filter_map(|(name, _)| Expr::parse(node.config.get(name)?.as_str()?).ok())
}

/// Names of columns, without those of the engine.
pub(in crate::commands) fn own_names(schema: &Schema) -> impl Iterator<Item = &str> {
    let names = schema.fields().iter().map(|field| field.name().as_str());
    names.filter(|name| !is_identity(name))
}

/// A column of numbers.
pub(super) fn numbers(table: &TableRef, column: &str) -> Result<Vec<Option<f64>>> {
    let mut numbers = Vec::with_capacity(table.rows() as usize);
    for batch in table.batches_of(vec![table.schema.index_of(column)?]) {
        let values = cast(batch?.column(0), &DataType::Float64)?;
        numbers.extend(values.as_primitive::<Float64Type>().iter());
    }
    Ok(numbers)
}

/// A column of texts of some rows; empty where there is none.
pub(in crate::commands) fn texts<'a>(
    rows: &'a arrow::array::RecordBatch,
    column: &str,
) -> Vec<&'a str> {
    let texts = rows.column_by_name(column).and_then(|column| column.as_string_opt::<i32>());
    let texts = texts.into_iter().flat_map(|texts| {
        (0..texts.len()).map(|row| if texts.is_valid(row) { texts.value(row) } else { "" })
    });
    texts.collect()
}

/// The first `letters` of a text, with the number of those that are left out; all of them can be seen.
pub(super) fn cut(text: &str, letters: usize) -> String {
    let text = &render::printable(text);
    match text.char_indices().nth(letters) {
        None => text.to_owned(),
        Some((at, _)) => {
            format!("{}… ({} more characters)", &text[..at], text[at..].chars().count())
        }
    }
}

/// "92 %"; "0.4 %" of what is little.
pub(super) fn percent(part: u64, of: u64) -> String {
    if of == 0 {
        return "–".to_owned();
    }
    let share = 100.0 * part as f64 / of as f64;
    match share {
        _ if part == of => "100 %".to_owned(),
        _ if part == 0 => "0 %".to_owned(),
        0.0..1.0 => format!("{:.1} %", share.max(0.1)),
        // What is less than all is not rounded up to it.
        99.0.. => format!("{:.1} %", share.min(99.9)),
        _ => format!("{share:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_not_rounded_to_all_or_nothing() {
        let cases = [(0, 5), (1, 100_000), (1, 3), (296, 330), (99_999, 100_000), (5, 5), (0, 0)];
        let said = cases.map(|(part, of)| percent(part, of));
        assert_eq!(said, ["0 %", "0.1 %", "33 %", "90 %", "99.9 %", "100 %", "–"]);
    }

    #[test]
    fn long_texts_are_cut_between_letters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß🙂", 3), "äöü… (2 more characters)");
        assert_eq!(cut("a\u{202e}b\u{7}", 99), "a\\u{202e}b\\u{7}");
    }

    #[test]
    fn sizes_shrink_to_an_end() {
        let mut sizes = Sizes::default();
        let steps = std::iter::repeat_with(|| sizes.shrink()).take_while(|more| *more).count();
        assert!((3..10).contains(&steps), "{sizes:?} after {steps}");
    }
}
