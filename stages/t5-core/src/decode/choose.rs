//! From logits to the next token, with the filters of `transformers` in its order.

use super::{Draw, Options, Row};
use crate::random::{Stream, mix};
use paraloom_t5_kernels::peaks::Peaks;

/// What restricts the next token beside the options.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// The source, and the spans that the text has to have.
    pub(super) row: &'a Row,
    /// The token that ends a sequence.
    pub(super) eos: u32,
}

/// Applies repetition penalties and forbids tokens, in the order of the reference.
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
        // A forced beginning wins over whatever forbids it.
        scores[next as usize] = if score.is_finite() { score } else { 0.0 };
    }
}

/// The randomness of one draw: nothing but the row's seed, the candidate and the position counts.
pub(super) fn draw(seed: u64, candidate: usize, position: usize) -> f64 {
    Stream::new(mix(mix(seed, candidate as u64), position as u64)).next_f64()
}

/// Draws a token: `random`, in [0, 1), picks from the filtered distribution.
pub(super) fn sample(scores: &[f32], peaks: &Peaks, draw: &Draw, random: f64) -> usize {
    if draw.top_k == 0 && !draw.asks_for_all() {
        return sample_of_all(scores, peaks, draw, random);
    }
    let kept = filtered(scores, peaks, draw);
    pick(&kept, random * sum(&kept)).unwrap_or(kept[0].token)
}

/// [`sample`] of the whole vocabulary without sorting it, which would take longer than computing its logits. Where the filters leave
/// few tokens these are sorted; otherwise any fixed order will do.
fn sample_of_all(scores: &[f32], peaks: &Peaks, draw: &Draw, random: f64) -> usize {
    /// How many of the most probable tokens are tried first.
    const FEW: [usize; 2] = [64, 512];
    let Draw { temperature, top_p, min_p, .. } = *draw;
    if top_p >= 1.0 && min_p <= 0.0 {
        return peaks.pick(scores, temperature as f32, random);
    }
    let total = peaks.mass(scores, temperature as f32);
    let of_few = FEW.iter().find_map(|&count| {
        let mut kept = likely(peaks.top(scores, count), peaks, temperature);
        kept.truncate(end(&kept, draw, total)?);
        Some(kept)
    });
    let kept = of_few.unwrap_or_else(|| {
        let all = scores.iter().copied().zip(0..).collect();
        let mut kept = likely(all, peaks, temperature);
        if top_p < 1.0 {
            keep_most_probable(&mut kept, top_p);
        }
        kept.retain(|token| token.weight >= min_p);
        kept
    });
    pick(&kept, random * sum(&kept)).unwrap_or(kept[0].token)
}

/// Applies `top_p`: drops the least probable tokens whose probabilities add up to at most `1 - top_p`. The others are in no order.
fn keep_most_probable(kept: &mut Vec<Likely>, top_p: f64) {
    let total = sum(kept);
    let is_enough = |mass: f64| total - mass <= (1.0 - top_p) * total;
    // The most probable `few` are not enough, and the most probable `many` are.
    let (mut few, mut many, mut mass) = (0, kept.len(), 0.0);
    while many - few > 1 {
        let middle = usize::midpoint(few, many);
        let falling = |one: &Likely, other: &Likely| other.weight.total_cmp(&one.weight);
        kept[few..many].select_nth_unstable_by(middle - few, falling);
        let more = sum(&kept[few..middle]);
        if is_enough(mass + more) {
            many = middle;
        } else {
            (few, mass) = (middle, mass + more);
        }
    }
    kept.truncate(many);
}

/// How many of the most probable tokens `top_p` and `min_p` leave, where all tokens weigh `total`; nothing if `kept` is too few to tell.
fn end(kept: &[Likely], draw: &Draw, total: f64) -> Option<usize> {
    let mut reached = 0.0;
    for (number, token) in kept.iter().enumerate() {
        if number > 0 && token.weight < draw.min_p {
            return Some(number);
        }
        reached += token.weight;
        if total - reached <= (1.0 - draw.top_p) * total && draw.top_p < 1.0 {
            return Some(number + 1);
        }
    }
    None
}

