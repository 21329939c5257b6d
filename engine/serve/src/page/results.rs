//! What came of some rows, as the page shows it.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use paraloom_diff::{Piece, changes};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::hints::{Condition, Hints, Judge};
use crate::rows::{Row, encode, is_identity};

/// Letters of a text up to which its changes are marked; longer ones would take long.
const MARKED: usize = 4_000;

/// What came of a request.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Results {
    /// Of each model that was asked.
    pub(crate) summaries: Vec<Summary>,
    /// The models that stand side by side; none of a single one.
    pub(crate) models: Vec<String>,
    pub(crate) sliders: Vec<Slider>,
    pub(crate) groups: Vec<Group>,
    pub(crate) tables: Vec<Table>,
    /// The rows of every output, for the script that writes them into a file.
    #[serde(serialize_with = "as_text")]
    pub(crate) json: Value,
}

fn as_text<S: Serializer>(json: &Value, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(json)
}

#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// Empty of a single model.
    pub(super) model: String,
    /// "3 kept, 1 rejected".
    pub(super) text: String,
    /// Nothing came of it, for this reason.
    pub(super) is_problem: bool,
}

/// A threshold that can be moved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Slider {
    /// The models that it judges; none of a single one.
    pub(super) models: Vec<String>,
    pub(super) label: String,
    pub(super) column: String,
    pub(super) comparison: String,
    /// `at least`, `below` and so on.
    pub(super) words: &'static str,
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) step: f64,
}

