//! `score-labels`: a model's choice among labels, for any prompt.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use arrow::datatypes::{DataType, Field};
use arrow::record_batch::RecordBatch;
use paraloom_sdk::{About, Emit, Error, MapStage, PlanInputs, Planned, Port, Result, Run, column};
use paraloom_t5_core::device::fingerprint;
use paraloom_t5_core::numeric::Precision;
use paraloom_t5_core::score::Labels;
use paraloom_t5_core::tokenizer::Tokenizer;
use schemars::JsonSchema;
use serde::Deserialize;

use super::examples::{check_labels, fill, template_columns};
use super::score::{Judge, cut_field, judged_text, marked, most_likely};
use super::shared::{MAX_SOURCE_TOKENS, SpecialTokens, row_by_row};
use crate::memory::{self, Use};

/// Settings of `score-labels`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Config {
    /// What the model is asked, with columns in braces, such as `mnli hypothesis: {hypothesis} premise: {premise}`.
    prompt: String,
    /// The labels to choose from, as the model was taught to write them.
    #[schemars(length(min = 2))]
    labels: Vec<String>,
    /// The column to write: the most likely label. Its probability among the labels goes to the column of this name with `_p`.
    #[serde(default = "label")]
    into: String,
    /// The label whose probability goes to the column with `_p`, whether or not it is the most likely one.
    #[serde(default)]
    probability_of: Option<String>,
    /// The labels are numbers: `into` is a column of numbers, and the expected value goes to the column of this name with `_mean`.
    #[serde(default)]
    numbers: bool,
    /// Adds the probability of every label, in columns of the name of `into` with `_p_` and the label.
    #[serde(default)]
    each: bool,
    /// Longer prompts are cut at their end.
    #[serde(default = "max_source_tokens")]
    #[schemars(range(min = 2))]
    max_source_tokens: usize,
    /// Adds a column of the name of `into` with `_cut`: whether the prompt was cut.
    #[serde(default)]
    mark: bool,
    /// Takes `</s>` off the ends of the prompts, where it stands for a tokenizer that reads it as the end.
    #[serde(default)]
    strip_eos: bool,
    /// What `</s>`, `<extra_id_0>` and the other built-in special tokens are in prompts and labels: `text` like any other, or, with `parse`,
    /// the tokens, as in T5's pre-training.
    #[serde(default)]
    special_tokens: SpecialTokens,
    /// What is computed with. bf16 takes half the memory and is faster where the processor has instructions for it; int8
    /// takes less still, on the CPU, and is less exact.
    #[serde(default)]
    precision: Precision,
}

fn label() -> String {
    "label".to_owned()
}

fn max_source_tokens() -> usize {
    MAX_SOURCE_TOKENS
}

impl Config {
    /// The columns to write, in their order.
    fn fields(&self) -> Vec<Field> {
        let number =
            |ending: &str| Field::new(format!("{}{ending}", self.into), DataType::Float64, true);
        let mut fields = if self.numbers {
            vec![number(""), number("_p"), number("_mean")]
        } else {
            vec![Field::new(&self.into, DataType::Utf8, true), number("_p")]
        };
        if self.each {
            fields.extend(self.labels.iter().map(|label| number(&format!("_p_{label}"))));
        }
        fields
    }

    fn check(&self) -> Result<()> {
        check_labels(&self.labels, "/labels")?;
        if let Some(label) = &self.probability_of
            && !self.labels.contains(label)
        {
            let message = format!("`{label}` is none of the labels: {}", self.labels.join(", "));
            return Err(Error::config(message).at("/probability_of"));
        }
        let is_number = |label: &&String| label.parse::<f64>().is_ok_and(f64::is_finite);
        if self.numbers
            && let Some(at) = self.labels.iter().position(|label| !is_number(&label))
        {
            return Err(Error::config(format!("`{}` is not a number", self.labels[at]))
                .at(format!("/labels/{at}"))
                .hint("leave `numbers` out where labels are words"));
        }
        if template_columns(&self.prompt).is_empty() {
            return Err(Error::config(
                "the prompt names no column, and would be the same for every row",
            )
            .at("/prompt")
            .hint("write columns in braces: `topic: {text}`"));
        }
        Ok(())
    }
}

