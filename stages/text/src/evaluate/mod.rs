//! `evaluate` compares a column with its gold column, measures texts, and averages others.

mod bootstrap;
mod labels;
mod numbers;
mod texts;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use paraloom_sdk::{About, Error, PlanInputs, Planned, Port, Result, Run, Stage, Table, column};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::key::{as_text, check_key};
use texts::{Metric, Texts};

/// Settings of `evaluate`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The column to judge. Numbers are compared by Pearson and Spearman correlation and
    /// mean absolute error, labels by accuracy, Matthews correlation and macro F1.
    #[serde(default)]
    predicted: Option<String>,
    /// The column that holds the truth.
    #[serde(default)]
    gold: Option<String>,
    /// Metrics of texts: `predicted` holds what was written, `gold` a reference.
    #[serde(default)]
    texts: Vec<Metric>,
    /// The column that the texts were written from, for `copy` and `self-bleu`.
    #[serde(default)]
    source: Option<String>,
    /// Numeric columns to average.
    #[serde(default)]
    mean: Vec<String>,
    /// Measure the rows of each value of this column by themselves. The value goes to the column `group`.
    #[serde(default)]
    by: Option<String>,
    /// Adds the columns `low` and `high`: an interval that the metric falls into with this probability, by 1,000 resamples of
    /// the rows (bootstrap). Empty for metrics of all texts together, which resamples would distort.
    #[serde(default)]
    #[schemars(range(min = 0.5, max = 0.999))]
    confidence: Option<f64>,
}

/// The stage.
pub struct Evaluate(Config, Compared);

/// What is compared with what.
#[derive(Clone, Copy)]
enum Compared {
    Numbers,
    Labels,
    Texts,
    Nothing,
}

/// What a metric is of some rows.
type OfRows<'a> = Box<dyn Fn(&[usize]) -> f64 + 'a>;

/// A metric as a function of rows, which may be some of them, and some more than once.
struct Measure<'a> {
    name: String,
    /// How many there are.
    rows: usize,
    of: OfRows<'a>,
    /// Whether it can be measured on rows that are drawn anew.
    varies: bool,
}

impl<'a> Measure<'a> {
    fn new(name: &str, rows: usize, of: impl Fn(&[usize]) -> f64 + 'a) -> Self {
        Self { name: name.to_owned(), rows, of: Box::new(of), varies: true }
    }

    /// The mean of a value of each row.
    fn mean_of(name: &str, values: Vec<f64>) -> Self {
        let rows = values.len();
        let of = move |rows: &[usize]| {
            rows.iter().map(|row| values[*row]).sum::<f64>() / rows.len() as f64
        };
        Self::new(name, rows, of)
    }

    /// One of all rows together.
    fn fixed(name: &str, rows: usize, value: f64) -> Self {
        Self { varies: false, ..Self::new(name, rows, move |_| value) }
    }
}

impl Config {
    /// What the table of metrics looks like.
    fn schema(&self) -> Schema {
        let mut fields = vec![
            Field::new("metric", DataType::Utf8, false),
            Field::new("value", DataType::Float64, true),
        ];
        if self.by.is_some() {
            fields.insert(0, Field::new("group", DataType::Utf8, true));
        }
        if self.confidence.is_some() {
            fields.extend(["low", "high"].map(|name| Field::new(name, DataType::Float64, true)));
        }
        fields.push(Field::new("rows", DataType::Int64, false));
        Schema::new(fields)
    }

    fn check(&self, rows: &Table) -> Result<Compared> {
        for (at, name) in self.mean.iter().enumerate() {
            rows.number(name, &format!("/mean/{at}"))?;
        }
        if let Some(by) = &self.by {
            check_key(rows, by, "/by")?;
        }
        if self.confidence.is_some_and(|share| !(0.5..=0.999).contains(&share)) {
            return Err(Error::config("`confidence` is between 0.5 and 0.999").at("/confidence"));
        }
        if !self.texts.is_empty() {
            return self.check_texts(rows);
        }
        if self.source.is_some() {
            return Err(unread("source", "`texts: [copy]` and `texts: [self-bleu]`"));
        }
        match (&self.predicted, &self.gold) {
            (Some(predicted), Some(gold)) => {
                if rows.field(gold, "/gold")?.data_type().is_numeric() {
                    rows.number(predicted, "/predicted")?;
                    return Ok(Compared::Numbers);
                }
                rows.text(gold, "/gold")?;
                rows.text(predicted, "/predicted")?;
                Ok(Compared::Labels)
            }
            (None, None) if !self.mean.is_empty() => Ok(Compared::Nothing),
            _ => {
                Err(Error::config("`evaluate` needs `predicted` and `gold`, or `texts`, or `mean`"))
            }
        }
    }

