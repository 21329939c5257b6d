//! `score-stsb`, `score-cola` and `score-loss`: T5 as a judge.
//!
//! The decoder does not run free: the set of labels is closed, so their exact
//! probabilities come from one or two decoder steps.

use std::sync::Arc;

use arrow::array::{Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use paraloom_sdk::{
    About, Emit, Error, MapStage, PlanInputs, Planned, Port, Result, Run, Services, column,
};
use rayon::ThreadPool;
use schemars::JsonSchema;
use serde::Deserialize;

use super::examples::{Kind, Task};
use super::shared::{Loaded, MAX_SOURCE_TOKENS, load_model, pool, row_by_row, with_row};
use crate::device::fingerprint;
use crate::memory::{self, Use, halving};
use crate::model::Precision;
use crate::score::{BATCH, Labels, cola_prompt, probabilities, stsb_prompt};
use crate::train::{Example, mean_loss};

/// A model that judges.
pub struct Judge<C> {
    loaded: Arc<Loaded>,
    pool: Arc<ThreadPool>,
    labels: Option<Labels>,
    config: C,
}

impl<C> Judge<C> {
    fn open(
        run: &Run,
        precision: Precision,
        config: C,
        labels: impl FnOnce(&Loaded) -> crate::Result<Option<Labels>>,
    ) -> Result<Self> {
        let loaded = load_model(run, precision)?;
        let labels = labels(&loaded)?;
        Ok(Self { loaded, pool: pool(run.threads())?, labels, config })
    }

    /// The probabilities of the labels for every prompt that is there.
    fn judge(
        &self,
        rows: &RecordBatch,
        prompts: &[Option<String>],
        services: Services,
    ) -> Result<Vec<Option<Vec<f64>>>> {
        let labels =
            self.labels.as_ref().ok_or_else(|| Error::internal("a judge without labels"))?;
        let texts: Vec<_> = prompts.iter().flatten().collect();
        let Loaded { model, tokenizer } = &*self.loaded;
        let encode = || tokenizer.encode_all(&texts, Some(MAX_SOURCE_TOKENS));
        let sources = self.pool.install(encode)?;
        let judged = halving(services, BATCH, |batch_size| {
            let cancelled = || services.is_cancelled();
            self.pool.install(|| probabilities(model, &sources, labels, batch_size, &cancelled))
        });
        let present: Vec<_> = (0..prompts.len()).filter(|row| prompts[*row].is_some()).collect();
        let mut judged = judged.map_err(|error| with_row(error, rows, &present))?.into_iter();
        Ok(prompts.iter().map(|prompt| prompt.as_ref().and_then(|_| judged.next())).collect())
    }

    fn names(&self) -> &[String] {
        self.labels.as_ref().map_or(&[], Labels::names)
    }
}

fn about(name: &'static str, doc: &'static str, rows: &'static str) -> About {
    row_by_row(About::new(name, "1.0.0", doc))
        .input(Port::table("rows", "The rows to judge."))
        .input(Port::artifact(
            "model",
            "The model that judges. Only T5 1.0 checkpoints know this task.",
        ))
        .output(Port::table("rows", rows))
}

/// Index of the greatest value; the first if there are several.
fn most_likely(probabilities: &[f64]) -> usize {
    let mut best = 0;
    for (index, value) in probabilities.iter().enumerate() {
        if *value > probabilities[best] {
            best = index;
        }
    }
    best
}

/// Settings of `score-stsb`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StsbConfig {
    /// The column with the first sentence.
    #[serde(default = "source")]
    first: String,
    /// The column with the second sentence.
    #[serde(default = "paraphrase")]
    second: String,
    /// The column to write: the most likely label, 0.0 to 5.0. The expected value goes to
    /// the column of this name with `_mean`.
    #[serde(default = "stsb")]
    into: String,
    /// What is computed with. bf16 takes half the memory and is faster where the processor has instructions for it; int8
    /// takes less still, on the CPU, and is less exact.
    #[serde(default)]
    precision: Precision,
}

