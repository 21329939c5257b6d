//! The section on the data: distributions of scores, why rows were rejected, what is wrong with texts, and tables.

use std::collections::{BTreeMap, HashSet};

use arrow::array::RecordBatch;
use paraloom_exec::TableRef;
use paraloom_expr::{Bound, Expr};
use paraloom_pipeline::{Endpoint, is_identity};
use petgraph::graph::NodeIndex;

use super::super::show::{project, read_rows};
use super::examples::Pair;
use super::subject::{Subject, cut, numbers, own_names, percent, texts};
use super::training::has_steps;
use crate::error::{CliError, Result};
use crate::render::{self, Chart, Column, Finding, Histogram, Reason, Table, number};

/// Rows of a table, where the pipeline does not say.
const ROWS: usize = 10;
/// Tables, where the pipeline does not say which.
const TABLES: usize = 12;
/// Reasons of one node.
const REASONS: usize = 8;
/// Nodes whose rejected rows are looked at.
const REJECTING: usize = 12;
/// Share of its words that a text has in common with the one that it was made of, from which on it is a near copy.
const NEAR: f64 = 0.9;

impl Subject<'_> {
    /// How the numbers are distributed that map nodes have added, those of the main chain first.
    pub(super) fn scores(&self, chain: &[Endpoint]) -> Result<Vec<Chart>> {
        let conditions = self.conditions();
        let on_chain: HashSet<_> = chain.iter().map(|at| at.node).collect();
        let mut order = self.graph.order().to_vec();
        order.sort_by_key(|node| !on_chain.contains(node));
        let mut charts = Vec::new();
        for index in order {
            let Some(from) = self.graph.mapped(index) else { continue };
            let known: HashSet<_> =
                self.graph.schema(from).into_iter().flat_map(|schema| own_names(schema)).collect();
            for (endpoint, table) in self.tables_of(index) {
                if has_steps(table) {
                    continue;
                }
                let fields = table.schema.fields().iter();
                let made = fields.filter(|field| field.data_type().is_floating());
                for field in made.filter(|field| !known.contains(field.name().as_str())) {
                    if charts.len() >= self.sizes.charts {
                        return Ok(charts);
                    }
                    charts.extend(self.score(endpoint, table, field.name(), &conditions)?);
                }
            }
        }
        Ok(charts)
    }

    fn score(
        &self,
        endpoint: Endpoint,
        table: &TableRef,
        column: &str,
        conditions: &[(NodeIndex, Expr)],
    ) -> Result<Option<Chart>> {
        let values = finite(table, column)?;
        if values.is_empty() {
            return Ok(None);
        }
        let below = self.below(endpoint.node);
        let expected = self.graph.expect.iter().flat_map(|expect| {
            let of_node = [&expect.condition, &expect.every].into_iter().flatten();
            of_node.map(|expr| (expect.endpoint.node, expr))
        });
        let all = conditions.iter().map(|(node, expr)| (*node, expr)).chain(expected);
        let all = all.filter(|(node, _)| below.contains(node));
        let mut limits: Vec<Bound> = Vec::new();
        for bound in
            all.flat_map(|(_, expr)| expr.conditions()).filter_map(|condition| condition.bound)
        {
            if bound.column == column && !limits.contains(&bound) && limits.len() < 3 {
                limits.push(bound);
            }
        }
        let before = match self.table_before(endpoint) {
            Some(before) if before.schema.index_of(column).is_ok() => {
                Some(finite(&before, column)?)
            }
            _ => None,
        };
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let mut summary = format!(
            "{} rows, mean {}, median {}",
            number(values.len() as f64),
            number(mean),
            number(median(&values))
        );
        let missing = table.rows() - values.len() as u64;
        if missing > 0 {
            summary += &format!("; {} without a finite value", number(missing as f64));
        }
        for limit in &limits {
            let passing = values.iter().filter(|value| limit.passes(**value)).count() as u64;
            summary += &format!(
                "; {} {}: {} ({})",
                limit.comparison,
                number(limit.value),
                number(passing as f64),
                percent(passing, values.len() as u64)
            );
        }
        if let Some(before) = before.as_ref().filter(|before| !before.is_empty()) {
            let mean = before.iter().sum::<f64>() / before.len() as f64;
            summary += &format!("; compared with mean {}", number(mean));
        }
        let title = self.cut(column);
        let told = format!("Histogram of {title}: {summary}");
        let chart = Histogram {
            title: &title,
            values: &values,
            before: before.as_deref(),
            limits: &limits,
            name: &told,
        };
        let svg = chart.svg();
        let node = self.cut(&self.graph.node(endpoint.node).name);
        Ok(Some(Chart { title, node, summary, svg }))
    }

    /// A node, and all that its rows or models reach.
    fn below(&self, index: NodeIndex) -> HashSet<NodeIndex> {
        let (mut found, mut left) = (HashSet::from([index]), vec![index]);
        while let Some(node) = left.pop() {
            left.extend(
                self.graph.readers(node).into_iter().filter(|reader| found.insert(*reader)),
            );
        }
        found
    }

    /// The column of reasons of a table of rejected rows: what it has beyond the first table of its node.
    pub(super) fn reason_column(&self, endpoint: Endpoint) -> Option<&str> {
        if endpoint.port == 0 {
            return None;
        }
        let first = self.graph.schema(Endpoint { port: 0, ..endpoint })?;
        let fields = self.graph.schema(endpoint)?.fields().iter();
        let mut texts =
            fields.filter(|field| field.data_type() == &arrow::datatypes::DataType::Utf8);
        let added = texts.find(|field| first.index_of(field.name()).is_err())?;
        Some(added.name().as_str()).filter(|name| !is_identity(name))
    }

    /// The tables of rejected rows, those of the main chain first, each with the column that says why.
    pub(super) fn rejected(&self, chain: &[Endpoint]) -> Vec<(Endpoint, &TableRef, &str)> {
        let on_chain: HashSet<_> = chain.iter().map(|at| at.node).collect();
        let mut order = self.graph.order().to_vec();
        order.sort_by_key(|node| !on_chain.contains(node));
        let tables = order.into_iter().flat_map(|node| self.tables_of(node));
        let found = tables.filter_map(|(endpoint, table)| {
            let reason = self.reason_column(endpoint).filter(|_| table.rows() > 0)?;
            Some((endpoint, table, reason))
        });
        found.take(REJECTING).collect()
    }

    /// Why rows were rejected.
    pub(super) fn reasons(&self, chain: &[Endpoint]) -> Result<Vec<Reason>> {
        let mut reasons = Vec::new();
        for (endpoint, table, column) in self.rejected(chain) {
            let mut counts: BTreeMap<String, u64> = BTreeMap::new();
            for batch in table.batches_of(vec![table.schema.index_of(column)?]) {
                for text in texts(&batch?, column) {
                    for kind in kinds(text) {
                        *counts.entry(kind).or_default() += 1;
                    }
                }
            }
            let mut counts: Vec<_> = counts.into_iter().collect();
            counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let node = self.cut(&self.graph.node(endpoint.node).name);
            for (text, count) in counts.into_iter().take(REASONS) {
                reasons.push(Reason {
                    node: node.clone(),
                    text: self.cut(&text),
                    count: number(count as f64),
                    width: 100.0 * count as f64 / table.rows().max(1) as f64,
                });
            }
        }
        Ok(reasons)
    }

    /// What is wrong with texts that were rewritten: of those that were made, and of those that were kept.
    pub(super) fn findings(&self, chain: &[Endpoint]) -> Result<Vec<Finding>> {
        let Some(Pair { source, target, at }) = self.pair(chain) else { return Ok(Vec::new()) };
        let (Some(made), Some(kept)) =
            (self.table(chain[at]), chain.last().and_then(|last| self.table(*last)))
        else {
            return Ok(Vec::new());
        };
        // Column names that are no names in an expression cannot be asked about.
        let asked = [
            ("Numbers other than in the source", format!("not same_numbers({source}, {target})")),
            ("The same as the source, but for case", format!("lower({source}) = lower({target})")),
            (
                "Near copies: 90 % of the words in common",
                format!(
                    "word_overlap({source}, {target}) >= {NEAR} and lower({source}) != lower({target})"
                ),
            ),
            ("Empty", format!("length(trim({target})) = 0")),
        ];
        let mut findings = Vec::new();
        for (text, condition) in asked {
            let Ok(condition) = Expr::parse(&condition) else { continue };
            let told = |table: &TableRef| -> Result<String> {
                if condition.check_condition(&table.schema).is_err() {
                    return Ok("–".to_owned());
                }
                let mut count = 0;
                for batch in table.batches() {
                    let found = condition.evaluate(&batch?);
                    count += found
                        .map_err(|error| CliError::new(1, error.to_string()))?
                        .true_count() as u64;
                }
                Ok(match count {
                    0 => "0".to_owned(),
                    count => format!("{} ({})", number(count as f64), percent(count, table.rows())),
                })
            };
            let (made, kept) = (told(made)?, told(kept)?);
            findings.push(Finding { text: text.to_owned(), made, kept });
        }
        Ok(findings)
    }

    /// The tables that the pipeline wants shown, or else those that no other node reads, and how many of these are left out.
    pub(super) fn tables(&self) -> Result<(Vec<Table>, usize)> {
        let (mut tables, mut more) = (Vec::new(), 0);
        for show in &self.graph.show {
            tables.extend(self.rows_of(show.endpoint, &show.name, &show.columns, show.limit)?);
        }
        if !self.graph.show.is_empty() {
            return Ok((tables, 0));
        }
        for index in self.graph.order() {
            let node = self.graph.node(*index);
            if !self.graph.readers(*index).is_empty() {
                continue;
            }
            if tables.len() >= TABLES {
                more += self.tables_of(*index).len();
                continue;
            }
            for (port, info) in node.stage.outputs.iter().enumerate() {
                let name = format!("{}.{}", node.name, info.name);
                tables.extend(self.rows_of(Endpoint { node: *index, port }, &name, &[], ROWS)?);
            }
        }
        Ok((tables, more))
    }

    fn rows_of(
        &self,
        endpoint: Endpoint,
        name: &str,
        columns: &[String],
        limit: usize,
    ) -> Result<Option<Table>> {
        let Some(table) = self.table(endpoint) else { return Ok(None) };
        let rows = project(read_rows(table, None, limit.min(self.sizes.rows))?, columns)?;
        let mut cells = render::cells(&rows)?;
        for cell in cells.iter_mut().flatten() {
            *cell = cut(cell, self.sizes.cell);
        }
        let fields = rows.first().map(RecordBatch::schema);
        let fields = fields.iter().flat_map(|schema| schema.fields().iter());
        let column = |field: &arrow::datatypes::FieldRef| Column {
            name: self.cut(field.name()),
            is_number: field.data_type().is_numeric(),
        };
        Ok(Some(Table {
            name: self.cut(name),
            rows: number(table.rows() as f64),
            shown: number(cells.len() as f64),
            columns: fields.map(column).collect(),
            cells,
        }))
    }
}

