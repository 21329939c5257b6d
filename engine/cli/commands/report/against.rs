//! What is other than in an earlier run.

use std::collections::{BTreeMap, BTreeSet};

use paraloom_diff::{Piece, line_changes};
use paraloom_exec::{Content, NodeRecord, OutputRecord, PortResult, RunRecord, TableRef};
use paraloom_pipeline::{Endpoint, is_identity};
use paraloom_store::Store;
use petgraph::graph::NodeIndex;

use super::super::compare::{Comparison, Counts};
use super::super::run::outcome;
use super::history::History;
use super::subject::{Subject, numbers};
use super::training::has_steps;
use crate::error::Result;
use crate::recorded;
use crate::render::{self, Against, Compared, ComparedNumber, number};

/// Lines of the pipeline around one that has changed.
const AROUND: usize = 2;
/// Numbers that are compared.
const NUMBERS: usize = 60;

/// The run that a report compares with.
pub(super) struct Before<'a> {
    store: &'a Store,
    id: String,
    began: String,
    record: RunRecord,
    variables: BTreeMap<String, String>,
    text: String,
}

impl<'a> Before<'a> {
    /// Reads what the run called `id` has left.
    pub(super) fn read(store: &'a Store, id: String, history: &History) -> Result<Self> {
        let record = recorded::record(store, &id)?;
        let (set, text) = recorded::pipeline(store, &id)?;
        let began = history.began(&id);
        Ok(Self { store, id, began, record, variables: set.into_iter().collect(), text })
    }

    fn node(&self, name: &str) -> Option<&NodeRecord> {
        self.record.node(name)
    }

    fn output(&self, node: &str, port: &str) -> Option<(&NodeRecord, &OutputRecord)> {
        let node = self.node(node)?;
        Some((node, node.outputs.iter().find(|output| output.port == port)?))
    }

    /// A table that the run left, unless the store has it no more.
    pub(super) fn table(&self, node: &str, port: &str) -> Option<TableRef> {
        let (node, output) = self.output(node, port)?;
        match node.result(self.store, output) {
            Ok(PortResult::Table(table)) => Some(table),
            _ => None,
        }
    }
}

