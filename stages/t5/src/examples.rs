//! From rows to pairs of source and target text, task by task.

use std::collections::BTreeMap;

use arrow::array::{Array, RecordBatch, StringArray};
use paraloom_sdk::identity::ids;
use paraloom_sdk::{Error, PlanInputs, Result, Services, StreamReader, Table, column};
use paraloom_t5_core::score::{cola_prompt, stsb_prompt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tally::{Tally, without_eos};

/// What is learnt from one table.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Task {
    /// A task of T5 with its official prompt and labels.
    #[serde(default)]
    pub(super) kind: Kind,
    /// Stands before every source (`kind: text`).
    #[serde(default)]
    pub(super) prefix: String,
    /// The column to read: `source`, for cola `sentence`, for stsb `sentence1`. For
    /// `kind: text` and `kind: labels` it may be a template such as `{subject} said {what}`.
    #[serde(default)]
    pub(super) source: Option<String>,
    /// The second sentence of stsb: `sentence2`.
    #[serde(default)]
    pub(super) second: Option<String>,
    /// The column to write: `target`, for cola `label`, for stsb `score`.
    #[serde(default)]
    pub(super) target: Option<String>,
    /// What may stand in the target (`kind: labels`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) labels: Vec<String>,
    /// Takes `</s>` off the ends of sources and targets, where it stands for a tokenizer that reads it as the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) strip_eos: bool,
    /// How often each example is used in an epoch; 0.5 uses half of them.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub(super) weight: f64,
}

fn one() -> f64 {
    1.0
}

/// How rows become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// The prefix and the source; the target as it is.
    #[default]
    Text,
    /// `stsb sentence1: … sentence2: …`; the score rounded to 0.2.
    Stsb,
    /// `cola sentence: …`; `acceptable` or `unacceptable` (1 and 0 are understood too).
    Cola,
    /// The prefix and the source, and one of `labels`, which `score-labels` chooses from.
    Labels,
}

/// How much of a table was learnt from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableCount {
    /// The label of the edge.
    pub(super) label: String,
    pub(super) rows: usize,
    /// Rows with a source and a target, as often as the weight of the task says.
    pub(super) examples: usize,
}

/// Rows of a table that nothing can be learnt from.
#[derive(Debug, Default)]
struct LeftOut {
    rows: usize,
    /// The id of the first one, where rows have ids.
    first: Option<String>,
}

/// A pair of texts.
pub(super) struct Pair {
    pub(super) source: String,
    pub(super) target: String,
}

/// One of the texts of a pair.
type TextOf = fn(&Pair) -> &str;

impl Pair {
    /// What its texts are called, and how to get them.
    pub(super) const TEXTS: [(&str, TextOf); 2] =
        [("sources", |pair| &pair.source), ("targets", |pair| &pair.target)];
}

impl Task {
    fn names(&self) -> (&str, &str, &str) {
        let (source, target) = match self.kind {
            Kind::Text => ("source", "target"),
            Kind::Labels => ("source", "label"),
            Kind::Stsb => ("sentence1", "score"),
            Kind::Cola => ("sentence", "label"),
        };
        (
            self.source.as_deref().unwrap_or(source),
            self.second.as_deref().unwrap_or("sentence2"),
            self.target.as_deref().unwrap_or(target),
        )
    }

    /// The source, if it is a template.
    fn template(&self) -> Option<&str> {
        let is_free = matches!(self.kind, Kind::Text | Kind::Labels);
        self.source.as_deref().filter(|source| is_free && source.contains('{'))
    }

    /// Checks the columns; `pointer` is where the configuration describes the task.
    pub(super) fn check(&self, table: &Table, pointer: &str) -> Result<()> {
        let (source, second, target) = self.names();
        match self.template() {
            Some(template) => {
                for name in template_columns(template) {
                    table.text(name, &format!("{pointer}/source"))?;
                }
            }
            None => drop(table.text(source, &format!("{pointer}/source"))?),
        }
        match self.kind {
            Kind::Labels => check_labels(&self.labels, &format!("{pointer}/labels"))?,
            _ if self.labels.is_empty() => {}
            _ => {
                return Err(Error::config("`labels` is read by `kind: labels` only")
                    .at(format!("{pointer}/labels")));
            }
        }
        if self.kind == Kind::Stsb {
            table.text(second, &format!("{pointer}/second"))?;
            table.number(target, &format!("{pointer}/target"))?;
        } else if self.kind == Kind::Text {
            table.text(target, &format!("{pointer}/target"))?;
        } else {
            table.field(target, &format!("{pointer}/target"))?;
        }
        Ok(())
    }

