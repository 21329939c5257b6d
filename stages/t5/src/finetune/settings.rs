//! The settings of `finetune`, and what training is told of them.

use std::collections::BTreeMap;

use paraloom_sdk::{Error, Result};
use paraloom_t5_core::folder;
use paraloom_t5_core::numeric::Float;
use paraloom_t5_core::train::{Batch, Length, Mixing, Optimizer, Options, Schedule, Warmup};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::shared::SpecialTokens;
use super::texts::KeepBest;
use crate::adapter::LoraConfig;
use crate::examples::{Kind, Task};
use crate::shared::MAX_SOURCE_TOKENS;

/// Epochs whose batches of tokens are counted before the first step.
const MOST_COUNTED: u64 = 1000;

/// Settings of `finetune`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-paraloom-elsewhere" = crate::names::of_finetune()))]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting by itself")]
pub struct Config {
    /// A task of T5 with its official prompt and labels, or plain `text`.
    #[serde(default)]
    pub(super) kind: Kind,
    /// Stands before every source, such as `paraphrase: `.
    #[serde(default)]
    pub(super) prefix: String,
    /// The column to read; `source` if left out.
    #[serde(default)]
    pub(super) source: Option<String>,
    /// The second sentence of stsb; `sentence2` if left out.
    #[serde(default)]
    pub(super) second: Option<String>,
    /// The column to write; `target` if left out.
    #[serde(default)]
    pub(super) target: Option<String>,
    /// What may stand in the target (`kind: labels`), whose column is `label` if `target` is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) labels: Vec<String>,
    /// Takes `</s>` off the ends of sources and targets, where it stands for a tokenizer that reads it as the end.
    // The card says what was set; without it a model is written as it was before there was this setting.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) strip_eos: bool,
    /// What `</s>`, `<extra_id_0>` and the other built-in special tokens are in sources and targets: `text` like any other, or, with `parse`,
    /// the tokens, as in T5's pre-training.
    #[serde(default, skip_serializing_if = "SpecialTokens::is_text")]
    pub(super) special_tokens: SpecialTokens,
    /// Tasks of their own for some of the tables that enter `examples`, by label.
    #[serde(default)]
    pub(super) tasks: BTreeMap<String, Task>,
    /// Passes over the examples; 1 if neither `epochs` nor `steps` is given.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(super) epochs: Option<u64>,
    /// Optimizer steps, instead of epochs.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(super) steps: Option<u64>,
    /// Examples that are worked on together. Shuffled examples of about one length are in a batch.
    #[serde(default = "eight")]
    #[schemars(range(min = 1, max = 4096))]
    pub(super) batch_size: usize,
    /// Instead of `batch_size`: as many examples are worked on together as have no more than so many source and target tokens,
    /// at least one. Batches are packed, so no padding counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(super) batch_tokens: Option<usize>,
    /// Batches per optimizer step.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 4096))]
    pub(super) accumulate: usize,
    /// The optimizer.
    #[serde(default)]
    pub(super) optimizer: OptimizerName,
    /// Adafactor only: the learning rate is relative to the size of each weight, as in T5's own
    /// pre-training. It wants a learning rate of 0.01 or so.
    #[serde(default)]
    pub(super) scale_parameter: bool,
    /// Adafactor only: the step alone decides the learning rate, the inverse root of its number, at most 0.01, instead of
    /// `learning_rate`, `schedule` and a warm-up. Together with `scale_parameter` it is what T5's authors trained with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) relative_step: bool,
    /// With `relative_step`: at most a millionth of the step's number, for a start from random weights.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) warmup_init: bool,
    /// The highest learning rate.
    #[serde(default = "learning_rate")]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub(super) learning_rate: f64,
    /// What becomes of the learning rate after the warm-up.
    #[serde(default)]
    pub(super) schedule: ScheduleName,
    /// The power of `schedule: polynomial`; 1, which falls evenly, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub(super) power: Option<f64>,
    /// Steps over which the learning rate rises from zero.
    #[serde(default)]
    pub(super) warmup_steps: u64,
    /// The same as a share of all steps, instead of `warmup_steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) warmup_ratio: Option<f64>,
    /// Learn low-rank adapters (LoRA) instead of the weights: less memory, and an adapter of a few megabytes. The model that comes out
    /// has them merged; `adapter` in its directory is the adapter by itself, as PEFT reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lora: Option<LoraConfig>,
    /// Weights that stay as they are, by patterns of their names: `shared.weight`, `encoder.*`, `*layer_norm*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) freeze: Vec<String>,
    /// Decoupled weight decay.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub(super) weight_decay: f64,
    /// Largest norm of the gradient; 0 does not clip.
    #[serde(default = "one_point")]
    #[schemars(range(min = 0.0))]
    pub(super) clip: f64,
    /// Dropout; the model's own if left out.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub(super) dropout: Option<f64>,
    /// Share of each target's probability that is spread over the vocabulary.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub(super) label_smoothing: f64,
    /// Take the examples in another order in each epoch.
    #[serde(default = "yes")]
    pub(super) shuffle: bool,
    /// Instead of shuffling, take the examples in the order of this column of numbers in each epoch, the lowest first: from easy
    /// to hard. Rows without a number come last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) order_by: Option<String>,
    /// Draw from the tables of `examples` at rates of their own, as T5 mixed its tasks: an epoch has as many examples as all
    /// tables together, those of small tables more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mix: Option<Mix>,
    /// Longer sources are cut.
    #[serde(default = "max_source_tokens")]
    #[schemars(range(min = 2))]
    pub(super) max_source_tokens: usize,
    /// Longer targets are cut.
    #[serde(default = "max_source_tokens")]
    #[schemars(range(min = 2))]
    pub(super) max_target_tokens: usize,
    /// Share of the examples that is held back to validate on, if nothing enters
    /// `validation`.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub(super) validation_split: f64,
    /// Steps between validations; once an epoch's worth of steps if left out.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(super) validate_every: Option<u64>,
    /// Stop after this many validations without a better loss, or, with `keep_best`, without better texts. The best model is kept.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(super) patience: Option<u64>,
    /// Keep the model that writes best, instead of the one with the lowest loss: at each validation it writes for the sources,
    /// and the metrics have a column of how close that comes to the targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) keep_best: Option<KeepBest>,
    /// Compute each block once more on the way back, instead of keeping what is in it: less memory for long texts and large
    /// batches, more time, and the same result to the bit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) gradient_checkpointing: bool,
    /// What matrix products are computed in. bf16 is faster where the processor has instructions for it; weights,
    /// gradients and the optimizer's state stay in f32.
    #[serde(default)]
    pub(super) precision: Float,
    /// The numbers that the weights are written as, whatever they are computed in.
    #[serde(default)]
    pub(super) dtype: Float,
    /// Weights that need more than this are written as several files.
    #[serde(default = "fifty_gigabytes")]
    pub(super) max_shard_size: String,
}

