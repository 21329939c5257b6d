//! Rows of the main chain that were kept and that were rejected, with what was rewritten.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use paraloom_diff::changes;
use paraloom_exec::TableRef;
use paraloom_pipeline::{Endpoint, is_identity};

use super::super::show::read_rows;
use super::data::kinds;
use super::subject::{Subject, own_names, texts};
use crate::error::Result;
use crate::render::{self, Example, Examples, number};

/// Rows that examples are chosen from.
const LOOKED_AT: usize = 2_000;
/// Examples of rows that were kept, and of those that one step rejected.
const KEPT: usize = 8;
const REJECTED: usize = 9;
/// Of these, at most so many for the same reason.
const ALIKE: usize = 3;
/// Scores beside an example.
const SCORES: usize = 5;

/// A column of texts, and one that was made of it.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) source: String,
    pub(super) target: String,
    /// The step of the main chain that made it.
    pub(super) at: usize,
}

impl Subject<'_> {
    /// The texts that the main chain rewrites: what a map node has added to a text that was there.
    pub(super) fn pair(&self, chain: &[Endpoint]) -> Option<Pair> {
        let is_text = |schema: &arrow::datatypes::Schema, name: &str| {
            schema.field_with_name(name).is_ok_and(|field| field.data_type() == &DataType::Utf8)
        };
        chain.windows(2).enumerate().find_map(|(at, steps)| {
            self.graph.mapped(steps[1].node)?;
            let (before, now) = (self.graph.schema(steps[0])?, self.graph.schema(steps[1])?);
            let source =
                own_names(before).find(|name| is_text(before, name) && is_text(now, name))?;
            let target =
                own_names(now).find(|name| before.index_of(name).is_err() && is_text(now, name))?;
            let (source, target) = (source.to_owned(), target.to_owned());
            Some(Pair { source, target, at: at + 1 })
        })
    }

    /// Some rows of the end of the chain, and some of those that each step rejected.
    pub(super) fn examples(&self, chain: &[Endpoint]) -> Result<Vec<Examples>> {
        let Some(pair) = self.pair(chain) else { return Ok(Vec::new()) };
        let mut examples = Vec::new();
        if let Some((last, table)) = chain.last().and_then(|last| Some((last, self.table(*last)?)))
        {
            let rows = read_rows(table, None, LOOKED_AT)?;
            let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
            let chosen = (0..KEPT.min(count)).map(|at| at * count / KEPT.min(count).max(1));
            let rows = self.rows(&rows, &pair, None, chosen.collect::<Vec<_>>())?;
            let name = self.cut(&self.graph.node(last.node).name);
            examples.push(shown("kept", format!("Kept by {name}"), table, rows));
        }
        for (endpoint, table, reason) in self.rejected(chain) {
            let rows = read_rows(table, None, LOOKED_AT)?;
            let reasons: Vec<_> = rows.iter().flat_map(|rows| texts(rows, reason)).collect();
            let rows = self.rows(&rows, &pair, Some(reason), various(&reasons))?;
            let name = self.cut(&self.graph.node(endpoint.node).name);
            examples.push(shown("rejected", format!("Rejected by {name}"), table, rows));
        }
        examples.retain(|examples| !examples.rows.is_empty());
        Ok(examples)
    }

    fn rows(
        &self,
        batches: &[RecordBatch],
        pair: &Pair,
        reason: Option<&str>,
        chosen: Vec<usize>,
    ) -> Result<Vec<Example>> {
        let Some(schema) = batches.first().map(RecordBatch::schema) else { return Ok(Vec::new()) };
        let all = arrow::compute::concat_batches(&schema, batches)?;
        let (sources, targets) = (texts(&all, &pair.source), texts(&all, &pair.target));
        let reasons = reason.map(|reason| texts(&all, reason));
        // A row of another table may lack what the pair needs.
        if sources.len() != all.num_rows() || targets.len() != all.num_rows() {
            return Ok(Vec::new());
        }
        let is_score = |field: &arrow::datatypes::Field| {
            field.data_type().is_numeric() && !["candidate"].contains(&field.name().as_str())
        };
        let fields = schema.fields().iter().enumerate();
        let scores: Vec<_> = fields
            .filter(|(_, field)| is_score(field) && !is_identity(field.name()))
            .map(|(column, _)| column)
            .collect();
        let scores = &scores[scores.len().saturating_sub(SCORES)..];
        let shown = render::cells(&[all.project(scores)?])?;
        let example = |row: usize| {
            let (source, target) = (self.cut(sources[row]), self.cut(targets[row]));
            let named = scores.iter().zip(&shown[row]);
            let named = named
                .map(|(column, value)| (self.cut(schema.field(*column).name()), self.cut(value)));
            Example {
                pieces: changes(&source, &target),
                source,
                scores: named.collect(),
                reason: reasons
                    .as_ref()
                    .map(|reasons| self.cut(&in_few_digits(reasons[row])))
                    .unwrap_or_default(),
            }
        };
        Ok(chosen.into_iter().map(example).collect())
    }
}