    /// The pair of each row; none of a row without a source or a target.
    pub(super) fn pairs(&self, rows: &RecordBatch) -> Result<Vec<Option<Pair>>> {
        let (source, second, target) = self.names();
        let sources = match self.template() {
            Some(template) => fill(template, rows)?,
            None => column::text(rows, source)?,
        };
        let seconds =
            if self.kind == Kind::Stsb { Some(column::text(rows, second)?) } else { None };
        let pair = |(row, target): (usize, Option<String>)| {
            let target = self.text(&target?).to_owned();
            let source = self.text(sources.is_valid(row).then(|| sources.value(row))?);
            let source = match (&seconds, self.kind) {
                (Some(seconds), _) => {
                    let second = seconds.is_valid(row).then(|| seconds.value(row))?;
                    stsb_prompt(source, self.text(second))
                }
                (None, Kind::Cola) => cola_prompt(source),
                (None, _) => format!("{}{source}", self.prefix),
            };
            Some(Pair { source, target })
        };
        Ok(self.targets(rows, target)?.into_iter().enumerate().map(pair).collect())
    }

    /// A text as it is learnt.
    fn text<'a>(&self, text: &'a str) -> &'a str {
        if self.strip_eos { without_eos(text) } else { text }
    }

    fn targets(&self, rows: &RecordBatch, name: &str) -> Result<Vec<Option<String>>> {
        match self.kind {
            Kind::Text => {
                Ok(column::text(rows, name)?.iter().map(|text| text.map(str::to_owned)).collect())
            }
            Kind::Stsb => {
                let label =
                    |score: Option<f64>| score.filter(|score| score.is_finite()).map(stsb_label);
                Ok(column::numbers(rows, name)?.iter().map(label).collect())
            }
            Kind::Labels => {
                let label = |text: &str| {
                    let label = self.labels.iter().find(|label| *label == text.trim());
                    label.cloned().ok_or_else(|| {
                        let labels = self.labels.join("`, `");
                        Error::data(format!(
                            "`{text}` in `{name}` is none of the labels `{labels}`"
                        ))
                    })
                };
                column::text(rows, name)?.iter().map(|text| text.map(label).transpose()).collect()
            }
            Kind::Cola => {
                let labels = column::get(rows, name)?;
                if labels.data_type().is_numeric() {
                    let label =
                        |value: Option<f64>| value.map(|value| cola_label(value > 0.5).to_owned());
                    return Ok(column::numbers(rows, name)?.iter().map(label).collect());
                }
                column::text(rows, name)?
                    .iter()
                    .map(|text| text.map(parse_cola).transpose())
                    .collect()
            }
        }
    }
}

/// The pieces of a template: what stands before each column, the column in braces, and the rest.
fn pieces(template: &str) -> (Vec<(&str, &str)>, &str) {
    let (mut pieces, mut rest) = (Vec::new(), template);
    while let Some((before, (name, after))) =
        rest.split_once('{').and_then(|(before, after)| Some((before, after.split_once('}')?)))
    {
        pieces.push((before, name));
        rest = after;
    }
    (pieces, rest)
}

/// The columns that a template names.
pub(super) fn template_columns(template: &str) -> Vec<&str> {
    pieces(template).0.into_iter().map(|(_, name)| name).collect()
}

/// The template filled in for every row; null where a column is. Braces in the columns are text.
pub(super) fn fill(template: &str, rows: &RecordBatch) -> Result<StringArray> {
    let (pieces, rest) = pieces(template);
    let columns: Vec<_> =
        pieces.iter().map(|(_, name)| column::text(rows, name)).collect::<Result<_>>()?;
    let row = |row: usize| {
        let mut text = String::new();
        for ((before, _), column) in pieces.iter().zip(&columns) {
            text.push_str(before);
            text.push_str(column.is_valid(row).then(|| column.value(row))?);
        }
        Some(text + rest)
    };
    Ok((0..rows.num_rows()).map(row).collect())
}

/// Refuses labels that cannot be told apart.
pub(super) fn check_labels(labels: &[String], pointer: &str) -> Result<()> {
    if labels.len() < 2 {
        return Err(Error::config("there are at least two labels to choose from").at(pointer));
    }
    for (at, label) in labels.iter().enumerate() {
        let message = if label.trim() != label || label.is_empty() {
            format!("`{label}` is empty, or has blanks around it")
        } else if labels[..at].contains(label) {
            format!("`{label}` is there twice")
        } else {
            continue;
        };
        return Err(Error::config(message).at(format!("{pointer}/{at}")));
    }
    Ok(())
}

/// T5's own rounding: to the nearest 0.2, with one decimal.
fn stsb_label(score: f64) -> String {
    format!("{:.1}", (score.clamp(0.0, 5.0) * 5.0).round() / 5.0)
}

fn cola_label(acceptable: bool) -> &'static str {
    if acceptable { "acceptable" } else { "unacceptable" }
}

fn parse_cola(text: &str) -> Result<String> {
    match text.trim() {
        "acceptable" | "1" => Ok(cola_label(true).to_owned()),
        "unacceptable" | "0" => Ok(cola_label(false).to_owned()),
        other => Err(Error::data(format!("`{other}` is neither `acceptable` nor `unacceptable`"))),
    }
}

