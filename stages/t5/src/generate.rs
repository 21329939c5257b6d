//! `generate`: writes text for every row.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Float64Builder, Int64Array, ListBuilder,
    RecordBatch, StringArray, StringBuilder, UInt32Array,
};
use arrow::compute::{filter_record_batch, take};
use arrow::datatypes::{DataType, Field};
use paraloom_sdk::identity::{child_id, id_field, ids, parent_field, row_seed};
use paraloom_sdk::{
    About, Emit, Error, MapStage, PlanInputs, Planned, Port, Result, Run, Services, column,
};
use paraloom_t5_core::decode::{Candidate, End, Options, Row, Words, generate};
use paraloom_t5_core::device::fingerprint;
use paraloom_t5_core::numeric::Precision;
use paraloom_t5_core::tokenizer::Tokenizer;
use rayon::ThreadPool;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::kept::{Keep, lacks};
use super::searches::{Beam, Sample, strategy};
use super::shared::{
    Loaded, MAX_SOURCE_TOKENS, SpecialTokens, load_model, pool, row_by_row, with_row,
};
use super::tally::{Tally, without_eos};
use crate::memory::{self, Use, halving};

/// Settings of `generate`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-paraloom-elsewhere" = super::names::of_generate()))]
#[expect(clippy::struct_excessive_bools, reason = "settings of a pipeline")]
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
    /// A text ends before the first of these that comes in it.
    #[serde(default)]
    #[schemars(extend("x-paraloom-request" = true))]
    stop: Vec<String>,
    /// What every text must have of its source. Where the model would leave it out, it is written; a row that it cannot be
    /// written for is rejected. Beams find better places for it than the other searches.
    #[serde(default)]
    keep: Option<Keep>,
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
    /// it, `stop` where a text of `stop` did, `length` where `max_new_tokens` did.
    #[serde(default)]
    #[schemars(extend("x-paraloom-marks" = json!({"cut": SOURCE_CUT, "ended": ENDED})))]
    mark: bool,
    /// Adds two columns of whole numbers: `source_tokens`, how many tokens were read, and, of the name of `into` with `_tokens`,
    /// how many were written. Where the model ended the text, that counts as one.
    #[serde(default)]
    #[schemars(extend("x-paraloom-marks" = json!({"read": SOURCE_TOKENS, "written": "{into}_tokens"})))]
    count_tokens: bool,
    /// Adds two columns with lists: `tokens`, the pieces of the text, and `token_scores`, the logarithm of the probability of
    /// each; where the model ended the text, that of its end comes last.
    #[serde(default)]
    token_scores: bool,
    /// Takes `</s>` off the ends of sources, where it stands for a tokenizer that reads it as the end.
    #[serde(default)]
    strip_eos: bool,
    /// What `</s>`, `<extra_id_0>` and the other built-in special tokens are in sources: `text` like any other, or, with `parse`,
    /// the tokens, as in T5's pre-training, where a gap `<extra_id_0>` in the source is asked for and answered in the text.
    #[serde(default)]
    special_tokens: SpecialTokens,
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

/// How many tokens were read.
const SOURCE_TOKENS: &str = "source_tokens";

/// The pieces of a text.
const TOKENS: &str = "tokens";
/// How probable each of them is.
const TOKEN_SCORES: &str = "token_scores";

/// The columns that [`Config::mark`] asks for.
fn marks() -> [Field; 2] {
    [Field::new(SOURCE_CUT, DataType::Boolean, false), Field::new(ENDED, DataType::Utf8, false)]
}

/// The columns that [`Config::count_tokens`] asks for.
fn count_fields(into: &str) -> [Field; 2] {
    [SOURCE_TOKENS, &format!("{into}_tokens")].map(|name| Field::new(name, DataType::Int64, false))
}

/// The columns that [`Config::token_scores`] asks for.
fn token_fields() -> [Field; 2] {
    let list = |item| DataType::new_list(item, true);
    [
        Field::new(TOKENS, list(DataType::Utf8), false),
        Field::new(TOKEN_SCORES, list(DataType::Float64), false),
    ]
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
    tokenizer: Arc<Tokenizer>,
    pool: Arc<ThreadPool>,
    config: Config,
    options: Options,
    seed: u64,
    tally: Tally,
}

/// What was written for a row, or why nothing was.
#[derive(Clone)]
enum Written {
    Texts { texts: Vec<Text>, source_cut: bool, source_tokens: usize },
    Nothing(String),
}

/// A text and how it came about.
#[derive(Clone)]
struct Text {
    text: String,
    candidate: Candidate,
}

impl MapStage for Generate {
    type Config = Config;
    type Worker = Worker;

