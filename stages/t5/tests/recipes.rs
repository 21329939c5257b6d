//! The recipes of `finetune`: what a step sees, which model is kept, and when a run ends.

mod common;

use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float64Type, Int64Type};
use common::{model, refusal, rows};
use paraloom_sdk::Error;
use paraloom_sdk::testing::{Harness, TestInput};
use paraloom_stages_t5::Finetune;
use serde_json::{Value, json};
use tempfile::TempDir;

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Twelve examples of three lengths.
fn examples() -> RecordBatch {
    let pairs = [
        (Some("a dog"), Some("rain")),
        (Some("rain or sun or rain or sun"), Some("a cat and a dog")),
        (Some("a cat and a dog and a cat"), Some("sun")),
    ];
    rows(&pairs.repeat(4))
}

/// What came of a training.
struct Learnt {
    metrics: RecordBatch,
    /// The directory of the model.
    model: TempDir,
}

impl Learnt {
    /// A column of the metrics.
    fn numbers(&self, name: &str) -> Vec<Option<f64>> {
        self.metrics[name].as_primitive::<Float64Type>().iter().collect()
    }

    /// The steps whose column has a number.
    fn steps_with(&self, name: &str) -> Vec<i64> {
        let steps = self.metrics["step"].as_primitive::<Int64Type>();
        let column = &self.metrics[name];
        (0..steps.len()).filter(|row| column.is_valid(*row)).map(|row| steps.value(row)).collect()
    }

    /// The last step of each epoch.
    fn ends(&self) -> Vec<i64> {
        let epochs = self.metrics["epoch"].as_primitive::<Int64Type>().values();
        let is_last = |row: &usize| epochs.get(row + 1) != Some(&epochs[*row]);
        (0..epochs.len()).filter(is_last).map(|row| row as i64 + 1).collect()
    }
}

/// Trains on tables by label.
fn learn(model: &Path, config: Value, tables: &[(&str, RecordBatch)]) -> Result<Learnt, Error> {
    let out = tempfile::tempdir()?;
    let mut harness = Harness::new(config)
        .input("model", TestInput::Artifact(model.to_owned()))
        .output_dir(out.path());
    for (label, rows) in tables {
        let port = if *label == "validation" { "validation" } else { "examples" };
        harness = harness.labelled(port, label, TestInput::Rows(rows.clone()));
    }
    let outputs = harness.run::<Finetune>()?;
    let metrics = outputs.into_iter().find(|rows| !rows.is_empty()).unwrap_or_default();
    Ok(Learnt { metrics: concat_batches(&metrics[0].schema(), &metrics)?, model: out })
}

/// What is said of settings that are refused, each with a part of the message.
fn refused(cases: &[(Value, &str)]) -> TestResult {
    let model = model()?;
    for (config, message) in cases {
        let (said, _) = refusal(learn(model.path(), config.clone(), &[("rows", examples())]));
        assert!(said.contains(message), "{config}: {said}");
    }
    Ok(())
}

#[test]
fn batches_of_tokens_end_with_the_epoch_and_are_validated_there() -> TestResult {
    let model = model()?;
    let config = json!({ "batch_tokens": 40, "epochs": 5, "validation_split": 0.2 });
    let learnt = learn(model.path(), config, &[("rows", examples())])?;
    let ends = learnt.ends();
    assert_eq!(ends.len(), 5);
    assert!(ends[0] > 1, "{ends:?}");
    assert_eq!(learnt.steps_with("validation_loss"), ends);
    let rates = learnt.numbers("learning_rate");
    let lowest = rates.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    assert!(lowest > 0.0, "the rate falls to zero after the last step: {rates:?}");
    Ok(())
}

#[test]
fn batches_are_of_examples_or_of_tokens() -> TestResult {
    refused(&[
        (
            json!({ "batch_size": 4, "batch_tokens": 64 }),
            "say either `batch_size` or `batch_tokens`",
        ),
        (json!({ "epochs": 1001, "batch_tokens": 64 }), "say at most 1000 epochs"),
    ])
}

#[test]
fn a_relative_step_leaves_no_rate_to_set() -> TestResult {
    let with = |more: Value| {
        let mut config = json!({ "optimizer": "adafactor", "relative_step": true, "steps": 2 });
        let more = more.as_object().cloned().unwrap_or_default();
        config.as_object_mut().expect("it is one").extend(more);
        config
    };
    let model = model()?;
    for (config, rates) in [
        (with(json!({ "scale_parameter": true })), [0.01, 0.01]),
        (with(json!({ "warmup_init": true })), [1e-6, 2e-6]),
    ] {
        let learnt = learn(model.path(), config, &[("rows", examples())])?;
        let told = learnt.numbers("learning_rate");
        let apart = told.iter().flatten().zip(rates).map(|(told, rate)| (told / rate - 1.0).abs());
        assert!(told.len() == 2 && apart.fold(0.0, f64::max) < 1e-12, "{told:?}");
    }
    refused(&[
        (
            json!({ "relative_step": true }),
            "`relative_step` is an option of `optimizer: adafactor`",
        ),
        (json!({ "optimizer": "adafactor", "warmup_init": true }), "`warmup_init` is an option of"),
        (with(json!({ "learning_rate": 0.1 })), "`learning_rate` says nothing"),
        (with(json!({ "schedule": "constant" })), "`schedule` says nothing"),
        (with(json!({ "warmup_steps": 5 })), "`warmup_steps` says nothing"),
        (with(json!({ "warmup_ratio": 0.1 })), "`warmup_ratio` says nothing"),
    ])
}
