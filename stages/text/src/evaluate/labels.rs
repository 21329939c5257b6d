//! Metrics of labels.

use std::collections::BTreeMap;

use super::{Measure, Pairs};

/// How often a label is predicted, is the truth, and is both.
#[derive(Clone, Copy, Default)]
struct Count {
    predicted: u64,
    gold: u64,
    both: u64,
}

pub(super) fn measures(pairs: &Pairs<String>) -> Vec<Measure<'_>> {
    let of = |name: &str, measure: fn(&[Count]) -> f64| {
        let of = move |rows: &[usize]| measure(&counts(pairs, rows));
        Measure::new(name, pairs.gold.len(), of)
    };
    vec![of("accuracy", accuracy), of("matthews", matthews), of("macro f1", macro_f1)]
}

fn counts(pairs: &Pairs<String>, rows: &[usize]) -> Vec<Count> {
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    for &row in rows {
        let (predicted, gold) = (pairs.predicted[row].as_str(), pairs.gold[row].as_str());
        counts.entry(predicted).or_default().predicted += 1;
        let count = counts.entry(gold).or_default();
        count.gold += 1;
        count.both += u64::from(predicted == gold);
    }
    counts.into_values().collect()
}

fn accuracy(counts: &[Count]) -> f64 {
    let sum = |of: fn(&Count) -> u64| counts.iter().map(of).sum::<u64>() as f64;
    sum(|count| count.both) / sum(|count| count.gold)
}

/// Matthews' correlation for any number of labels (Gorodkin's R_K).
fn matthews(counts: &[Count]) -> f64 {
    let (mut samples, mut equal, mut both, mut predicted, mut gold) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for count in counts {
        let (p, g) = (count.predicted as f64, count.gold as f64);
        samples += g;
        equal += count.both as f64;
        both += p * g;
        predicted += p * p;
        gold += g * g;
    }
    let scale = ((samples * samples - predicted) * (samples * samples - gold)).sqrt();
    if scale == 0.0 { 0.0 } else { (equal * samples - both) / scale }
}

/// The mean over labels of the harmonic mean of precision and recall, as scikit-learn has it.
fn macro_f1(counts: &[Count]) -> f64 {
    let f1 = |count: &Count| 2.0 * count.both as f64 / (count.predicted + count.gold) as f64;
    counts.iter().map(f1).sum::<f64>() / counts.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_sklearn_gives() {
        let owned = |text: &str| text.split(' ').map(str::to_owned).collect();
        let pairs = Pairs { predicted: owned("a b a a b"), gold: owned("a b b a a") };
        let found = counts(&pairs, &[0, 1, 2, 3, 4]);
        assert!((matthews(&found) - 0.166_667).abs() < 1e-6, "{}", matthews(&found));
        assert!((macro_f1(&found) - 0.583_333).abs() < 1e-6, "{}", macro_f1(&found));
        assert!((accuracy(&found) - 0.6).abs() < 1e-12);
        // Many labels, none of which is met twice: what was counted label by label took hours for a million.
        let own = |offset: usize| (0..200_000).map(|at| format!("{}", at + offset)).collect();
        let pairs = Pairs { predicted: own(0), gold: own(1) };
        let found = matthews(&counts(&pairs, &(0..200_000).collect::<Vec<_>>()));
        assert!((found + 0.000_005).abs() < 1e-6, "{found}");
    }
}
