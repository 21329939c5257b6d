//! What a training run is told.

use serde::{Deserialize, Serialize};

use super::{lora::Lora, mixing::Portion};
use crate::numeric::Float;

/// How weights follow their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// AdamW as in torch.
    AdamW {
        /// Decay of the running means of the gradient and its square.
        betas: [f64; 2],
        /// Added to the root of the second mean.
        eps: f64,
    },
    /// Adafactor as in transformers; `relative_step=True` is [`Schedule::RelativeStep`].
    Adafactor {
        /// Whether the learning rate is relative to the size of the weights.
        scale_parameter: bool,
    },
}

/// How the learning rate develops after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls evenly to zero at the last step.
    Linear,
    /// It falls to zero at the last step as half a wave of the cosine does.
    Cosine,
    /// It falls with the root of the steps, from the warm-up on (without one as if that had taken 10,000 steps).
    InverseSqrt,
    /// It falls to 1e-7 at the last step, as this power of the steps that are left.
    Polynomial {
        /// 1 falls evenly.
        power: f64,
    },
    /// Adafactor's own (Shazeer and Stern 2018, section 8): the inverse root of the step, at most 0.01, whatever the learning rate
    /// and the warm-up are.
    RelativeStep {
        /// At most a millionth of the step instead.
        warmup_init: bool,
    },
}

/// What `transformers` ends a polynomial schedule with.
const POLYNOMIAL_END: f64 = 1e-7;
/// What it takes for the warm-up of an inverse root where there is none.
const ROOT_STEPS: u64 = 10_000;

/// How long the learning rate rises.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// For so many steps.
    Steps(u64),
    /// For this share of all steps, rounded up.
    Share(f64),
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// After so many passes over the examples.
    Epochs(u64),
    /// After so many optimizer steps.
    Steps(u64),
}

/// What is worked on together: a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Batch {
    /// So many examples.
    #[serde(rename = "batch_size")]
    Examples(usize),
    /// As many examples as have no more than so many source and target tokens together, at least one. Batches are packed,
    /// so there is no padding to count.
    #[serde(rename = "batch_tokens")]
    Tokens(usize),
}

impl Batch {
    /// How many of what it counts.
    pub(super) fn limit(self) -> usize {
        match self {
            Self::Examples(limit) | Self::Tokens(limit) => limit,
        }
    }
}

/// The options of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// When to end.
    pub length: Length,
    /// The size of a micro-batch.
    #[serde(flatten)]
    pub batch: Batch,
    /// Micro-batches per optimizer step.
    pub accumulate: usize,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// What becomes of it.
    pub schedule: Schedule,
    /// How long the learning rate rises from zero.
    pub warmup: Warmup,
    /// Decoupled weight decay, not applied to norms and position biases.
    pub weight_decay: f64,
    /// Largest norm of all gradients together.
    pub clip_norm: Option<f64>,
    /// Dropout in place of the configuration's.
    pub dropout: Option<f64>,
    /// Share of each target's probability that is spread over the vocabulary.
    pub label_smoothing: f64,
    /// Whether examples are shuffled (and batched by length) or taken as they come.
    pub shuffle: bool,
    /// Portions of the examples, one after the other, that are drawn from in an epoch; without any, an epoch has every example
    /// once.
    #[serde(default)]
    pub mix: Vec<Portion>,
    /// Low-rank adapters are trained instead of the weights.
    #[serde(default)]
    pub lora: Option<Lora>,
    /// Patterns of names of weights that stay as they are; `*` stands for any characters.
    #[serde(default)]
    pub freeze: Vec<String>,
    /// What linear layers are computed in; weights, gradients and the optimizer's state are f32.
    #[serde(default)]
    pub precision: Float,
    /// Whether a step computes blocks once more for their gradients, instead of keeping what is in them.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// Decides order and dropout.
    pub seed: u64,
}

impl Default for Options {
    /// What the seeds of this project fine-tuned with.
    fn default() -> Self {
        Self {
            length: Length::Epochs(2),
            batch: Batch::Examples(8),
            accumulate: 16,
            optimizer: Optimizer::AdamW { betas: [0.9, 0.999], eps: 1e-8 },
            learning_rate: 3e-4,
            schedule: Schedule::Linear,
            warmup: Warmup::Steps(0),
            weight_decay: 0.0,
            clip_norm: Some(1.0),
            dropout: None,
            label_smoothing: 0.0,
            shuffle: true,
            mix: Vec::new(),
            lora: None,
            freeze: Vec::new(),
            precision: Float::F32,
            gradient_checkpointing: false,
            seed: 42,
        }
    }
}

