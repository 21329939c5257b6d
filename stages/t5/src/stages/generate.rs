//! `generate`: writes text for every row.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, UInt32Array,
};
use arrow::compute::{filter_record_batch, is_null, take};
use arrow::datatypes::{DataType, Field};
use paraloom_sdk::identity::{child_id, id_field, ids, parent_field, row_seed};
use paraloom_sdk::{
    About, Emit, Error, MapStage, PlanInputs, Planned, Port, Result, Run, Services, column,
};
use rayon::ThreadPool;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::shared::{Loaded, MAX_SOURCE_TOKENS, load_model, pool, row_by_row, with_row};
use super::tally::{Tally, without_eos};
use crate::decode::{Candidate, Draw, EarlyStopping, Options, Row, Strategy, generate};
use crate::device::fingerprint;
use crate::memory::{self, Use, halving};
use crate::model::Precision;

/// Settings of `generate`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-paraloom-elsewhere" = super::names::of_generate()))]
pub struct Config {
    /// Stands before every source, such as `paraphrase: `.
    #[serde(default)]
    prefix: String,
    /// The column to read.
    #[serde(default = "source")]
    source: String,
    /// The column to write.
    #[serde(default = "paraphrase")]
    into: String,
    /// Texts per row.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    #[schemars(extend("x-paraloom-request" = json!({"maximum": 64, "multiplies": true})))]
    candidates: usize,
    /// Draw each token at random. Without `sample` and `beam`, the most probable is taken.
    #[serde(default)]
    #[schemars(extend("x-paraloom-request" = json!({"replaces": ["beam"]})))]
    sample: Option<Sample>,
    /// Keep the most probable beginnings.
    #[serde(default)]
    #[schemars(extend("x-paraloom-request" = json!({"replaces": ["sample"]})))]
    beam: Option<Beam>,
    /// Longest text, in tokens.
    #[serde(default = "max_new_tokens")]
    #[schemars(range(min = 1, max = 4096))]
    #[schemars(extend("x-paraloom-request" = json!({"maximum": 512})))]
    max_new_tokens: usize,
    /// Above 1, makes tokens that were used already less probable.
    #[serde(default = "one_point")]
    #[schemars(range(min = 0.01, max = 100.0))]
    #[schemars(extend("x-paraloom-request" = true))]
    repetition_penalty: f64,
    /// Sequences of this many tokens do not come twice; 0 allows them.
    #[serde(default)]
    #[schemars(extend("x-paraloom-request" = true))]
    no_repeat_ngram_size: usize,
    /// Sequences of this many tokens of the source do not come in the text; 0 allows them.
    #[serde(default)]
    #[schemars(extend("x-paraloom-request" = true))]
    encoder_no_repeat_ngram_size: usize,
    /// Words and phrases that do not come in the text. They are looked for as the tokenizer divides them at the beginning of a word.
    #[serde(default)]
    #[schemars(extend("x-paraloom-request" = true))]
    bad_words: Vec<String>,
    /// What every text begins with.
    #[serde(default)]
    #[schemars(extend("x-paraloom-request" = true))]
    begin: String,
    /// Shortest text, in tokens.
    #[serde(default)]
    #[schemars(extend("x-paraloom-request" = true))]
    min_new_tokens: usize,
    /// Longer sources are cut.
    #[serde(default = "max_source_tokens")]
    #[schemars(range(min = 2))]
    #[schemars(extend("x-paraloom-request" = json!({"maximum": 2048})))]
    max_source_tokens: usize,
    /// Adds two columns: `source_cut`, whether the source was cut, and `ended`, how the text did: `eos` where the model ended
    /// it, `length` where `max_new_tokens` did.
    #[serde(default)]
    #[schemars(extend("x-paraloom-marks" = json!({"cut": SOURCE_CUT, "ended": ENDED})))]
    mark: bool,
    /// Takes `</s>` off the ends of sources, where it stands for a tokenizer that reads it as the end.
    #[serde(default)]
    strip_eos: bool,
    /// What is computed with. bf16 takes half the memory and is faster where the processor has instructions for it; int8
    /// takes less still, on the CPU, and is less exact.
    #[serde(default)]
    precision: Precision,
}

