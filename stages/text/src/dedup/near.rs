//! Texts that are nearly the same: candidates by MinHash, each compared exactly.
//!
//! The shingles of a text are its runs of `ngram` characters; two texts are as similar as their sets of shingles are (Jaccard).
//! The least value of a random hash over a set is equal for two sets with just that probability (Broder 1997). Of `HASHES` such
//! values bands are made: texts that agree in all values of one band are candidates.

use std::collections::HashMap;

const HASHES: usize = 128;

/// How many pairs that are just similar enough may be missed.
const MISSED: f64 = 1e-3;

/// Texts that are all less similar than `least`.
pub(super) struct Neighbours {
    least: f64,
    ngram: usize,
    /// How many hashes make a band.
    band: usize,
    /// Factors and summands: multiply-shift hashing (Dietzfelbinger et al. 1997).
    hashes: [(u32, u32); HASHES],
    /// The shingles of each text, sorted.
    shingles: Vec<Box<[u32]>>,
    /// The newest text of each band, by the band's number and values, hashed.
    newest: HashMap<u64, u32>,
    /// For each text and band, the one before it in that band.
    before: Vec<Option<u32>>,
    /// For each text, how many had been looked up when it was last a candidate.
    met: Vec<u64>,
    looked_up: u64,
}

impl Neighbours {
    pub(super) fn new(least: f64, ngram: usize) -> Self {
        let mut state = 0;
        let hashes = std::array::from_fn(|_| {
            state = mix(state);
            ((state >> 32) as u32 | 1, state as u32)
        });
        Self {
            least,
            ngram,
            band: band(least),
            hashes,
            shingles: Vec::new(),
            newest: HashMap::new(),
            before: Vec::new(),
            met: Vec::new(),
            looked_up: 0,
        }
    }

    /// The most similar text so far, the first of equals, if it is similar enough; otherwise this one is added.
    pub(super) fn find_or_add(&mut self, text: &str) -> Option<(usize, f64)> {
        let shingles = shingles(text, self.ngram);
        let bands = self.bands_of(&shingles);
        let best = self.best(&shingles, &bands);
        if best.is_none() {
            // 32 bits: four thousand million texts do not fit into any memory.
            let at = self.shingles.len() as u32;
            self.before.extend(bands.iter().map(|band| self.newest.insert(*band, at)));
            self.shingles.push(shingles);
            self.met.push(0);
        }
        best
    }

    /// Of the texts that share a band with this one.
    fn best(&mut self, shingles: &[u32], bands: &[u64]) -> Option<(usize, f64)> {
        self.looked_up += 1;
        let mut best: Option<(usize, f64)> = None;
        for (number, band) in bands.iter().enumerate() {
            let mut next = self.newest.get(band).map(|at| *at as usize);
            while let Some(at) = next {
                next = self.before[at * bands.len() + number].map(|at| at as usize);
                if std::mem::replace(&mut self.met[at], self.looked_up) == self.looked_up {
                    continue;
                }
                let Some(similarity) = jaccard(shingles, &self.shingles[at], self.least) else {
                    continue;
                };
                let is_better = |(before, least): (usize, f64)| {
                    similarity > least || similarity >= least && at < before
                };
                if best.is_none_or(is_better) {
                    best = Some((at, similarity));
                }
            }
        }
        best
    }

    fn bands_of(&self, shingles: &[u32]) -> Vec<u64> {
        let mut least = [u32::MAX; HASHES];
        for shingle in shingles {
            for (least, (factor, summand)) in least.iter_mut().zip(&self.hashes) {
                let product = u64::from(*shingle) * u64::from(*factor) + u64::from(*summand);
                // The upper bits of what is left of 48: those of the whole product would be in the order of the shingles.
                *least = (*least).min((product >> 16) as u32);
            }
        }
        let bands = least.chunks_exact(self.band).enumerate();
        let hash = |(number, band): (usize, &[u32])| {
            band.iter().fold(mix(number as u64), |hash, value| mix(hash ^ u64::from(*value)))
        };
        bands.map(hash).collect()
    }
}

