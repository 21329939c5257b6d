//! The highest logits of a row, found without sorting it.

use super::simd::{LANES, dot, exp, sum, vectorized};

/// Logits of a block: few enough to look at each where the block has one of the highest.
const BLOCK: usize = 4 * LANES;

/// Exponentials that are added up in f32 before the sum continues in f64.
const EXPONENTIALS: usize = 1 << 10;

/// The maximum of each block of a row of logits. NaN counts as the lowest.
#[derive(Debug, Clone, PartialEq)]
pub struct Peaks(Vec<f32>);

impl Peaks {
    /// Of a row of logits.
    pub fn of(logits: &[f32]) -> Self {
        vectorized(
            #[inline(always)]
            || Self(logits.chunks(BLOCK).map(block_max).collect()),
        )
    }

    /// The highest logit; negative infinity of none.
    pub fn highest(&self) -> f32 {
        self.0.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// The position of the highest of the `logits` that these are of; of equal ones the first.
    pub fn position(&self, logits: &[f32]) -> usize {
        let top = self.highest();
        let block = self.0.iter().position(|peak| *peak >= top).unwrap_or_default();
        let first = block * BLOCK;
        let place = logits.iter().skip(first).position(|logit| *logit >= top);
        first + place.unwrap_or_default()
    }

    /// The `count` highest of the `logits` that these are of, with their positions, best first and of equal ones the first; and all
    /// that are equal to the last of them.
    pub fn top(&self, logits: &[f32], count: usize) -> Vec<(f32, usize)> {
        // The `count`-th highest maximum is a lower bound: so many blocks have a logit at least as high.
        let mut peaks = self.0.clone();
        let least = match count {
            0 => return Vec::new(),
            _ if count <= peaks.len() => {
                *peaks.select_nth_unstable_by(count - 1, |one, other| descending(*one, *other)).1
            }
            _ => f32::NEG_INFINITY,
        };
        let blocks = self.0.iter().zip(logits.chunks(BLOCK)).enumerate();
        let likely = blocks.filter(|(_, (peak, _))| **peak >= least);
        let mut found: Vec<(f32, usize)> = likely
            .flat_map(|(number, (_, block))| block.iter().copied().zip(number * BLOCK..))
            .filter(|(logit, _)| *logit >= least)
            .collect();
        let order = |one: &(f32, usize), other: &(f32, usize)| {
            descending(one.0, other.0).then(one.1.cmp(&other.1))
        };
        if count < found.len() {
            // Sorting all of them would take most of the time.
            let last = found.select_nth_unstable_by(count - 1, order).1.0;
            found.retain(|(logit, _)| *logit >= last);
        }
        found.sort_unstable_by(order);
        found
    }

    /// The logarithm of the sum of the exponentials of the `logits` that these are of.
    pub fn log_sum_exp(&self, logits: &[f32]) -> f64 {
        f64::from(self.highest()) + self.mass(logits, 1.0).ln()
    }

    /// The sum of the weights `exp((logit - highest) / temperature)` of the `logits` that these are of.
    pub fn mass(&self, logits: &[f32], temperature: f32) -> f64 {
        let mut total = 0.0;
        self.weigh(logits, temperature, |weights| total += f64::from(weights));
        total
    }

    /// The position of the first of the `logits` at which their cumulative weight passes `share`, below 1, of [`Peaks::mass`].
    pub fn pick(&self, logits: &[f32], temperature: f32, share: f64) -> usize {
        let mut blocks = Vec::with_capacity(logits.len().div_ceil(EXPONENTIALS));
        self.weigh(logits, temperature, |weights| blocks.push(f64::from(weights)));
        let mut left = share * blocks.iter().sum::<f64>();
        let mut passes = |weight: f64| {
            left -= weight;
            left < 0.0
        };
        // Rounding may leave a little after the last one.
        let block = blocks.iter().position(|weight| passes(*weight));
        let block = block.unwrap_or(blocks.len().saturating_sub(1));
        left += blocks.get(block).copied().unwrap_or_default();
        let (top, scale) = (self.highest(), temperature.recip());
        let first = block * EXPONENTIALS;
        let mut heaviest = (first, f32::NEG_INFINITY);
        for (place, logit) in (first..).zip(logits[first..].iter().take(EXPONENTIALS)) {
            left -= f64::from(exp((logit - top) * scale));
            if left < 0.0 {
                return place;
            }
            if *logit > heaviest.1 {
                heaviest = (place, *logit);
            }
        }
        heaviest.0
    }

    /// Calls `work` with the weight of each block of [`EXPONENTIALS`] logits.
    fn weigh(&self, logits: &[f32], temperature: f32, mut work: impl FnMut(f32)) {
        let (top, scale) = (self.highest(), temperature.recip());
        vectorized(
            #[inline(always)]
            || {
                let mut block = [0.0; EXPONENTIALS];
                for logits in logits.chunks(EXPONENTIALS) {
                    let block = &mut block[..logits.len()];
                    for (to, logit) in block.iter_mut().zip(logits) {
                        *to = exp((logit - top) * scale);
                    }
                    work(sum(block));
                }
            },
        );
    }
}

/// From the highest to the lowest; NaN is not among them.
fn descending(one: f32, other: f32) -> std::cmp::Ordering {
    other.partial_cmp(&one).unwrap_or(std::cmp::Ordering::Equal)
}

#[inline(always)]
fn block_max(block: &[f32]) -> f32 {
    let (registers, rest) = block.as_chunks::<LANES>();
    let mut tops = [f32::NEG_INFINITY; LANES];
    for register in registers {
        for lane in 0..LANES {
            tops[lane] = if register[lane] > tops[lane] { register[lane] } else { tops[lane] };
        }
    }
    tops.iter().chain(rest).fold(f32::NEG_INFINITY, |best, &x| if x > best { x } else { best })
}

/// Recomputes the highest logits of a batch in f32, where int8 logits are near enough only to find which those are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rescorer<'a>(Option<Factors<'a>>);

/// Logits are the product of `x`, rows of `depth`, and the transpose of `table`.
#[derive(Debug, Clone, Copy)]
struct Factors<'a> {
    x: &'a [f32],
    table: &'a [f32],
    depth: usize,
}

