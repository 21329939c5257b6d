//! The numbers of `transformers`, as recorded by tests/fidelity at the root of the repository.
//!
//! `PARALOOM_FIXTURES` names another directory of recordings, such as the fresh ones of tests/fidelity/live.py.

#![expect(clippy::print_stdout, reason = "--nocapture shows how far from the bars we are")]

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use paraloom_t5_core::{
    decode::{self as generation, Candidate, EarlyStopping, End, Row, Strategy, generate},
    device::{check_precision, default_device},
    folder::{self, Format},
    model::{InferenceModel, Model, Network, Parameter, Sequences, WeightSpec, Weights},
    numeric::{Float, Precision},
    operations::{LossScale, cross_entropy},
    train::{Batch, Example, Length, Optimizer, Options, Schedule, Trainer, Warmup},
};
use serde_json::Value;

/// Largest differences, each relative to the size of what is compared.
mod bar {
    pub(super) const LOGITS: f64 = 2e-5;
    /// The one of bf16 weights (docs/design/fidelity.md).
    pub(super) const BF16: f64 = 3e-2;
    /// Weights have a fourth of the digits that bf16 has, by size.
    pub(super) const INT8: f64 = 1e-1;
    /// Where torch's own operations have what is between the products in bf16 as well.
    pub(super) const ALL_BF16: f64 = 6e-2;
    pub(super) const LOSS: f64 = 1e-4;
    pub(super) const GRADIENT_NORM: f64 = 1e-3;
    pub(super) const WEIGHTS: f64 = 1e-4;
    /// Not relative: beam scores are logarithms.
    pub(super) const BEAM_SCORE: f64 = 2e-5;
}

type TestResult = Result<(), Box<dyn std::error::Error>>;

struct Fixture {
    name: String,
    model: Model,
    recorded: Value,
}

fn fixtures_directory() -> PathBuf {
    std::env::var_os("PARALOOM_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"), PathBuf::from)
}

fn fixture(name: &str) -> Result<Fixture, Box<dyn std::error::Error>> {
    let directory = fixtures_directory().join(name);
    let recorded =
        serde_json::from_str(&std::fs::read_to_string(directory.join("recorded.json"))?)?;
    Ok(Fixture { name: name.into(), model: folder::load(&directory, &default_device())?, recorded })
}

/// All recordings, by name.
fn fixtures() -> Result<Vec<Fixture>, Box<dyn std::error::Error>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(fixtures_directory())? {
        let entry = entry?;
        if entry.path().join("recorded.json").is_file() {
            names.push(entry.file_name().into_string().map_err(|name| name.display().to_string())?);
        }
    }
    names.sort();
    assert!(!names.is_empty(), "there is nothing to compare with");
    names.iter().map(|name| fixture(name)).collect()
}

fn ids(rows: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(rows.clone()).expect("recorded rows are token ids")
}

fn numbers(values: &Value) -> Vec<f64> {
    serde_json::from_value(values.clone()).expect("recorded values are numbers")
}

fn values(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.to_data().try_to_vec().expect("weights are f32")
}

/// Says what was measured, in the form that tests/fidelity/live.py makes a table of, and holds it against the bar.
fn report(check: &str, model: &str, bar: f64, measured: f64) {
    println!("| {check} | {model} | {bar:.0e} | {measured:.1e} |");
    assert!(measured <= bar, "{model}: {check} is off by {measured:e}, more than {bar:e}");
}

impl Fixture {
    /// The model as the stages that write and score have it.
    fn for_inference(
        &self,
        precision: Precision,
    ) -> Result<InferenceModel, Box<dyn std::error::Error>> {
        let directory = fixtures_directory().join(&self.name);
        Ok(folder::load_for_inference(&directory, &default_device(), precision)?)
    }

    fn examples(&self) -> Vec<Example> {
        let (sources, targets) = (ids(&self.recorded["sources"]), ids(&self.recorded["targets"]));
        let pairs = sources.into_iter().zip(targets);
        pairs.map(|(source, target)| Example { source, target }).collect()
    }

    /// The examples whose logits and gradients are recorded.
    fn batch(&self) -> Vec<Example> {
        let rows = self.recorded["logits"].as_array().map_or(0, Vec::len);
        self.examples().into_iter().take(rows).collect()
    }

    /// Of a long list, every so many values are recorded.
    fn every(&self) -> usize {
        self.recorded["every"].as_u64().expect("it is recorded") as usize
    }
}

