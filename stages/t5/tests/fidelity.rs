//! The numbers of `transformers`, as recorded by tests/fidelity/make_fixtures.py at the root of the repository.

#![expect(clippy::print_stdout, reason = "--nocapture shows how far from the bars we are")]

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use paraloom_stages_t5::{
    Error,
    decode::{self as generation, Candidate, EarlyStopping, Row, Strategy, generate},
    device::default_device,
    folder,
    model::{Model, Packed},
    train::{Example, Length, Optimizer, Options, Schedule, Trainer},
};
use serde_json::Value;

const MODELS: [&str; 3] = ["t5", "t5-1.1", "odd"];

type TestResult = Result<(), Box<dyn std::error::Error>>;

struct Fixture {
    model: Model,
    recorded: Value,
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn fixture(name: &str) -> Result<Fixture, Box<dyn std::error::Error>> {
    let directory = directory(name);
    let recorded =
        serde_json::from_str(&std::fs::read_to_string(directory.join("recorded.json"))?)?;
    Ok(Fixture { model: folder::load(&directory, &default_device())?, recorded })
}

fn ids(rows: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(rows.clone()).expect("recorded rows are token ids")
}

fn numbers(values: &Value) -> Vec<f64> {
    serde_json::from_value(values.clone()).expect("recorded values are numbers")
}

fn examples(fixture: &Fixture) -> Vec<Example> {
    let (sources, targets) = (ids(&fixture.recorded["sources"]), ids(&fixture.recorded["targets"]));
    sources.into_iter().zip(targets).map(|(source, target)| Example { source, target }).collect()
}

/// Logits of all target positions, packed.
fn logits(model: &Model, examples: &[Example]) -> Tensor<2> {
    let network = model.network();
    let source = Packed::new(examples.iter().map(|example| example.source.as_slice()));
    let shifted: Vec<Vec<u32>> =
        examples.iter().map(|example| network.shift_right(&example.target)).collect();
    let target = Packed::new(shifted.iter().map(Vec::as_slice));
    network.logits(network.decode(&target, &network.encode(&source), &source))
}

#[test]
fn logits_are_the_reference_s() -> TestResult {
    for name in MODELS {
        let fixture = fixture(name)?;
        let examples = examples(&fixture);
        let vocab = fixture.model.config().vocab_size;
        let ours = logits(&fixture.model, &examples)
            .into_data()
            .try_to_vec::<f32>()
            .map_err(|error| format!("{error:?}"))?;
        let mut first = 0;
        let (mut worst, mut scale) = (0.0f64, 0.0f64);
        for (example, row) in
            examples.iter().zip(fixture.recorded["logits"].as_array().ok_or("rows")?)
        {
            // Every third logit of the first two positions is recorded.
            for (index, theirs) in numbers(row).into_iter().enumerate() {
                if 3 * index < example.target.len() * vocab {
                    worst = worst.max((f64::from(ours[first * vocab + 3 * index]) - theirs).abs());
                    scale = scale.max(theirs.abs());
                }
            }
            first += example.target.len();
        }
        println!("{name}: logits differ by {:.1e} of their scale", worst / scale);
        assert!(worst <= 2e-5 * scale, "{name}: {worst:e} of {scale}");
    }
    Ok(())
}

#[test]
fn training_follows_the_reference_step_by_step() -> TestResult {
    for name in MODELS {
        let fixture = fixture(name)?;
        for run in fixture.recorded["trained"].as_array().ok_or("runs")? {
            let mut trainer =
                Trainer::new(fixture.model.clone(), examples(&fixture), options(run)?)?;
            let (mut worst_loss, mut worst_norm) = (0.0f64, 0.0f64);
            for (loss, norm) in numbers(&run["losses"]).into_iter().zip(numbers(&run["norms"])) {
                let step = trainer.step()?.ok_or("a step is missing")?;
                worst_loss = worst_loss.max((step.loss - loss).abs() / loss);
                worst_norm = worst_norm.max((step.gradient_norm - norm).abs() / norm);
            }
            println!(
                "{name}, {}: losses differ by {worst_loss:.1e}, norms by {worst_norm:.1e}",
                run["optimizer"]
            );
            // Adafactor divides gradients by their own size, rounding noise included, so its norms wander more.
            assert!(
                worst_loss <= 1e-4 && worst_norm <= 5e-3,
                "{name}: {worst_loss:e}, {worst_norm:e}"
            );
            check_final_weights(name, trainer.model(), &run["final"])?;
        }
    }
    Ok(())
}

fn options(run: &Value) -> Result<Options, Box<dyn std::error::Error>> {
    let number = |name: &str| run[name].as_f64().ok_or(format!("{name} is not recorded"));
    let optimizer = if run["optimizer"] == "adafactor" {
        Optimizer::Adafactor { scale_parameter: false }
    } else {
        Optimizer::AdamW { betas: [0.9, 0.999], eps: 1e-8 }
    };
    Ok(Options {
        length: Length::Steps(number("steps")? as u64),
        batch_size: number("batch")? as usize,
        accumulate: number("accumulate")? as usize,
        optimizer,
        learning_rate: number("rate")?,
        schedule: if run["schedule"] == "linear" { Schedule::Linear } else { Schedule::Constant },
        warmup_steps: number("warmup")? as u64,
        weight_decay: number("decay")?,
        clip_norm: Some(number("clip")?),
        dropout: Some(0.0),
        shuffle: false,
        ..Options::default()
    })
}

/// Sum and sum of squares of every weight after the run.
fn check_final_weights(name: &str, model: &Model, recorded: &Value) -> TestResult {
    let layout = paraloom_stages_t5::model::Weights::layout(model.config());
    for (slot, weight) in layout.list().into_iter().zip(model.weights().list()) {
        let theirs = numbers(&recorded[&slot.name]);
        let values = weight.to_data().try_to_vec::<f32>().map_err(|error| format!("{error:?}"))?;
        let squares: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let error = (squares - theirs[1]).abs() / theirs[1];
        assert!(error <= 1e-4, "{name}: {} is off by {error:e}", slot.name);
    }
    Ok(())
}

#[test]
fn a_written_model_is_read_back_with_the_same_bytes() -> TestResult {
    for name in MODELS {
        let fixture = fixture(name)?;
        let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
        folder::save(&fixture.model, first.path())?;
        folder::save(&folder::load(first.path(), &default_device())?, second.path())?;
        for file in ["config.json", "generation_config.json", "model.safetensors"] {
            let (one, other) =
                (std::fs::read(first.path().join(file))?, std::fs::read(second.path().join(file))?);
            assert!(one == other, "{name}: {file} changed on the way");
        }
    }
    Ok(())
}

#[test]
fn pickled_weights_are_refused_with_the_way_out() -> TestResult {
    let folder = tempfile::tempdir()?;
    std::fs::copy(directory("t5").join("config.json"), folder.path().join("config.json"))?;
    std::fs::write(folder.path().join("pytorch_model.bin"), "pickle")?;
    let Err(Error::Malformed { message, .. }) = folder::load(folder.path(), &default_device())
    else {
        return Err("a pickle was read".into());
    };
    assert!(message.contains("save_pretrained"), "{message}");
    Ok(())
}

#[test]
fn generated_tokens_are_the_reference_s() -> TestResult {
    for name in MODELS {
        let fixture = fixture(name)?;
        let rows: Vec<Row> =
            ids(&fixture.recorded["inputs"]).into_iter().map(|ids| Row { ids, seed: 0 }).collect();
        for search in fixture.recorded["generated"].as_array().ok_or("searches")? {
            let options = search_options(search);
            let found = generate(&fixture.model, &rows, &options, &|| false)?;
            let eos = fixture.model.config().eos_token_id;
            let with_end = |candidate: &Candidate| {
                candidate
                    .ids
                    .iter()
                    .copied()
                    .chain(candidate.ended.then_some(eos))
                    .collect::<Vec<u32>>()
            };
            let ours: Vec<Vec<u32>> = found.iter().flatten().map(with_end).collect();
            let theirs = ids(&search["rows"]);
            assert_eq!(ours.len(), theirs.len());
            let differing = ours.iter().zip(&theirs).filter(|(one, other)| one != other).count();
            println!("{name}: {differing} of {} sequences differ with {options:?}", theirs.len());
            assert_eq!(differing, 0);
            if let Ok(scores) = serde_json::from_value::<Vec<f64>>(search["scores"].clone()) {
                let off = found
                    .iter()
                    .flatten()
                    .zip(scores)
                    .map(|(ours, score)| (f64::from(ours.score) - score).abs());
                assert!(off.fold(0.0, f64::max) < 2e-5, "{name}: beam scores differ");
            }
        }
    }
    Ok(())
}

fn search_options(search: &Value) -> generation::Options {
    let size = |name: &str, default| search[name].as_u64().map_or(default, |value| value as usize);
    let number = |name: &str| search[name].as_f64().unwrap_or(1.0);
    let early_stopping = match &search["early_stopping"] {
        Value::Bool(true) => EarlyStopping::Yes,
        Value::String(_) => EarlyStopping::Never,
        _ => EarlyStopping::No,
    };
    let strategy = match size("num_beams", 1) {
        1 => Strategy::Greedy,
        beams => Strategy::Beam { beams, length_penalty: number("length_penalty"), early_stopping },
    };
    generation::Options {
        strategy,
        candidates: size("num_return_sequences", 1),
        max_new_tokens: 10,
        repetition_penalty: number("repetition_penalty"),
        no_repeat_ngram_size: size("no_repeat_ngram_size", 0),
        ..generation::Options::default()
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() -> TestResult {
    let fixture = fixture("t5-1.1")?;
    let inputs = ids(&fixture.recorded["inputs"]);
    let rows: Vec<Row> =
        inputs.into_iter().zip(100..).map(|(ids, seed)| Row { ids, seed }).collect();
    let sample = Strategy::Sample { temperature: 0.9, top_k: 20, top_p: 0.95 };
    for strategy in [Strategy::Greedy, sample] {
        let candidates = if strategy == Strategy::Greedy { 1 } else { 3 };
        let options =
            generation::Options { strategy, candidates, max_new_tokens: 8, ..Default::default() };
        let together = generate(&fixture.model, &rows, &options, &|| false)?;
        for size in [1, 7] {
            for (rows, together) in rows.chunks(size).zip(together.chunks(size)) {
                let apart = generate(&fixture.model, rows, &options, &|| false)?;
                // To the bit: scores are compared too.
                assert_eq!(apart, together);
            }
        }
    }
    Ok(())
}
