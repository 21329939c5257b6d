//! From logits to the next token, with the filters of `transformers` in its order.

use super::Options;
use crate::random::{Stream, mix};

/// Lowers the scores of tokens that occurred, and forbids those that would repeat an n-gram.
///
/// `written` is the whole sequence, the start token included, as in the reference.
pub(super) fn penalise(scores: &mut [f32], written: &[u32], options: &Options) {
    let penalty = options.repetition_penalty as f32;
    if penalty != 1.0 {
        let mut seen = written.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            let score = &mut scores[token as usize];
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
    let size = options.no_repeat_ngram_size;
    if size > 0 && written.len() + 1 >= size {
        let begun = &written[written.len() + 1 - size..];
        for run in written.windows(size) {
            if run[..size - 1] == *begun {
                scores[run[size - 1] as usize] = f32::NEG_INFINITY;
            }
        }
    }
}

/// The `count` highest scores with their tokens, best first; of equals the first.
pub(super) fn top(scores: &[f32], count: usize) -> Vec<(f32, usize)> {
    let mut found: Vec<(f32, usize)> = Vec::with_capacity(count + 1);
    for (token, &score) in scores.iter().enumerate() {
        if found.len() == count && found.last().is_some_and(|worst| score <= worst.0) {
            continue;
        }
        let place = found.partition_point(|other| other.0 >= score);
        found.insert(place, (score, token));
        found.truncate(count);
    }
    found
}

/// The randomness of one draw: nothing but the row's seed, the candidate and the position counts.
pub(super) fn draw(seed: u64, candidate: usize, position: usize) -> f64 {
    Stream::new(mix(mix(seed, candidate as u64), position as u64)).next_f64()
}

/// Draws a token: `random`, in [0, 1), picks from the filtered distribution.
pub(super) fn sample(
    scores: &[f32],
    temperature: f64,
    top_k: usize,
    top_p: f64,
    random: f64,
) -> usize {
    let mut kept: Vec<(f32, usize)> = if top_k > 0 && top_k < scores.len() {
        let mut kept = top(scores, top_k);
        // Tokens that tie with the last one stay too.
        let (least, last) = kept[kept.len() - 1];
        kept.extend(
            (last + 1..scores.len())
                .filter(|&token| scores[token] == least)
                .map(|token| (least, token)),
        );
        kept
    } else {
        let mut all: Vec<(f32, usize)> = scores.iter().copied().zip(0..).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all
    };
    let highest = f64::from(kept[0].0);
    let weight = |score: f32| ((f64::from(score) - highest) / temperature).exp();
    let mut total: f64 = kept.iter().map(|&(score, _)| weight(score)).sum();
    if top_p < 1.0 {
        // From the least probable up, drop what together stays within 1 - top_p.
        let mut dropped = 0.0;
        while kept.len() > 1 {
            let least = weight(kept[kept.len() - 1].0);
            if dropped + least > (1.0 - top_p) * total {
                break;
            }
            dropped += least;
            kept.pop();
        }
        total -= dropped;
    }
    let mut left = random * total;
    for &(score, token) in &kept {
        left -= weight(score);
        if left < 0.0 {
            return token;
        }
    }
    kept[0].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_follow_the_filtered_distribution() {
        let scores = [2.0, 1.0, 0.5, 0.0, -1.0, -3.0];
        let weights: Vec<f64> =
            scores[..3].iter().map(|&score: &f32| f64::from(score / 0.8).exp()).collect();
        let (total, draws) = (weights.iter().sum::<f64>(), 40_000);
        let mut counts = [0.0f64; 6];
        for index in 0..draws {
            // top_k leaves four tokens; top_p then drops the last of them.
            counts[sample(&scores, 0.8, 4, 0.94, draw(7, index, 0))] += 1.0;
        }
        assert_eq!(counts[3..], [0.0; 3]);
        let expected = weights.iter().map(|weight| weight / total * draws as f64);
        let chi_square: f64 =
            counts.iter().zip(expected).map(|(seen, want)| (seen - want).powi(2) / want).sum();
        assert!(
            chi_square < 13.8,
            "chi-square {chi_square} is improbable (p < 0.001) with 2 degrees of freedom"
        );
    }

    #[test]
    fn top_keeps_the_first_of_equals() {
        assert_eq!(top(&[1.0, 3.0, 3.0, 2.0], 3), [(3.0, 1), (3.0, 2), (2.0, 3)]);
        assert_eq!(crate::kernels::highest(&[1.0, 3.0, 3.0]), 1);
    }
}