/// Logits of all target positions, packed.
fn logits<P: Parameter>(network: &Network<'_, P>, examples: &[Example]) -> Tensor<2> {
    let source = Sequences::new(examples.iter().map(|example| example.source.as_slice()));
    let shifted: Vec<Vec<u32>> =
        examples.iter().map(|example| network.shift_right(&example.target)).collect();
    let target = Sequences::new(shifted.iter().map(Vec::as_slice));
    network.logits(network.decode(&target, &network.encode(&source), &source))
}

/// How far the logits of a model are from the recorded ones, relative to the largest of them.
fn logits_off<P: Parameter>(
    fixture: &Fixture,
    network: &Network<'_, P>,
) -> Result<f64, Box<dyn std::error::Error>> {
    let examples = fixture.batch();
    let ours = values(&logits(network, &examples));
    let mut ours = ours.as_slice();
    let (mut worst, mut scale) = (0.0f64, 0.0f64);
    let rows = fixture.recorded["logits"].as_array().ok_or("rows")?;
    for (example, row) in examples.iter().zip(rows) {
        let width = fixture.model.config().vocab_size;
        let (row_of_ours, rest) = ours.split_at(example.target.len() * width);
        ours = rest;
        for (our, their) in row_of_ours.iter().step_by(fixture.every()).zip(numbers(row)) {
            worst = worst.max((f64::from(*our) - their).abs());
            scale = scale.max(their.abs());
        }
    }
    Ok(worst / scale)
}

#[test]
fn logits_are_the_reference_s() -> TestResult {
    for fixture in fixtures()? {
        let off = |model: &InferenceModel| logits_off(&fixture, &model.network());
        let trained = logits_off(&fixture, &fixture.model.network())?;
        report("logits", &fixture.name, bar::LOGITS, trained);
        let packed = fixture.for_inference(Precision::F32)?;
        report("logits, packed", &fixture.name, bar::LOGITS, off(&packed)?);
        match check_precision(&fixture.model.device(), Precision::Int8) {
            Ok(()) => {
                let whole = fixture.for_inference(Precision::Int8)?;
                report("logits, precision int8", &fixture.name, bar::INT8, off(&whole)?);
            }
            Err(error) => println!("skipped: {error}"),
        }
        if let Err(error) = check_precision(&fixture.model.device(), Precision::Bf16) {
            println!("skipped: {error}");
            continue;
        }
        let half = fixture.for_inference(Precision::Bf16)?;
        let torch_alone = std::env::var_os("PARALOOM_TORCH_KERNELS").is_some();
        let bar = if torch_alone { bar::ALL_BF16 } else { bar::BF16 };
        report("logits, precision bf16", &fixture.name, bar, off(&half)?);
    }
    Ok(())
}

#[test]
fn gradients_are_the_reference_s() -> TestResult {
    for fixture in fixtures()? {
        let examples = fixture.batch();
        let weights = fixture.model.weights();
        let tracked = weights.map(|weight| Tensor::from_inner(weight.clone()).require_grad());
        let network = Network::new(fixture.model.config(), &tracked, None);
        let targets: Vec<u32> =
            examples.iter().flat_map(|example| example.target.iter().copied()).collect();
        let scale = LossScale { factor: 1.0 / targets.len() as f32, smoothing: 0.0 };
        let loss = cross_entropy(logits(&network, &examples), &targets, scale);
        let mut gradients = loss.backward();
        let theirs = fixture.recorded["loss"].as_f64().ok_or("loss")?;
        let ours = f64::from(loss.into_scalar::<f32>());
        report("loss", &fixture.name, bar::LOSS, (ours - theirs).abs() / theirs);
        let mut worst = 0.0f64;
        let layout = Weights::layout(fixture.model.config());
        for (spec, weight) in layout.list().into_iter().zip(tracked.list()) {
            let theirs = fixture.recorded["gradients"][&spec.name].as_f64().ok_or("gradient")?;
            let gradient = weight.grad_remove(&mut gradients).ok_or("no gradient")?;
            let squares = values(&gradient).iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
            worst = worst.max((squares.sqrt() - theirs).abs() / theirs);
        }
        report("gradient norm of each weight", &fixture.name, bar::GRADIENT_NORM, worst);
    }
    Ok(())
}