impl<'a> Rescorer<'a> {
    /// For logits that are the product of `x`, `[rows, depth]`, and the transpose of `table`, `[vocab, depth]`.
    pub fn new(x: &'a [f32], table: &'a [f32], depth: usize) -> Self {
        Self(Some(Factors { x, table, depth }))
    }

    /// The peaks of a row, after its highest logits have been recomputed.
    pub fn peaks(&self, row: usize, logits: &mut [f32]) -> Peaks {
        /// Logits of a row that are recomputed: enough for greedy search and a few beams.
        const HIGHEST: usize = 8;
        let mut peaks = Peaks::of(logits);
        if let Some(Factors { x, table, depth }) = self.0 {
            let x = &x[row * depth..][..depth];
            for (_, token) in peaks.top(logits, HIGHEST).into_iter().take(HIGHEST) {
                let w = &table[token * depth..][..depth];
                logits[token] = vectorized(
                    #[inline(always)]
                    || dot(x, w),
                );
                let block = logits.chunks(BLOCK).nth(token / BLOCK).unwrap_or_default();
                peaks.0[token / BLOCK] = block_max(block);
            }
        }
        peaks
    }
}

/// Adds `number` to each.
pub fn add_to_all(logits: &mut [f32], number: f32) {
    vectorized(
        #[inline(always)]
        || logits.iter_mut().for_each(|logit| *logit += number),
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn peaks_are_those_of_a_sorted_row(
            // Few different numbers, so that there are equal ones.
            logits in prop::collection::vec((-9_i8..9).prop_map(|x| f32::from(x) / 4.0), 1..700),
            count in 1_usize..300,
            hidden in prop::collection::vec(0_usize..700, 0..9),
        ) {
            let mut logits = logits;
            for place in hidden {
                if let Some(logit) = logits.get_mut(place) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            let peaks = Peaks::of(&logits);
            let mut sorted: Vec<(f32, usize)> = logits.iter().copied().zip(0..).collect();
            sorted.sort_by(|(one, _), (other, _)| descending(*one, *other));
            prop_assert_eq!(peaks.position(&logits), sorted[0].1);
            let last = sorted[count.min(sorted.len()) - 1].0;
            sorted.retain(|(logit, _)| *logit >= last);
            prop_assert_eq!(peaks.top(&logits, count), sorted);
            let exact: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            let close = (peaks.log_sum_exp(&logits) - exact).abs() < 1e-6;
            prop_assert!(close || exact.is_infinite());
            let highest = f64::from(peaks.highest());
            let mass: f64 = logits.iter().map(|&x| ((f64::from(x) - highest) / 0.7).exp()).sum();
            prop_assert!((peaks.mass(&logits, 0.7) / mass - 1.0).abs() < 1e-5 || exact.is_infinite());
            let share = count as f64 / 300.0;
            let picked = peaks.pick(&logits, 0.7, share);
            let weight = |place: usize| ((f64::from(logits[place]) - highest) / 0.7).exp() / mass;
            let before: f64 = (0..picked).map(weight).sum();
            prop_assert!(exact.is_infinite() || (before <= share + 1e-5 && share <= before + weight(picked) + 1e-5));
        }
    }

    #[test]
    fn the_highest_are_recomputed() {
        let (depth, rows, tokens) = (20, 3, 150);
        let number = |seed: f32| move |i: usize| (i as f32 * seed).sin();
        let x: Vec<f32> = (0..rows * depth).map(number(0.37)).collect();
        let table: Vec<f32> = (0..tokens * depth).map(number(0.73)).collect();
        let of_row = |x: &[f32]| -> Vec<f32> {
            table.chunks(depth).map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum()).collect()
        };
        let exact: Vec<f32> = x.chunks(depth).flat_map(of_row).collect();
        let rounded: Vec<f32> = exact.iter().map(|x| (x * 50.0).round() / 50.0).collect();
        let (mut logits, rescorer) = (rounded.clone(), Rescorer::new(&x, &table, depth));
        for (row, logits) in logits.chunks_mut(tokens).enumerate() {
            let peaks = rescorer.peaks(row, logits);
            assert_eq!(peaks.top(logits, tokens), Peaks::of(logits).top(logits, tokens));
        }
        let rows = exact.chunks(tokens).zip(rounded.chunks(tokens)).zip(logits.chunks(tokens));
        for ((exact, rounded), logits) in rows {
            let highest = Peaks::of(rounded).top(rounded, 8);
            for (token, logit) in logits.iter().enumerate() {
                let is_again = highest.iter().take(8).any(|(_, place)| *place == token);
                let (expected, most) = if is_again { (exact, 1e-5) } else { (rounded, 0.0) };
                assert!((logit - expected[token]).abs() <= most, "{token}: {logit}");
            }
        }
        assert_eq!(Rescorer::default().peaks(0, &mut logits), Peaks::of(&logits));
    }

    #[test]
    fn a_sum_with_nan_is_nan() {
        let mut logits = vec![0.5; 200];
        logits[77] = f32::NAN;
        let peaks = Peaks::of(&logits);
        assert!(peaks.log_sum_exp(&logits).is_nan());
        assert_eq!(peaks.position(&logits), 0);
    }
}
