//! The first screen: what came of it.

use arrow::datatypes::DataType;
use paraloom_exec::{PortResult, TableRef, judge};
use paraloom_pipeline::{Endpoint, Expectation};

use super::subject::{Subject, numbers, own_names, percent, texts};
use crate::error::Result;
use crate::render::{Check, Figure, Measured, Step, duration, number};

/// Figures and values that a glance takes in.
const FIGURES: usize = 6;
const MEASURED: usize = 24;

impl Subject<'_> {
    /// What the pipeline expects, and whether it is so.
    pub(super) fn expectations(&self) -> Result<Vec<Check>> {
        let graph = self.graph;
        let mut verdicts = judge(graph, graph.order(), self.lookup.results())?.into_iter();
        let check = |expect: &Expectation| {
            let (table, expected) = (expect.name.clone(), self.cut(&expected(expect)));
            let Some(rows) = self.table(expect.endpoint).map(TableRef::rows) else {
                return Check { met: None, table, expected, found: "not done yet".to_owned() };
            };
            let unmet = verdicts.next().and_then(|verdict| verdict.unmet);
            let found = match &unmet {
                // Its table is named above.
                Some(unmet) => {
                    let message = unmet.message.replace(&format!(" of `{}`", expect.name), "");
                    let hint = unmet.hint.iter().map(|hint| format!("; {hint}"));
                    self.cut(&hint.fold(message, |said, hint| said + &hint))
                }
                None if expect.condition.is_none() => format!("{} rows", number(rows as f64)),
                None => String::new(),
            };
            Check { met: Some(unmet.is_none()), table, expected, found }
        };
        Ok(graph.expect.iter().map(check).collect())
    }

    /// How many rows each step of the main chain has.
    pub(super) fn funnel(&self, chain: &[Endpoint]) -> Vec<Step> {
        let rows: Vec<_> = chain.iter().map(|at| self.table(*at).map(TableRef::rows)).collect();
        let most = rows.iter().flatten().max().copied().unwrap_or(0).max(1);
        let mut steps = Vec::new();
        for (at, endpoint) in chain.iter().enumerate() {
            let node = self.graph.node(endpoint.node);
            let (name, stage) = (self.cut(&node.name), node.stage.name.clone());
            let Some(now) = rows[at] else {
                let (count, kind) = match self.failure(endpoint.node) {
                    Some(_) => ("failed".to_owned(), "missing failed"),
                    None => ("not done yet".to_owned(), "missing"),
                };
                steps.push(Step { name, stage, count, width: 0.0, note: String::new(), kind });
                continue;
            };
            let before = if at > 0 { rows[at - 1] } else { None };
            let (kind, note) = match before {
                Some(before) if before == now => ("same", self.added(chain[at - 1], *endpoint)),
                Some(before) if now < before => (
                    "rows",
                    format!(
                        "{} of the step before{}",
                        percent(now, before),
                        self.others(*endpoint)
                    ),
                ),
                Some(before) if before > 0 && now % before == 0 => {
                    ("rows", format!("{} for each row", number((now / before) as f64)))
                }
                _ => ("rows", String::new()),
            };
            let width = 100.0 * now as f64 / most as f64;
            steps.push(Step { name, stage, count: number(now as f64), width, note, kind });
        }
        // What was made of the rows in the end.
        let Some(last) = chain.last() else { return steps };
        for reader in self.graph.readers(last.node) {
            let node = self.graph.node(reader);
            let Some(result) = self.lookup.complete(reader) else { continue };
            let made =
                node.stage.outputs.iter().zip(&result.ports).find_map(
                    |(port, output)| match output {
                        PortResult::Artifact { artifact, .. } => {
                            Some((port.name.clone(), artifact.bytes()))
                        }
                        PortResult::Table(_) => None,
                    },
                );
            if let Some((port, bytes)) = made {
                steps.push(Step {
                    name: self.cut(&node.name),
                    stage: node.stage.name.clone(),
                    count: format!("1 {port}"),
                    width: 0.0,
                    note: crate::render::bytes(bytes),
                    kind: "made",
                });
            }
        }
        steps
    }

    /// What a step that keeps all rows adds to them.
    fn added(&self, before: Endpoint, now: Endpoint) -> String {
        let (Some(before), Some(now)) = (self.graph.schema(before), self.graph.schema(now)) else {
            return String::new();
        };
        let new = own_names(now).filter(|name| before.index_of(name).is_err());
        let new: Vec<_> = new.take(4).map(|name| self.cut(name)).collect();
        if new.is_empty() { "all".to_owned() } else { format!("all, with {}", new.join(", ")) }
    }

    /// ", 26 rejected": the rows that went elsewhere.
    fn others(&self, endpoint: Endpoint) -> String {
        let ports = &self.graph.node(endpoint.node).stage.outputs;
        let tables = self.tables_of(endpoint.node).into_iter();
        let others =
            tables.filter(|(other, table)| other.port != endpoint.port && table.rows() > 0);
        let others = others.filter_map(|(other, table)| {
            let port = ports.get(other.port).map(|port| port.name.replace('_', " "))?;
            Some(format!(", {} {port}", number(table.rows() as f64)))
        });
        others.collect()
    }

    /// The numbers that the run is about.
    pub(super) fn figures(&self, chain: &[Endpoint], checks: &[Check]) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        let mut figure = |value: String, label: &str, note: String| {
            figures.push(Figure { value, label: label.to_owned(), note });
        };
        let rows = |at: Option<&Endpoint>| at.and_then(|at| self.table(*at)).map(TableRef::rows);
        let name = |at: &Endpoint| self.cut(&self.graph.node(at.node).name);
        if let (Some(first), Some(last), Some(from), Some(to)) =
            (rows(chain.first()), rows(chain.last()), chain.first(), chain.last())
            && chain.len() > 1
        {
            let made = chain.iter().filter_map(|at| self.table(*at)).map(TableRef::rows).max();
            figure(number(first as f64), "rows in", name(from));
            let note = match made {
                Some(made) if made > first => {
                    format!("{}: {} of {}", name(to), percent(last, made), number(made as f64))
                }
                _ => format!("{}: {}", name(to), percent(last, first)),
            };
            figure(number(last as f64), "rows out", note);
            if let Some(table) = self.table(*to) {
                for column in self.score_columns(chain).into_iter().take(2) {
                    let values: Vec<f64> = numbers(table, &column)?.into_iter().flatten().collect();
                    let values: Vec<_> =
                        values.into_iter().filter(|value| value.is_finite()).collect();
                    if !values.is_empty() {
                        let mean = values.iter().sum::<f64>() / values.len() as f64;
                        figure(
                            short(mean),
                            &format!("mean {}", self.cut(&column)),
                            format!("of {}", name(to)),
                        );
                    }
                }
            }
        }
        if let Some((node, column, loss)) = self.last_loss()? {
            figure(
                short(loss),
                &column.replace('_', " "),
                format!("{}, last step", self.cut(&node)),
            );
        }
        let took = self.total_ms();
        if took > 0 {
            figure(glance(took), "of work", "all results together".to_owned());
        }
        figures.truncate(FIGURES);
        if !checks.is_empty() {
            let met = checks.iter().filter(|check| check.met == Some(true)).count();
            let (value, label) =
                (format!("{met} of {}", checks.len()), "expectations met".to_owned());
            figures.insert(0, Figure { value, label, note: String::new() });
        }
        Ok(figures)
    }

    /// The floats that the main chain adds to its rows, and that its end still has: those with a threshold, or else the first.
    fn score_columns(&self, chain: &[Endpoint]) -> Vec<String> {
        let (Some(first), Some(last)) = (chain.first(), chain.last()) else { return Vec::new() };
        let (Some(first), Some(last)) = (self.graph.schema(*first), self.graph.schema(*last))
        else {
            return Vec::new();
        };
        let fields = last.fields().iter().filter(|field| field.data_type().is_floating());
        let new = fields.filter(|field| first.index_of(field.name()).is_err());
        let names: Vec<_> = new.map(|field| field.name().clone()).collect();
        let conditions = self.conditions();
        let bounds = conditions.iter().flat_map(|(_, condition)| condition.conditions());
        let bounds: Vec<_> =
            bounds.filter_map(|condition| condition.bound).map(|bound| bound.column).collect();
        let bounded: Vec<_> =
            names.iter().filter(|name| bounds.contains(&name.as_str())).cloned().collect();
        if bounded.is_empty() { names.into_iter().take(1).collect() } else { bounded }
    }

    /// The values of tables of metrics: a text and a number, and no more rows than can be looked at.
    pub(super) fn measured(&self) -> Result<Vec<Measured>> {
        let mut measured = Vec::new();
        for index in self.graph.order() {
            for (_, table) in self.tables_of(*index) {
                let kind = |name: &str| {
                    table.schema.field_with_name(name).ok().map(arrow::datatypes::Field::data_type)
                };
                let is_metrics = kind("metric") == Some(&DataType::Utf8)
                    && kind("value").is_some_and(DataType::is_floating);
                if !is_metrics || table.rows() > MEASURED as u64 {
                    continue;
                }
                let values = numbers(table, "value")?;
                let mut names = Vec::new();
                for batch in table.batches() {
                    let batch = batch?;
                    names.extend(texts(&batch, "metric").into_iter().map(str::to_owned));
                }
                let node = self.cut(&self.graph.node(*index).name);
                measured.extend(names.into_iter().zip(values).map(|(metric, value)| Measured {
                    node: node.clone(),
                    metric: self.cut(&metric),
                    value: value.map_or_else(|| "–".to_owned(), number),
                }));
            }
        }
        measured.truncate(MEASURED);
        Ok(measured)
    }
}

