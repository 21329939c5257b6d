//! From logits to the next token, with the filters of `transformers` in its order.

use super::{Draw, Options, Row};
use crate::random::{Stream, mix};
use paraloom_t5_kernels::peaks::Peaks;

/// What decides what a sequence may go on with, beside the options.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// What the encoder read, and what has to be in the text.
    pub(super) row: &'a Row,
    /// The token that ends a sequence.
    pub(super) eos: u32,
}

/// Lowers the scores of tokens that occurred, and forbids those that the options do, in the order of the reference.
///
/// `written` is the whole sequence, the start token included, as in the reference.
pub(super) fn penalise(
    scores: &mut [f32],
    written: &[u32],
    options: &Options,
    Context { row, eos }: Context<'_>,
) {
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
    row.kept.forbid_numbers(scores, &written[1..], &options.words);
    let mut forbid = |token: u32| scores[token as usize] = f32::NEG_INFINITY;
    for (size, text) in
        [(options.no_repeat_ngram_size, written), (options.encoder_no_repeat_ngram_size, &row.ids)]
    {
        if size > 0 && written.len() + 1 >= size {
            let begun = &written[written.len() + 1 - size..];
            let runs = text.windows(size).filter(|run| run[..size - 1] == *begun);
            runs.for_each(|run| forbid(run[size - 1]));
        }
    }
    for word in &*options.bad_words {
        if let Some((last, begun)) = word.split_last()
            && written.ends_with(begun)
        {
            forbid(*last);
        }
    }
    let count = written.len() - 1;
    if count < options.min_new_tokens {
        forbid(eos);
    }
    if let Some(&next) = options.begin.get(count) {
        let score = scores[next as usize];
        scores.fill(f32::NEG_INFINITY);
        // A beginning is what was asked for, whatever else forbids it.
        scores[next as usize] = if score.is_finite() { score } else { 0.0 };
    }
}

/// The randomness of one draw: nothing but the row's seed, the candidate and the position counts.
pub(super) fn draw(seed: u64, candidate: usize, position: usize) -> f64 {
    Stream::new(mix(mix(seed, candidate as u64), position as u64)).next_f64()
}

/// Draws a token: `random`, in [0, 1), picks from the filtered distribution.
pub(super) fn sample(scores: &[f32], peaks: &Peaks, draw: &Draw, random: f64) -> usize {
    let kept = filtered(scores, peaks, draw);
    let total: f64 = kept.iter().map(|token| token.weight).sum();
    let mut left = random * total;
    for token in &kept {
        left -= token.weight;
        if left < 0.0 {
            return token.token;
        }
    }
    kept[0].token
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug)]
struct Likely {
    token: usize,
    /// Proportional to its probability; that of the first is 1.
    weight: f64,
}

/// The tokens that the filters leave, the most probable first.
fn filtered(scores: &[f32], peaks: &Peaks, draw: &Draw) -> Vec<Likely> {
    let count = if draw.top_k > 0 { draw.top_k } else { scores.len() };
    // Tokens that tie with the last one stay too.
    let kept = peaks.top(scores, count);
    let highest = f64::from(kept[0].0);
    let weight = |score: f32| ((f64::from(score) - highest) / draw.temperature).exp();
    let likely = |(score, token)| Likely { token, weight: weight(score) };
    let mut kept: Vec<Likely> = kept.into_iter().map(likely).collect();
    let sum = |kept: &[Likely]| kept.iter().map(|token| token.weight).sum::<f64>();
    if draw.top_p < 1.0 {
        let total = sum(&kept);
        // From the least probable up, drop what together stays within 1 - top_p.
        let mut dropped = 0.0;
        while kept.len() > 1 {
            let least = kept[kept.len() - 1].weight;
            if dropped + least > (1.0 - draw.top_p) * total {
                break;
            }
            dropped += least;
            kept.pop();
        }
    }
    // The first has the weight 1, and always stays.
    let mut keep = |least: f64| {
        let count = kept.partition_point(|token| token.weight >= least).max(1);
        kept.truncate(count);
    };
    if draw.min_p > 0.0 {
        keep(draw.min_p);
    }
    if draw.typical_p < 1.0 {
        typical(&mut kept, draw.typical_p);
    }
    if draw.epsilon_cutoff > 0.0 {
        least_probable(&mut kept, draw.epsilon_cutoff);
    }
    if draw.eta_cutoff > 0.0 {
        let eta = draw.eta_cutoff.min(draw.eta_cutoff.sqrt() * (-entropy(&kept)).exp());
        least_probable(&mut kept, eta);
    }
    kept
}

/// Drops the tokens less probable than `least`, but for the most probable one.
fn least_probable(kept: &mut Vec<Likely>, least: f64) {
    let total: f64 = kept.iter().map(|token| token.weight).sum();
    let best = kept.iter().map(|token| token.weight).fold(0.0, f64::max);
    kept.retain(|token| token.weight / total >= least || token.weight >= best);
}

/// In nats.
fn entropy(kept: &[Likely]) -> f64 {
    let total: f64 = kept.iter().map(|token| token.weight).sum();
    let shares = kept.iter().map(|token| token.weight / total).filter(|share| *share > 0.0);
    -shares.map(|share| share * share.ln()).sum::<f64>()
}

