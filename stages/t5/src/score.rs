//! `score-stsb`, `score-cola` and `score-loss`: T5 as a judge.
//!
//! The decoder does not run free: the set of labels is closed, so their exact
//! probabilities come from one or two decoder steps.

use std::sync::Arc;

use arrow::array::{BooleanArray, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use paraloom_sdk::{
    About, Emit, Error, MapStage, PlanInputs, Planned, Port, Result, Run, Services, column,
};
use paraloom_t5_core::device::fingerprint;
use paraloom_t5_core::numeric::Precision;
use paraloom_t5_core::score::{BATCH, Labels, cola_prompt, encode_stsb, probabilities};
use paraloom_t5_core::tokenizer::{Encoded, TEXTS_PER_THREAD, Tokenizer};
use paraloom_t5_core::train::{Example, mean_loss};
use rayon::ThreadPool;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

use super::examples::{Kind, Pair, Task};
use super::shared::{
    Loaded, MAX_SOURCE_TOKENS, PART_ROWS, SpecialTokens, load_model, pool, row_by_row, with_row,
};
use super::tally::{Tally, without_eos};
use crate::memory::{self, Use, halving};

/// A model that judges.
pub struct Judge<C> {
    loaded: Arc<Loaded>,
    tokenizer: Arc<Tokenizer>,
    pool: Arc<ThreadPool>,
    labels: Option<Labels>,
    config: C,
    tally: Tally,
}

/// What a model thinks of a row.
pub(super) struct Judged {
    /// Of every label.
    pub(super) probabilities: Vec<f64>,
    /// Whether the prompt was cut.
    cut: bool,
}

impl<C> Judge<C> {
    pub(super) fn open(
        run: &Run,
        precision: Precision,
        special_tokens: SpecialTokens,
        config: C,
        labels: impl FnOnce(&Tokenizer) -> paraloom_t5_core::Result<Option<Labels>>,
    ) -> Result<Self> {
        let loaded = load_model(run, precision)?;
        let tokenizer = special_tokens.of(Arc::clone(&loaded.tokenizer))?;
        let labels = labels(&tokenizer)?;
        let tally = Tally::new(run.services());
        Ok(Self { loaded, tokenizer, pool: pool(run.threads())?, labels, config, tally })
    }

    /// The probabilities of the labels for every row that has a prompt, which `encode` makes tokens of.
    pub(super) fn judge<P: Sync>(
        &mut self,
        rows: &RecordBatch,
        prompts: &[Option<P>],
        encode: impl Fn(&Tokenizer, &P) -> paraloom_t5_core::Result<Encoded> + Sync,
        services: Services,
    ) -> Result<Vec<Option<Judged>>> {
        let labels =
            self.labels.as_ref().ok_or_else(|| Error::internal("a judge without labels"))?;
        let (model, tokenizer) = (&self.loaded.model, &self.tokenizer);
        let present: Vec<_> = (0..prompts.len()).filter(|row| prompts[*row].is_some()).collect();
        let texts: Vec<_> = prompts.iter().flatten().collect();
        let encoded: Vec<Encoded> = self.pool.install(|| {
            let texts = texts.par_iter().with_min_len(TEXTS_PER_THREAD);
            texts.map(|text| encode(tokenizer, text)).collect::<paraloom_t5_core::Result<_>>()
        })?;
        let sources: Vec<&[u32]> = encoded.iter().map(|source| source.ids.as_slice()).collect();
        let judged = halving(services, BATCH, |batch_size| {
            let cancelled = || services.is_cancelled();
            self.pool.install(|| probabilities(model, &sources, labels, batch_size, &cancelled))
        });
        let judged = judged.map_err(|error| with_row(error, rows, &present))?;
        let mut all: Vec<_> = prompts.iter().map(|_| None).collect();
        for ((row, probabilities), Encoded { cut, .. }) in
            present.into_iter().zip(judged).zip(encoded)
        {
            all[row] = Some(Judged { probabilities, cut });
        }
        Ok(all)
    }

    /// Counts what was cut.
    pub(super) fn count(&mut self, judged: &[Option<Judged>], limit: usize) {
        let cut = judged.iter().flatten().map(|judged| judged.cut);
        self.tally.cut("prompts", limit, "max_source_tokens", cut);
    }

    pub(super) fn config(&self) -> &C {
        &self.config
    }

    fn names(&self) -> &[String] {
        self.labels.as_ref().map_or(&[], Labels::names)
    }
}

/// The field that says of each row whether it was cut.
pub(super) fn cut_field(into: &str) -> Field {
    Field::new(format!("{into}_cut"), DataType::Boolean, true)
}

/// A text as it is judged.
pub(super) fn judged_text(text: &str, strip_eos: bool) -> &str {
    if strip_eos { without_eos(text) } else { text }
}

fn about(name: &'static str, doc: &'static str, rows: &'static str) -> About {
    row_by_row(About::new(name, "1.2.0", doc))
        .input(Port::table("rows", "The rows to judge."))
        .input(Port::artifact(
            "model",
            "The model that judges. Only T5 1.0 checkpoints know this task.",
        ))
        .output(Port::table("rows", rows))
        .keeps_rows()
}

/// Index of the greatest value; the first if there are several.
pub(super) fn most_likely(probabilities: &[f64]) -> usize {
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
    /// Longer prompts are cut: first the longer sentence, then both, so that each keeps its part.
    #[serde(default = "max_source_tokens")]
    #[schemars(range(min = 32))]
    max_source_tokens: usize,
    /// Adds a column of the name of `into` with `_cut`: whether the prompt was cut.
    #[serde(default)]
    #[schemars(extend("x-paraloom-marks" = serde_json::json!({"cut": "{into}_cut"})))]
    mark: bool,
    /// Takes `</s>` off the ends of the texts, where it stands for a tokenizer that reads it as the end.
    #[serde(default)]
    strip_eos: bool,
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
fn max_source_tokens() -> usize {
    MAX_SOURCE_TOKENS
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
        let cut = config.mark.then(|| cut_field(&config.into));
        let schema = rows.with_fields(stsb_fields(&config).into_iter().chain(cut));
        let memory = memory::likely(inputs.note("model"), Use::Read(config.precision));
        let fingerprint = fingerprint(config.precision)?;
        Ok(Planned::new(Self(config), [Some(schema)]).fingerprint(fingerprint).memory(memory))
    }

    fn open(&self, run: &Run) -> Result<Self::Worker> {
        Judge::open(run, self.0.precision, SpecialTokens::Text, self.0.clone(), |tokenizer| {
            Labels::stsb(tokenizer).map(Some)
        })
    }

    fn map(judge: &mut Self::Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let StsbConfig { max_source_tokens: limit, strip_eos, mark, .. } = judge.config;
        let (first, second) =
            (column::text(&rows, &judge.config.first)?, column::text(&rows, &judge.config.second)?);
        for (column, texts) in [(&judge.config.first, &first), (&judge.config.second, &second)] {
            let texts = texts.iter().flatten().map(|text| judged_text(text, strip_eos));
            judge.tally.eos(&format!("texts of `{column}`"), texts);
        }
        let text = |text| judged_text(text, strip_eos);
        let pairs: Vec<_> =
            first.iter().zip(&second).map(|(a, b)| Some((text(a?), text(b?)))).collect();
        let encode = |tokenizer: &_, (a, b): &(&str, &str)| encode_stsb(tokenizer, a, b, limit);
        let judged = judge.judge(&rows, &pairs, encode, emit.services())?;
        judge.count(&judged, limit);
        let values: Vec<f64> =
            judge.names().iter().map(|name| name.parse().unwrap_or(f64::NAN)).collect();
        let of = |judged: &Option<Judged>, value: fn(&[f64], &[f64]) -> f64| {
            judged.as_ref().map(|judged| value(&judged.probabilities, &values))
        };
        let label = |p: &[f64], values: &[f64]| values[most_likely(p)];
        let mean = |p: &[f64], values: &[f64]| p.iter().zip(values).map(|(p, v)| p * v).sum();
        let labels: Float64Array = judged.iter().map(|judged| of(judged, label)).collect();
        let means: Float64Array = judged.iter().map(|judged| of(judged, mean)).collect();
        let [label, mean] = stsb_fields(&judge.config);
        let rows = column::with_field(&rows, label, Arc::new(labels))?;
        let rows = column::with_field(&rows, mean, Arc::new(means))?;
        emit.push("rows", &marked(&rows, mark, &judge.config.into, &judged)?)
    }
}

/// The rows with a column that says which of them were cut, if that is wanted.
pub(super) fn marked(
    rows: &RecordBatch,
    mark: bool,
    into: &str,
    judged: &[Option<Judged>],
) -> Result<RecordBatch> {
    let cut = judged.iter().map(|judged| judged.as_ref().map(|judged| judged.cut));
    if mark { with_cuts(rows, into, cut.collect()) } else { Ok(rows.clone()) }
}

fn with_cuts(rows: &RecordBatch, into: &str, cut: BooleanArray) -> Result<RecordBatch> {
    column::with_field(rows, cut_field(into), Arc::new(cut))
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
    /// Longer prompts are cut at their end.
    #[serde(default = "max_source_tokens")]
    #[schemars(range(min = 32))]
    max_source_tokens: usize,
    /// Adds a column of the name of `into` with `_cut`: whether the prompt was cut.
    #[serde(default)]
    #[schemars(extend("x-paraloom-marks" = serde_json::json!({"cut": "{into}_cut"})))]
    mark: bool,
    /// Takes `</s>` off the ends of the texts, where it stands for a tokenizer that reads it as the end.
    #[serde(default)]
    strip_eos: bool,
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
        let cut = config.mark.then(|| cut_field(&config.into));
        let schema = rows.with_fields(cola_fields(&config).into_iter().chain(cut));
        let memory = memory::likely(inputs.note("model"), Use::Read(config.precision));
        let fingerprint = fingerprint(config.precision)?;
        Ok(Planned::new(Self(config), [Some(schema)]).fingerprint(fingerprint).memory(memory))
    }

    fn open(&self, run: &Run) -> Result<Self::Worker> {
        Judge::open(run, self.0.precision, SpecialTokens::Text, self.0.clone(), |tokenizer| {
            Labels::cola(tokenizer).map(Some)
        })
    }

    fn map(judge: &mut Self::Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let ColaConfig { max_source_tokens: limit, strip_eos, mark, .. } = judge.config;
        let column = column::text(&rows, &judge.config.text)?;
        let texts: Vec<_> = column.iter().map(|text| Some(judged_text(text?, strip_eos))).collect();
        let told = format!("texts of `{}`", judge.config.text);
        judge.tally.eos(&told, texts.iter().copied().flatten());
        let encode =
            |tokenizer: &Tokenizer, text: &&str| tokenizer.encode_within(&cola_prompt(text), limit);
        let judged = judge.judge(&rows, &texts, encode, emit.services())?;
        judge.count(&judged, limit);
        let names = judge.names();
        let acceptable = names.iter().position(|name| name == "acceptable").unwrap_or(0);
        let probabilities =
            || judged.iter().map(|judged| judged.as_ref().map(|judged| &judged.probabilities));
        let labels: StringArray =
            probabilities().map(|p| p.map(|p| names[most_likely(p)].as_str())).collect();
        let p: Float64Array = probabilities().map(|p| p.map(|p| p[acceptable])).collect();
        let [label, chance] = cola_fields(&judge.config);
        let rows = column::with_field(&rows, label, Arc::new(labels))?;
        let rows = column::with_field(&rows, chance, Arc::new(p))?;
        emit.push("rows", &marked(&rows, mark, &judge.config.into, &judged)?)
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
    /// Longer sources are cut.
    #[serde(default = "max_source_tokens")]
    #[schemars(range(min = 2))]
    max_source_tokens: usize,
    /// Longer targets are cut.
    #[serde(default = "max_source_tokens")]
    #[schemars(range(min = 2))]
    max_target_tokens: usize,
    /// Adds a column of the name of `into` with `_cut`: whether the source or the target was cut.
    #[serde(default)]
    #[schemars(extend("x-paraloom-marks" = serde_json::json!({"cut": "{into}_cut"})))]
    mark: bool,
    /// Takes `</s>` off the ends of the texts, where it stands for a tokenizer that reads it as the end.
    #[serde(default)]
    strip_eos: bool,
    /// What `</s>`, `<extra_id_0>` and the other built-in special tokens are in texts: `text` like any other, or, with `parse`,
    /// the tokens, as in T5's pre-training.
    #[serde(default)]
    special_tokens: SpecialTokens,
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
            strip_eos: self.strip_eos,
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
        About::new("score-loss", "1.2.0", "How surprised a model is by a target text.")
            .input(Port::table("rows", "Rows with a source and a target."))
            .input(Port::artifact("model", "The model."))
            .output(Port::table("rows", "The same rows with `loss`."))
            .keeps_rows()
            .part_rows(PART_ROWS)
    }

    fn plan(config: LossConfig, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        config.task().check(&rows, "")?;
        let cut = config.mark.then(|| cut_field(&config.into));
        let loss = Field::new(&config.into, DataType::Float64, true);
        let schema = rows.with_fields([loss].into_iter().chain(cut));
        let memory = memory::likely(inputs.note("model"), Use::Read(config.precision));
        let fingerprint = fingerprint(config.precision)?;
        Ok(Planned::new(Self(config), [Some(schema)]).fingerprint(fingerprint).memory(memory))
    }

    fn open(&self, run: &Run) -> Result<Self::Worker> {
        let LossConfig { precision, special_tokens, .. } = self.0;
        Judge::open(run, precision, special_tokens, self.0.clone(), |_| Ok(None))
    }

    fn map(judge: &mut Self::Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let LossConfig { max_source_tokens, max_target_tokens, mark, .. } = judge.config;
        let task = judge.config.task();
        let (services, tokenizer) = (emit.services(), &judge.tokenizer);
        let pairs = task.pairs(&rows)?;
        for (what, text) in Pair::TEXTS {
            judge.tally.eos(what, pairs.iter().flatten().map(text));
        }
        let (mut losses, mut cuts) = (Vec::new(), Vec::new());
        for (row, pair) in pairs.iter().enumerate() {
            services.check_cancelled()?;
            let Some(pair) = pair else {
                losses.push(None);
                cuts.push(None);
                continue;
            };
            let source = tokenizer.encode_within(&pair.source, max_source_tokens)?;
            let target = tokenizer.encode_within(&pair.target, max_target_tokens)?;
            cuts.push(Some([source.cut, target.cut]));
            let example = Example { source: source.ids, target: target.ids };
            let model = &judge.loaded.model;
            let loss = judge.pool.install(|| mean_loss(&model.network(), &[example], &|| false))?;
            if !loss.is_finite() {
                let error = paraloom_t5_core::Error::NotNumbers { row: 0, what: "losses" };
                return Err(with_row(error, &rows, &[row]));
            }
            losses.push(Some(loss));
        }
        let cut = |at: usize| cuts.iter().flatten().map(move |cut: &[bool; 2]| cut[at]);
        judge.tally.cut("sources", max_source_tokens, "max_source_tokens", cut(0));
        judge.tally.cut("targets", max_target_tokens, "max_target_tokens", cut(1));
        let field = Field::new(&judge.config.into, DataType::Float64, true);
        let mut rows = column::with_field(&rows, field, Arc::new(Float64Array::from(losses)))?;
        if mark {
            let cut = cuts.iter().map(|cut| cut.map(|[source, target]| source || target));
            rows = with_cuts(&rows, &judge.config.into, cut.collect())?;
        }
        emit.push("rows", &rows)
    }
}