fn fifty_gigabytes() -> String {
    "50GB".to_owned()
}
fn one() -> usize {
    1
}
fn eight() -> usize {
    8
}
fn one_point() -> f64 {
    1.0
}
fn yes() -> bool {
    true
}
fn learning_rate() -> f64 {
    3e-4
}
fn max_source_tokens() -> usize {
    MAX_SOURCE_TOKENS
}

/// How tables are mixed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Mix {
    /// At 1 tables are drawn from in proportion to their examples; the higher it is, the more equally.
    #[serde(default = "one_point")]
    #[schemars(range(min = 1.0, max = 1000.0))]
    temperature: f64,
    /// A table counts as if it had no more examples than this.
    #[serde(default)]
    #[schemars(range(min = 1))]
    limit: Option<usize>,
}

impl Mix {
    /// What decides the shares of tables.
    pub(super) fn mixing(&self) -> Mixing {
        Mixing { temperature: self.temperature, limit: self.limit }
    }
}

/// An optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OptimizerName {
    #[default]
    AdamW,
    Adafactor,
}

/// A schedule of the learning rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ScheduleName {
    /// It stays.
    Constant,
    /// It falls evenly, to zero at the last step.
    #[default]
    Linear,
    /// It falls to zero as half a wave of the cosine does.
    Cosine,
    /// It falls with the root of the steps.
    InverseSqrt,
    /// It falls as a `power` of the steps that are left.
    Polynomial,
}

impl Config {
    /// Refuses settings that contradict each other; `validates` is whether there is something to validate on.
    pub(super) fn check(&self, validates: bool) -> Result<()> {
        if self.epochs.is_some() && self.steps.is_some() {
            return Err(Error::config("say either `epochs` or `steps`").at("/steps"));
        }
        if self.batch_tokens.is_some() {
            self.check_batch_tokens()?;
        }
        let validated =
            [("patience", self.patience.is_some()), ("keep_best", self.keep_best.is_some())];
        if let Some((name, _)) = validated.into_iter().find(|(_, is_set)| *is_set && !validates) {
            return Err(Error::config(format!("`{name}` needs something to validate on"))
                .at(format!("/{name}"))
                .hint("connect `validation`, or hold examples back with `validation_split`"));
        }
        self.check_adafactor()?;
        if self.power.is_some() && self.schedule != ScheduleName::Polynomial {
            return Err(
                Error::config("`power` is an option of `schedule: polynomial`").at("/power")
            );
        }
        if self.warmup_ratio.is_some() && self.warmup_steps > 0 {
            return Err(
                Error::config("say either `warmup_steps` or `warmup_ratio`").at("/warmup_ratio")
            );
        }
        folder::parse_size(&self.max_shard_size)
            .map_err(|error| Error::from(error).at("/max_shard_size"))?;
        Ok(())
    }

    /// Whether examples come in an order of their own in each epoch.
    fn shuffles(&self) -> bool {
        self.shuffle && self.order_by.is_none()
    }