    fn about() -> About {
        row_by_row(About::new(
            "generate",
            "1.5.0",
            "Writes text for every row: greedily, by beam search or by sampling.",
        ))
        .input(Port::table("rows", "The rows to write for."))
        .input(Port::artifact("model", "The model that writes."))
        .output(Port::table(
            "rows",
            "One row per text, with the columns of the row that it was written for.",
        ))
        .output(Port::table(
            "rejected",
            "The rows that nothing was written for, with the `reason`.",
        ))
        .covers_rows()
        .uses_seed()
        .covers_rows()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        rows.text(&config.source, "/source")?;
        let options = options(&config)?;
        if let Some(keep) = &config.keep {
            keep.check(&rows)?;
        }
        let fields = [
            id_field(),
            parent_field(),
            Field::new(&config.into, DataType::Utf8, true),
            Field::new(CANDIDATE, DataType::Int64, false),
            Field::new(SCORE, DataType::Float64, true),
        ];
        let marks = config.mark.then(marks).into_iter().flatten();
        let counts = config.count_tokens.then(|| count_fields(&config.into)).into_iter().flatten();
        let tokens = config.token_scores.then(token_fields).into_iter().flatten();
        let schema = rows.with_fields(fields.into_iter().chain(marks).chain(counts).chain(tokens));
        let rejected = rows.with_fields([reason_field()]);
        let memory = memory::likely(inputs.note("model"), Use::Read(config.precision));
        let fingerprint = fingerprint(config.precision)?;
        let planned = Planned::new(Self { config, options }, [Some(schema), Some(rejected)]);
        Ok(planned.fingerprint(fingerprint).memory(memory))
    }