/// A text, and what it became.
#[derive(Debug, Serialize)]
pub(crate) struct Group {
    pub(super) source: String,
    /// Where it stood among the texts that were asked about.
    #[serde(skip)]
    pub(super) place: Option<usize>,
    /// Of each model, what it made of it.
    pub(super) columns: Vec<Vec<Candidate>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Candidate {
    text: String,
    pieces: Vec<Piece>,
    /// None where nothing is judged.
    is_kept: Option<bool>,
    /// Why it was rejected, in words.
    reasons: Vec<String>,
    scores: Vec<Score>,
    /// Values by column, and the reasons that no threshold gives: JSON for the script.
    values: String,
    others: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Score {
    label: String,
    column: String,
    text: String,
    value: Option<f64>,
    scale: Option<(f64, f64)>,
}

/// Rows as texts, without what the engine uses to find them again.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    /// The output, and before it the model where there are several.
    pub(super) port: String,
    columns: Vec<String>,
    numeric: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Results {
    /// Of outputs by their names. `input` are the columns that rows came with, `asked` the rows, in whose order the results stand.
    pub(crate) fn new(
        hints: &Hints,
        input: &[String],
        asked: &[Row],
        outputs: &[(&str, &RecordBatch)],
    ) -> Self {
        let json = outputs.iter().filter_map(|(port, rows)| {
            let rows = serde_json::from_str::<Value>(&encode(rows).ok()?).ok()?;
            Some(((*port).to_owned(), rows))
        });
        let json = Value::Object(json.collect());
        let count = |port: &str| {
            let found = outputs.iter().find(|(name, _)| *name == port);
            found.map_or(0, |(_, rows)| rows.num_rows())
        };
        let summary = match &hints.judge {
            Some(judge) => {
                format!("{} kept, {} rejected", count(&judge.kept), count(&judge.rejected))
            }
            None => {
                let counts = outputs.iter().map(|(port, rows)| match rows.num_rows() {
                    1 => format!("1 row of {port}"),
                    count => format!("{count} rows of {port}"),
                });
                counts.collect::<Vec<_>>().join(", ")
            }
        };
        let summary = Summary { model: String::new(), text: summary, is_problem: false };
        let mut results = Self { summaries: vec![summary], json, ..Self::default() };
        let is_shown = |port: &str| match &hints.judge {
            Some(judge) => port == judge.kept || port == judge.rejected,
            None => !port.contains('.'),
        };
        for (port, rows) in outputs {
            match &hints.pair {
                Some(pair) if is_shown(port) && has_texts(rows, pair) => {
                    results.add(hints, input, (port, rows), pair);
                }
                _ if rows.num_rows() > 0 => results.tables.push(Table::new(port, rows)),
                _ => {}
            }
        }
        if let Some((source, _)) = &hints.pair {
            let asked = asked.iter().filter_map(|row| row.get(source)?.as_str()).enumerate();
            let places: HashMap<_, _> = asked.map(|(at, text)| (text, at)).collect();
            for group in &mut results.groups {
                group.place = places.get(group.source.as_str()).copied();
            }
            results.groups.sort_by_key(|group| group.place);
        }
        if let Some(judge) = hints.judge.as_ref().filter(|_| !results.groups.is_empty()) {
            results.sliders = sliders(hints, judge, outputs);
        }
        results
    }

    /// Takes in rows that have a text and what it became.
    fn add(
        &mut self,
        hints: &Hints,
        input: &[String],
        (port, rows): (&str, &RecordBatch),
        (source, target): &(String, String),
    ) {
        let groups = self.groups.iter().enumerate();
        let mut known: HashMap<_, _> =
            groups.map(|(at, group)| (group.source.clone(), at)).collect();
        let (sources, targets) = (texts(rows, source), texts(rows, target));
        let judge = hints.judge.as_ref();
        let reasons =
            judge.filter(|judge| judge.rejected == port).map(|judge| texts(rows, &judge.reason));
        let schema = rows.schema();
        let fields = schema.fields().iter().enumerate().filter(|(_, field)| {
            let name = field.name();
            !is_identity(name)
                && !input.contains(name)
                && name != target
                && !hints.label(name).is_empty()
                && judge.is_none_or(|judge| name != &judge.reason)
        });
        let columns: Vec<usize> = fields.map(|(at, _)| at).collect();
        for row in 0..rows.num_rows() {
            let (before, after) = (&sources[row], &targets[row]);
            let scores: Vec<_> =
                columns.iter().filter_map(|at| score(hints, rows, *at, row)).collect();
            let failed = reasons.as_ref().map(|reasons| failures(judge, &reasons[row]));
            let failed = failed.unwrap_or_default();
            let said = |failure: &Failure| failure.words(hints, &scores);
            let others: Vec<_> =
                failed.iter().filter(|failure| !failure.is_limit()).map(said).collect();
            let values: serde_json::Map<_, _> =
                scores.iter().map(|score| (score.column.clone(), json!(score.value))).collect();
            let candidate = Candidate {
                pieces: marked(before, after),
                text: after.clone(),
                is_kept: judge.map(|judge| judge.kept == port),
                reasons: failed.iter().map(said).collect(),
                others: json!(others).to_string(),
                values: Value::Object(values).to_string(),
                scores,
            };
            let at = *known.entry(before.clone()).or_insert_with(|| {
                let columns = vec![Vec::new()];
                self.groups.push(Group { source: before.clone(), place: None, columns });
                self.groups.len() - 1
            });
            self.groups[at].columns[0].push(candidate);
        }
    }
}

/// A condition that a row does not meet.
struct Failure<'a> {
    /// As the reason has it.
    text: &'a str,
    condition: Option<&'a Condition>,
}

/// The conditions that a reason names.
fn failures<'a>(judge: Option<&'a Judge>, reason: &'a str) -> Vec<Failure<'a>> {
    let conditions = judge.map(|judge| judge.conditions.as_slice()).unwrap_or_default();
    let failure = |text: &'a str| {
        let named = text.strip_prefix("not ");
        let condition = conditions.iter().find(|condition| {
            let rest = named.and_then(|named| named.strip_prefix(condition.text.as_str()));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
        });
        Failure { text, condition }
    };
    reason.split("; ").filter(|text| !text.is_empty()).map(failure).collect()
}

impl Failure<'_> {
    fn is_limit(&self) -> bool {
        self.condition.is_some_and(|condition| condition.limit.is_some())
    }

    fn words(&self, hints: &Hints, scores: &[Score]) -> String {
        let Some(condition) = self.condition else { return self.text.to_owned() };
        if let Some(words) = &condition.words {
            return words.clone();
        }
        let Some(limit) = &condition.limit else { return format!("not {}", condition.text) };
        let score = scores.iter().find(|score| score.column == limit.column);
        let value = score.map_or("nothing", |score| score.text.as_str());
        let side = match limit.comparison.as_str() {
            ">=" => "is below",
            ">" => "is not above",
            "<=" => "is above",
            _ => "is not below",
        };
        format!("{} {value} {side} {}", hints.label(&limit.column), limit.value)
    }
}