fn source() -> String {
    "source".to_owned()
}
fn paraphrase() -> String {
    "paraphrase".to_owned()
}
fn stsb() -> String {
    "stsb".to_owned()
}
fn cola() -> String {
    "cola".to_owned()
}
fn loss() -> String {
    "loss".to_owned()
}

/// The stage.
pub struct ScoreStsb(StsbConfig);

impl MapStage for ScoreStsb {
    type Config = StsbConfig;
    type Worker = Judge<StsbConfig>;

    fn about() -> About {
        about(
            "score-stsb",
            "How similar two sentences are in meaning, 0 to 5, as T5 sees it.",
            "The same rows with `stsb` and `stsb_mean`.",
        )
    }

    fn plan(config: StsbConfig, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        rows.text(&config.first, "/first")?;
        rows.text(&config.second, "/second")?;
        let schema = rows.with_fields(stsb_fields(&config));
        let memory = memory::likely(inputs.note("model"), Use::Read(config.precision));
        Ok(Planned::new(Self(config), [Some(schema)]).fingerprint(fingerprint()?).memory(memory))
    }

    fn open(&self, run: &Run) -> Result<Self::Worker> {
        Judge::open(run, self.0.precision, self.0.clone(), |loaded| {
            Labels::stsb(&loaded.tokenizer).map(Some)
        })
    }

    fn map(judge: &mut Self::Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let (first, second) =
            (column::text(&rows, &judge.config.first)?, column::text(&rows, &judge.config.second)?);
        let prompts: Vec<_> =
            first.iter().zip(&second).map(|(a, b)| Some(stsb_prompt(a?, b?))).collect();
        let judged = judge.judge(&rows, &prompts, emit.services())?;
        let values: Vec<f64> =
            judge.names().iter().map(|name| name.parse().unwrap_or(f64::NAN)).collect();
        let label = |p: &Option<Vec<f64>>| p.as_ref().map(|p| values[most_likely(p)]);
        let mean = |p: &Option<Vec<f64>>| {
            p.as_ref().map(|p| p.iter().zip(&values).map(|(p, v)| p * v).sum())
        };
        let labels: Float64Array = judged.iter().map(label).collect();
        let means: Float64Array = judged.iter().map(mean).collect();
        let [label, mean] = stsb_fields(&judge.config);
        let rows = column::with_field(&rows, label, Arc::new(labels))?;
        emit.push("rows", &column::with_field(&rows, mean, Arc::new(means))?)
    }
}

fn stsb_fields(config: &StsbConfig) -> [Field; 2] {
    let field = |name: &str| Field::new(name, DataType::Float64, true);
    [field(&config.into), field(&format!("{}_mean", config.into))]
}

/// Settings of `score-cola`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColaConfig {
    /// The column with the sentence.
    #[serde(default = "paraphrase")]
    text: String,
    /// The column to write: `acceptable` or `unacceptable`. The probability of
    /// `acceptable` goes to the column of this name with `_p`.
    #[serde(default = "cola")]
    into: String,
    /// What is computed with. bf16 takes half the memory and is faster where the processor has instructions for it; int8
    /// takes less still, on the CPU, and is less exact.
    #[serde(default)]
    precision: Precision,
}

/// The stage.
pub struct ScoreCola(ColaConfig);

impl MapStage for ScoreCola {
    type Config = ColaConfig;
    type Worker = Judge<ColaConfig>;

    fn about() -> About {
        about(
            "score-cola",
            "Whether a sentence is acceptable English, as T5 sees it.",
            "The same rows with `cola` and `cola_p`.",
        )
    }

    fn plan(config: ColaConfig, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        rows.text(&config.text, "/text")?;
        let schema = rows.with_fields(cola_fields(&config));
        let memory = memory::likely(inputs.note("model"), Use::Read(config.precision));
        Ok(Planned::new(Self(config), [Some(schema)]).fingerprint(fingerprint()?).memory(memory))
    }

    fn open(&self, run: &Run) -> Result<Self::Worker> {
        Judge::open(run, self.0.precision, self.0.clone(), |loaded| {
            Labels::cola(&loaded.tokenizer).map(Some)
        })
    }

