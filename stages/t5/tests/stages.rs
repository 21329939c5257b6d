//! The stages by themselves, without an engine, on a model of a few thousand weights.

mod common;

use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use paraloom_sdk::testing::{Harness, Log, TestInput};
use paraloom_sdk::{Error, MapStage, Stage};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use common::{model, refusal, rows};
use paraloom_stages_t5::{
    Finetune, Generate, ModelStage, ScoreCola, ScoreLabels, ScoreLoss, ScoreStsb,
};
use paraloom_t5_core::config::Config;
use paraloom_t5_core::device::default_device;
use paraloom_t5_core::folder;
use paraloom_t5_core::model::Model;
use paraloom_t5_core::tokenizer::Tokenizer;

type TestResult = Result<(), Box<dyn std::error::Error>>;

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

fn harness(config: Value, model: &Path, rows: &RecordBatch) -> Harness {
    Harness::new(config)
        .input("model", TestInput::Artifact(model.to_owned()))
        .rows("rows", rows.clone())
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

/// What a stage gives, and what it logs of texts.
fn told<S: MapStage>(harness: Harness) -> Result<(Vec<RecordBatch>, Vec<String>), Error> {
    let log = Log::default();
    let outputs = harness.log(&log).map::<S>()?;
    let outputs = outputs.into_iter().map(|mut batches| batches.remove(0)).collect();
    Ok((outputs, of_texts(&log)))
}

/// The lines that begin with a number; the others are of memory.
fn of_texts(log: &Log) -> Vec<String> {
    let lines = log.lock().expect("nobody panicked");
    lines.iter().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).cloned().collect()
}

fn texts<'a>(rows: &'a RecordBatch, column: &str) -> Vec<Option<&'a str>> {
    rows[column].as_string::<i32>().iter().collect()
}

#[test]
fn rows_without_a_source_are_rejected_and_none_is_lost() -> TestResult {
    let model = model()?;
    let rows = rows(&[(None, None), (Some("a dog"), None), (Some(""), None), (None, Some("x"))]);
    let with = |config| harness(config, model.path(), &rows);
    let (outputs, _) = told::<Generate>(with(json!({ "max_new_tokens": 3 })))?;
    let [written, rejected] = outputs.as_slice() else { return Err("two outputs".into()) };
    assert_eq!(texts(written, "_parent"), [Some("r1"), Some("r2")], "an empty text is a text");
    assert_eq!(texts(rejected, "_id"), [Some("r0"), Some("r3")]);
    assert_eq!(texts(rejected, "reason"), [Some("`source` is null"); 2]);
    assert_eq!(texts(rejected, "target"), [None, Some("x")]);
    with(json!({ "max_new_tokens": 3 })).conforms::<Generate>()?;
    // Scores keep one row for each: without a text there is no verdict.
    let (outputs, _) = told::<ScoreStsb>(with(json!({ "second": "target" })))?;
    assert_eq!((outputs[0].num_rows(), outputs[0]["stsb"].null_count()), (4, 4));
    let (outputs, _) = told::<ScoreCola>(with(json!({ "text": "source" })))?;
    assert_eq!((outputs[0].num_rows(), outputs[0]["cola"].null_count()), (4, 2));
    assert_eq!(outputs[0]["cola_p"].null_count(), 2);
    let (outputs, _) = told::<ScoreLoss>(with(json!({})))?;
    assert_eq!((outputs[0].num_rows(), outputs[0]["loss"].null_count()), (4, 4));
    Ok(())
}

