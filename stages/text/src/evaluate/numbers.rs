//! Metrics of numbers.

use super::{Measure, Pairs};

pub(super) fn measures(pairs: &Pairs<f64>) -> Vec<Measure<'_>> {
    let of = |name: &str, measure: fn(&[f64], &[f64]) -> f64| {
        let of = move |rows: &[usize]| {
            let [predicted, gold] = [&pairs.predicted, &pairs.gold]
                .map(|values| rows.iter().map(|row| values[*row]).collect::<Vec<_>>());
            measure(&predicted, &gold)
        };
        Measure::new(name, pairs.gold.len(), of)
    };
    vec![
        of("pearson", pearson),
        of("spearman", |a, b| pearson(&ranks(a), &ranks(b))),
        of("mean absolute error", |a, b| {
            mean(&a.iter().zip(b).map(|(a, b)| (a - b).abs()).collect::<Vec<_>>())
        }),
    ]
}

/// NaN where there are none.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
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
    use super::*;

    #[test]
    fn figures_that_scipy_gives() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 4.5], [1.5, 1.0, 3.5, 3.0, 5.0]);
        assert!((pearson(&a, &b) - 0.859_610).abs() < 1e-6, "{}", pearson(&a, &b));
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
    }
}