/// The tasks of a node: one per table, by the label of its edge.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    default: Task,
    named: BTreeMap<String, Task>,
    /// A column of numbers, in whose order examples are learnt.
    order_by: Option<String>,
}

impl Tasks {
    /// Checks every table of `examples` and `validation` against its task, and those of `examples` for the column `order_by`.
    pub(super) fn check(
        default: Task,
        named: BTreeMap<String, Task>,
        order_by: Option<String>,
        inputs: &PlanInputs,
    ) -> Result<Self> {
        let tasks = Self { default, named, order_by };
        for port in ["examples", "validation"] {
            for (label, table) in inputs.tables(port) {
                let pointer = if tasks.named.contains_key(label) {
                    format!("/tasks/{label}")
                } else {
                    String::new()
                };
                tasks.of(label).check(&table, &pointer)?;
                if let Some(column) = tasks.order_by.as_ref().filter(|_| port == "examples") {
                    table.number(column, "/order_by")?;
                }
            }
        }
        if let Some(name) = tasks
            .named
            .keys()
            .find(|name| !inputs.tables("examples").any(|(label, _)| label == **name))
        {
            let labels: Vec<_> =
                inputs.tables("examples").map(|(label, _)| format!("`{label}`")).collect();
            return Err(Error::config(format!("no table of `examples` is called `{name}`"))
                .at(format!("/tasks/{name}"))
                .hint(format!("there is {}", labels.join(", "))));
        }
        Ok(tasks)
    }

    fn of(&self, label: &str) -> &Task {
        self.named.get(label).unwrap_or(&self.default)
    }

    /// Reads all pairs of some tables and counts them: to learn from, each as often as its weight says and in the order that is
    /// asked for, or else as they are.
    pub(super) fn read(
        &self,
        tables: Vec<(String, StreamReader)>,
        to_learn: bool,
        services: Services,
    ) -> Result<(Vec<Pair>, Vec<TableCount>)> {
        let (mut pairs, mut places, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (label, table) in tables {
            let task = self.of(&label);
            let (before, mut count, mut due) = (pairs.len(), 0, 0.0);
            let (mut left_out, mut tally) = (LeftOut::default(), Tally::new(services));
            for rows in table {
                let rows = rows?;
                count += rows.num_rows();
                let found = task.pairs(&rows)?;
                for (what, text) in Pair::TEXTS {
                    let what = format!("{what} of `{label}`");
                    tally.eos(&what, found.iter().flatten().map(text));
                }
                left_out.add(&found, &rows);
                let order = self.order_by.as_ref().filter(|_| to_learn);
                let order = order.map(|name| column::numbers(&rows, name)).transpose()?;
                for (row, pair) in found.into_iter().enumerate() {
                    let Some(pair) = pair else { continue };
                    let place = order.as_ref().filter(|order| order.is_valid(row));
                    // Evenly spread, without randomness: 0.5 takes every other example.
                    due += if to_learn { task.weight } else { 1.0 };
                    while due >= 1.0 {
                        due -= 1.0;
                        places.push(place.map_or(f64::NAN, |order| order.value(row)));
                        pairs.push(Pair {
                            source: pair.source.clone(),
                            target: pair.target.clone(),
                        });
                    }
                }
            }
            left_out.tell(&label, count, services);
            counts.push(TableCount { label, rows: count, examples: pairs.len() - before });
        }
        if to_learn && self.order_by.is_some() {
            let mut placed: Vec<_> = places.into_iter().zip(pairs).collect();
            // NaN, which is what rows without a number have, is the last.
            placed.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            pairs = placed.into_iter().map(|(_, pair)| pair).collect();
        }
        Ok((pairs, counts))
    }
}

impl LeftOut {
    fn add(&mut self, pairs: &[Option<Pair>], rows: &RecordBatch) {
        for row in (0..pairs.len()).filter(|row| pairs[*row].is_none()) {
            self.rows += 1;
            if self.rows == 1 {
                self.first = ids(rows).ok().map(|ids| ids.value(row).to_owned());
            }
        }
    }

    fn tell(&self, label: &str, all: usize, services: Services) {
        if self.rows > 0 {
            let first =
                self.first.as_ref().map_or_else(String::new, |id| format!(": `{id}` first"));
            services.warn(&format!(
                "{} of {all} rows of `{label}` are left out, without a source or a target{first}",
                self.rows
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};

    use super::fill;

    #[test]
    fn templates_take_columns_as_text() {
        let column = |values: [Option<&str>; 2]| -> ArrayRef {
            Arc::new(StringArray::from(values.to_vec()))
        };
        let (a, b) = (column([Some("{b}"), Some("x")]), column([Some("y"), None]));
        let rows = RecordBatch::try_from_iter([("a", a), ("b", b)]).expect("they fit");
        let filled = fill("one {a} two {b} {", &rows).expect("the columns are there");
        assert_eq!(filled.iter().collect::<Vec<_>>(), [Some("one {b} two y {"), None]);
    }
}
