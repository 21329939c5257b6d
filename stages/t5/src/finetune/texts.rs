//! How good the texts are that a model writes in the middle of its training: what `keep_best` goes by.

use paraloom_metrics::{bleu, chrf, rouge, words};
use paraloom_sdk::Services;
use paraloom_t5_core::decode::{self, Row, generate};
use paraloom_t5_core::model::Model;
use paraloom_t5_core::tokenizer::Tokenizer;
use paraloom_t5_core::train::Example;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::memory::halving;

/// What is kept of a training: the model whose texts are best.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeepBest {
    /// What tells how close a text is to its target.
    pub(super) metric: Metric,
    /// Texts are written for so many of the examples to validate on, evenly spread; for all if left out.
    #[serde(default)]
    #[schemars(range(min = 1))]
    rows: Option<usize>,
    /// Longer texts are ended.
    #[serde(default = "max_new_tokens")]
    #[schemars(range(min = 1, max = 4096))]
    max_new_tokens: usize,
}

fn max_new_tokens() -> usize {
    128
}

/// A metric of texts and their targets, as `evaluate` has it; the higher the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(super) enum Metric {
    /// BLEU of all texts together, 0 to 100.
    #[serde(rename = "bleu")]
    Bleu,
    /// chrF of all texts together, 0 to 100.
    #[serde(rename = "chrf")]
    Chrf,
    /// The mean F1 of words, 0 to 1.
    #[serde(rename = "rouge1")]
    Rouge1,
    /// The mean F1 of pairs of words, 0 to 1.
    #[serde(rename = "rouge2")]
    Rouge2,
    /// The mean F1 of the longest common subsequence of words, 0 to 1.
    #[serde(rename = "rougeL")]
    RougeL,
    /// The share of texts that are their target, but for white space around them.
    #[serde(rename = "exact")]
    Exact,
}

impl Metric {
    /// The column of the table of metrics.
    pub(super) fn column(self) -> &'static str {
        match self {
            Self::Bleu => "validation_bleu",
            Self::Chrf => "validation_chrf",
            Self::Rouge1 => "validation_rouge1",
            Self::Rouge2 => "validation_rouge2",
            Self::RougeL => "validation_rougeL",
            Self::Exact => "validation_exact",
        }
    }

    /// Of texts, each with its target.
    fn of(self, pairs: &[(String, &str)]) -> f64 {
        let mean = |of: &dyn Fn(&str, &str) -> f64| {
            pairs.iter().map(|(text, target)| of(text, target)).sum::<f64>() / pairs.len() as f64
        };
        let rouge = |which: usize| {
            mean(&|text, target| rouge::scores(&words::rouge(text), &words::rouge(target))[which])
        };
        match self {
            Self::Bleu => {
                let mut all = bleu::Counts::default();
                for (text, target) in pairs {
                    all += &bleu::Counts::new(&words::mteval(text), &words::mteval(target));
                }
                all.score(false)
            }
            Self::Chrf => {
                let mut all = chrf::Counts::default();
                pairs.iter().for_each(|(text, target)| all.add(&chrf::Counts::new(text, target)));
                all.score()
            }
            Self::Rouge1 => rouge(0),
            Self::Rouge2 => rouge(1),
            Self::RougeL => rouge(2),
            Self::Exact => mean(&|text, target| f64::from(text.trim() == target.trim())),
        }
    }
}

/// Sources that a model writes for, and what it should write.
pub(super) struct Trial<'a> {
    keep: &'a KeepBest,
    tokenizer: &'a Tokenizer,
    rows: Vec<Row>,
    targets: Vec<String>,
}

impl<'a> Trial<'a> {
    /// Of examples to validate on, of which there is at least one, with the texts of their targets.
    pub(super) fn new(
        keep: &'a KeepBest,
        tokenizer: &'a Tokenizer,
        examples: &[Example],
        targets: &[String],
    ) -> Self {
        let count = keep.rows.unwrap_or(usize::MAX).min(examples.len());
        let chosen: Vec<_> = (0..count).map(|number| number * examples.len() / count).collect();
        // Nothing is drawn in a greedy search.
        let row = |&index: &usize| Row { ids: examples[index].source.clone(), ..Row::default() };
        Self {
            keep,
            tokenizer,
            rows: chosen.iter().map(row).collect(),
            targets: chosen.iter().map(|&index| targets[index].clone()).collect(),
        }
    }

    /// What is measured.
    pub(super) fn metric(&self) -> Metric {
        self.keep.metric
    }

    /// How good the texts are that a model writes, each token the most probable one.
    pub(super) fn score(&self, model: &Model, services: Services) -> paraloom_t5_core::Result<f64> {
        let model = model.for_inference();
        let options =
            decode::Options { max_new_tokens: self.keep.max_new_tokens, ..Default::default() };
        let written = halving(services, options.batch_size, |batch_size| {
            let options = decode::Options { batch_size, ..options.clone() };
            generate(&model, &self.rows, &options, &|| services.is_cancelled())
        })?;
        let mut pairs = Vec::with_capacity(self.targets.len());
        for (candidate, target) in written.iter().flatten().zip(&self.targets) {
            pairs.push((self.tokenizer.decode(&candidate.ids)?, target.as_str()));
        }
        Ok(self.keep.metric.of(&pairs))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Recorded by tests/fidelity/make_metrics.py, for `evaluate` too.
    #[test]
    fn metrics_are_those_of_sacrebleu_and_rouge_score() {
        let recorded = include_str!("../../../text/tests/fixtures/metrics.json");
        let recorded: Value = serde_json::from_str(recorded).expect("JSON");
        let cases = recorded["texts"].as_array().expect("a list");
        assert!(cases.len() > 10, "{} cases", cases.len());
        let texts =
            |list: &Value| -> Vec<String> { serde_json::from_value(list.clone()).expect("texts") };
        for case in cases {
            let (written, targets) = (texts(&case["predicted"]), texts(&case["gold"]));
            let pairs: Vec<_> =
                written.into_iter().zip(targets.iter().map(String::as_str)).collect();
            for (metric, name) in [
                (Metric::Bleu, "bleu"),
                (Metric::Chrf, "chrf"),
                (Metric::Rouge1, "rouge1"),
                (Metric::Rouge2, "rouge2"),
                (Metric::RougeL, "rougeL"),
            ] {
                assert_eq!(metric.column(), format!("validation_{name}"));
                let (ours, theirs) = (metric.of(&pairs), case["metrics"][name].as_f64());
                let theirs = theirs.expect("it is recorded");
                assert!((ours - theirs).abs() < 1e-9, "{name}: {ours}, not {theirs}, of {case}");
            }
        }
    }

    #[test]
    fn a_text_is_its_target_but_for_white_space_around() {
        let pairs = [("a dog", "a dog"), ("a dog ", "\ta dog"), ("a  dog", "a dog"), ("", "a dog")];
        let pairs = pairs.map(|(text, target)| (text.to_owned(), target));
        assert!((Metric::Exact.of(&pairs) - 0.5).abs() < f64::EPSILON);
    }
}
