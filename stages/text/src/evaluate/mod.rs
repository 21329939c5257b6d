//! `evaluate` compares a column with its gold column, and averages others.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use paraloom_sdk::{About, Error, PlanInputs, Planned, Port, Result, Run, Stage, column};
use schemars::JsonSchema;
use serde::Deserialize;

/// Settings of `evaluate`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The column to judge. Numbers are compared by Pearson and Spearman correlation and
    /// mean absolute error, text by accuracy and Matthews correlation.
    #[serde(default)]
    predicted: Option<String>,
    /// The column that holds the truth.
    #[serde(default)]
    gold: Option<String>,
    /// Numeric columns to average.
    #[serde(default)]
    mean: Vec<String>,
}

/// The stage.
pub struct Evaluate {
    pair: Option<(String, String, bool)>,
    mean: Vec<String>,
}

fn metrics_schema() -> Schema {
    Schema::new(vec![
        Field::new("metric", DataType::Utf8, false),
        Field::new("value", DataType::Float64, true),
        Field::new("rows", DataType::Int64, false),
    ])
}

impl Stage for Evaluate {
    type Config = Config;

    fn about() -> About {
        About::new("evaluate", "1.0.0", "Compares a column with its gold column.")
            .input(Port::table("rows", "Rows with the columns to compare."))
            .output(Port::table("metrics", "One row per metric: `metric`, `value`, `rows`."))
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        let pair = match (config.predicted, config.gold) {
            (Some(predicted), Some(gold)) => {
                let is_number = rows.field(&gold, "/gold")?.data_type().is_numeric();
                if is_number {
                    rows.number(&predicted, "/predicted")?;
                } else {
                    rows.text(&gold, "/gold")?;
                    rows.text(&predicted, "/predicted")?;
                }
                Some((predicted, gold, is_number))
            }
            (None, None) if !config.mean.is_empty() => None,
            _ => {
                return Err(Error::config("`evaluate` needs `predicted` and `gold`, or `mean`"));
            }
        };
        for (at, name) in config.mean.iter().enumerate() {
            rows.number(name, &format!("/mean/{at}"))?;
        }
        let stage = Self { pair, mean: config.mean };
        Ok(Planned::new(stage, [Some(Arc::new(metrics_schema()))]))
    }

    fn run(&self, run: &mut Run) -> Result<()> {
        let (mut numbers, mut labels) = (Pairs::default(), Pairs::default());
        let mut sums = vec![(0.0, 0_i64); self.mean.len()];
        for rows in run.table("rows")? {
            run.services().check_cancelled()?;
            let rows = rows?;
            match &self.pair {
                Some((predicted, gold, true)) => {
                    let (a, b) =
                        (column::numbers(&rows, predicted)?, column::numbers(&rows, gold)?);
                    numbers.extend(a.iter().zip(&b));
                }
                Some((predicted, gold, false)) => {
                    let (a, b) = (column::text(&rows, predicted)?, column::text(&rows, gold)?);
                    labels.extend(
                        a.iter().zip(&b).map(|(a, b)| (a.map(str::to_owned), b.map(str::to_owned))),
                    );
                }
                None => {}
            }
            for (name, (sum, count)) in self.mean.iter().zip(&mut sums) {
                for value in column::numbers(&rows, name)?.iter().flatten() {
                    *sum += value;
                    *count += 1;
                }
            }
        }
        let mut metrics = Vec::new();
        match &self.pair {
            Some((.., true)) => numbers.correlations(&mut metrics),
            Some((.., false)) => labels.agreement(&mut metrics),
            None => {}
        }
        for (name, (sum, count)) in self.mean.iter().zip(sums) {
            let mean = (count > 0).then(|| sum / count as f64);
            metrics.push((format!("mean {name}"), mean, count));
        }
        run.push("metrics", &to_rows(&metrics)?)
    }
}

type Metric = (String, Option<f64>, i64);

/// A metric that is not defined (a constant column has no correlation) is null.
fn to_rows(metrics: &[Metric]) -> Result<RecordBatch> {
    let names: StringArray = metrics.iter().map(|(name, ..)| Some(name.as_str())).collect();
    let finite = |value: &Option<f64>| value.filter(|value| value.is_finite());
    let values: Float64Array = metrics.iter().map(|(_, value, _)| finite(value)).collect();
    let counts: Int64Array = metrics.iter().map(|(.., count)| Some(*count)).collect();
    let columns: Vec<Arc<dyn Array>> = vec![Arc::new(names), Arc::new(values), Arc::new(counts)];
    Ok(RecordBatch::try_new(Arc::new(metrics_schema()), columns)?)
}

