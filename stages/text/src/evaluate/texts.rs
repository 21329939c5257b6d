//! Metrics of texts.

use std::collections::{BTreeMap, HashSet};

use paraloom_expr::normalise;
use paraloom_metrics::words::{common, mteval, rouge as rouge_words, runs};
use paraloom_metrics::{bleu, chrf, rouge};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Measure, numbers::mean};

/// A metric, or a group of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Metric {
    /// BLEU of the whole table, 0 to 100, as sacreBLEU (`13a`, `exp`).
    Bleu,
    /// chrF of the whole table, 0 to 100, as sacreBLEU.
    Chrf,
    /// ROUGE-1, ROUGE-2 and ROUGE-L: the mean F1 of the rows, 0 to 1, as rouge-score without stemming, which knows
    /// the letters of ASCII only.
    Rouge,
    /// Different words over all words, and the same of pairs of words.
    Distinct,
    /// How alike the texts are: the mean BLEU of each against the others, of the same `source` where that is given.
    SelfBleu,
    /// How many texts are their `source` again, whatever the case and the spacing, and the mean share of a text's
    /// words that are in its source.
    Copy,
}

impl Metric {
    pub(super) fn needs_gold(self) -> bool {
        matches!(self, Self::Bleu | Self::Chrf | Self::Rouge)
    }

    pub(super) fn needs_source(self) -> bool {
        self == Self::Copy
    }

    pub(super) fn reads_source(self) -> bool {
        matches!(self, Self::Copy | Self::SelfBleu)
    }
}

/// Texts of rows with what they are compared with; a column that no metric reads is empty.
#[derive(Default)]
pub(super) struct Texts {
    pub(super) predicted: Vec<String>,
    pub(super) gold: Vec<String>,
    pub(super) sources: Vec<String>,
}

impl Texts {
    pub(super) fn measures(&self, metrics: &[Metric]) -> Vec<Measure<'_>> {
        metrics.iter().flat_map(|metric| self.measures_of(*metric)).collect()
    }

    fn measures_of(&self, metric: Metric) -> Vec<Measure<'_>> {
        match metric {
            Metric::Bleu => self.bleu(),
            Metric::Chrf => self.chrf(),
            Metric::Rouge => self.rouge(),
            Metric::Distinct => self.distinct(),
            Metric::SelfBleu => self.self_bleu(),
            Metric::Copy => self.copied(),
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (&String, &String)> {
        self.predicted.iter().zip(&self.gold)
    }

    fn bleu(&self) -> Vec<Measure<'_>> {
        let counts =
            self.pairs().map(|(text, gold)| bleu::Counts::new(&mteval(text), &mteval(gold)));
        let counts: Vec<_> = counts.collect();
        let of = move |rows: &[usize]| {
            let mut all = bleu::Counts::default();
            rows.iter().for_each(|row| all += &counts[*row]);
            all.score(false)
        };
        vec![Measure::new("bleu", self.predicted.len(), of)]
    }

    fn chrf(&self) -> Vec<Measure<'_>> {
        let counts: Vec<_> =
            self.pairs().map(|(text, gold)| chrf::Counts::new(text, gold)).collect();
        let of = move |rows: &[usize]| {
            let mut all = chrf::Counts::default();
            rows.iter().for_each(|row| all.add(&counts[*row]));
            all.score()
        };
        vec![Measure::new("chrf", self.predicted.len(), of)]
    }

    fn rouge(&self) -> Vec<Measure<'_>> {
        let scores =
            self.pairs().map(|(text, gold)| rouge::scores(&rouge_words(text), &rouge_words(gold)));
        let scores: Vec<_> = scores.collect();
        let measure = |(at, name): (usize, &str)| {
            Measure::mean_of(name, scores.iter().map(|scores| scores[at]).collect())
        };
        ["rouge1", "rouge2", "rougeL"].into_iter().enumerate().map(measure).collect()
    }

    fn distinct(&self) -> Vec<Measure<'_>> {
        let words: Vec<_> = self.predicted.iter().map(|text| mteval(text)).collect();
        let share = |length: usize| {
            let all: usize =
                words.iter().map(|words| (words.len() + 1).saturating_sub(length)).sum();
            let different: HashSet<_> =
                words.iter().flat_map(|words| words.windows(length)).collect();
            different.len() as f64 / all as f64
        };
        // A row that is drawn twice would make the texts less diverse than they are.
        let measure = |length| {
            Measure::fixed(&format!("distinct-{length}"), self.predicted.len(), share(length))
        };
        vec![measure(1), measure(2)]
    }

    fn self_bleu(&self) -> Vec<Measure<'_>> {
        let words: Vec<_> = self.predicted.iter().map(|text| mteval(text)).collect();
        let mut groups: BTreeMap<Option<&String>, Vec<&[String]>> = BTreeMap::new();
        for (row, words) in words.iter().enumerate() {
            groups.entry(self.sources.get(row)).or_default().push(words);
        }
        let scores: Vec<f64> = groups
            .values()
            .filter(|texts| texts.len() > 1)
            .flat_map(|texts| bleu::against_others(texts))
            .collect();
        vec![Measure::fixed("self-bleu", scores.len(), mean(&scores))]
    }

    fn copied(&self) -> Vec<Measure<'_>> {
        let pairs = || self.predicted.iter().zip(&self.sources);
        let same = pairs().map(|(text, source)| {
            let [text, source] = [text, source].map(|text| normalise(text));
            f64::from(text.split_whitespace().eq(source.split_whitespace()))
        });
        let words = pairs().filter_map(|(text, source)| {
            let (text, source) = (mteval(text), mteval(source));
            let common = common(&runs(&text, 1), &runs(&source, 1));
            (!text.is_empty()).then(|| common as f64 / text.len() as f64)
        });
        vec![
            Measure::mean_of("copied", same.collect()),
            Measure::mean_of("copied words", words.collect()),
        ]
    }
}