/// The stage.
pub struct ScoreLabels(Config);

impl MapStage for ScoreLabels {
    type Config = Config;
    type Worker = Judge<Config>;

    fn about() -> About {
        row_by_row(About::new(
            "score-labels",
            "1.1.0",
            "Which of some labels a model chooses for a row, and how sure it is. `score-stsb` and `score-cola` do this with T5's own prompts.",
        ))
        .input(Port::table("rows", "The rows to judge."))
        .input(Port::artifact(
            "model",
            "The model that judges: one that was taught these labels, such as Flan-T5, or by `finetune` with `kind: labels`.",
        ))
        .output(Port::table("rows", "The same rows with `label` and `label_p`."))
        .keeps_rows()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        config.check()?;
        let rows = inputs.table("rows")?;
        for name in template_columns(&config.prompt) {
            rows.text(name, "/prompt")?;
        }
        let cut = config.mark.then(|| cut_field(&config.into));
        let schema = rows.with_fields(config.fields().into_iter().chain(cut));
        let memory = memory::likely(inputs.note("model"), Use::Read(config.precision));
        let fingerprint = fingerprint(config.precision)?;
        Ok(Planned::new(Self(config), [Some(schema)]).fingerprint(fingerprint).memory(memory))
    }

    fn open(&self, run: &Run) -> Result<Self::Worker> {
        let Config { precision, special_tokens, labels, .. } = &self.0;
        Judge::open(run, *precision, *special_tokens, self.0.clone(), |tokenizer| {
            Labels::new(tokenizer, labels).map(Some)
        })
    }

    fn map(judge: &mut Self::Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let config = judge.config().clone();
        let limit = config.max_source_tokens;
        let filled = fill(&config.prompt, &rows)?;
        let prompts: Vec<_> =
            filled.iter().map(|text| Some(judged_text(text?, config.strip_eos))).collect();
        let encode = |tokenizer: &Tokenizer, text: &&str| tokenizer.encode_within(text, limit);
        let judged = judge.judge(&rows, &prompts, encode, emit.services())?;
        judge.count(&judged, limit);
        let of = |value: &dyn Fn(&[f64]) -> f64| -> ArrayRef {
            let values = judged.iter().map(|judged| Some(value(&judged.as_ref()?.probabilities)));
            Arc::new(values.collect::<Float64Array>())
        };
        let chosen = config.probability_of.as_ref();
        let chosen = chosen.and_then(|label| config.labels.iter().position(|other| other == label));
        let p = of(&|p| p[chosen.unwrap_or_else(|| most_likely(p))]);
        let mut columns = if config.numbers {
            let numbers: Vec<f64> =
                config.labels.iter().map(|label| label.parse().unwrap_or(f64::NAN)).collect();
            let mean = |p: &[f64]| p.iter().zip(&numbers).map(|(p, value)| p * value).sum();
            vec![of(&|p| numbers[most_likely(p)]), p, of(&mean)]
        } else {
            let label = |p: &[f64]| config.labels[most_likely(p)].as_str();
            let labels = judged.iter().map(|judged| Some(label(&judged.as_ref()?.probabilities)));
            vec![Arc::new(labels.collect::<StringArray>()) as ArrayRef, p]
        };
        if config.each {
            columns.extend((0..config.labels.len()).map(|at| of(&|p| p[at])));
        }
        let mut scored = config.fields().into_iter().zip(columns);
        let scored = scored
            .try_fold(rows, |rows, (field, column)| column::with_field(&rows, field, column))?;
        emit.push("rows", &marked(&scored, config.mark, &config.into, &judged)?)
    }
}