    fn check_texts(&self, rows: &Table) -> Result<Compared> {
        let some = |needs: fn(Metric) -> bool| self.texts.iter().copied().any(needs);
        let columns = [
            ("predicted", &self.predicted, true, true),
            ("gold", &self.gold, some(Metric::needs_gold), some(Metric::needs_gold)),
            ("source", &self.source, some(Metric::needs_source), some(Metric::reads_source)),
        ];
        for (setting, column, is_needed, is_read) in columns {
            match column {
                Some(column) if is_read => drop(rows.text(column, &format!("/{setting}"))?),
                Some(_) => return Err(unread(setting, "other metrics")),
                None if is_needed => {
                    return Err(
                        Error::config(format!("these `texts` need `{setting}`")).at("/texts")
                    );
                }
                None => {}
            }
        }
        Ok(Compared::Texts)
    }
}

/// A setting that would be ignored.
fn unread(setting: &str, readers: &str) -> Error {
    let message = format!("`{setting}` is not read here, only by {readers}");
    Error::config(message).at(format!("/{setting}"))
}

impl Stage for Evaluate {
    type Config = Config;

    fn about() -> About {
        About::new("evaluate", "1.1.0", "Compares a column with its gold column, and measures texts.")
            .input(Port::table("rows", "Rows with the columns to compare."))
            .output(Port::table(
                "metrics",
                "One row per metric: `metric`, `value`, `rows`; with `by` also `group`, with `confidence` also `low` and `high`.",
            ))
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let compared = config.check(&inputs.table("rows")?)?;
        let schema = Arc::new(config.schema());
        Ok(Planned::new(Self(config, compared), [Some(schema)]))
    }

    fn run(&self, run: &mut Run) -> Result<()> {
        let Self(config, compared) = self;
        let mut groups: BTreeMap<Option<String>, Values> = BTreeMap::new();
        if config.by.is_none() {
            // It is measured even if it has no rows.
            groups.entry(None).or_insert_with(|| Values::new(config));
        }
        for rows in run.table("rows")? {
            run.services().check_cancelled()?;
            let rows = rows?;
            let names: Vec<Option<String>> = match &config.by {
                Some(by) => {
                    as_text(&rows, by)?.iter().map(|name| name.map(str::to_owned)).collect()
                }
                None => vec![None; rows.num_rows()],
            };
            let columns = Columns::of(config, *compared, &rows)?;
            for (row, name) in names.into_iter().enumerate() {
                let values = groups.entry(name).or_insert_with(|| Values::new(config));
                columns.put(row, values);
            }
        }
        let mut metrics = Metrics::default();
        for (group, values) in &groups {
            for measure in values.measures(config, *compared) {
                run.services().check_cancelled()?;
                let all: Vec<_> = (0..measure.rows).collect();
                let value = (measure.of)(&all);
                let interval = match config.confidence.filter(|_| measure.varies) {
                    Some(confidence) => bootstrap::interval(measure.rows, confidence, |rows| {
                        run.services().check_cancelled()?;
                        Ok::<_, Error>((measure.of)(rows))
                    })?,
                    None => None,
                };
                metrics.groups.push(group.clone());
                metrics.names.push(measure.name);
                metrics.values.push(finite(value));
                metrics.lows.push(interval.map(|[low, _]| low));
                metrics.highs.push(interval.map(|[_, high]| high));
                metrics.rows.push(measure.rows as i64);
            }
        }
        run.push("metrics", &metrics.batch(config)?)
    }
}

/// A metric that is not defined (a constant column has no correlation) is null.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// The table of metrics, column by column.
#[derive(Default)]
struct Metrics {
    groups: Vec<Option<String>>,
    names: Vec<String>,
    values: Vec<Option<f64>>,
    lows: Vec<Option<f64>>,
    highs: Vec<Option<f64>>,
    rows: Vec<i64>,
}