#[test]
fn training_follows_the_reference_step_by_step() -> TestResult {
    for fixture in fixtures()? {
        let name = &fixture.name;
        for run in fixture.recorded["trained"].as_array().ok_or("runs")? {
            let mut trainer =
                Trainer::new(fixture.model.clone(), fixture.examples(), options(run)?)?;
            let (mut worst_loss, mut worst_norm) = (0.0f64, 0.0f64);
            for (loss, norm) in numbers(&run["losses"]).into_iter().zip(numbers(&run["norms"])) {
                let step = trainer.step()?.ok_or("a step is missing")?;
                worst_loss = worst_loss.max((step.loss - loss).abs() / loss);
                worst_norm = worst_norm.max((step.gradient_norm - norm).abs() / norm);
            }
            let worst_weight = weights_apart(&trainer.model(), run, fixture.every());
            let text = |name: &str| run[name].as_str().unwrap_or_default();
            let how = format!("{}, {}, {}", text("optimizer"), text("schedule"), run["rate"]);
            let steps = &run["steps"];
            for (check, bar, worst) in [
                (format!("loss of {steps} steps"), bar::LOSS, worst_loss),
                (format!("gradient norm of {steps} steps"), bar::GRADIENT_NORM, worst_norm),
                (format!("weights after {steps} steps"), bar::WEIGHTS, worst_weight),
            ] {
                report(&format!("{check} ({how})"), name, bar, worst);
            }
        }
    }
    Ok(())
}

fn options(run: &Value) -> Result<Options, Box<dyn std::error::Error>> {
    let number = |name: &str| run[name].as_f64().ok_or(format!("{name} is not recorded"));
    let optimizer = if run["optimizer"] == "adafactor" {
        Optimizer::Adafactor { scale_parameter: run["scale_parameter"] == true }
    } else {
        Optimizer::AdamW { betas: [0.9, 0.999], eps: 1e-8 }
    };
    Ok(Options {
        length: Length::Steps(number("steps")? as u64),
        batch: Batch::Examples(number("batch")? as usize),
        accumulate: number("accumulate")? as usize,
        optimizer,
        // A relative step has none.
        learning_rate: run["rate"].as_f64().unwrap_or_default(),
        schedule: match run["schedule"].as_str() {
            Some("linear") => Schedule::Linear,
            Some("relative_step") => Schedule::RelativeStep { warmup_init: false },
            Some("warmup_init") => Schedule::RelativeStep { warmup_init: true },
            _ => Schedule::Constant,
        },
        warmup: Warmup::Steps(number("warmup")? as u64),
        weight_decay: number("decay")?,
        clip_norm: Some(number("clip")?),
        dropout: Some(0.0),
        shuffle: false,
        ..Options::default()
    })
}

/// The length of the difference of the weights, in units of their length; the worst of all tensors.
fn weights_apart(model: &Model, run: &Value, every: usize) -> f64 {
    let layout = Weights::layout(model.config());
    let apart = |(spec, weight): (&WeightSpec, &Tensor<2>)| {
        let theirs = numbers(&run["final"][&spec.name]);
        let ours = values(weight).into_iter().step_by(every).map(f64::from);
        let length = theirs.iter().map(|their| their.powi(2)).sum::<f64>();
        let difference = ours.zip(&theirs).map(|(our, their)| (our - their).powi(2)).sum::<f64>();
        (difference / length).sqrt()
    };
    layout.list().into_iter().zip(model.weights().list()).map(apart).fold(0.0, f64::max)
}

#[test]
fn a_written_model_is_read_back_with_the_same_bytes() -> TestResult {
    for fixture in fixtures()? {
        let name = &fixture.name;
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
fn shards_and_halves_are_read_back() -> TestResult {
    for fixture in fixtures()? {
        let (whole, shards, halves) =
            (tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?);
        folder::save(&fixture.model, whole.path())?;
        let small = Format { max_shard_bytes: 30_000, ..Format::default() };
        folder::save_as(&fixture.model, shards.path(), small)?;
        assert!(shards.path().join("model.safetensors.index.json").is_file());
        assert!(!shards.path().join("model.safetensors").exists());
        let read = folder::load(shards.path(), &default_device())?;
        for (one, other) in read.weights().list().into_iter().zip(fixture.model.weights().list()) {
            assert!(values(one) == values(other));
        }
        let half = Format { precision: Float::Bf16, ..Format::default() };
        folder::save_as(&fixture.model, halves.path(), half)?;
        let size = |folder: &tempfile::TempDir| -> std::io::Result<u64> {
            Ok(std::fs::metadata(folder.path().join("model.safetensors"))?.len())
        };
        assert!(size(&halves)? < size(&whole)? * 6 / 10);
        let read = folder::load(halves.path(), &default_device())?;
        for (one, other) in read.weights().list().into_iter().zip(fixture.model.weights().list()) {
            // Eight bits of a number are kept, rounded to the nearest.
            let close = |(one, other): (&f32, &f32)| (one - other).abs() <= other.abs() / 256.0;
            assert!(values(one).iter().zip(&values(other)).all(close));
        }
    }
    Ok(())
}

/// The weights of a fixture, and tensors beside them.
fn with_tensors(
    fixture: &Fixture,
    names: &[(&str, f32)],
) -> Result<tempfile::TempDir, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    folder::save(&fixture.model, folder.path())?;
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path)?;
    let stored = safetensors::SafeTensors::deserialize(&bytes)?;
    let shape = stored.tensor("shared.weight")?.shape().to_vec();
    let embedding = stored.tensor("shared.weight")?.data().to_vec();
    let others: Vec<(&str, Vec<u8>)> = names
        .iter()
        .map(|&(name, added)| {
            let mut values = embedding.clone();
            let first = f32::from_le_bytes([values[0], values[1], values[2], values[3]]) + added;
            values[..4].copy_from_slice(&first.to_le_bytes());
            (name, values)
        })
        .collect();
    let mut views = stored.tensors();
    for (name, values) in &others {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), values)?;
        views.push(((*name).to_owned(), view));
    }
    std::fs::write(&path, safetensors::serialize(views, None)?)?;
    Ok(folder)
}

