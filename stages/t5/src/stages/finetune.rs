//! `finetune`: teaches a model from examples.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use paraloom_sdk::{About, Error, PlanInputs, Planned, Port, Result, Run, Services, Stage};
use rayon::ThreadPool;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::adapter::LoraConfig;
use super::card::{self, Card};
use super::examples::{Kind, Pair, TableCount, Task, Tasks};
use super::shared::{Loaded, MAX_SOURCE_TOKENS, pool};
use super::tally::Tally;
use crate::device::fingerprint;
use crate::error::Error as TrainError;
use crate::folder::{self, Float, Format};
use crate::memory::{self, Use};
use crate::model::{Model, Precision};
use crate::tokenizer::Tokenizer;
use crate::train::{Example, Length, Optimizer, Options, Schedule, StepMetrics, Trainer, Warmup};

const METRICS_FILE: &str = "metrics.json";
/// Where the adapter is by itself, in the directory of the model that it was merged into.
const ADAPTER: &str = "adapter";

/// Settings of `finetune`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-paraloom-elsewhere" = super::names::of_finetune()))]
pub struct Config {
    /// A task of T5 with its official prompt and labels, or plain `text`.
    #[serde(default)]
    kind: Kind,
    /// Stands before every source, such as `paraphrase: `.
    #[serde(default)]
    prefix: String,
    /// The column to read; `source` if left out.
    #[serde(default)]
    source: Option<String>,
    /// The second sentence of stsb; `sentence2` if left out.
    #[serde(default)]
    second: Option<String>,
    /// The column to write; `target` if left out.
    #[serde(default)]
    target: Option<String>,
    /// What may stand in the target (`kind: labels`), whose column is `label` if `target` is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    /// Takes `</s>` off the ends of sources and targets, where it stands for a tokenizer that reads it as the end.
    // The card says what was set; without it a model is written as it was before there was this setting.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    strip_eos: bool,
    /// Tasks of their own for some of the tables that enter `examples`, by label.
    #[serde(default)]
    tasks: BTreeMap<String, Task>,
    /// Passes over the examples; 1 if neither `epochs` nor `steps` is given.
    #[serde(default)]
    #[schemars(range(min = 1))]
    epochs: Option<u64>,
    /// Optimizer steps, instead of epochs.
    #[serde(default)]
    #[schemars(range(min = 1))]
    steps: Option<u64>,
    /// Examples that are worked on together.
    #[serde(default = "eight")]
    #[schemars(range(min = 1, max = 4096))]
    batch_size: usize,
    /// Batches per optimizer step.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 4096))]
    accumulate: usize,
    /// The optimizer.
    #[serde(default)]
    optimizer: OptimizerName,
    /// Adafactor only: the learning rate is relative to the size of each weight, as in T5's own
    /// pre-training. It wants a learning rate of 0.01 or so.
    #[serde(default)]
    scale_parameter: bool,
    /// The highest learning rate.
    #[serde(default = "learning_rate")]
    #[schemars(range(min = 0.0, max = 10.0))]
    learning_rate: f64,
    /// What becomes of the learning rate after the warm-up.
    #[serde(default)]
    schedule: ScheduleName,
    /// The power of `schedule: polynomial`; 1, which falls evenly, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    power: Option<f64>,
    /// Steps over which the learning rate rises from zero.
    #[serde(default)]
    warmup_steps: u64,
    /// The same as a share of all steps, instead of `warmup_steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    warmup_ratio: Option<f64>,
    /// Learn low-rank adapters (LoRA) instead of the weights: less memory, and an adapter of a few megabytes. The model that comes out
    /// has them merged; `adapter` in its directory is the adapter by itself, as PEFT reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lora: Option<LoraConfig>,
    /// Weights that stay as they are, by patterns of their names: `shared.weight`, `encoder.*`, `*layer_norm*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    freeze: Vec<String>,
    /// Decoupled weight decay.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 10.0))]
    weight_decay: f64,
    /// Largest norm of the gradient; 0 does not clip.
    #[serde(default = "one_point")]
    #[schemars(range(min = 0.0))]
    clip: f64,
    /// Dropout; the model's own if left out.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.9))]
    dropout: Option<f64>,
    /// Share of each target's probability that is spread over the vocabulary.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.9))]
    label_smoothing: f64,
    /// Take the examples in another order in each epoch.
    #[serde(default = "yes")]
    shuffle: bool,
    /// Longer sources are cut.
    #[serde(default = "max_source_tokens")]
    #[schemars(range(min = 2))]
    max_source_tokens: usize,
    /// Longer targets are cut.
    #[serde(default = "max_source_tokens")]
    #[schemars(range(min = 2))]
    max_target_tokens: usize,
    /// Share of the examples that is held back to validate on, if nothing enters
    /// `validation`.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.9))]
    validation_split: f64,
    /// Steps between validations; once an epoch's worth of steps if left out.
    #[serde(default)]
    #[schemars(range(min = 1))]
    validate_every: Option<u64>,
    /// Stop after this many validations without a better loss. The best model is kept.
    #[serde(default)]
    #[schemars(range(min = 1))]
    patience: Option<u64>,
    /// What matrix products are computed in. bf16 is faster where the processor has instructions for it; weights,
    /// gradients and the optimizer's state stay in f32.
    #[serde(default)]
    precision: Float,
    /// The numbers that the weights are written as, whatever they are computed in.
    #[serde(default)]
    dtype: Float,
    /// Weights that need more than this are written as several files.
    #[serde(default = "fifty_gigabytes")]
    max_shard_size: String,
}