fn sliders(hints: &Hints, judge: &Judge, outputs: &[(&str, &RecordBatch)]) -> Vec<Slider> {
    let limits = judge.conditions.iter().filter_map(|condition| condition.limit.as_ref());
    let slider = |limit: &super::hints::Limit| {
        let scale = hints.column(&limit.column).and_then(|hint| hint.scale);
        let (low, high) = scale.unwrap_or_else(|| {
            let values = outputs.iter().flat_map(|(_, rows)| numbers(rows, &limit.column));
            let ends = values
                .chain([limit.value])
                .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
            (ends.0.floor(), ends.1.ceil().max(ends.0.floor() + 1.0))
        });
        Slider {
            models: Vec::new(),
            label: hints.label(&limit.column).to_owned(),
            column: limit.column.clone(),
            comparison: limit.comparison.clone(),
            words: match limit.comparison.as_str() {
                ">=" => "at least",
                ">" => "above",
                "<=" => "at most",
                _ => "below",
            },
            value: limit.value,
            low: low.min(limit.value),
            high: high.max(limit.value),
            step: if high - low <= 1.0 { 0.01 } else { (high - low) / 100.0 },
        }
    };
    limits.map(slider).collect()
}

fn has_texts(rows: &RecordBatch, (source, target): &(String, String)) -> bool {
    let is_text = |name: &str| {
        rows.column_by_name(name).is_some_and(|column| column.data_type() == &DataType::Utf8)
    };
    is_text(source) && is_text(target)
}

fn texts(rows: &RecordBatch, column: &str) -> Vec<String> {
    let texts = rows.column_by_name(column).and_then(|column| column.as_string_opt::<i32>());
    match texts {
        Some(texts) => texts.iter().map(|text| text.unwrap_or_default().to_owned()).collect(),
        None => vec![String::new(); rows.num_rows()],
    }
}

fn numbers(rows: &RecordBatch, column: &str) -> Vec<f64> {
    let values =
        rows.column_by_name(column).and_then(|column| column.as_primitive_opt::<Float64Type>());
    let values = values.into_iter().flat_map(|values| values.iter().flatten());
    values.filter(|value| value.is_finite()).collect()
}

/// A value of a row in words; none of what is missing.
fn score(hints: &Hints, rows: &RecordBatch, column: usize, row: usize) -> Option<Score> {
    let (schema, values) = (rows.schema(), rows.column(column));
    if values.is_null(row) {
        return None;
    }
    let name = schema.field(column).name().clone();
    let formatter = ArrayFormatter::try_new(values.as_ref(), &FormatOptions::default()).ok()?;
    let text = formatter.value(row).to_string();
    let number = if values.data_type().is_numeric() { text.parse::<f64>().ok() } else { None };
    let hint = hints.column(&name);
    let text = match number {
        Some(number) if values.data_type().is_floating() => rounded(number),
        _ => text,
    };
    Some(Score {
        label: hints.label(&name).to_owned(),
        column: name,
        text,
        value: number.filter(|number| number.is_finite()),
        scale: hint.and_then(|hint| hint.scale),
    })
}