#[test]
fn no_tensor_is_left_out_in_silence() -> TestResult {
    let fixtures = fixtures()?;
    let tied = fixtures.iter().find(|fixture| !fixture.model.config().untied_head);
    let tied = tied.ok_or("no fixture is tied")?;
    let copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"];
    let same = copies.map(|name| (name, 0.0));
    let old = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
    for fine in [&same[..], &[(old, 1.0)]] {
        let folder = with_tensors(tied, fine)?;
        let read = folder::load(folder.path(), &default_device())?;
        assert!(!read.config().untied_head);
    }
    let cases = [
        (vec![(copies[0], 1.0)], "`encoder.embed_tokens.weight` differs from `shared.weight`"),
        (
            vec![("encoder.block.7.layer.0.SelfAttention.q.weight", 0.0)],
            "has no place for `encoder.block.7",
        ),
        (
            vec![("a", 0.0), ("b", 0.0), ("c", 0.0), ("d", 0.0)],
            "no place for `a`, `b`, `c`, 1 more",
        ),
    ];
    for (names, message) in cases {
        let folder = with_tensors(tied, &names)?;
        let error = folder::load(folder.path(), &default_device()).err().ok_or(message)?;
        assert!(error.to_string().contains(message), "{error}, not {message}");
    }
    Ok(())
}

#[test]
fn generated_tokens_are_the_reference_s() -> TestResult {
    for fixture in fixtures()? {
        let model = fixture.for_inference(Precision::F32)?;
        compare_searches(&fixture, &model, &fixture.recorded)?;
        let groups = fixtures_directory().join(&fixture.name).join("groups.json");
        // What `live.py` records has none: new versions of the reference leave that search to others.
        if groups.exists() {
            compare_searches(
                &fixture,
                &model,
                &serde_json::from_str(&std::fs::read_to_string(groups)?)?,
            )?;
        }
    }
    Ok(())
}

fn compare_searches(fixture: &Fixture, model: &InferenceModel, recorded: &Value) -> TestResult {
    let rows: Vec<Row> =
        ids(&recorded["inputs"]).into_iter().map(|ids| Row { ids, ..Row::default() }).collect();
    let eos = model.config().eos_token_id;
    for search in recorded["generated"].as_array().ok_or("searches")? {
        let found = generate(model, &rows, &search_options(search), &|| false)?;
        let found: Vec<&Candidate> = found.iter().flatten().collect();
        let with_end = |candidate: &&Candidate| -> Vec<u32> {
            candidate
                .ids
                .iter()
                .copied()
                .chain((candidate.end == End::Eos).then_some(eos))
                .collect()
        };
        let theirs = ids(&search["rows"]);
        assert_eq!(found.len(), theirs.len());
        let differing = found.iter().zip(&theirs).filter(|(one, other)| with_end(one) != **other);
        let how = search_name(search);
        let check = format!("sequences that differ of {} ({how})", theirs.len());
        report(&check, &fixture.name, 0.0, differing.count() as f64);
        if let Ok(scores) = serde_json::from_value::<Vec<f64>>(search["scores"].clone()) {
            let off =
                found.iter().zip(scores).map(|(our, score)| (f64::from(our.score) - score).abs());
            let worst = off.fold(0.0, f64::max);
            report(&format!("beam scores ({how})"), &fixture.name, bar::BEAM_SCORE, worst);
        }
    }
    Ok(())
}

/// The settings of a search, as the recording has them.
fn search_name(search: &Value) -> String {
    let settings = search.as_object().into_iter().flatten();
    let settings = settings.filter(|(name, _)| !["rows", "scores"].contains(&name.as_str()));
    settings.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
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
        beams => Strategy::Beam {
            beams,
            groups: size("num_beam_groups", 1),
            diversity_penalty: number("diversity_penalty"),
            length_penalty: number("length_penalty"),
            early_stopping,
        },
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
