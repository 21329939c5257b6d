//! The training loop, with validation and checkpoints, and the table of what came of each step.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use paraloom_sdk::{Error, Result, Services};
use serde::{Deserialize, Serialize};

use crate::error::Error as TrainError;
use crate::folder;
use crate::model::Model;
use crate::train::{Example, Options, StepMetrics, Trainer};

const METRICS_FILE: &str = "metrics.json";

/// What the table of metrics looks like.
pub(super) fn metrics_schema() -> Schema {
    let number = |name, nullable| Field::new(name, DataType::Float64, nullable);
    Schema::new(vec![
        Field::new("step", DataType::Int64, false),
        Field::new("epoch", DataType::Int64, false),
        number("loss", false),
        number("learning_rate", false),
        number("gradient_norm", false),
        number("validation_loss", true),
    ])
}

/// A row of the metrics table. Times are not in it: they differ from run to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Metric {
    step: u64,
    epoch: u64,
    /// Bits of the numbers, so that a checkpoint gives back exactly these.
    numbers: [u64; 3],
    validation: Option<u64>,
}

impl Metric {
    fn new(metrics: &StepMetrics) -> Self {
        let numbers = [metrics.loss, metrics.learning_rate, metrics.gradient_norm];
        Self {
            step: metrics.step,
            epoch: metrics.epoch,
            numbers: numbers.map(f64::to_bits),
            validation: None,
        }
    }

    /// The mean loss per target token.
    pub(super) fn loss(&self) -> f64 {
        f64::from_bits(self.numbers[0])
    }
}

/// The table of metrics.
pub(super) fn to_rows(metrics: &[Metric]) -> Result<RecordBatch> {
    let number = |index: usize| -> Arc<Float64Array> {
        Arc::new(metrics.iter().map(|metric| Some(f64::from_bits(metric.numbers[index]))).collect())
    };
    let steps: Int64Array = metrics.iter().map(|metric| Some(metric.step as i64)).collect();
    let epochs: Int64Array = metrics.iter().map(|metric| Some(metric.epoch as i64)).collect();
    let validation: Float64Array =
        metrics.iter().map(|metric| metric.validation.map(f64::from_bits)).collect();
    let columns: Vec<Arc<dyn Array>> = vec![
        Arc::new(steps),
        Arc::new(epochs),
        number(0),
        number(1),
        number(2),
        Arc::new(validation),
    ];
    Ok(RecordBatch::try_new(Arc::new(metrics_schema()), columns)?)
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
pub(super) struct Work {
    pub(super) services: Services,
    pub(super) validation: Vec<Example>,
    /// Steps between validations; at the end of each epoch if none.
    pub(super) validate_every: Option<u64>,
    pub(super) patience: Option<u64>,
}

impl Work {
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

    /// Computes the validation loss of the last step, if it is due and not known.
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
        let loss = match trainer.evaluate(&self.validation, &|| self.services.is_cancelled()) {
            Err(TrainError::Cancelled) => return self.stop(trainer, metrics),
            loss => loss?,
        };
        last.validation = Some(loss.to_bits());
        self.services.metric("validation_loss", loss, last.step);
        Ok(())
    }

    /// Keeps what was learnt, and stops.
    fn stop(&self, trainer: &Trainer, metrics: &[Metric]) -> Result<()> {
        self.checkpoint(trainer, metrics)?;
        Err(Error::cancelled())
    }

    fn is_over(&self, trainer: &Trainer) -> bool {
        self.patience.is_some_and(|patience| trainer.evaluations_since_best() >= patience)
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