fn finite(table: &TableRef, column: &str) -> Result<Vec<f64>> {
    let values = numbers(table, column)?.into_iter().flatten();
    Ok(values.filter(|value| value.is_finite()).collect())
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// The kinds of reasons that a row was rejected for, without what is of this row alone: `stsb >= 4.0` of
/// `not stsb >= 4.0 (stsb = 3.2)`, `the same as another row` of one that names the row.
pub(super) fn kinds(reason: &str) -> Vec<String> {
    let is_id = |word: &str| word.len() >= 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let kind = |part: &str| {
        let part = match (part.strip_prefix("not "), part.rfind(" (")) {
            (Some(rest), Some(_)) => rest[..rest.rfind(" (").unwrap_or(rest.len())].to_owned(),
            _ => part.to_owned(),
        };
        let words = part.split(' ').map(|word| if is_id(word) { "another row" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    reason.split("; ").map(kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_of_kinds() {
        let cases = [
            ("not stsb >= 4.0 (stsb = 3.2)", "stsb >= 4.0"),
            (
                "not a > (b + 1) (a = 1, b = 2); not cola = 'acceptable' (cola = unacceptable)",
                "a > (b + 1) | cola = 'acceptable'",
            ),
            ("the same as 0a1b2c3d4e5f60718293a4b5", "the same as another row"),
            ("only the best 2 are kept", "only the best 2 are kept"),
            ("", ""),
        ];
        for (reason, expected) in cases {
            assert_eq!(kinds(reason).join(" | "), expected);
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[5.0, 1.0, 3.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(&[1.0]) - 1.0).abs() < f64::EPSILON);
    }
}