#[test]
fn what_is_cut_is_counted_and_marked() -> TestResult {
    let model = model()?;
    let long = "a dog and a cat ".repeat(30);
    let rows = rows(&[(Some(&long), Some("rain")), (Some("a dog"), Some(&long)), (None, None)]);
    let with = |config| harness(config, model.path(), &rows);
    let marks = |rows: &RecordBatch, column: &str| -> Vec<Option<bool>> {
        rows[column].as_boolean().iter().collect()
    };
    let config = json!({ "max_source_tokens": 40, "max_new_tokens": 3, "mark": true,
        "count_tokens": true, "token_scores": true });
    let (outputs, lines) = told::<Generate>(with(config))?;
    let counts = |column: &str| outputs[0][column].as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(counts("source_tokens")[0], 40);
    assert!((2..12).contains(&counts("source_tokens")[1]), "{:?}", counts("source_tokens"));
    let scores = outputs[0]["token_scores"].as_list::<i32>().iter();
    let scored: Vec<i64> = scores.flatten().map(|scores| scores.len() as i64).collect();
    assert_eq!(counts("paraphrase_tokens"), scored, "one of each token, the end too");
    assert_eq!(lines[0], "1 of 2 sources were cut to 40 tokens (`max_source_tokens`)");
    assert_eq!(marks(&outputs[0], "source_cut"), [Some(true), Some(false)]);
    let ended = texts(&outputs[0], "ended");
    let by_length = ended.iter().filter(|end| **end == Some("length")).count();
    let expected = format!("{by_length} of 2 texts were ended after 3 tokens (`max_new_tokens`)");
    assert!(by_length == 0 || lines.contains(&expected), "{ended:?} {lines:?}");

    let stsb = json!({ "second": "target", "max_source_tokens": 60, "mark": true });
    let (outputs, lines) = told::<ScoreStsb>(with(stsb))?;
    assert_eq!(lines, ["2 of 2 prompts were cut to 60 tokens (`max_source_tokens`)"]);
    assert_eq!(marks(&outputs[0], "stsb_cut"), [Some(true), Some(true), None]);
    let cola = json!({ "text": "source", "max_source_tokens": 60, "mark": true });
    let (outputs, lines) = told::<ScoreCola>(with(cola))?;
    assert_eq!(lines, ["1 of 2 prompts were cut to 60 tokens (`max_source_tokens`)"]);
    assert_eq!(marks(&outputs[0], "cola_cut"), [Some(true), Some(false), None]);
    let loss = json!({ "max_source_tokens": 60, "max_target_tokens": 50, "mark": true });
    let (outputs, lines) = told::<ScoreLoss>(with(loss))?;
    assert_eq!(
        lines,
        [
            "1 of 2 sources were cut to 60 tokens (`max_source_tokens`)",
            "1 of 2 targets were cut to 50 tokens (`max_target_tokens`)"
        ]
    );
    assert_eq!(marks(&outputs[0], "loss_cut"), [Some(true), Some(true), None]);

    // Unless it is asked for, there are no such columns, and of what fits nothing is told.
    let (outputs, lines) = told::<ScoreCola>(with(json!({ "text": "source" })))?;
    assert_eq!((outputs[0].num_columns(), lines.len()), (5, 0));
    Ok(())
}