/// No more digits than a person wants.
fn rounded(number: f64) -> String {
    let text = format!("{number:.3}");
    if !text.contains('.') {
        return text;
    }
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

fn marked(before: &str, after: &str) -> Vec<Piece> {
    if before.len().max(after.len()) <= MARKED {
        return changes(before, after);
    }
    vec![Piece { kind: "same", text: after.to_owned() }]
}

impl Table {
    fn new(port: &str, rows: &RecordBatch) -> Self {
        let schema = rows.schema();
        let shown = schema.fields().iter().enumerate();
        let shown: Vec<_> =
            shown.filter(|(_, field)| !is_identity(field.name())).map(|(at, _)| at).collect();
        let options = FormatOptions::default().with_display_error(true);
        let column = |at: &usize| -> Vec<String> {
            let values = rows.column(*at);
            let Ok(formatter) = ArrayFormatter::try_new(values.as_ref(), &options) else {
                return vec![String::new(); rows.num_rows()];
            };
            let cell = |row: usize| {
                let text = formatter.value(row).to_string();
                match text.parse::<f64>() {
                    Ok(number) if values.data_type().is_floating() => rounded(number),
                    _ => text,
                }
            };
            (0..rows.num_rows()).map(cell).collect()
        };
        let columns: Vec<_> = shown.iter().map(column).collect();
        let row = |row: usize| columns.iter().map(|column| column[row].clone()).collect();
        Self {
            port: port.to_owned(),
            columns: shown.iter().map(|at| schema.field(*at).name().clone()).collect(),
            numeric: shown.iter().map(|at| schema.field(*at).data_type().is_numeric()).collect(),
            rows: (0..rows.num_rows()).map(row).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, StringArray};

    use super::super::hints::{ColumnHint, Limit};
    use super::*;

    fn hints() -> Hints {
        let limit = Limit { column: "stsb".to_owned(), comparison: ">=".to_owned(), value: 4.0 };
        let condition = |text: &str, words: Option<&str>, limit| Condition {
            text: text.to_owned(),
            words: words.map(str::to_owned),
            limit,
        };
        Hints {
            pair: Some(("source".to_owned(), "paraphrase".to_owned())),
            columns: vec![ColumnHint {
                column: "stsb".to_owned(),
                label: "Similarity".to_owned(),
                scale: Some((0.0, 5.0)),
            }],
            judge: Some(Judge {
                kept: "kept".to_owned(),
                rejected: "rejected".to_owned(),
                reason: "reason".to_owned(),
                conditions: vec![
                    condition("stsb >= 4.0", None, Some(limit)),
                    condition("cola = 'acceptable'", Some("not good English"), None),
                ],
            }),
            examples: Vec::new(),
        }
    }

    fn batch(columns: &[(&str, &[&str])], stsb: &[f64]) -> RecordBatch {
        let texts = columns.iter().map(|(name, texts)| {
            (*name, Arc::new(texts.iter().map(Some).collect::<StringArray>()) as ArrayRef)
        });
        let stsb = ("stsb", Arc::new(Float64Array::from(stsb.to_vec())) as ArrayRef);
        RecordBatch::try_from_iter(texts.chain([stsb])).expect("columns of one length")
    }

    #[test]
    fn candidates_stand_below_their_source_with_what_is_wrong_in_words() {
        let kept = batch(&[("source", &["a b"]), ("paraphrase", &["a c"])], &[4.5]);
        let reason = "not stsb >= 4.0 (stsb = 3.2); not cola = 'acceptable' (cola = no); else";
        let rejected = batch(
            &[("source", &["a b", "x"]), ("paraphrase", &["a", "y"]), ("reason", &[reason, ""])],
            &[3.25, f64::NAN],
        );
        let input = ["source".to_owned()];
        let asked = ["x", "a b"].map(|text| Row::from_iter([("source".to_owned(), text.into())]));
        let outputs = [("kept", &kept), ("rejected", &rejected)];
        let results = Results::new(&hints(), &input, &asked, &outputs);
        assert_eq!(results.summaries[0].text, "1 kept, 2 rejected");
        let [other, one] = results.groups.as_slice() else { panic!("{:?}", results.groups) };
        assert_eq!((one.source.as_str(), other.source.as_str()), ("a b", "x"));
        let (one, other) = (&one.columns[0], &other.columns[0]);
        assert_eq!((one.len(), other.len()), (2, 1));
        assert_eq!(one[0].is_kept, Some(true));
        assert_eq!(one[1].reasons, ["Similarity 3.25 is below 4", "not good English", "else"]);
        assert_eq!(one[1].others, r#"["not good English","else"]"#);
        assert_eq!(one[1].values, r#"{"stsb":3.25}"#);
        assert_eq!(other[0].values, r#"{"stsb":null}"#);
        let [slider] = results.sliders.as_slice() else { panic!("{:?}", results.sliders) };
        assert_eq!(
            (slider.low, slider.high, slider.value, slider.words),
            (0.0, 5.0, 4.0, "at least")
        );
        assert!(results.tables.is_empty() && results.json["kept"][0]["paraphrase"] == "a c");
    }

    #[test]
    fn without_hints_there_are_tables() {
        let rows = batch(&[("text", &["a"])], &[1.0]);
        let empty = rows.slice(0, 0);
        let outputs = [("rows", &rows), ("node.rejected", &empty)];
        let results = Results::new(&Hints::default(), &[], &[], &outputs);
        let [table] = results.tables.as_slice() else { panic!("{:?}", results.tables) };
        assert_eq!(
            (table.columns.join(" "), table.rows[0].join(" ")),
            ("text stsb".to_owned(), "a 1".to_owned())
        );
        assert_eq!(results.summaries[0].text, "1 row of rows, 0 rows of node.rejected");
        assert!(results.groups.is_empty() && results.sliders.is_empty());
    }

    #[test]
    fn numbers_are_short() {
        let said = [5.0, 0.0, -0.0001, 0.98651, 12.5, f64::NAN].map(rounded);
        assert_eq!(said, ["5", "0", "0", "0.987", "12.5", "NaN"]);
    }
}