/// How tokens are drawn: by filters that come one after the other, in this order.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sample {
    /// Below 1 makes probable tokens more probable.
    #[serde(default = "one_point")]
    #[schemars(range(min = 0.01, max = 100.0))]
    temperature: f64,
    /// Only the most probable tokens, this many; 0 takes all.
    #[serde(default)]
    top_k: usize,
    /// Only the most probable tokens that together have this probability.
    #[serde(default = "one_point")]
    #[schemars(range(min = 0.0, max = 1.0))]
    top_p: f64,
    /// Only tokens that are at least this share as probable as the most probable one; 0 takes all.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    min_p: f64,
    /// Only tokens whose surprise is closest to the expected one, of together this probability.
    #[serde(default = "one_point")]
    #[schemars(range(min = 0.0, max = 1.0))]
    typical_p: f64,
    /// Only tokens of at least this probability; 0 takes all.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    epsilon_cutoff: f64,
    /// The same, of less where many tokens are about as probable; 0 takes all.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    eta_cutoff: f64,
}

/// How beams are kept.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Beam {
    /// How many; 1 is greedy search.
    #[schemars(range(min = 1, max = 256))]
    #[schemars(extend("x-paraloom-request" = json!({"maximum": 32, "multiplies": true})))]
    beams: usize,
    /// Deals the beams out to so many groups, each of which keeps away from what those before it write: texts that differ.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256))]
    groups: usize,
    /// What a token costs in a group for each beam before it that has the same at the same place, in logarithms of
    /// probability.
    #[serde(default = "one_point")]
    #[schemars(range(min = 0.001, max = 1000.0))]
    diversity_penalty: f64,
    /// Above 0 favours longer texts.
    #[serde(default = "one_point")]
    length_penalty: f64,
    /// When to stop looking.
    #[serde(default)]
    early_stopping: Stopping,
}

/// When a beam search ends.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Stopping {
    /// As soon as there are as many texts as beams.
    Yes,
    /// When a better text is improbable.
    #[default]
    No,
    /// When there can be no better text.
    Never,
}

fn source() -> String {
    "source".to_owned()
}
fn paraphrase() -> String {
    "paraphrase".to_owned()
}
fn one() -> usize {
    1
}
fn one_point() -> f64 {
    1.0
}
fn max_new_tokens() -> usize {
    128
}
fn max_source_tokens() -> usize {
    MAX_SOURCE_TOKENS
}

/// Which of a row's texts it is, from 1.
const CANDIDATE: &str = "candidate";
/// The text's score: the logarithm of its probability, or what beam search ranks by.
const SCORE: &str = "generation_score";

/// Whether the source was cut.
const SOURCE_CUT: &str = "source_cut";
/// How a text ended.
const ENDED: &str = "ended";

/// The columns that [`Config::mark`] asks for.
fn marks() -> [Field; 2] {
    [Field::new(SOURCE_CUT, DataType::Boolean, false), Field::new(ENDED, DataType::Utf8, false)]
}

/// Why a row is rejected.
fn reason_field() -> Field {
    Field::new("reason", DataType::Utf8, false)
}

/// The stage.
pub struct Generate {
    config: Config,
    options: Options,
}

/// A model at work.
pub struct Worker {
    loaded: Arc<Loaded>,
    pool: Arc<ThreadPool>,
    config: Config,
    options: Options,
    seed: u64,
    tally: Tally,
}

/// What was written for a row.
#[derive(Clone, Default)]
struct Written {
    candidates: Vec<Candidate>,
    source_cut: bool,
}

impl MapStage for Generate {
    type Config = Config;
    type Worker = Worker;

    fn about() -> About {
        row_by_row(About::new(
            "generate",
            "1.3.0",
            "Writes text for every row: greedily, by beam search or by sampling.",
        ))
        .input(Port::table("rows", "The rows to write for."))
        .input(Port::artifact("model", "The model that writes."))
        .output(Port::table(
            "rows",
            "One row per text, with the columns of the row that it was written for.",
        ))
        .output(Port::table("rejected", "The rows without a source, with the `reason`."))
        .covers_rows()
        .uses_seed()
        .covers_rows()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        rows.text(&config.source, "/source")?;
        let options = options(&config)?;
        let fields = [
            id_field(),
            parent_field(),
            Field::new(&config.into, DataType::Utf8, true),
            Field::new(CANDIDATE, DataType::Int64, false),
            Field::new(SCORE, DataType::Float64, true),
        ];
        let marks = config.mark.then(marks).into_iter().flatten();
        let schema = rows.with_fields(fields.into_iter().chain(marks));
        let rejected = rows.with_fields([reason_field()]);
        let memory = memory::likely(inputs.note("model"), Use::Read(config.precision));
        let planned = Planned::new(Self { config, options }, [Some(schema), Some(rejected)]);
        Ok(planned.fingerprint(fingerprint()?).memory(memory))
    }