    fn open(&self, run: &Run) -> Result<Worker> {
        let loaded = load_model(run, self.config.precision)?;
        let tokenizer = self.config.special_tokens.of(Arc::clone(&loaded.tokenizer))?;
        let pieces = |text: &String| tokenizer.pieces(text);
        let Config { stop, keep, .. } = &self.config;
        let words = if stop.is_empty() && keep.is_none() {
            Words::default()
        } else {
            Words::new(tokenizer.texts()?)
        };
        let options = Options {
            bad_words: self
                .config
                .bad_words
                .iter()
                .map(pieces)
                .collect::<paraloom_t5_core::Result<_>>()?,
            begin: pieces(&self.config.begin)?.into(),
            stop: stop.as_slice().into(),
            words: words.into(),
            ..self.options.clone()
        };
        Ok(Worker {
            loaded,
            tokenizer,
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
        emit.push("rejected", &rejected(&rows, &texts)?)
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
    if let Some(at) = config.stop.iter().position(String::is_empty) {
        return Err(Error::config("an empty text ends nothing").at(format!("/stop/{at}")));
    }
    let strategy = strategy(config.sample, config.beam, config.candidates)?;
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
    /// What is written for every row.
    fn write(&mut self, rows: &RecordBatch, services: Services) -> Result<Vec<Written>> {
        let sources = column::text(rows, &self.config.source)?;
        let ids = ids(rows)?;
        let no_source = || Written::Nothing(format!("`{}` is null", self.config.source));
        let mut all = vec![no_source(); rows.num_rows()];
        let mut kept = match &self.config.keep {
            Some(keep) => {
                let (tokenizer, words) = (&self.tokenizer, &self.options.words);
                let kept =
                    keep.of_rows(rows, &sources, tokenizer, words, self.config.max_new_tokens)?;
                kept.into_iter().map(Some).collect()
            }
            None => vec![None; rows.num_rows()],
        };
        let mut present = Vec::new();
        let mut inputs = Vec::new();
        for row in (0..rows.num_rows()).filter(|row| sources.is_valid(*row)) {
            match kept[row].take().transpose() {
                Ok(kept) => {
                    let (seed, kept) =
                        (row_seed(self.seed, ids.value(row)), kept.unwrap_or_default());
                    inputs.push(Row { ids: Vec::new(), seed, kept });
                    present.push(row);
                }
                Err(reason) => all[row] = Written::Nothing(reason),
            }
        }
        let texts: Vec<_> = present.iter().map(|row| self.source(sources.value(*row))).collect();
        self.tally.eos("sources", texts.iter().map(String::as_str));
        let limit = self.config.max_source_tokens;
        let encoded = self.pool.install(|| self.tokenizer.encode_all(&texts, limit))?;
        let cuts: Vec<bool> = encoded.iter().map(|source| source.cut).collect();
        self.tally.cut("sources", limit, "max_source_tokens", cuts.iter().copied());
        for (input, source) in inputs.iter_mut().zip(encoded) {
            input.ids = source.ids;
        }
        let written = halving(services, self.options.batch_size, |batch_size| {
            let options = Options { batch_size, ..self.options.clone() };
            let cancelled = || services.is_cancelled();
            self.pool.install(|| generate(&self.loaded.model, &inputs, &options, &cancelled))
        });
        let written = written.map_err(|error| with_row(error, rows, &present))?;
        let longest = self.config.max_new_tokens;
        self.tally.count(
            format!("texts were ended after {longest} tokens (`max_new_tokens`)"),
            written.iter().flatten().map(|candidate| candidate.end == End::Length),
        );
        for (((row, input), candidates), source_cut) in
            present.into_iter().zip(&inputs).zip(written).zip(cuts)
        {
            all[row] = self.texts(input, candidates, source_cut)?;
        }
        Ok(all)
    }

    /// The texts of candidates, without those that are not what they must be.
    fn texts(
        &mut self,
        input: &Row,
        candidates: Vec<Candidate>,
        source_cut: bool,
    ) -> Result<Written> {
        let mut texts = Vec::new();
        let mut lacking = None;
        for candidate in candidates {
            let text = self.tokenizer.decode(&candidate.ids)?;
            let end = self.config.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
            let text = end.map_or(text.as_str(), |end| &text[..end]).to_owned();
            match lacks(&input.kept, &text) {
                Some(lack) => lacking = Some(format!("no text is as `keep` asks: {lack}")),
                None => texts.push(Text { text, candidate }),
            }
        }
        if self.config.keep.is_some() {
            let lacks = (0..self.config.candidates).map(|number| number >= texts.len());
            self.tally.count("texts were left out because they are not as `keep` asks", lacks);
        }
        if texts.is_empty() {
            let nothing = || "no text is as `keep` asks".to_owned();
            return Ok(Written::Nothing(lacking.unwrap_or_else(nothing)));
        }
        Ok(Written::Texts { texts, source_cut, source_tokens: input.ids.len() })
    }

    /// The source as the model reads it.
    fn source(&self, text: &str) -> String {
        let text = if self.config.strip_eos { without_eos(text) } else { text };
        format!("{}{text}", self.config.prefix)
    }

    fn output(&self, rows: &RecordBatch, texts: &[Written]) -> Result<RecordBatch> {
        let parents = ids(rows)?;
        let (mut origin, mut ids, mut written, mut numbers, mut scores) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut cuts, mut ends) = (Vec::new(), Vec::new());
        let (mut read, mut written_tokens) = (Vec::new(), Vec::new());
        let mut tokens = ListBuilder::new(StringBuilder::new());
        let mut token_scores = ListBuilder::new(Float64Builder::new());
        for (row, all) in texts.iter().enumerate() {
            let Written::Texts { texts, source_cut, source_tokens } = all else { continue };
            for (number, Text { text, candidate }) in texts.iter().enumerate() {
                cuts.push(*source_cut);
                read.push(*source_tokens as i64);
                let end = usize::from(candidate.end == End::Eos);
                written_tokens.push((candidate.ids.len() + end) as i64);
                ends.push(match candidate.end {
                    End::Eos => "eos",
                    End::Stop => "stop",
                    End::Length => "length",
                });
                origin.push(row as u32);
                ids.push(child_id(parents.value(row), "generate", number as u32));
                written.push(text.as_str());
                numbers.push(number as i64 + 1);
                scores.push(f64::from(candidate.score));
                if self.config.token_scores {
                    let names = candidate.ids.iter().map(|id| Some(self.tokenizer.name(*id)));
                    tokens.append_value(names);
                    let scores = candidate.token_scores.iter();
                    token_scores.append_value(scores.map(|score| Some(f64::from(*score))));
                }
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
        let mut all = base;
        if self.config.mark {
            let [cut, ended] = marks();
            all = column::with_field(&all, cut, Arc::new(BooleanArray::from(cuts)))?;
            all = column::with_field(&all, ended, Arc::new(StringArray::from(ends)))?;
        }
        if self.config.count_tokens {
            let columns = [read, written_tokens].map(Int64Array::from);
            for (field, column) in count_fields(&self.config.into).into_iter().zip(columns) {
                all = column::with_field(&all, field, Arc::new(column))?;
            }
        }
        if self.config.token_scores {
            let [names, scores] = token_fields();
            all = column::with_field(&all, names, Arc::new(tokens.finish()))?;
            all = column::with_field(&all, scores, Arc::new(token_scores.finish()))?;
        }
        Ok(all)
    }
}

/// The rows that nothing was written for.
fn rejected(rows: &RecordBatch, texts: &[Written]) -> Result<RecordBatch> {
    let reasons: Vec<Option<&str>> = texts
        .iter()
        .map(|written| match written {
            Written::Nothing(reason) => Some(reason.as_str()),
            Written::Texts { .. } => None,
        })
        .collect();
    let is_rejected: BooleanArray = reasons.iter().map(|reason| Some(reason.is_some())).collect();
    let rejected = filter_record_batch(rows, &is_rejected)?;
    let reasons: Vec<&str> = reasons.into_iter().flatten().collect();
    column::with_field(&rejected, reason_field(), Arc::new(StringArray::from(reasons)))
}
