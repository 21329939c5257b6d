//! Training of a Unigram vocabulary, as SentencePiece does it: many candidate pieces, whose probabilities are fitted by
//! expectation maximisation, and of which the least useful are dropped until enough are left.
//!
//! Written here because the trainer of the `tokenizers` crate gives other pieces every time: it walks hash maps with
//! random keys and splits sums by the number of threads.

use std::collections::BTreeMap;

use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use crate::{Error, Result};

/// Longest piece, in characters.
const LONGEST: usize = 16;
/// Candidates at the start, per piece of the final vocabulary.
const SEEDS_PER_PIECE: usize = 8;
/// Share of the candidates that a round keeps.
const KEEP: f64 = 0.75;
/// Rounds of expectation maximisation between two prunings.
const ROUNDS: usize = 2;
/// A piece that is expected less often than this is dropped.
const RARE: f64 = 0.5;

/// A word and how often it occurs.
pub(super) type Words = BTreeMap<String, u64>;

/// Counts the words that the tokenizer's normaliser and pre-tokenizer make of the texts.
pub(super) fn count_words<I, S>(tokenizer: &tokenizers::Tokenizer, texts: I) -> Result<Words>
where
    I: IntoIterator<Item = S>,
    S: AsRef<str>,
{
    let failed = |error: tokenizers::Error| Error::Tokenizer(error.to_string());
    let mut words = Words::new();
    for text in texts {
        let mut normalized = NormalizedString::from(text.as_ref());
        if let Some(normalizer) = tokenizer.get_normalizer() {
            normalizer.normalize(&mut normalized).map_err(failed)?;
        }
        let mut split = PreTokenizedString::from(normalized);
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut split).map_err(failed)?;
        }
        for (word, _, _) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            *words.entry(word.to_owned()).or_default() += 1;
        }
    }
    Ok(words)
}

/// The best `size` pieces with their log probabilities, by falling probability. Those of `whole` are among them with
/// probability 1, so that nothing else is ever preferred (SentencePiece's `user_defined_symbols`).
pub(super) fn train(words: &Words, size: usize, whole: &Words) -> Result<Vec<(String, f64)>> {
    let size = size.saturating_sub(whole.len());
    let words: Vec<(Vec<char>, f64)> = words
        .iter()
        .filter(|(word, _)| !whole.contains_key(*word))
        .map(|(word, &count)| (word.chars().collect(), count as f64))
        .collect();
    let mut pieces = Pieces::seeds(&words, size * SEEDS_PER_PIECE);
    if pieces.characters > size {
        return Err(Error::Tokenizer(format!(
            "the texts have {} different characters; the vocabulary has to be larger than {}",
            pieces.characters,
            size + whole.len() + 3
        )));
    }
    loop {
        for _ in 0..ROUNDS {
            pieces.fit(&words, size);
        }
        if pieces.len() <= size {
            break;
        }
        let keep = ((pieces.len() as f64 * KEEP) as usize).max(size);
        pieces.prune(&words, keep);
    }
    let mut all: Vec<(String, f64)> = whole.keys().map(|word| (word.clone(), 0.0)).collect();
    all.extend(pieces.sorted().into_iter().filter(|(piece, _)| !whole.contains_key(piece)));
    Ok(all)
}

/// A vocabulary in training.
struct Pieces {
    /// Log probability by piece; single characters are never dropped.
    scores: BTreeMap<Vec<char>, f64>,
    characters: usize,
}

impl Pieces {
    /// All characters and the substrings that cover most text.
    fn seeds(words: &[(Vec<char>, f64)], limit: usize) -> Self {
        let mut counts: BTreeMap<&[char], f64> = BTreeMap::new();
        for (word, count) in words {
            for start in 0..word.len() {
                for end in start + 1..=word.len().min(start + LONGEST) {
                    *counts.entry(&word[start..end]).or_default() += count;
                }
            }
        }
        let (mut pieces, mut longer): (Vec<_>, Vec<_>) =
            counts.into_iter().partition(|(piece, _)| piece.len() == 1);
        let characters = pieces.len();
        longer.retain(|(_, count)| *count > 1.0);
        // The sort is stable and the map was ordered, so ties fall the same way every time.
        longer.sort_by(|a, b| (b.1 * b.0.len() as f64).total_cmp(&(a.1 * a.0.len() as f64)));
        longer.truncate(limit);
        pieces.extend(longer);
        let total: f64 = pieces.iter().map(|(piece, count)| count * piece.len() as f64).sum();
        let score = |(piece, count): (&[char], f64)| {
            (piece.to_vec(), (count * piece.len() as f64 / total).ln())
        };
        Self { scores: pieces.into_iter().map(score).collect(), characters }
    }

