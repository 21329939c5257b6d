//! The recipes of `finetune`: what a step sees, which model is kept, and when a run ends.

mod common;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type};
use common::{model, refusal, rows};
use paraloom_sdk::Error;
use paraloom_sdk::column::with_field;
use paraloom_sdk::testing::{Harness, Log, TestInput};
use paraloom_stages_t5::{Finetune, Generate};
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
    told: Vec<String>,
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
    let (out, log) = (tempfile::tempdir()?, Log::default());
    let mut harness = Harness::new(config)
        .log(&log)
        .input("model", TestInput::Artifact(model.to_owned()))
        .output_dir(out.path());
    for (label, rows) in tables {
        let port = if *label == "validation" { "validation" } else { "examples" };
        harness = harness.labelled(port, label, TestInput::Rows(rows.clone()));
    }
    let outputs = harness.run::<Finetune>()?;
    let metrics = outputs.into_iter().find(|rows| !rows.is_empty()).unwrap_or_default();
    let metrics = concat_batches(&metrics[0].schema(), &metrics)?;
    let told = log.lock().map_or_else(|_| Vec::new(), |told| told.clone());
    Ok(Learnt { metrics, model: out, told })
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

/// What a model writes, greedily.
fn written(model: &Path, rows: &RecordBatch) -> Result<Vec<String>, Error> {
    let harness = Harness::new(json!({ "max_new_tokens": 8 }))
        .input("model", TestInput::Artifact(model.to_owned()))
        .rows("rows", rows.clone());
    let texts = harness.map::<Generate>()?.remove(0).remove(0);
    Ok(texts["paraphrase"].as_string::<i32>().iter().flatten().map(str::to_owned).collect())
}

#[test]
fn the_model_that_writes_best_is_kept() -> TestResult {
    let model = model()?;
    let config = json!({
        "steps": 60, "batch_size": 3, "learning_rate": 0.03, "schedule": "constant", "validate_every": 3,
        "keep_best": { "metric": "exact", "max_new_tokens": 8 },
    });
    let tables = [("rows", examples()), ("validation", examples())];
    let learnt = learn(model.path(), config, &tables)?;
    let scores = learnt.numbers("validation_exact");
    let due: Vec<i64> = (1..=20).map(|number| 3 * number).collect();
    assert_eq!(learnt.steps_with("validation_exact"), due);
    assert_eq!(learnt.steps_with("validation_loss"), due);
    let scores: Vec<f64> = scores.into_iter().flatten().collect();
    let best = scores.iter().copied().fold(0.0, f64::max);
    assert!(best > scores[0] && best > 0.0, "it has learnt: {scores:?}");
    let rows = examples();
    let targets = rows["target"].as_string::<i32>().iter().flatten();
    let texts = written(learnt.model.path(), &rows)?;
    let same = texts.iter().zip(targets).filter(|(text, target)| text == target).count();
    let share = same as f64 / texts.len() as f64;
    assert!((share - best).abs() < 1e-9, "{share} of the texts are right, {best} were");
    let card = std::fs::read_to_string(learnt.model.path().join("README.md"))?;
    assert!(card.contains(&format!("\"validation_exact\": {best:?}")), "{card}");
    Ok(())
}

#[test]
fn a_run_ends_when_texts_get_no_better() -> TestResult {
    let model = model()?;
    for metric in ["bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact"] {
        let config = json!({
            "epochs": 20, "learning_rate": 0.0, "patience": 2, "validation_split": 0.3,
            "keep_best": { "metric": metric, "rows": 2, "max_new_tokens": 4 },
        });
        let learnt = learn(model.path(), config, &[("rows", examples())])?;
        let column = format!("validation_{metric}");
        // The first is the best, and two more are no better.
        assert_eq!(learnt.steps_with(&column), learnt.ends());
        assert_eq!(learnt.ends().len(), 3, "{metric}");
    }
    refused(&[
        (
            json!({ "keep_best": { "metric": "chrf" } }),
            "`keep_best` needs something to validate on",
        ),
        (json!({ "patience": 2 }), "`patience` needs something to validate on"),
    ])
}

#[test]
fn small_tables_are_drawn_from_more_than_once() -> TestResult {
    let model = model()?;
    let one = rows(&[(Some("rain or sun"), Some("a cat"))]);
    let tables = [("many", examples()), ("one", one)];
    let learn = |mix: Value| {
        let config = json!({ "epochs": 2, "batch_size": 4, "mix": mix });
        learn(model.path(), config, &tables)
    };
    let drawn = |learnt: &Learnt| -> Vec<String> {
        let lines = learnt.told.iter().filter(|line| line.contains("an epoch has"));
        lines.cloned().collect()
    };
    for (mix, many, one) in [
        (json!({}), 12, 1),
        (json!({ "limit": 3 }), 10, 3),
        (json!({ "temperature": 2 }), 10, 3),
        (json!({ "temperature": 1000 }), 7, 6),
    ] {
        let learnt = learn(mix)?;
        let told = drawn(&learnt);
        assert!(told[0].contains(&format!("{many} of the 12 examples of `many`")), "{told:?}");
        assert!(told[1].contains(&format!("{one} of the 1 examples of `one`")), "{told:?}");
        assert_eq!(learnt.ends(), [4, 8], "an epoch has as many examples as the tables");
    }
    refused(&[
        (json!({ "mix": {} }), "`mix` needs several tables to draw from"),
        (json!({ "mix": {}, "shuffle": false }), "`shuffle` cannot be kept to"),
        (json!({ "mix": {}, "order_by": "hard" }), "`order_by` cannot be kept to"),
    ])
}

#[test]
fn examples_are_learnt_from_easy_to_hard() -> TestResult {
    let model = model()?;
    let plain = examples();
    let places = [8, 3, 11, 0, 7, 2, 10, 1, 5, 9, 4, 6];
    // The hardest has no number, and the one before it is the highest.
    let number = |place: &i32| (*place < 11).then(|| f64::from(*place) - 4.5);
    let column: Float64Array = places.iter().map(number).collect();
    let mixed = with_field(&plain, Field::new("hard", DataType::Float64, true), Arc::new(column))?;
    let rows_of: Vec<u64> = (0..12)
        .filter_map(|place| places.iter().position(|other| *other == place))
        .map(|row| row as u64)
        .collect();
    let sorted = take_record_batch(&plain, &UInt64Array::from(rows_of))?;
    let learn = |more: Value, rows: &RecordBatch| {
        let mut config = json!({ "epochs": 2, "batch_size": 2 });
        config
            .as_object_mut()
            .expect("it is one")
            .extend(more.as_object().cloned().unwrap_or_default());
        learn(model.path(), config, &[("rows", rows.clone())])
    };
    let one = learn(json!({ "order_by": "hard" }), &mixed)?;
    let other = learn(json!({ "shuffle": false }), &sorted)?;
    let shuffled = learn(json!({}), &sorted)?;
    assert_eq!(one.metrics, other.metrics);
    assert!(one.metrics != shuffled.metrics, "the order tells");
    refused(&[
        (json!({ "order_by": "hard" }), "`hard`"),
        (json!({ "order_by": "source" }), "`source`"),
    ])
}
