//! The training loop, with validation and checkpoints, and the table of what came of each step.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use paraloom_sdk::{Error, Result, Services};
use paraloom_t5_core::error::Error as TrainError;
use paraloom_t5_core::folder;
use paraloom_t5_core::model::Model;
use paraloom_t5_core::train::{Example, Options, StepMetrics, Trainer};
use serde::{Deserialize, Serialize};

use super::texts::{KeepBest, Trial};

const METRICS_FILE: &str = "metrics.json";

/// What the table of metrics looks like.
pub(super) fn metrics_schema(keep_best: Option<&KeepBest>) -> Schema {
    let number = |name, nullable| Field::new(name, DataType::Float64, nullable);
    let mut fields = vec![
        Field::new("step", DataType::Int64, false),
        Field::new("epoch", DataType::Int64, false),
        number("loss", false),
        number("learning_rate", false),
        number("gradient_norm", false),
        number("validation_loss", true),
    ];
    fields.extend(keep_best.map(|keep| number(keep.metric.column(), true)));
    Schema::new(fields)
}

/// A row of the metrics table. Times are not in it: they differ from run to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Metric {
    step: u64,
    epoch: u64,
    /// Bits of the numbers, so that a checkpoint gives back exactly these.
    numbers: [u64; 3],
    validation: Option<u64>,
    /// How good the texts were, where that is measured.
    #[serde(default)]
    texts: Option<u64>,
}

impl Metric {
    fn new(metrics: &StepMetrics) -> Self {
        let numbers = [metrics.loss, metrics.learning_rate, metrics.gradient_norm];
        Self {
            step: metrics.step,
            epoch: metrics.epoch,
            numbers: numbers.map(f64::to_bits),
            validation: None,
            texts: None,
        }
    }

    /// The mean loss per target token.
    pub(super) fn loss(&self) -> f64 {
        f64::from_bits(self.numbers[0])
    }

    /// The same of the validation.
    pub(super) fn validation_loss(&self) -> Option<f64> {
        self.validation.map(f64::from_bits)
    }

    /// How good the texts were.
    pub(super) fn texts(&self) -> Option<f64> {
        self.texts.map(f64::from_bits)
    }

    /// What decides which model is kept; the lower the better.
    fn cost(&self) -> Option<f64> {
        self.texts().map(|score| -score).or(self.validation_loss())
    }

    /// The step whose model is kept: the first of those that cost least.
    pub(super) fn best(metrics: &[Self]) -> Option<&Self> {
        let judged = metrics.iter().filter_map(|metric| Some((metric, metric.cost()?)));
        judged.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(metric, _)| metric)
    }
}

/// The table of metrics.
pub(super) fn to_rows(metrics: &[Metric], keep_best: Option<&KeepBest>) -> Result<RecordBatch> {
    let number = |index: usize| -> Arc<Float64Array> {
        Arc::new(metrics.iter().map(|metric| Some(f64::from_bits(metric.numbers[index]))).collect())
    };
    let steps: Int64Array = metrics.iter().map(|metric| Some(metric.step as i64)).collect();
    let epochs: Int64Array = metrics.iter().map(|metric| Some(metric.epoch as i64)).collect();
    let validation: Float64Array = metrics.iter().map(Metric::validation_loss).collect();
    let mut columns: Vec<Arc<dyn Array>> = vec![
        Arc::new(steps),
        Arc::new(epochs),
        number(0),
        number(1),
        number(2),
        Arc::new(validation),
    ];
    if keep_best.is_some() {
        columns.push(Arc::new(metrics.iter().map(Metric::texts).collect::<Float64Array>()));
    }
    Ok(RecordBatch::try_new(Arc::new(metrics_schema(keep_best)), columns)?)
}

/// Goes on from the newest checkpoint, or starts.
pub(super) fn start(
    model: Model,
    examples: Vec<Example>,
    options: Options,
    services: Services,
) -> Result<(Trainer, Vec<Metric>)> {
    let Some((dir, step)) = services.checkpoint_latest()? else {
        return Ok((Trainer::new(model, examples, options)?, Vec::new()));
    };
    let metrics = std::fs::read(dir.join(METRICS_FILE))?;
    let metrics = serde_json::from_slice(&metrics)
        .map_err(|error| Error::data(format!("{}: {error}", dir.join(METRICS_FILE).display())))?;
    let trainer = Trainer::load(&dir, model, examples, options)?;
    services.info(&format!("goes on from step {step}"));
    Ok((trainer, metrics))
}