    fn open(&self, run: &Run) -> Result<Worker> {
        let loaded = load_model(run, self.config.precision)?;
        let pieces = |text: &String| loaded.tokenizer.pieces(text);
        let options = Options {
            bad_words: self.config.bad_words.iter().map(pieces).collect::<crate::Result<_>>()?,
            begin: pieces(&self.config.begin)?.into(),
            ..self.options.clone()
        };
        Ok(Worker {
            loaded,
            pool: pool(run.threads())?,
            config: self.config.clone(),
            options,
            seed: run.seed(),
            tally: Tally::new(run.services()),
        })
    }

    fn map(worker: &mut Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let services = emit.services();
        let texts = worker.write(&rows, services)?;
        emit.push("rows", &worker.output(&rows, &texts)?)?;
        emit.push("rejected", &worker.rejected(&rows)?)
    }
}

fn options(config: &Config) -> Result<Options> {
    if config.min_new_tokens > config.max_new_tokens {
        let most = config.max_new_tokens;
        let message = format!("`min_new_tokens` has to be at most `max_new_tokens`, {most}");
        return Err(Error::config(message).at("/min_new_tokens"));
    }
    if let Some(at) = config.bad_words.iter().position(|word| word.trim().is_empty()) {
        return Err(
            Error::config("an empty word cannot be left out").at(format!("/bad_words/{at}"))
        );
    }
    let strategy = match (config.sample, config.beam) {
        (Some(_), Some(_)) => {
            return Err(Error::config("say either `sample` or `beam`").at("/beam"));
        }
        (Some(sample), None) => Strategy::Sample(Draw {
            temperature: sample.temperature,
            top_k: sample.top_k,
            top_p: sample.top_p,
            min_p: sample.min_p,
            typical_p: sample.typical_p,
            epsilon_cutoff: sample.epsilon_cutoff,
            eta_cutoff: sample.eta_cutoff,
        }),
        // As the reference does.
        (None, Some(beam)) if beam.beams == 1 && config.candidates == 1 => Strategy::Greedy,
        (None, Some(beam)) if config.candidates > beam.beams => {
            let message = format!("{} candidates need as many beams", config.candidates);
            return Err(Error::config(message).at("/beam/beams"));
        }
        (None, Some(beam)) if beam.beams % beam.groups != 0 => {
            let message =
                format!("{} beams cannot be dealt out to {} groups", beam.beams, beam.groups);
            return Err(Error::config(message).at("/beam/groups").hint("take a divisor"));
        }
        (None, Some(beam)) => Strategy::Beam {
            beams: beam.beams,
            groups: beam.groups,
            diversity_penalty: beam.diversity_penalty,
            length_penalty: beam.length_penalty,
            early_stopping: match beam.early_stopping {
                Stopping::Yes => EarlyStopping::Yes,
                Stopping::No => EarlyStopping::No,
                Stopping::Never => EarlyStopping::Never,
            },
        },
        (None, None) if config.candidates > 1 => {
            return Err(
                Error::config("several candidates need `sample` or `beam`").at("/candidates")
            );
        }
        (None, None) => Strategy::Greedy,
    };
    Ok(Options {
        strategy,
        candidates: config.candidates,
        max_new_tokens: config.max_new_tokens,
        repetition_penalty: config.repetition_penalty,
        no_repeat_ngram_size: config.no_repeat_ngram_size,
        encoder_no_repeat_ngram_size: config.encoder_no_repeat_ngram_size,
        min_new_tokens: config.min_new_tokens,
        ..Options::default()
    })
}

