//! What a training run is told.

use serde::{Deserialize, Serialize};

use crate::folder::Float;

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
    /// Adafactor as in transformers, with `relative_step=False`.
    Adafactor {
        /// Whether the learning rate is relative to the size of the weights.
        scale_parameter: bool,
    },
}

/// How the learning rate develops after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls evenly to zero at the last step.
    Linear,
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

/// The options of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// When to end.
    pub length: Length,
    /// Examples per micro-batch.
    pub batch_size: usize,
    /// Micro-batches per optimizer step.
    pub accumulate: usize,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// What becomes of it.
    pub schedule: Schedule,
    /// Steps over which the learning rate rises from zero.
    pub warmup_steps: u64,
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
    /// What linear layers are computed in; weights, gradients and the optimizer's state are f32.
    #[serde(default)]
    pub precision: Float,
    /// Decides order and dropout.
    pub seed: u64,
}

impl Default for Options {
    /// What the seeds of this project fine-tuned with.
    fn default() -> Self {
        Self {
            length: Length::Epochs(2),
            batch_size: 8,
            accumulate: 16,
            optimizer: Optimizer::AdamW { betas: [0.9, 0.999], eps: 1e-8 },
            learning_rate: 3e-4,
            schedule: Schedule::Linear,
            warmup_steps: 0,
            weight_decay: 0.0,
            clip_norm: Some(1.0),
            dropout: None,
            label_smoothing: 0.0,
            shuffle: true,
            precision: Float::F32,
            seed: 42,
        }
    }
}

impl Options {
    /// Optimizer steps in one pass over `batches` micro-batches.
    pub(super) fn steps_per_epoch(&self, batches: usize) -> u64 {
        batches.div_ceil(self.accumulate) as u64
    }

    /// Optimizer steps of the whole run.
    pub(super) fn total_steps(&self, batches: usize) -> u64 {
        match self.length {
            Length::Epochs(epochs) => epochs * self.steps_per_epoch(batches),
            Length::Steps(steps) => steps,
        }
    }

    /// The learning rate of the step after `done` steps, of `total`.
    pub(super) fn rate(&self, done: u64, total: u64) -> f64 {
        if done < self.warmup_steps {
            return self.learning_rate * done as f64 / self.warmup_steps as f64;
        }
        match self.schedule {
            Schedule::Constant => self.learning_rate,
            Schedule::Linear => {
                let falling = total.saturating_sub(self.warmup_steps).max(1);
                self.learning_rate * total.saturating_sub(done) as f64 / falling as f64
            }
        }
    }
}