/// The token at which the cumulative weight passes `left`.
fn pick(kept: &[Likely], mut left: f64) -> Option<usize> {
    let is_passed = |token: &&Likely| {
        left -= token.weight;
        left < 0.0
    };
    kept.iter().find(is_passed).map(|token| token.token)
}

fn sum(kept: &[Likely]) -> f64 {
    kept.iter().map(|token| token.weight).sum()
}

/// Tokens with their weights.
fn likely(scores: Vec<(f32, usize)>, peaks: &Peaks, temperature: f64) -> Vec<Likely> {
    let highest = f64::from(peaks.highest());
    let weight = |score: f32| ((f64::from(score) - highest) / temperature).exp();
    scores.into_iter().map(|(score, token)| Likely { token, weight: weight(score) }).collect()
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
    let mut kept = likely(peaks.top(scores, count), peaks, draw.temperature);
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        /// Sorted or not, the filters leave the same tokens.
        #[test]
        fn a_drawn_token_is_one_that_the_filters_leave(
            seed: u64,
            count in 1usize..3000,
            spread in 0.1f64..6.0,
            temperature in 0.3f64..2.0,
            top_p in prop_oneof![Just(1.0), 0.0f64..1.0],
            min_p in prop_oneof![Just(0.0), 0.0f64..1.0],
            random in 0.0f64..1.0,
        ) {
            let mut stream = Stream::new(seed);
            let scores: Vec<f32> = (0..count).map(|_| (stream.normal() * spread) as f32).collect();
            let (peaks, how) = (Peaks::of(&scores), Draw { temperature, top_p, min_p, ..Draw::default() });
            let kept = filtered(&scores, &peaks, &how);
            // Sums that differ in their last digits may leave one token more or less.
            let more = filtered(&scores, &peaks, &Draw { top_p: (top_p + 1e-5).min(1.0), ..how });
            let token = sample(&scores, &peaks, &how, random);
            prop_assert!(more.iter().any(|kept| kept.token == token), "{} of {}", token, kept.len());

            let mut all = likely(scores.iter().copied().zip(0..).collect(), &peaks, temperature);
            keep_most_probable(&mut all, top_p);
            let sorted = filtered(&scores, &peaks, &Draw { min_p: 0.0, ..how });
            prop_assert!((sum(&all) - sum(&sorted)).abs() <= 1e-6 * sum(&sorted));
        }
    }

    #[test]
    fn samples_follow_the_filtered_distribution() {
        let scores = [2.0, 1.0, 0.5, 0.0, -1.0, -3.0];
        // How many of the scores are left, and the chi-square that is improbable (p < 0.001) with one degree of freedom less.
        let cases = [
            // top_k leaves four tokens; top_p then drops the last of them.
            (Draw { top_k: 4, top_p: 0.94, ..Draw::default() }, 3, 13.8),
            (Draw { top_p: 0.9, ..Draw::default() }, 3, 13.8),
            (Draw { min_p: 0.05, ..Draw::default() }, 4, 16.3),
            (Draw::default(), 6, 20.5),
        ];
        for (how, left, improbable) in cases {
            let how = Draw { temperature: 0.8, ..how };
            let weights: Vec<f64> =
                scores[..left].iter().map(|&score: &f32| f64::from(score / 0.8).exp()).collect();
            let (total, draws) = (weights.iter().sum::<f64>(), 40_000);
            let (peaks, mut counts) = (Peaks::of(&scores), [0.0f64; 6]);
            for index in 0..draws {
                counts[sample(&scores, &peaks, &how, draw(7, index, 0))] += 1.0;
            }
            assert!(counts[left..].iter().all(|count| *count == 0.0), "{how:?}: {counts:?}");
            let expected = weights.iter().map(|weight| weight / total * draws as f64);
            let chi_square: f64 =
                counts.iter().zip(expected).map(|(seen, want)| (seen - want).powi(2) / want).sum();
            assert!(chi_square < improbable, "{how:?}: chi-square {chi_square} is improbable");
        }
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