/// Keeps the tokens whose surprise is closest to the expected one, so many that their probabilities reach `mass`.
fn typical(kept: &mut Vec<Likely>, mass: f64) {
    let total: f64 = kept.iter().map(|token| token.weight).sum();
    let expected = entropy(kept);
    let odd = |token: &Likely| (-(token.weight / total).ln() - expected).abs();
    let mut order = kept.clone();
    order.sort_by(|a, b| odd(a).total_cmp(&odd(b)));
    let mut reached = 0.0;
    let last = order.iter().position(|token| {
        reached += token.weight / total;
        reached >= mass
    });
    let limit = order.get(last.unwrap_or(order.len() - 1)).map_or(f64::INFINITY, odd);
    kept.retain(|token| odd(token) <= limit);
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
        let (peaks, mut counts) = (Peaks::of(&scores), [0.0f64; 6]);
        for index in 0..draws {
            // top_k leaves four tokens; top_p then drops the last of them.
            let how = Draw { temperature: 0.8, top_k: 4, top_p: 0.94, ..Draw::default() };
            counts[sample(&scores, &peaks, &how, draw(7, index, 0))] += 1.0;
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

    /// What the filters of `transformers` 5.24 keep.
    #[test]
    fn filters_are_those_of_transformers() {
        let scores = [2.0, 1.0, 0.5, 0.0, -1.0, -3.0, 1.9, 0.9, -0.2, -5.0, 1.1, 0.3];
        let plain = Draw::default();
        let cases = [
            (Draw { min_p: 0.3, ..plain }, vec![0, 1, 6, 7, 10]),
            (Draw { min_p: 0.9, ..plain }, vec![0, 6]),
            (Draw { min_p: 1.0, ..plain }, vec![0]),
            (Draw { typical_p: 0.2, ..plain }, vec![1, 10]),
            (Draw { typical_p: 0.5, ..plain }, vec![1, 6, 7, 10]),
            (Draw { typical_p: 0.9, ..plain }, vec![0, 1, 2, 6, 7, 10, 11]),
            (Draw { epsilon_cutoff: 0.06, ..plain }, vec![0, 1, 6, 7, 10]),
            (Draw { epsilon_cutoff: 0.9, ..plain }, vec![0]),
            (Draw { eta_cutoff: 0.3, ..plain }, vec![0, 1, 6, 7, 10]),
            (Draw { eta_cutoff: 0.02, ..plain }, vec![0, 1, 2, 3, 6, 7, 8, 10, 11]),
            (
                Draw { temperature: 0.7, top_k: 8, top_p: 0.9, typical_p: 0.8, ..plain },
                vec![0, 6, 10],
            ),
            (Draw { temperature: 1.5, top_k: 6, min_p: 0.5, ..plain }, vec![0, 1, 6, 10]),
            (Draw { temperature: 0.5, top_p: 0.95, epsilon_cutoff: 0.1, ..plain }, vec![0, 6]),
            (
                Draw {
                    top_p: 0.8,
                    min_p: 0.4,
                    typical_p: 0.7,
                    epsilon_cutoff: 0.05,
                    eta_cutoff: 0.2,
                    ..plain
                },
                vec![0, 6],
            ),
        ];
        for (how, expected) in cases {
            let mut kept: Vec<_> = filtered(&scores, &Peaks::of(&scores), &how)
                .iter()
                .map(|token| token.token)
                .collect();
            kept.sort_unstable();
            assert_eq!(kept, expected, "{how:?}");
        }
    }

    #[test]
    fn what_is_forbidden_has_no_score() {
        let row = Row { ids: vec![5, 6, 7, 1], ..Row::default() };
        let context = Context { row: &row, eos: 1 };
        let forbidden = |options: Options, written: &[u32]| -> Vec<usize> {
            let mut scores = [0.5; 10];
            penalise(&mut scores, written, &options, context);
            (0..10).filter(|token| scores[*token] == f32::NEG_INFINITY).collect()
        };
        let plain = Options::default;
        let words = |words: &[&[u32]]| words.iter().map(|word| word.to_vec()).collect();
        let cases: [(Options, &[u32], &[usize]); 9] = [
            (plain(), &[0, 5, 6], &[]),
            (Options { min_new_tokens: 2, ..plain() }, &[0, 5], &[1]),
            (Options { min_new_tokens: 2, ..plain() }, &[0, 5, 6], &[]),
            (Options { no_repeat_ngram_size: 2, ..plain() }, &[0, 5, 6, 5], &[6]),
            (Options { encoder_no_repeat_ngram_size: 3, ..plain() }, &[0, 5, 6], &[7]),
            (Options { encoder_no_repeat_ngram_size: 1, ..plain() }, &[0], &[1, 5, 6, 7]),
            (Options { bad_words: words(&[&[4], &[5, 6, 8]]), ..plain() }, &[0, 5, 6], &[4, 8]),
            (Options { bad_words: words(&[&[4], &[5, 6, 8]]), ..plain() }, &[0, 6], &[4]),
            (Options { begin: [7, 4].into(), ..plain() }, &[0, 7], &[0, 1, 2, 3, 5, 6, 7, 8, 9]),
        ];
        for (options, written, expected) in cases {
            assert_eq!(forbidden(options.clone(), written), expected, "{options:?}");
        }
    }
}