/// A time for a glance: "1.2 s", "27 min", "3 h 20 min".
fn glance(ms: u64) -> String {
    match ms / 60_000 {
        0..10 => duration(ms),
        minutes @ 10..120 => format!("{minutes} min"),
        minutes => format!("{} h {:02} min", minutes / 60, minutes % 60),
    }
}

/// Three digits, for a glance.
fn short(value: f64) -> String {
    match value.abs() {
        0.01..1.0 => format!("{value:.3}"),
        1.0..1000.0 => format!("{value:.2}"),
        _ => number(value),
    }
}

/// "at least 300 rows", "every row: value >= 0.95".
fn expected(expect: &Expectation) -> String {
    let mut said = Vec::new();
    let most = expect.most.map(|most| number(most as f64));
    match (expect.least, most) {
        (0, None) => {}
        (0, Some(most)) => said.push(format!("at most {most} rows")),
        // One is what is expected where nothing is said.
        (1, None) if expect.every.is_some() => {}
        (least, None) => said.push(format!("at least {} rows", number(least as f64))),
        (least, Some(most)) => said.push(format!("{} to {most} rows", number(least as f64))),
    }
    said.extend(expect.every.as_ref().map(|every| format!("every row: {}", every.text())));
    said.extend(expect.condition.as_ref().map(|condition| format!("where {}", condition.text())));
    said.join(", ")
}