/// Predictions and truths of the rows that have both.
struct Pairs<T> {
    predicted: Vec<T>,
    gold: Vec<T>,
}

impl<T> Default for Pairs<T> {
    fn default() -> Self {
        Self { predicted: Vec::new(), gold: Vec::new() }
    }
}

impl<T> Pairs<T> {
    fn extend(&mut self, pairs: impl Iterator<Item = (Option<T>, Option<T>)>) {
        for (predicted, gold) in pairs {
            if let (Some(predicted), Some(gold)) = (predicted, gold) {
                self.predicted.push(predicted);
                self.gold.push(gold);
            }
        }
    }
}

impl Pairs<f64> {
    fn correlations(&self, metrics: &mut Vec<Metric>) {
        let count = self.gold.len() as i64;
        let spearman = pearson(&ranks(&self.predicted), &ranks(&self.gold));
        let errors = self.predicted.iter().zip(&self.gold).map(|(a, b)| (a - b).abs());
        let error = errors.sum::<f64>() / self.gold.len() as f64;
        metrics.push(("pearson".to_owned(), Some(pearson(&self.predicted, &self.gold)), count));
        metrics.push(("spearman".to_owned(), Some(spearman), count));
        metrics.push(("mean absolute error".to_owned(), Some(error), count));
    }
}

impl Pairs<String> {
    fn agreement(&self, metrics: &mut Vec<Metric>) {
        let count = self.gold.len() as i64;
        let equal = self.predicted.iter().zip(&self.gold).filter(|(a, b)| a == b).count();
        metrics.push(("accuracy".to_owned(), Some(equal as f64 / count as f64), count));
        metrics.push(("matthews".to_owned(), Some(self.matthews()), count));
    }

    /// Matthews' correlation for any number of labels (Gorodkin's R_K).
    fn matthews(&self) -> f64 {
        // How often each label is predicted, and how often it is the truth.
        let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (predicted, gold) in self.predicted.iter().zip(&self.gold) {
            counts.entry(predicted).or_default().0 += 1;
            counts.entry(gold).or_default().1 += 1;
        }
        let samples = self.gold.len() as f64;
        let equal = self.predicted.iter().zip(&self.gold).filter(|(a, b)| a == b).count() as f64;
        let (mut both, mut predicted, mut gold) = (0.0, 0.0, 0.0);
        for (p, g) in counts.into_values() {
            let (p, g) = (p as f64, g as f64);
            both += p * g;
            predicted += p * p;
            gold += g * g;
        }
        let scale = ((samples * samples - predicted) * (samples * samples - gold)).sqrt();
        if scale == 0.0 { 0.0 } else { (equal * samples - both) / scale }
    }
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x - mean_a, y - mean_b);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    ab / (aa * bb).sqrt()
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<_> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let same = |at: &&usize| values[**at].total_cmp(&values[order[start]]).is_eq();
        let length = order[start..].iter().take_while(same).count().max(1);
        let rank = f64::midpoint(start as f64 + 1.0, (start + length) as f64);
        order[start..start + length].iter().for_each(|at| ranks[*at] = rank);
        start += length;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::{Pairs, pearson, ranks};

    #[test]
    fn figures_that_scipy_and_sklearn_give() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 4.5], [1.5, 1.0, 3.5, 3.0, 5.0]);
        assert!((pearson(&a, &b) - 0.859_610).abs() < 1e-6, "{}", pearson(&a, &b));
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        let owned = |text: &str| text.split(' ').map(str::to_owned).collect();
        let pairs = Pairs { predicted: owned("a b a a b"), gold: owned("a b b a a") };
        assert!((pairs.matthews() - 0.166_667).abs() < 1e-6, "{}", pairs.matthews());
        // Many labels, none of which is met twice: what was counted label by label took hours for a million.
        let own = |offset: usize| (0..200_000).map(|at| format!("{}", at + offset)).collect();
        let pairs = Pairs { predicted: own(0), gold: own(1) };
        assert!((pairs.matthews() + 0.000_005).abs() < 1e-6, "{}", pairs.matthews());
    }
}