impl Metrics {
    fn batch(self, config: &Config) -> Result<RecordBatch> {
        let schema = config.schema();
        let columns = schema.fields().iter().map(|field| -> ArrayRef {
            match field.name().as_str() {
                "group" => Arc::new(StringArray::from(self.groups.clone())),
                "metric" => Arc::new(StringArray::from(self.names.clone())),
                "low" => Arc::new(Float64Array::from(self.lows.clone())),
                "high" => Arc::new(Float64Array::from(self.highs.clone())),
                "rows" => Arc::new(Int64Array::from(self.rows.clone())),
                _ => Arc::new(Float64Array::from(self.values.clone())),
            }
        });
        let columns = columns.collect();
        Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
    }
}

/// The columns of some rows that are read.
struct Columns {
    compared: Compared,
    numbers: Option<[Float64Array; 2]>,
    texts: [Option<StringArray>; 3],
    mean: Vec<Float64Array>,
}

impl Columns {
    fn of(config: &Config, compared: Compared, rows: &RecordBatch) -> Result<Self> {
        let Config { predicted, gold, source, mean, .. } = config;
        let number =
            |name: &Option<String>| column::numbers(rows, name.as_deref().unwrap_or_default());
        let text =
            |name: &Option<String>| name.as_ref().map(|name| column::text(rows, name)).transpose();
        let is_of_numbers = matches!(compared, Compared::Numbers);
        Ok(Self {
            compared,
            numbers: if is_of_numbers { Some([number(predicted)?, number(gold)?]) } else { None },
            texts: if is_of_numbers {
                [None, None, None]
            } else {
                [text(predicted)?, text(gold)?, text(source)?]
            },
            mean: mean.iter().map(|name| column::numbers(rows, name)).collect::<Result<_>>()?,
        })
    }

    /// Adds a row; one without a value is left out of the metrics that need it.
    fn put(&self, row: usize, values: &mut Values) {
        for (column, values) in self.mean.iter().zip(&mut values.mean) {
            values.extend(column.is_valid(row).then(|| column.value(row)));
        }
        if let Some(columns) = &self.numbers {
            if let [Some(predicted), Some(gold)] =
                columns.each_ref().map(|column| column.is_valid(row).then(|| column.value(row)))
            {
                values.numbers.predicted.push(predicted);
                values.numbers.gold.push(gold);
            }
            return;
        }
        let columns = self.texts.each_ref().map(Option::as_ref);
        if columns.iter().flatten().any(|column| column.is_null(row)) {
            return;
        }
        let [predicted, gold, source] =
            columns.map(|column| column.map(|column| column.value(row).to_owned()));
        if matches!(self.compared, Compared::Texts) {
            values.texts.predicted.extend(predicted);
            values.texts.gold.extend(gold);
            values.texts.sources.extend(source);
        } else {
            values.labels.predicted.extend(predicted);
            values.labels.gold.extend(gold);
        }
    }
}

/// Predictions and truths of the rows that have both.
#[derive(Default)]
struct Pairs<T> {
    predicted: Vec<T>,
    gold: Vec<T>,
}

/// What is measured of a group of rows.
#[derive(Default)]
struct Values {
    numbers: Pairs<f64>,
    labels: Pairs<String>,
    texts: Texts,
    /// Of each column to average.
    mean: Vec<Vec<f64>>,
}

impl Values {
    fn new(config: &Config) -> Self {
        Self { mean: vec![Vec::new(); config.mean.len()], ..Self::default() }
    }

    fn measures(&self, config: &Config, compared: Compared) -> Vec<Measure<'_>> {
        let mut measures = match compared {
            Compared::Numbers => numbers::measures(&self.numbers),
            Compared::Labels => labels::measures(&self.labels),
            Compared::Texts => self.texts.measures(&config.texts),
            Compared::Nothing => Vec::new(),
        };
        let means = config.mean.iter().zip(&self.mean);
        measures.extend(
            means.map(|(name, values)| Measure::mean_of(&format!("mean {name}"), values.clone())),
        );
        measures
    }
}