    /// Refuses orders that contradict each other, `tables` being the number of tables to learn from.
    pub(super) fn check_order(&self, tables: usize) -> Result<()> {
        let Some(_) = &self.mix else { return Ok(()) };
        let other = [("order_by", self.order_by.is_some()), ("shuffle", !self.shuffle)];
        if let Some((name, _)) = other.into_iter().find(|(_, is_set)| *is_set) {
            let message = format!("`mix` draws examples at random: `{name}` cannot be kept to");
            return Err(Error::config(message).at(format!("/{name}")));
        }
        if tables < 2 {
            return Err(Error::config("`mix` needs several tables to draw from")
                .at("/mix")
                .hint("connect them: `examples: [one, other]`"));
        }
        Ok(())
    }

    fn check_adafactor(&self) -> Result<()> {
        let own =
            [("scale_parameter", self.scale_parameter), ("relative_step", self.relative_step)];
        if self.optimizer != OptimizerName::Adafactor
            && let Some((name, _)) = own.into_iter().find(|(_, is_set)| *is_set)
        {
            let message = format!("`{name}` is an option of `optimizer: adafactor`");
            return Err(Error::config(message).at(format!("/{name}")));
        }
        if self.warmup_init && !self.relative_step {
            return Err(
                Error::config("`warmup_init` is an option of `relative_step`").at("/warmup_init")
            );
        }
        let others = [
            ("learning_rate", self.learning_rate.to_bits() != learning_rate().to_bits()),
            ("schedule", self.schedule != ScheduleName::default()),
            ("warmup_steps", self.warmup_steps > 0),
            ("warmup_ratio", self.warmup_ratio.is_some()),
        ];
        match others.into_iter().find(|(_, is_set)| self.relative_step && *is_set) {
            Some((name, _)) => {
                let message =
                    format!("`{name}` says nothing where `relative_step` decides the rate");
                Err(Error::config(message).at(format!("/{name}")))
            }
            None => Ok(()),
        }
    }

    fn check_batch_tokens(&self) -> Result<()> {
        if self.batch_size != eight() {
            return Err(
                Error::config("say either `batch_size` or `batch_tokens`").at("/batch_tokens")
            );
        }
        if self.shuffles() && self.epochs.is_some_and(|epochs| epochs > MOST_COUNTED) {
            let message = format!(
                "with `batch_tokens`, batches are counted ahead, epoch by epoch: say at most {MOST_COUNTED} epochs"
            );
            return Err(Error::config(message).at("/epochs").hint("or say `steps` instead"));
        }
        Ok(())
    }

    /// The task of tables that have none of their own.
    pub(super) fn task(&self) -> Task {
        Task {
            kind: self.kind,
            prefix: self.prefix.clone(),
            source: self.source.clone(),
            second: self.second.clone(),
            target: self.target.clone(),
            labels: self.labels.clone(),
            strip_eos: self.strip_eos,
            weight: 1.0,
        }
    }

    /// What training is told.
    pub(super) fn options(&self, seed: u64) -> Options {
        Options {
            length: match (self.epochs, self.steps) {
                (_, Some(steps)) => Length::Steps(steps),
                (epochs, None) => Length::Epochs(epochs.unwrap_or(1)),
            },
            batch: match self.batch_tokens {
                Some(tokens) => Batch::Tokens(tokens),
                None => Batch::Examples(self.batch_size),
            },
            accumulate: self.accumulate,
            optimizer: match self.optimizer {
                OptimizerName::AdamW => Optimizer::AdamW { betas: [0.9, 0.999], eps: 1e-8 },
                OptimizerName::Adafactor => {
                    Optimizer::Adafactor { scale_parameter: self.scale_parameter }
                }
            },
            learning_rate: self.learning_rate,
            schedule: match self.schedule {
                _ if self.relative_step => Schedule::RelativeStep { warmup_init: self.warmup_init },
                ScheduleName::Constant => Schedule::Constant,
                ScheduleName::Linear => Schedule::Linear,
                ScheduleName::Cosine => Schedule::Cosine,
                ScheduleName::InverseSqrt => Schedule::InverseSqrt,
                ScheduleName::Polynomial => {
                    Schedule::Polynomial { power: self.power.unwrap_or(1.0) }
                }
            },
            warmup: match self.warmup_ratio {
                Some(share) => Warmup::Share(share),
                None => Warmup::Steps(self.warmup_steps),
            },
            weight_decay: self.weight_decay,
            clip_norm: (self.clip > 0.0).then_some(self.clip),
            dropout: self.dropout,
            label_smoothing: self.label_smoothing,
            shuffle: self.shuffles(),
            // The stage knows it once it has read the tables.
            mix: Vec::new(),
            lora: self.lora.as_ref().map(LoraConfig::options),
            freeze: self.freeze.clone(),
            precision: self.precision,
            gradient_checkpointing: self.gradient_checkpointing,
            seed,
        }
    }
}