/// The most hashes to a band with which a pair that is just similar enough is a candidate all the same.
fn band(least: f64) -> usize {
    let missed = |band: usize| {
        let agree = least.powi(band as i32);
        (1.0 - agree).powi((HASHES / band) as i32)
    };
    (1..=HASHES).take_while(|band| missed(*band) <= MISSED).last().unwrap_or(1)
}

/// Hashes of the runs of characters, sorted, each once. A text that is shorter than a run is one.
fn shingles(text: &str, ngram: usize) -> Box<[u32]> {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    let runs = starts.len().saturating_sub(ngram) + 1;
    let run = |at: usize| {
        let start = starts.get(at).copied().unwrap_or(0);
        let end = starts.get(at + ngram).copied().unwrap_or(text.len());
        // FNV-1a, whose last bits are then mixed with the first.
        let hash = text.as_bytes()[start..end].iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        (mix(hash) >> 32) as u32
    };
    let mut shingles: Vec<u32> = (0..runs).map(run).collect();
    shingles.sort_unstable();
    shingles.dedup();
    shingles.into()
}

/// Of two sorted sets, neither of which is empty; `None` where it is below `least`.
fn jaccard(a: &[u32], b: &[u32], least: f64) -> Option<f64> {
    let members = a.len() + b.len();
    // With `alone` members in one set only: (members - alone) / (members + alone) >= least.
    let most_alone = (members as f64 * (1.0 - least) / (1.0 + least)) as usize + 1;
    let (mut left, mut right, mut alone) = (0, 0, 0);
    while let (Some(x), Some(y)) = (a.get(left), b.get(right)) {
        left += usize::from(x <= y);
        right += usize::from(y <= x);
        alone += usize::from(x != y);
        if alone > most_alone {
            return None;
        }
    }
    alone += a.len() - left + b.len() - right;
    let similarity = (members - alone) as f64 / (members + alone) as f64;
    (similarity >= least).then_some(similarity)
}

/// One step of SplitMix64.
fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::{HASHES, Neighbours, band, jaccard, mix, shingles};

    #[test]
    fn runs_of_characters() {
        assert_eq!(shingles("", 3).len(), 1);
        assert_eq!(shingles("ab", 3).len(), 1);
        assert_eq!(shingles("abcabc", 3).len(), 3);
        assert_ne!(shingles("ab", 3), shingles("ba", 3));
        // Characters, not bytes.
        assert_eq!(shingles("äöüß", 3).len(), 2);
        let (a, b) = (shingles("abcd", 2), shingles("bcde", 2));
        assert_eq!([0.5, 0.51].map(|least| jaccard(&a, &b, least)), [Some(0.5), None]);
    }

    #[test]
    fn the_largest_band_that_misses_few() {
        // (1 - 0.8^5)^25 = 5e-5, (1 - 0.8^6)^21 = 2e-3.
        assert_eq!([0.5, 0.8, 0.9, 1.0].map(band), [2, 5, 8, HASHES]);
    }

    /// Two sets that share `both` of `all` members.
    fn pair(pair: u64, both: u64, all: u64) -> (Vec<u32>, Vec<u32>) {
        let member = |at: u64| (mix(mix(pair) ^ at) >> 32) as u32;
        let set = |own: std::ops::Range<u64>| {
            let mut set: Vec<_> = (0..both).chain(own).map(member).collect();
            set.sort_unstable();
            set
        };
        let middle = both + (all - both) / 2;
        (set(both..middle), set(middle..all))
    }

    #[test]
    fn bands_agree_as_often_as_the_theory_says() {
        for (least, both, all) in [(0.5, 50, 100), (0.8, 80, 100), (0.9, 90, 100), (0.8, 30, 100)] {
            let near = Neighbours::new(least, 5);
            let (mut found, pairs) = (0.0, 2000);
            for number in 0..pairs {
                let (a, b) = pair(number, both, all);
                let (a, b) = (near.bands_of(&a), near.bands_of(&b));
                found += a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64;
            }
            let similarity = both as f64 / all as f64;
            let (share, expected) = (found / pairs as f64, similarity.powi(band(least) as i32));
            // The bands of one pair are nearly independent: a standard error of 0.003 at the most.
            assert!((share - expected).abs() < 0.012, "{similarity}: {share}, not {expected}");
        }
    }
}