    fn map(judge: &mut Self::Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let texts = column::text(&rows, &judge.config.text)?;
        let prompts: Vec<_> = texts.iter().map(|text| text.map(cola_prompt)).collect();
        let judged = judge.judge(&rows, &prompts, emit.services())?;
        let names = judge.names();
        let acceptable = names.iter().position(|name| name == "acceptable").unwrap_or(0);
        let label = |p: &Option<Vec<f64>>| p.as_ref().map(|p| names[most_likely(p)].as_str());
        let labels: StringArray = judged.iter().map(label).collect();
        let p: Float64Array = judged.iter().map(|p| p.as_ref().map(|p| p[acceptable])).collect();
        let [label, chance] = cola_fields(&judge.config);
        let rows = column::with_field(&rows, label, Arc::new(labels))?;
        emit.push("rows", &column::with_field(&rows, chance, Arc::new(p))?)
    }
}

fn cola_fields(config: &ColaConfig) -> [Field; 2] {
    [
        Field::new(&config.into, DataType::Utf8, true),
        Field::new(format!("{}_p", config.into), DataType::Float64, true),
    ]
}

/// Settings of `score-loss`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// Stands before every source, such as `paraphrase: `.
    #[serde(default)]
    prefix: String,
    /// The column that the model reads.
    #[serde(default)]
    source: Option<String>,
    /// The column that it should write.
    #[serde(default)]
    target: Option<String>,
    /// The column to write: the mean loss of a target token.
    #[serde(default = "loss")]
    into: String,
    /// What is computed with. bf16 takes half the memory and is faster where the processor has instructions for it; int8
    /// takes less still, on the CPU, and is less exact.
    #[serde(default)]
    precision: Precision,
}

impl LossConfig {
    fn task(&self) -> Task {
        Task {
            kind: Kind::Text,
            prefix: self.prefix.clone(),
            source: self.source.clone(),
            target: self.target.clone(),
            ..Task::default()
        }
    }
}

/// The stage.
pub struct ScoreLoss(LossConfig);

impl MapStage for ScoreLoss {
    type Config = LossConfig;
    type Worker = Judge<LossConfig>;

    fn about() -> About {
        About::new("score-loss", "1.0.0", "How surprised a model is by a target text.")
            .input(Port::table("rows", "Rows with a source and a target."))
            .input(Port::artifact("model", "The model."))
            .output(Port::table("rows", "The same rows with `loss`."))
    }

    fn plan(config: LossConfig, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        config.task().check(&rows, "")?;
        let schema = rows.with_fields([Field::new(&config.into, DataType::Float64, true)]);
        let memory = memory::likely(inputs.note("model"), Use::Read(config.precision));
        Ok(Planned::new(Self(config), [Some(schema)]).fingerprint(fingerprint()?).memory(memory))
    }

    fn open(&self, run: &Run) -> Result<Self::Worker> {
        Judge::open(run, self.0.precision, self.0.clone(), |_| Ok(None))
    }

    fn map(judge: &mut Self::Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let task = judge.config.task();
        let services = emit.services();
        let tokenizer = &judge.loaded.tokenizer;
        let mut losses = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            services.check_cancelled()?;
            let pair = task.pairs(&rows.slice(row, 1))?.into_iter().next();
            losses.push(match pair {
                Some(pair) => {
                    let example = Example {
                        source: tokenizer.encode(&pair.source, Some(MAX_SOURCE_TOKENS))?,
                        target: tokenizer.encode(&pair.target, Some(MAX_SOURCE_TOKENS))?,
                    };
                    let model = &judge.loaded.model;
                    let loss = judge.pool.install(|| mean_loss(model, &[example], &|| false))?;
                    if !loss.is_finite() {
                        let error = crate::Error::NotNumbers { row: 0, what: "losses" };
                        return Err(with_row(error, &rows, &[row]));
                    }
                    Some(loss)
                }
                None => None,
            });
        }
        let field = Field::new(&judge.config.into, DataType::Float64, true);
        let losses = Float64Array::from(losses);
        emit.push("rows", &column::with_field(&rows, field, Arc::new(losses))?)
    }
}