impl Subject<'_> {
    /// What is other than in the run `before`.
    pub(super) fn against(&self, before: &Before, chain: &[Endpoint]) -> Result<Against> {
        let (mut nodes, mut same) = (Vec::new(), 0);
        for index in self.graph.order() {
            let node = self.graph.node(*index);
            let (then, now) = (before.node(&node.name), self.lookup.complete(*index));
            if let (Some(then), Some(now)) = (then, now)
                && then.key == now.key
                && self.has_same_tables(*index, before)
            {
                same += 1;
                continue;
            }
            let name = self.cut(&node.name);
            let then_told = then.map_or_else(|| "no result".to_owned(), told);
            let now_told = match now {
                Some(now) => outcome(self.graph, *index, now, self.lookup.results()),
                None => "no result".to_owned(),
            };
            let what = match (then, now) {
                (Some(_), Some(_)) => self.changes(Endpoint { node: *index, port: 0 }, before),
                (None, Some(_)) => "new".to_owned(),
                (Some(_), None) => "not done yet".to_owned(),
                (None, None) => continue,
            };
            nodes.push(Compared { node: name, then: then_told, now: now_told, what });
        }
        for gone in before.record.nodes.iter().filter(|node| self.graph.find(&node.node).is_none())
        {
            let (then, now) = (told(gone), "–".to_owned());
            nodes.push(Compared { node: self.cut(&gone.node), then, now, what: "gone".to_owned() });
        }
        nodes.truncate(self.sizes.nodes);
        let set: BTreeMap<_, _> = self.finished.set.iter().cloned().collect();
        let names: BTreeSet<_> = set.keys().chain(before.variables.keys()).collect();
        let value = |of: &BTreeMap<String, String>, name: &String| {
            of.get(name).map_or_else(|| "as in the pipeline".to_owned(), |value| self.cut(value))
        };
        let variables =
            names.into_iter().filter(|name| set.get(*name) != before.variables.get(*name));
        let variables = variables
            .map(|name| (self.cut(name), value(&before.variables, name), value(&set, name)));
        Ok(Against {
            run: before.id.clone(),
            began: before.began.clone(),
            variables: variables.collect(),
            nodes,
            numbers: self.numbers_against(before, chain)?,
            text: self.lines(&before.text),
            same,
        })
    }

    /// Whether all tables of a node are those that the run left: a map node has one key, whatever rows it is given.
    fn has_same_tables(&self, index: NodeIndex, before: &Before) -> bool {
        let node = self.graph.node(index);
        self.tables_of(index).into_iter().all(|(endpoint, now)| {
            let then = before.table(&node.name, &node.stage.outputs[endpoint.port].name);
            then.is_some_and(|then| then.digest() == now.digest())
        })
    }

    /// "12 rows gone, 3 new, 40 changed, 275 the same".
    fn changes(&self, endpoint: Endpoint, before: &Before) -> String {
        let node = self.graph.node(endpoint.node);
        let port = &node.stage.outputs[endpoint.port].name;
        let (Some(now), Some(then)) = (self.table(endpoint), before.table(&node.name, port)) else {
            return "made anew".to_owned();
        };
        if then.digest() == now.digest() {
            return "the same rows, made anew".to_owned();
        }
        // What `gc` has removed since can be named, but not read.
        let Ok(compared) = Comparison::new(&then, now) else {
            return "other rows; those of the run are gone from the store".to_owned();
        };
        let Counts { gone, new, changed, same } = compared.counts();
        let counts = [(gone, "gone"), (new, "new"), (changed, "changed"), (same, "the same")];
        let told = counts.iter().filter(|(count, _)| *count > 0);
        let told: Vec<_> =
            told.map(|(count, what)| format!("{} {what}", number(*count as f64))).collect();
        told.join(", ")
    }

    /// Means of scores, last losses and metrics, where they differ.
    fn numbers_against(&self, before: &Before, chain: &[Endpoint]) -> Result<Vec<ComparedNumber>> {
        let end = chain.last().map(|last| last.node);
        let mut found = Vec::new();
        for index in self.graph.order() {
            for (endpoint, now) in self.tables_of(*index) {
                let node = self.graph.node(*index);
                let port = &node.stage.outputs[endpoint.port].name;
                if endpoint.port > 0 && !has_steps(now) {
                    continue;
                }
                let Some(then) =
                    before.table(&node.name, port).filter(|then| then.digest() != now.digest())
                else {
                    continue;
                };
                let fields =
                    now.schema.fields().iter().filter(|field| field.data_type().is_floating());
                for name in fields.map(|field| field.name()) {
                    // What a node only passes on was told before, but for what the rows end as.
                    let is_passed = self
                        .carries(*index)
                        .and_then(|from| self.graph.schema(from))
                        .is_some_and(|from| from.index_of(name).is_ok());
                    if then.schema.index_of(name).is_err()
                        || (is_passed && end != Some(*index))
                        || is_identity(name)
                    {
                        continue;
                    }
                    let what = if has_steps(now) { "last" } else { "mean" };
                    let value = |table: &TableRef| -> Result<Option<f64>> {
                        let values: Vec<f64> = numbers(table, name)?
                            .into_iter()
                            .flatten()
                            .filter(|value| value.is_finite())
                            .collect();
                        let mean = values.iter().sum::<f64>() / values.len() as f64;
                        Ok(if what == "last" {
                            values.last().copied()
                        } else {
                            Some(mean).filter(|mean| mean.is_finite())
                        })
                    };
                    // A part that is gone from the store has no numbers.
                    let (Ok(Some(then)), Some(now)) = (value(&then), value(now)?) else { continue };
                    let change = now - then;
                    // All three with as many places.
                    let digits = |value: f64| match then.abs().max(now.abs()) {
                        most if most < 0.01 => number(value),
                        most if most < 10.0 => format!("{value:.4}"),
                        _ => number((value * 1e4).round() / 1e4),
                    };
                    if change != 0.0 && found.len() < NUMBERS {
                        found.push(ComparedNumber {
                            name: format!("{}: {what} {}", self.cut(&node.name), self.cut(name)),
                            then: digits(then),
                            now: digits(now),
                            change: format!(
                                "{}{}",
                                if change > 0.0 { "+" } else { "" },
                                digits(change)
                            ),
                        });
                    }
                }
            }
        }
        Ok(found)
    }

    /// The lines of the pipeline that have changed, and some around them.
    fn lines(&self, before: &str) -> Vec<Piece> {
        let now = &self.finished.text;
        let size = self.sizes.text;
        if before.is_empty() || before == now || before.len().max(now.len()) > size {
            return Vec::new();
        }
        let changes = line_changes(before, now);
        let is_near = |at: usize| {
            let from = at.saturating_sub(AROUND);
            changes[from..(at + AROUND + 1).min(changes.len())]
                .iter()
                .any(|line| line.kind != "same")
        };
        let near = changes.iter().enumerate().filter(|(at, _)| is_near(*at));
        near.map(|(_, line)| Piece { kind: line.kind, text: self.cut(&line.text) }).collect()
    }
}

/// What a run left of a node: "103 kept, 15 rejected".
fn told(node: &NodeRecord) -> String {
    let output = |output: &OutputRecord| match &output.content {
        Content::Table { parts, .. } => {
            let rows: u64 = parts.iter().map(|part| part.rows).sum();
            format!("{rows} {}", output.port)
        }
        Content::Artifact(artifact) => {
            format!("{} ({})", output.port, render::bytes(artifact.bytes()))
        }
    };
    node.outputs.iter().map(output).collect::<Vec<_>>().join(", ")
}
