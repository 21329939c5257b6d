//! The stages by themselves, without an engine, on a model of a few thousand weights.

#[cfg(feature = "cuda")]
extern crate paraloom_stages_t5_cuda as paraloom_stages_t5;
#[cfg(feature = "torch")]
extern crate paraloom_stages_t5_torch as paraloom_stages_t5;
#[cfg(feature = "wgpu")]
extern crate paraloom_stages_t5_wgpu as paraloom_stages_t5;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use paraloom_sdk::Error;
use paraloom_sdk::testing::{Harness, TestInput};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use paraloom_stages_t5::config::Config;
use paraloom_stages_t5::device::default_device;
use paraloom_stages_t5::folder;
use paraloom_stages_t5::model::Model;
use paraloom_stages_t5::tokenizer::Tokenizer;
use paraloom_stages_t5::{Generate, ModelStage, ScoreCola, ScoreLoss, ScoreStsb};

type TestResult = Result<(), Box<dyn std::error::Error>>;

const TEXTS: [&str; 3] = [
    "stsb sentence1: sentence2: cola sentence: acceptable unacceptable 0123456789 0.0 1.2 2.4 3.6 4.8 5.0",
    "a dog and a cat",
    "rain or sun",
];

/// A directory with a model and its tokenizer.
fn model() -> Result<TempDir, Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let tokenizer = Tokenizer::train(TEXTS, &[], 64)?;
    let model = Model::initial(Config::small(72, 16, 32, 2, 2), &default_device(), 9)?;
    folder::save(&model, directory.path())?;
    tokenizer.save(directory.path())?;
    Ok(directory)
}

/// Writes the weights of a model anew as numbers of a type, some of them changed.
fn rewrite(directory: &Path, dtype: Dtype, change: impl Fn(&str, &mut Vec<f32>)) -> TestResult {
    let path = directory.join("model.safetensors");
    let file = std::fs::read(&path)?;
    let mut tensors = Vec::new();
    for (name, tensor) in SafeTensors::deserialize(&file)?.tensors() {
        let numbers = tensor.data().as_chunks().0.iter();
        let mut values: Vec<f32> = numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect();
        change(&name, &mut values);
        let bytes: Vec<u8> = match dtype {
            Dtype::F16 => {
                values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
            }
            Dtype::BF16 => {
                values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()
            }
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        tensors.push((name, tensor.shape().to_vec(), bytes));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        Ok((name.as_str(), TensorView::new(dtype, shape.clone(), bytes)?))
    });
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    Ok(safetensors::serialize_to_file(views, None, &path)?)
}

/// Rows of two texts each, with ids `r0`, `r1`, ...
fn rows(texts: &[(Option<&str>, Option<&str>)]) -> RecordBatch {
    let ids: StringArray = (0..texts.len()).map(|row| Some(format!("r{row}"))).collect();
    let sources: StringArray = texts.iter().map(|(source, _)| *source).collect();
    let targets: StringArray = texts.iter().map(|(_, target)| *target).collect();
    let columns = [
        ("_id", Arc::new(ids) as ArrayRef),
        ("source", Arc::new(sources)),
        ("target", Arc::new(targets)),
    ];
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, column)| (name, column, name != "_id")),
    )
    .expect("they fit")
}

fn harness(config: Value, model: &Path, rows: &RecordBatch) -> Harness {
    Harness::new(config)
        .input("model", TestInput::Artifact(model.to_owned()))
        .rows("rows", rows.clone())
}

/// What a stage says that fails.
fn refusal<T>(result: paraloom_sdk::Result<T>) -> (String, String) {
    let error: Error = result.err().expect("it fails");
    (error.to_string(), error.detail("hint").unwrap_or_default().to_owned())
}

#[test]
fn a_damaged_checkpoint_is_refused_where_it_enters() -> TestResult {
    const TENSOR: &str = "encoder.block.1.layer.1.DenseReluDense.wo.weight";
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        for (value, settings) in [
            (f32::NAN, json!({})),
            (f32::INFINITY, json!({})),
            (f32::NEG_INFINITY, json!({ "dtype": "bf16" })),
        ] {
            let (from, to) = (model()?, tempfile::tempdir()?);
            rewrite(from.path(), dtype, |name, values| {
                if name == TENSOR {
                    values[7] = value;
                    values[500] = value;
                }
            })?;
            let mut config = settings;
            config["from"] = from.path().to_str().into();
            let harness = Harness::new(config).output_dir(to.path());
            let (message, hint) = refusal(harness.run::<ModelStage>());
            let expected = format!("`{TENSOR}` has 2 of 512 values that are NaN or infinite");
            assert!(message.contains(&expected), "{dtype:?}: {message}");
            assert!(message.contains("model.safetensors"), "{message}");
            assert!(hint.contains("f32 or bf16"), "{hint}");
            assert_eq!(std::fs::read_dir(to.path())?.count(), 0, "nothing is kept of it");
        }
    }
    Ok(())
}

#[test]
fn a_model_that_overflows_gives_no_verdict_and_no_text() -> TestResult {
    let model = model()?;
    rewrite(model.path(), Dtype::F32, |name, values| {
        if name == "decoder.final_layer_norm.weight" {
            values.fill(f32::MAX);
        }
    })?;
    let rows = rows(&[(None, Some("rain")), (Some("a dog"), Some("a cat"))]);
    let with = |config| harness(config, model.path(), &rows);
    let said = [
        refusal(with(json!({ "first": "source", "second": "target" })).map::<ScoreStsb>()),
        refusal(with(json!({ "text": "source" })).map::<ScoreCola>()),
        refusal(with(json!({})).map::<ScoreLoss>()),
        refusal(with(json!({})).map::<Generate>()),
        refusal(with(json!({ "sample": {} })).map::<Generate>()),
        refusal(with(json!({ "beam": { "beams": 2 } })).map::<Generate>()),
    ];
    for (message, hint) in said {
        assert!(message.starts_with("row `r1`: the model's "), "{message}");
        assert!(message.ends_with(" are NaN") && hint.contains("precision"), "{message} {hint}");
    }
    Ok(())
}