impl Options {
    /// The learning rate of the step after `done` steps, of `total`.
    pub(super) fn rate(&self, done: u64, total: u64) -> f64 {
        let warmup = match self.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Share(share) => (total as f64 * share).ceil() as u64,
        };
        let rate = self.learning_rate;
        let rises = done < warmup && !matches!(self.schedule, Schedule::RelativeStep { .. });
        if rises {
            return rate * done as f64 / warmup as f64;
        }
        let falling = total.saturating_sub(warmup).max(1) as f64;
        let left = total.saturating_sub(done) as f64 / falling;
        match self.schedule {
            Schedule::Constant => rate,
            Schedule::Linear => rate * total.saturating_sub(done) as f64 / falling,
            Schedule::Cosine => rate * 0.5 * (1.0 + (std::f64::consts::PI * (1.0 - left)).cos()),
            Schedule::InverseSqrt => {
                let scale = if warmup == 0 { ROOT_STEPS } else { warmup };
                let steps = done + scale - warmup;
                rate / (steps as f64 / scale as f64).sqrt()
            }
            Schedule::Polynomial { power } => {
                (rate - POLYNOMIAL_END) * left.powf(power) + POLYNOMIAL_END
            }
            Schedule::RelativeStep { warmup_init } => {
                let step = (done + 1) as f64;
                let most = if warmup_init { 1e-6 * step } else { 1e-2 };
                most.min(1.0 / step.sqrt())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checkpoints of earlier versions have `batch_size` where the batch is now.
    #[test]
    fn a_batch_is_stored_by_what_it_counts() -> serde_json::Result<()> {
        let cases =
            [(Batch::Examples(6), "batch_size", 6), (Batch::Tokens(512), "batch_tokens", 512)];
        for (batch, name, size) in cases {
            let options = Options { batch, ..Options::default() };
            let stored = serde_json::to_value(&options)?;
            assert_eq!(stored[name], size);
            assert_eq!(serde_json::from_value::<Options>(stored)?, options);
        }
        Ok(())
    }

    /// What `transformers.get_scheduler` of 5.24 gives for a rate of 1, 4 steps of warm-up and 20 steps.
    #[test]
    fn rates_are_those_of_transformers() {
        let cases = [
            (Schedule::Constant, [0.5, 1.0, 1.0, 1.0]),
            (Schedule::Linear, [0.5, 1.0, 0.6875, 0.0625]),
            (Schedule::Cosine, [0.5, 1.0, 0.777_785_116_509_801_1, 0.009_607_359_798_384_785]),
            (Schedule::InverseSqrt, [0.5, 1.0, 0.666_666_666_666_666_6, 0.458_831_467_741_123_5]),
            (
                Schedule::Polynomial { power: 2.0 },
                [0.5, 1.0, 0.472_656_302_734_375_03, 0.003_906_349_609_375],
            ),
        ];
        for (schedule, expected) in cases {
            let options = Options {
                schedule,
                learning_rate: 1.0,
                warmup: Warmup::Steps(4),
                ..Options::default()
            };
            for (done, expected) in [2, 4, 9, 19].into_iter().zip(expected) {
                let rate = options.rate(done, 20);
                assert!((rate - expected).abs() < 1e-12, "{schedule:?}, {done}: {rate}");
            }
        }
        let options =
            Options { schedule: Schedule::InverseSqrt, learning_rate: 1.0, ..Options::default() };
        assert!(
            (options.rate(30, 20) - 0.998_503_366_584_588_9).abs() < 1e-12,
            "without a warm-up"
        );
    }

    /// What `Adafactor._get_lr` of `transformers` 5.24 gives with `relative_step=True, scale_parameter=False`.
    #[test]
    fn relative_steps_are_those_of_transformers() {
        let cases = [
            (false, 1, 0.01),
            (false, 9_999, 0.01),
            (false, 40_000, 0.005),
            (true, 1, 1e-6),
            (true, 5_000, 0.005),
            (true, 40_000, 0.005),
        ];
        for (warmup_init, step, expected) in cases {
            let schedule = Schedule::RelativeStep { warmup_init };
            let options =
                Options { schedule, warmup: Warmup::Steps(100_000), ..Options::default() };
            let rate = options.rate(step - 1, 20);
            assert!((rate - expected).abs() < 1e-12, "{warmup_init}, {step}: {rate}");
        }
    }
}