fn shown(kind: &'static str, title: String, table: &TableRef, rows: Vec<Example>) -> Examples {
    let note = format!("{} of {}", rows.len(), number(table.rows() as f64));
    Examples { title, kind, note, rows }
}

/// A reason whose numbers have as many digits as a person reads, but for those that would be those of the limit then.
fn in_few_digits(reason: &str) -> String {
    let word = |word: &str| {
        let digits = word.trim_end_matches([')', ';', ',']);
        let is_long = digits.split_once('.').is_some_and(|(_, after)| after.len() > 4);
        let value = digits.parse().ok().filter(|value: &f64| is_long && value.is_finite());
        let short = value.map(number);
        let told = |short: &String| {
            reason.split(' ').any(|other| other.parse::<f64>().is_ok() && other == short)
        };
        match short.filter(|short| !told(short)) {
            Some(short) => short + &word[digits.len()..],
            None => word.to_owned(),
        }
    };
    reason.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The numbers of rows with as many different reasons as there are, the first of each kind first.
fn various(reasons: &[&str]) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut ranked: Vec<_> = reasons
        .iter()
        .enumerate()
        .map(|(row, reason)| {
            let count = seen.entry(kinds(reason).join("; ")).or_default();
            *count += 1;
            (*count, row)
        })
        .filter(|(nth, _)| *nth <= ALIKE)
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, row)| row).take(REJECTED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_reason_comes_first_once() {
        let reasons = [
            "not a > 1 (a = 0)",
            "not a > 1 (a = 1)",
            "not b > 1 (b = 0)",
            "not a > 1 (a = -1)",
            "not a > 1 (a = -2)",
        ];
        assert_eq!(various(&reasons), [0, 2, 1, 3]);
        assert!(various(&[]).is_empty());
    }
    #[test]
    fn reasons_are_in_few_digits() {
        let cases = [
            ("not p >= 0.5 (p = 0.000005456283503092637)", "not p >= 0.5 (p = 5.46e-6)"),
            (
                "not p >= 0.5 (p = 0.0363804599106751); not s > 4.0 (s = 3.2)",
                "not p >= 0.5 (p = 0.0364); not s > 4.0 (s = 3.2)",
            ),
            // It is below the limit, and is not to look like it.
            ("not p >= 0.5 (p = 0.49999999)", "not p >= 0.5 (p = 0.49999999)"),
            ("not p >= 1 (p = 0.99999999)", "not p >= 1 (p = 0.99999999)"),
            ("not v = '1.234567' (v = 'x1.2345678')", "not v = '1.234567' (v = 'x1.2345678')"),
            ("the same as another row", "the same as another row"),
        ];
        for (reason, expected) in cases {
            assert_eq!(in_few_digits(reason), expected);
        }
    }
}