#[test]
fn texts_keep_what_they_must_and_end_where_they_are_told() -> TestResult {
    let model = model()?;
    let long = "a dog and a cat ".repeat(30);
    let rows = rows(&[
        (Some("a dog of 25"), Some("rain")),
        (Some("a cat"), Some(r#"["sun", "a dog"]"#)),
        (Some("a cat"), Some("\u{2603}")),
        (Some("2 or 3.5"), Some(&long)),
        (Some("rain"), None),
    ]);
    let with = |config| harness(config, model.path(), &rows);
    let kept = [[Some("rain"), Some("25")], [Some("sun"), Some("a dog")], [None, None]];
    for search in [json!({}), json!({ "sample": {} }), json!({ "beam": { "beams": 3 } })] {
        let mut config =
            json!({ "max_new_tokens": 24, "keep": { "numbers": true, "column": "target" } });
        config
            .as_object_mut()
            .ok_or("an object")?
            .extend(search.as_object().cloned().ok_or("too")?);
        let (outputs, _) = told::<Generate>(with(config.clone()))?;
        let written = texts(&outputs[0], "paraphrase");
        assert_eq!(texts(&outputs[0], "_parent"), [Some("r0"), Some("r1"), Some("r4")]);
        for (text, kept) in written.iter().zip(kept) {
            let has = |span: &str| text.is_some_and(|text| text.contains(span));
            assert!(kept.iter().flatten().all(|span| has(span)), "{text:?} lacks one of {kept:?}");
        }
        let no_numbers = |text: &&str| !text.contains(|char: char| char.is_ascii_digit());
        assert_eq!(written[1..].iter().flatten().filter(|text| no_numbers(text)).count(), 2);
        let reasons = texts(&outputs[1], "reason");
        assert_eq!(reasons[0], Some("the model's tokenizer cannot write `\u{2603}`"));
        let room = "what `keep` asks for takes ";
        assert!(reasons[1].is_some_and(|reason| reason.starts_with(room)), "{reasons:?}");
        with(config).conforms::<Generate>()?;
    }
    let (free, _) = told::<Generate>(with(json!({ "max_new_tokens": 9, "min_new_tokens": 9 })))?;
    let free = texts(&free[0], "paraphrase");
    let stop = free[0].and_then(|text| text.get(3..4)).ok_or("a text")?;
    let config = json!({ "max_new_tokens": 9, "min_new_tokens": 9, "stop": [stop], "mark": true, "token_scores": true });
    let (outputs, _) = told::<Generate>(with(config))?;
    let cut = free.iter().flatten().map(|text| text.split(stop).next());
    assert_eq!(texts(&outputs[0], "paraphrase"), cut.collect::<Vec<_>>());
    assert_eq!(texts(&outputs[0], "ended")[0], Some("stop"));
    for row in 0..outputs[0].num_rows() {
        let lists =
            ["tokens", "token_scores"].map(|name| outputs[0][name].as_list::<i32>().value(row));
        assert_eq!(lists[0].len(), lists[1].len(), "no end among them");
        let scores = lists[1].as_primitive::<arrow::datatypes::Float64Type>();
        let score = outputs[0]["generation_score"].as_primitive::<arrow::datatypes::Float64Type>();
        assert!((scores.values().iter().sum::<f64>() - score.value(row)).abs() < 1e-4);
    }
    for (config, expected) in [
        (json!({ "keep": {} }), "`keep` keeps nothing"),
        (json!({ "keep": { "column": "_i" } }), "has no column `_i`"),
        (json!({ "stop": ["a", ""] }), "an empty text ends nothing"),
    ] {
        let (said, _) = refusal(with(config).map::<Generate>());
        assert!(said.contains(expected), "{said}");
    }
    Ok(())
}

#[test]
fn any_labels_are_chosen_from_as_those_of_t5() -> TestResult {
    let model = model()?;
    let rows = rows(&[(Some("a dog"), Some("a cat {source}")), (Some("rain"), None), (None, None)]);
    let with = |config| harness(config, model.path(), &rows);
    let (cola, _) = told::<ScoreCola>(with(json!({ "text": "source" })))?;
    let asked = json!({
        "prompt": "cola sentence: {source}", "labels": ["unacceptable", "acceptable"],
        "probability_of": "acceptable", "into": "cola",
    });
    let (labels, _) = told::<ScoreLabels>(with(asked))?;
    assert_eq!(labels, cola);

    let (stsb, _) = told::<ScoreStsb>(with(json!({ "second": "target" })))?;
    let steps: Vec<_> = (0..=25).map(|step| format!("{:.1}", f64::from(step) / 5.0)).collect();
    let asked = json!({
        "prompt": "stsb sentence1: {source} sentence2: {target}", "labels": steps, "numbers": true,
        "into": "stsb", "each": true,
    });
    let (labels, _) = told::<ScoreLabels>(with(asked.clone()))?;
    for column in ["stsb", "stsb_mean"] {
        assert_eq!(labels[0][column].to_data(), stsb[0][column].to_data(), "{column}");
    }
    let share = |column: &str, row: usize| {
        labels[0][column].as_primitive::<arrow::datatypes::Float64Type>().value(row)
    };
    let all: f64 = steps.iter().map(|label| share(&format!("stsb_p_{label}"), 0)).sum();
    let chosen = format!("stsb_p_{:.1}", share("stsb", 0));
    assert!(
        (all - 1.0).abs() < 1e-9 && share("stsb_p", 0).to_bits() == share(&chosen, 0).to_bits(),
        "{all}"
    );
    assert_eq!(labels[0]["stsb_p"].null_count(), 2, "without a text there is no verdict");
    with(asked).conforms::<ScoreLabels>()?;

    let wrong = [
        (json!({ "prompt": "x", "labels": ["a", "b"] }), "the prompt names no column"),
        (json!({ "prompt": "{topic}", "labels": ["a", "b"] }), "topic"),
        (json!({ "prompt": "{source}", "labels": ["a"] }), "at least two labels"),
        (json!({ "prompt": "{source}", "labels": ["a", "a"] }), "`a` is there twice"),
        (json!({ "prompt": "{source}", "labels": ["a", "b "] }), "blanks around it"),
        (
            json!({ "prompt": "{source}", "labels": ["1", "b"], "numbers": true }),
            "`b` is not a number",
        ),
        (
            json!({ "prompt": "{source}", "labels": ["a", "b"], "probability_of": "c" }),
            "`c` is none",
        ),
    ];
    for (config, message) in wrong {
        let (said, _) = refusal(with(config).map::<ScoreLabels>());
        assert!(said.contains(message), "{said}");
    }
    Ok(())
}

/// Runs a stage that makes a model out of what enters.
fn make<S: Stage>(harness: Harness) -> Result<TempDir, Error> {
    let to = tempfile::tempdir()?;
    harness.output_dir(to.path()).run::<S>()?;
    Ok(to)
}

#[test]
fn an_adapter_is_learnt_and_merged_into_another_copy_of_its_base() -> TestResult {
    let base = model()?;
    let rows = rows(&[(Some("a dog"), Some("rain")), (Some("rain or sun"), Some("a cat"))]);
    let learn = |lora: Value| {
        let config = json!({ "epochs": 3, "learning_rate": 0.1, "lora": lora, "schedule": "cosine", "warmup_ratio": 0.1 });
        let harness =
            Harness::new(config).input("model", TestInput::Artifact(base.path().to_owned()));
        make::<Finetune>(harness.labelled("examples", "rows", TestInput::Rows(rows.clone())))
    };
    let learnt = learn(json!({ "rank": 2, "alpha": 4, "targets": ["q", "wi_0"] }))?;
    let adapter = learnt.path().join("adapter");
    let again = |adapter: &Path| {
        make::<ModelStage>(Harness::new(json!({ "from": base.path(), "adapter": adapter })))
    };
    let weights = |of: &Path| std::fs::read(of.join("model.safetensors"));
    assert!(weights(again(&adapter)?.path())? == weights(learnt.path())?, "to the bit");
    assert!(weights(base.path())? != weights(learnt.path())?);
    let names = std::fs::read(adapter.join("adapter_model.safetensors"))?;
    let tensors = SafeTensors::deserialize(&names)?;
    let q = "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight";
    assert_eq!((tensors.len(), tensors.tensor(q)?.shape()), (2 * 10, [2, 16].as_slice()));

    // What PEFT may say in its configuration is followed or refused.
    let config: Value =
        serde_json::from_slice(&std::fs::read(adapter.join("adapter_config.json"))?)?;
    let says = |changes: Value| {
        let mut config = config.clone();
        let fields = changes.as_object().cloned().unwrap_or_default();
        config.as_object_mut().expect("an object").extend(fields);
        std::fs::write(adapter.join("adapter_config.json"), config.to_string())?;
        again(&adapter)
    };
    let plain = weights(learnt.path())?;
    let halves = json!({ "lora_alpha": 2, "alpha_pattern": { "q": 4, "DenseReluDense.wi_0": 4 } });
    assert!(weights(says(halves)?.path())? == plain, "each target has an alpha of its own");
    let root = json!({ "use_rslora": true, "lora_alpha": 4.0 / f64::sqrt(2.0) });
    assert!(weights(says(root)?.path())? == plain, "over the root of the rank");
    for (changes, message) in [
        (json!({ "peft_type": "IA3" }), "an adapter of the kind IA3"),
        (json!({ "use_dora": true }), "`use_dora: true` is not known"),
        (json!({ "bias": "all" }), "`bias: \"all\"` is not known"),
        (json!({ "alpha_pattern": { "^q$": 1 } }), "the pattern `^q$`"),
    ] {
        let (said, _) = refusal(says(changes));
        assert!(said.contains("adapter_config.json") && said.contains(message), "{said}");
    }
    says(json!({}))?;
    let other = tempfile::tempdir()?;
    let tokenizer = Tokenizer::load(base.path())?;
    tokenizer.save(other.path())?;
    folder::save(
        &Model::initial(Config::small(72, 16, 32, 1, 2), &default_device(), 9)?,
        other.path(),
    )?;
    let config = json!({ "from": other.path(), "adapter": adapter });
    let (said, _) = refusal(make::<ModelStage>(Harness::new(config)));
    assert!(said.contains("has no place for `base_model.model.decoder.block.1."), "{said}");
    let (said, hint) = refusal(make::<ModelStage>(Harness::new(json!({ "from": adapter }))));
    assert!(
        said.contains("has no config.json") && hint.contains("from: BASE, adapter:"),
        "{said} {hint}"
    );
    let (said, _) = refusal(learn(json!({ "targets": ["query"] })));
    assert!(said.contains("no linear layer `query`"), "{said}");
    Ok(())
}

#[test]
fn labels_are_learnt_as_they_are_written() -> TestResult {
    let model = model()?;
    let learn = |config: Value, labels: [&str; 2]| {
        let rows = rows(&[(Some("a dog"), Some(labels[0])), (Some("rain"), Some(labels[1]))]);
        let to = tempfile::tempdir()?;
        let harness = Harness::new(config)
            .input("model", TestInput::Artifact(model.path().to_owned()))
            .labelled("examples", "rows", TestInput::Rows(rows))
            .output_dir(to.path());
        Ok::<_, Box<dyn std::error::Error>>(harness.run::<Finetune>())
    };
    let labels = json!(["acceptable", "unacceptable"]);
    let config = json!({ "kind": "labels", "labels": labels, "source": "cola sentence: {source}", "target": "target", "steps": 1 });
    learn(config.clone(), ["acceptable", " unacceptable"])?.map_err(|error| error.to_string())?;
    let (said, _) = refusal(learn(config, ["acceptable", "other"])?);
    assert!(
        said.contains("`other` in `target` is none of the labels `acceptable`, `unacceptable`"),
        "{said}"
    );
    let (said, _) = refusal(learn(json!({ "labels": labels }), ["a", "b"])?);
    assert!(said.contains("`labels` is read by `kind: labels` only"), "{said}");
    Ok(())
}

#[test]
fn a_learner_says_what_it_left_out_and_cut() -> TestResult {
    let (model, out) = (model()?, tempfile::tempdir()?);
    let long = "rain ".repeat(40);
    let rows = rows(&[
        (Some("a dog </s>"), Some("a cat </s>")),
        (Some("a dog"), None),
        (Some(&long), Some("rain</s>\n")),
        (None, Some("rain")),
    ]);
    let learn = |config: Value, rows: &RecordBatch| {
        let log = Log::default();
        let harness = Harness::new(config)
            .input("model", TestInput::Artifact(model.path().to_owned()))
            .labelled("examples", "pairs", TestInput::Rows(rows.clone()))
            .output_dir(out.path())
            .log(&log);
        harness.run::<Finetune>().map(|_| of_texts(&log))
    };
    let config = json!({ "steps": 1, "max_source_tokens": 30 });
    let lines = learn(config, &rows)?;
    let eos = "which is taken as text; `strip_eos: true` removes it";
    assert_eq!(
        lines,
        [
            "2 of 4 rows of `pairs` are left out, without a source or a target: `r1` first".into(),
            format!("1 of 2 sources of `pairs` end with `</s>`, {eos}"),
            format!("2 of 2 targets of `pairs` end with `</s>`, {eos}"),
            "1 of 2 sources were cut to 30 tokens (`max_source_tokens`)".into(),
        ]
    );
    let config = json!({ "steps": 1, "strip_eos": true });
    assert_eq!(learn(config, &rows)?.len(), 1, "only rows are left out");
    let (message, _) = refusal(learn(json!({}), &rows.slice(1, 1)));
    assert!(message.contains("none of the 1 rows of `examples` has a source and a target"));
    Ok(())
}

#[test]
fn the_end_of_another_tokenizer_is_told_and_taken_off() -> TestResult {
    let model = model()?;
    let with = |config: Value, end: &str| {
        let (one, other) = (format!("a dog{end}"), format!("a cat{end}"));
        let rows = rows(&[(Some(&one), Some(&other)), (Some("rain"), Some("sun"))]);
        harness(config, model.path(), &rows)
    };
    let both = |mut config: Value| {
        let plain = config.clone();
        config["strip_eos"] = true.into();
        (plain, config)
    };
    let (plain, strip) = both(json!({ "max_new_tokens": 4 }));
    let (_, lines) = told::<Generate>(with(plain.clone(), " </s>"))?;
    assert!(lines[0].starts_with("1 of 2 sources end with `</s>`, which is taken"), "{lines:?}");
    let (expected, _) = told::<Generate>(with(plain, ""))?;
    let (found, lines) = told::<Generate>(with(strip, " </s>"))?;
    assert_eq!(texts(&found[0], "paraphrase"), texts(&expected[0], "paraphrase"));
    assert!(lines.iter().all(|line| !line.contains("</s>")), "{lines:?}");

    let (plain, strip) = both(json!({ "second": "target" }));
    let (_, lines) = told::<ScoreStsb>(with(plain.clone(), "</s>"))?;
    assert_eq!(lines.len(), 2, "{lines:?}");
    let (expected, _) = told::<ScoreStsb>(with(plain, ""))?;
    let (found, lines) = told::<ScoreStsb>(with(strip, "</s>"))?;
    assert_eq!(&found[0]["stsb_mean"], &expected[0]["stsb_mean"]);
    assert!(lines.is_empty(), "{lines:?}");

    let (plain, strip) = both(json!({}));
    let (_, lines) = told::<ScoreLoss>(with(plain.clone(), " </s>"))?;
    assert_eq!(lines.len(), 2, "{lines:?}");
    let (expected, _) = told::<ScoreLoss>(with(plain, ""))?;
    let (found, _) = told::<ScoreLoss>(with(strip, " </s>"))?;
    assert_eq!(&found[0]["loss"], &expected[0]["loss"]);
    Ok(())
}

#[test]
fn one_beam_is_greedy_search() -> TestResult {
    let model = model()?;
    let rows = rows(&[(Some("a dog"), None), (Some("rain"), None)]);
    let write = |config| told::<Generate>(harness(config, model.path(), &rows));
    let (greedy, _) = write(json!({ "max_new_tokens": 6 }))?;
    let (beam, _) = write(json!({ "max_new_tokens": 6, "beam": { "beams": 1 } }))?;
    assert_eq!(greedy, beam);
    let several = json!({ "candidates": 2, "beam": { "beams": 1 } });
    let (message, _) = refusal(write(several));
    assert_eq!(message, "2 candidates need as many beams");
    Ok(())
}