/// What a training run does beside its steps.
pub(super) struct Work<'a> {
    pub(super) services: Services,
    pub(super) validation: Vec<Example>,
    /// What is written at each validation, where that decides which model is kept.
    pub(super) trial: Option<Trial<'a>>,
    /// Steps between validations; at the end of each epoch if none.
    pub(super) validate_every: Option<u64>,
    pub(super) patience: Option<u64>,
}

impl Work<'_> {
    pub(super) fn train(&self, trainer: &mut Trainer, metrics: &mut Vec<Metric>) -> Result<()> {
        let (mut saved, mut halved) = (Instant::now(), false);
        let (total, interval) = (trainer.total_steps(), self.services.checkpoint_interval());
        self.services.progress(trainer.steps_done(), total, "steps");
        loop {
            // Of the last step: a run may have stopped between a step and its validation.
            self.validate(trainer, metrics)?;
            if self.is_over(trainer) {
                break;
            }
            if self.services.is_cancelled() {
                return self.stop(trainer, metrics);
            }
            let step = match trainer.step() {
                Err(TrainError::Memory(_)) if !halved => {
                    self.services.warn("out of memory: going on with every batch in two halves");
                    trainer.halve_batches();
                    halved = true;
                    continue;
                }
                step => step?,
            };
            let Some(step) = step else { break };
            self.services.metric("loss", step.loss, step.step);
            self.services.metric("learning_rate", step.learning_rate, step.step);
            self.services.metric("gradient_norm", step.gradient_norm, step.step);
            self.services.progress(step.step, total, "steps");
            metrics.push(Metric::new(&step));
            if saved.elapsed() >= interval {
                self.checkpoint(trainer, metrics)?;
                saved = Instant::now();
            }
        }
        Ok(trainer.check_weights()?)
    }

    /// Validates the last step, if that is due and not done, and keeps the model if it is the best.
    fn validate(&self, trainer: &mut Trainer, metrics: &mut [Metric]) -> Result<()> {
        let Some(last) = metrics.last_mut() else { return Ok(()) };
        let due = match self.validate_every {
            Some(every) => last.step % every == 0,
            None => trainer.is_epoch_done(),
        };
        let due = due || last.step == trainer.total_steps();
        if !due || last.validation.is_some() || self.validation.is_empty() {
            return Ok(());
        }
        let (loss, texts) = match self.measure(trainer) {
            Err(TrainError::Cancelled) => return self.stop(trainer, metrics),
            measured => measured?,
        };
        last.validation = Some(loss.to_bits());
        self.services.metric("validation_loss", loss, last.step);
        if let (Some(trial), Some(score)) = (&self.trial, texts) {
            last.texts = Some(score.to_bits());
            self.services.metric(trial.metric().column(), score, last.step);
        }
        if let Some(cost) = last.cost() {
            trainer.judge(cost);
        }
        Ok(())
    }

    /// The loss, and how good the texts are, where that counts.
    fn measure(&self, trainer: &Trainer) -> Result<(f64, Option<f64>), TrainError> {
        let loss = trainer.loss_of(&self.validation, &|| self.services.is_cancelled())?;
        let score = |trial: &Trial| trial.score(&trainer.model(), self.services);
        Ok((loss, self.trial.as_ref().map(score).transpose()?))
    }

    /// Keeps what was learnt, and stops.
    fn stop(&self, trainer: &Trainer, metrics: &[Metric]) -> Result<()> {
        self.checkpoint(trainer, metrics)?;
        Err(Error::cancelled())
    }

    fn is_over(&self, trainer: &Trainer) -> bool {
        self.patience.is_some_and(|patience| trainer.judged_since_best() >= patience)
    }

    fn checkpoint(&self, trainer: &Trainer, metrics: &[Metric]) -> Result<()> {
        self.services.checkpoint(trainer.steps_done(), |dir| {
            trainer.save(dir)?;
            let json =
                serde_json::to_vec(metrics).map_err(|error| Error::internal(error.to_string()))?;
            Ok(folder::write_file(&dir.join(METRICS_FILE), &json)?)
        })
    }
}