impl Worker {
    /// What is written for every row; nothing for a row without a source.
    fn write(&mut self, rows: &RecordBatch, services: Services) -> Result<Vec<Written>> {
        let sources = column::text(rows, &self.config.source)?;
        let ids = ids(rows)?;
        let present: Vec<_> = (0..rows.num_rows()).filter(|row| sources.is_valid(*row)).collect();
        let texts: Vec<_> = present.iter().map(|row| self.source(sources.value(*row))).collect();
        self.tally.eos("sources", texts.iter().map(String::as_str));
        let limit = self.config.max_source_tokens;
        let encoded = self.pool.install(|| self.loaded.tokenizer.encode_all(&texts, limit))?;
        let cuts: Vec<bool> = encoded.iter().map(|source| source.cut).collect();
        self.tally.cut("sources", limit, "max_source_tokens", cuts.iter().copied());
        let inputs: Vec<_> = encoded
            .into_iter()
            .zip(&present)
            .map(|(source, row)| Row {
                ids: source.ids,
                seed: row_seed(self.seed, ids.value(*row)),
            })
            .collect();
        let written = halving(services, self.options.batch_size, |batch_size| {
            let options = Options { batch_size, ..self.options.clone() };
            let cancelled = || services.is_cancelled();
            self.pool.install(|| generate(&self.loaded.model, &inputs, &options, &cancelled))
        });
        let written = written.map_err(|error| with_row(error, rows, &present))?;
        let longest = self.config.max_new_tokens;
        self.tally.count(
            format!("texts were ended after {longest} tokens (`max_new_tokens`)"),
            written.iter().flatten().map(|candidate| !candidate.ended),
        );
        let mut all = vec![Written::default(); rows.num_rows()];
        for ((row, candidates), source_cut) in present.into_iter().zip(written).zip(cuts) {
            all[row] = Written { candidates, source_cut };
        }
        Ok(all)
    }

    /// The source as the model reads it.
    fn source(&self, text: &str) -> String {
        let text = if self.config.strip_eos { without_eos(text) } else { text };
        format!("{}{text}", self.config.prefix)
    }

    /// The rows that nothing can be written for.
    fn rejected(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let sources = column::text(rows, &self.config.source)?;
        let rejected = filter_record_batch(rows, &is_null(&sources)?)?;
        let reason = format!("`{}` is null", self.config.source);
        let reasons = StringArray::from(vec![reason; rejected.num_rows()]);
        column::with_field(&rejected, reason_field(), Arc::new(reasons))
    }

    fn output(&self, rows: &RecordBatch, texts: &[Written]) -> Result<RecordBatch> {
        let parents = ids(rows)?;
        let (mut origin, mut ids, mut written, mut numbers, mut scores) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut cuts, mut ends) = (Vec::new(), Vec::new());
        for (row, text) in texts.iter().enumerate() {
            for (number, candidate) in text.candidates.iter().enumerate() {
                cuts.push(text.source_cut);
                ends.push(if candidate.ended { "eos" } else { "length" });
                origin.push(row as u32);
                ids.push(child_id(parents.value(row), "generate", number as u32));
                written.push(self.loaded.tokenizer.decode(&candidate.ids)?);
                numbers.push(number as i64 + 1);
                scores.push(f64::from(candidate.score));
            }
        }
        let origin = UInt32Array::from(origin);
        let mut schema_fields = Vec::new();
        let mut columns = Vec::new();
        for (field, values) in rows.schema().fields().iter().zip(rows.columns()) {
            schema_fields.push(Arc::clone(field));
            columns.push(take(values, &origin, None)?);
        }
        let parent: ArrayRef = take(rows.column(rows.schema().index_of("_id")?), &origin, None)?;
        let base =
            RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(schema_fields)), columns)?;
        let base = column::with_field(&base, id_field(), Arc::new(StringArray::from(ids)))?;
        let base = column::with_field(&base, parent_field(), parent)?;
        let text = Field::new(&self.config.into, DataType::Utf8, true);
        let base = column::with_field(&base, text, Arc::new(StringArray::from(written)))?;
        let number = Field::new(CANDIDATE, DataType::Int64, false);
        let base = column::with_field(&base, number, Arc::new(Int64Array::from(numbers)))?;
        let score = Field::new(SCORE, DataType::Float64, true);
        let base = column::with_field(&base, score, Arc::new(Float64Array::from(scores)))?;
        if !self.config.mark {
            return Ok(base);
        }
        let [cut, ended] = marks();
        let base = column::with_field(&base, cut, Arc::new(BooleanArray::from(cuts)))?;
        column::with_field(&base, ended, Arc::new(StringArray::from(ends)))
    }
}