fn fifty_gigabytes() -> String {
    "50GB".to_owned()
}
fn one() -> usize {
    1
}
fn eight() -> usize {
    8
}
fn one_point() -> f64 {
    1.0
}
fn yes() -> bool {
    true
}
fn learning_rate() -> f64 {
    3e-4
}
fn max_source_tokens() -> usize {
    MAX_SOURCE_TOKENS
}

/// An optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OptimizerName {
    #[default]
    AdamW,
    Adafactor,
}

/// A schedule of the learning rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ScheduleName {
    /// It stays.
    Constant,
    /// It falls evenly, to zero at the last step.
    #[default]
    Linear,
    /// It falls to zero as half a wave of the cosine does.
    Cosine,
    /// It falls with the root of the steps.
    InverseSqrt,
    /// It falls as a `power` of the steps that are left.
    Polynomial,
}

/// The stage.
pub struct Finetune {
    config: Config,
    tasks: Tasks,
}

fn metrics_schema() -> Schema {
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

impl Finetune {
    /// What the model is loaded for.
    fn purpose(&self) -> Use {
        let states = match self.config.optimizer {
            OptimizerName::AdamW => 2,
            OptimizerName::Adafactor => 0,
        };
        Use::Train { states, precision: self.config.precision }
    }
}

impl Stage for Finetune {
    type Config = Config;

    fn about() -> About {
        About::new("finetune", "1.4.0", "Teaches a T5 model from examples.")
            .input(Port::artifact("model", "The model to start from."))
            .input(
                Port::table("examples", "What to learn: a source and a target column each.").many(),
            )
            .input(Port::table("validation", "What to validate on.").optional().many())
            .output(Port::artifact("model", "The model that has learnt."))
            .output(Port::table("metrics", "Loss, learning rate and gradient norm of every step."))
            .uses_seed()
            .resumable()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        if config.epochs.is_some() && config.steps.is_some() {
            return Err(Error::config("say either `epochs` or `steps`").at("/steps"));
        }
        let validates = config.validation_split > 0.0 || inputs.is_connected("validation");
        if config.patience.is_some() && !validates {
            return Err(Error::config("`patience` needs something to validate on")
                .at("/patience")
                .hint("connect `validation`, or hold examples back with `validation_split`"));
        }
        if config.scale_parameter && config.optimizer != OptimizerName::Adafactor {
            return Err(Error::config("`scale_parameter` is an option of `optimizer: adafactor`")
                .at("/scale_parameter"));
        }
        if config.power.is_some() && config.schedule != ScheduleName::Polynomial {
            return Err(
                Error::config("`power` is an option of `schedule: polynomial`").at("/power")
            );
        }
        if config.warmup_ratio.is_some() && config.warmup_steps > 0 {
            return Err(
                Error::config("say either `warmup_steps` or `warmup_ratio`").at("/warmup_ratio")
            );
        }
        folder::parse_size(&config.max_shard_size)
            .map_err(|error| Error::from(error).at("/max_shard_size"))?;
        let default = Task {
            kind: config.kind,
            prefix: config.prefix.clone(),
            source: config.source.clone(),
            second: config.second.clone(),
            target: config.target.clone(),
            labels: config.labels.clone(),
            strip_eos: config.strip_eos,
            weight: 1.0,
        };
        let tasks = Tasks::check(default, config.tasks.clone(), inputs)?;
        let precision = match config.precision {
            Float::Bf16 => Precision::Bf16,
            _ => Precision::F32,
        };
        let stage = Self { config, tasks };
        // What comes out has the shape of what goes in.
        let (note, memory) =
            (inputs.note("model"), memory::likely(inputs.note("model"), stage.purpose()));
        let planned = Planned::new(stage, [None, Some(Arc::new(metrics_schema()))]);
        Ok(planned.fingerprint(fingerprint(precision)?).note(0, note).memory(memory))
    }

    fn run(&self, run: &mut Run) -> Result<()> {
        let Loaded { model, tokenizer } = Loaded::read(run, self.purpose())?;
        let pool = pool(run.threads())?;
        let services = run.services();
        let read = |tables, weighted| {
            let (pairs, counts) = self.tasks.read(tables, weighted, services)?;
            Ok::<_, Error>((self.encode(&pairs, &tokenizer, &pool, services)?, counts))
        };
        let (mut examples, tables) = read(run.tables("examples"), true)?;
        let (mut validation, _) = read(run.tables("validation"), false)?;
        if validation.is_empty() && self.config.validation_split > 0.0 {
            validation = hold_back(&mut examples, self.config.validation_split);
        }
        if examples.is_empty() {
            let rows = tables.iter().map(|table| table.rows).sum();
            let why = match rows {
                0 => "`examples` has no rows".to_owned(),
                _ => format!("none of the {rows} rows of `examples` has a source and a target"),
            };
            return Err(
                Error::data(format!("there is nothing to learn from: {why}")).input("examples")
            );
        }
        let work = Work {
            services: run.services(),
            validation,
            validate_every: self.validate_every(examples.len()),
            patience: self.config.patience,
        };
        let options = self.options(run.seed());
        let (trainer, metrics) = pool.install(|| -> Result<_> {
            let (mut trainer, mut metrics) = start(model, examples, options, services)?;
            work.train(&mut trainer, &mut metrics)?;
            Ok((trainer, metrics))
        })?;
        run.push("metrics", &to_rows(&metrics)?)?;
        let out = run.output_dir("model")?;
        pool.install(|| self.save(trainer, &tokenizer, &tables, &metrics, out))
    }
}

impl Finetune {
    fn options(&self, seed: u64) -> Options {
        let config = &self.config;
        Options {
            length: match (config.epochs, config.steps) {
                (_, Some(steps)) => Length::Steps(steps),
                (epochs, None) => Length::Epochs(epochs.unwrap_or(1)),
            },
            batch_size: config.batch_size,
            accumulate: config.accumulate,
            optimizer: match config.optimizer {
                OptimizerName::AdamW => Optimizer::AdamW { betas: [0.9, 0.999], eps: 1e-8 },
                OptimizerName::Adafactor => {
                    Optimizer::Adafactor { scale_parameter: config.scale_parameter }
                }
            },
            learning_rate: config.learning_rate,
            schedule: match config.schedule {
                ScheduleName::Constant => Schedule::Constant,
                ScheduleName::Linear => Schedule::Linear,
                ScheduleName::Cosine => Schedule::Cosine,
                ScheduleName::InverseSqrt => Schedule::InverseSqrt,
                ScheduleName::Polynomial => {
                    Schedule::Polynomial { power: config.power.unwrap_or(1.0) }
                }
            },
            warmup: match config.warmup_ratio {
                Some(share) => Warmup::Share(share),
                None => Warmup::Steps(config.warmup_steps),
            },
            weight_decay: config.weight_decay,
            clip_norm: (config.clip > 0.0).then_some(config.clip),
            dropout: config.dropout,
            label_smoothing: config.label_smoothing,
            shuffle: config.shuffle,
            lora: config.lora.as_ref().map(LoraConfig::options),
            freeze: config.freeze.clone(),
            precision: config.precision,
            seed,
        }
    }

    /// The examples of pairs; tells what was cut.
    fn encode(
        &self,
        pairs: &[Pair],
        tokenizer: &Tokenizer,
        pool: &ThreadPool,
        services: Services,
    ) -> Result<Vec<Example>> {
        let mut tally = Tally::new(services);
        let mut side = |(what, text): (&str, fn(&Pair) -> &str), limit, setting| -> Result<_> {
            let texts: Vec<&str> = pairs.iter().map(text).collect();
            let encoded = pool.install(|| tokenizer.encode_all(&texts, limit))?;
            tally.cut(what, limit, setting, encoded.iter().map(|text| text.cut));
            Ok(encoded.into_iter().map(|text| text.ids))
        };
        let [source, target] = Pair::TEXTS;
        let sources = side(source, self.config.max_source_tokens, "max_source_tokens")?;
        let targets = side(target, self.config.max_target_tokens, "max_target_tokens")?;
        Ok(sources.zip(targets).map(|(source, target)| Example { source, target }).collect())
    }

    /// Writes the model that did best, with its tokenizer and its card.
    fn save(
        &self,
        trainer: Trainer,
        tokenizer: &Tokenizer,
        tables: &[TableCount],
        metrics: &[Metric],
        out: &Path,
    ) -> Result<()> {
        let best = trainer.best_loss();
        let (model, adapter) = trainer.into_best_model();
        let base = card::hub_name(model.config());
        if let Some(adapter) = adapter {
            adapter.write(base, &out.join(ADAPTER))?;
        }
        let format = Format {
            precision: self.config.dtype,
            max_shard_bytes: folder::parse_size(&self.config.max_shard_size)?,
        };
        folder::save_as(&model, out, format)?;
        tokenizer.save(out)?;
        let result = json!({
            "steps": metrics.len(),
            "loss": metrics.last().map(|metric| f64::from_bits(metric.numbers[0])),
            "validation_loss": best,
        });
        let card = Card {
            what: "fine-tuned from examples",
            base,
            tables,
            sections: vec![("Configuration", card::section(&self.config)), ("Result", result)],
        };
        Ok(card.write(&model, out)?)
    }

    fn validate_every(&self, examples: usize) -> u64 {
        let epoch = examples.div_ceil(self.config.batch_size * self.config.accumulate);
        self.config.validate_every.unwrap_or(epoch as u64).max(1)
    }
}

/// Takes evenly spread examples out.
fn hold_back(examples: &mut Vec<Example>, share: f64) -> Vec<Example> {
    let (mut kept, mut held, mut due) = (Vec::new(), Vec::new(), 0.0);
    for example in examples.drain(..) {
        due += share;
        if due >= 1.0 {
            due -= 1.0;
            held.push(example);
        } else {
            kept.push(example);
        }
    }
    *examples = kept;
    held
}

/// A row of the metrics table. Times are not in it: they differ from run to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Metric {
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
}

fn to_rows(metrics: &[Metric]) -> Result<RecordBatch> {
    let number = |index: usize| -> Arc<Float64Array> {
        Arc::new(metrics.iter().map(|metric| Some(f64::from_bits(metric.numbers[index]))).collect())
    };
    let steps: Int64Array = metrics.iter().map(|metric| Some(metric.step as i64)).collect();
    let epochs: Int64Array = metrics.iter().map(|metric| Some(metric.epoch as i64)).collect();
    let validation: Float64Array =
        metrics.iter().map(|metric| metric.validation.map(f64::from_bits)).collect();
    let columns: Vec<Arc<dyn arrow::array::Array>> = vec![
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
fn start(
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

struct Work {
    services: Services,
    validation: Vec<Example>,
    validate_every: u64,
    patience: Option<u64>,
}

impl Work {
    fn train(&self, trainer: &mut Trainer, metrics: &mut Vec<Metric>) -> Result<()> {
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
        let due = last.step % self.validate_every == 0 || last.step == trainer.total_steps();
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