    fn len(&self) -> usize {
        self.scores.len()
    }

    /// One round of expectation maximisation; drops what is hardly used, but not below `size` pieces.
    fn fit(&mut self, words: &[(Vec<char>, f64)], size: usize) {
        let mut expected: BTreeMap<&[char], f64> = BTreeMap::new();
        for (word, count) in words {
            self.expect(word, *count, &mut expected);
        }
        let total: f64 = expected.values().sum();
        let floor = (RARE / total).ln();
        let count = |piece: &[char]| expected.get(piece).copied().unwrap_or(0.0);
        let used = |piece: &[char]| piece.len() == 1 || count(piece) >= RARE;
        let enough = self.scores.keys().filter(|piece| used(piece)).count() >= size;
        let kept = self.scores.keys().filter(|piece| !enough || used(piece));
        self.scores =
            kept.map(|piece| (piece.clone(), (count(piece) / total).ln().max(floor))).collect();
    }

    /// Adds how often each piece is expected in `count` copies of a word (forward-backward over its segmentations).
    fn expect<'w>(&self, word: &'w [char], count: f64, expected: &mut BTreeMap<&'w [char], f64>) {
        let mut ahead = vec![f64::NEG_INFINITY; word.len() + 1];
        let mut behind = ahead.clone();
        ahead[0] = 0.0;
        behind[word.len()] = 0.0;
        let arcs = self.arcs(word);
        for &(start, end, score) in &arcs {
            ahead[end] = log_add(ahead[end], ahead[start] + score);
        }
        for &(start, end, score) in arcs.iter().rev() {
            behind[start] = log_add(behind[start], score + behind[end]);
        }
        let total = ahead[word.len()];
        for (start, end, score) in arcs {
            let share = (ahead[start] + score + behind[end] - total).exp();
            *expected.entry(&word[start..end]).or_default() += share * count;
        }
    }

    /// The pieces that fit into a word, by their starts.
    fn arcs(&self, word: &[char]) -> Vec<(usize, usize, f64)> {
        let ends = |start: usize| start + 1..=word.len().min(start + LONGEST);
        let arc = |start, end| self.scores.get(&word[start..end]).map(|&score| (start, end, score));
        (0..word.len())
            .flat_map(|start| ends(start).filter_map(move |end| arc(start, end)))
            .collect()
    }

    /// Keeps the characters and those of the other pieces whose loss would cost most.
    fn prune(&mut self, words: &[(Vec<char>, f64)], keep: usize) {
        let mut uses: BTreeMap<&[char], f64> = BTreeMap::new();
        for (word, count) in words {
            for (start, end) in self.best(word, None) {
                *uses.entry(&word[start..end]).or_default() += count;
            }
        }
        let mut costs: Vec<(f64, &Vec<char>)> = Vec::new();
        for (piece, &score) in self.scores.iter().filter(|(piece, _)| piece.len() > 1) {
            let used = uses.get(piece.as_slice()).copied().unwrap_or(0.0);
            let without: f64 = self
                .best(piece, Some(piece))
                .iter()
                .map(|&(start, end)| self.scores[&piece[start..end]])
                .sum();
            costs.push((used * (score - without), piece));
        }
        costs.sort_by(|a, b| b.0.total_cmp(&a.0));
        let dropped: Vec<Vec<char>> = costs
            .into_iter()
            .skip(keep.saturating_sub(self.characters))
            .map(|(_, piece)| piece.clone())
            .collect();
        for piece in dropped {
            self.scores.remove(&piece);
        }
    }

    /// The most probable segmentation of a word, without the piece `banned`.
    fn best(&self, word: &[char], banned: Option<&[char]>) -> Vec<(usize, usize)> {
        let mut best = vec![(f64::NEG_INFINITY, 0); word.len() + 1];
        best[0].0 = 0.0;
        for (start, end, score) in self.arcs(word) {
            let candidate = best[start].0 + score;
            if banned != Some(&word[start..end]) && candidate > best[end].0 {
                best[end] = (candidate, start);
            }
        }
        let mut path = Vec::new();
        let mut end = word.len();
        while end > 0 {
            let start = best[end].1;
            path.push((start, end));
            end = start;
        }
        path
    }

    fn sorted(self) -> Vec<(String, f64)> {
        let mut pieces: Vec<(String, f64)> = self
            .scores
            .into_iter()
            .map(|(piece, score)| (piece.into_iter().collect(), score))
            .collect();
        pieces.sort_by(|a, b| b.1.total_cmp(&a.1));
        pieces
    }
}

/// `ln(e^a + e^b)`.
fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}
