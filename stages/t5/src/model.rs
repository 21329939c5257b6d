//! `model`: a model to start from, read from a directory or made new.

use std::collections::BTreeSet;
use std::path::Path;

use arrow::datatypes::DataType;
use paraloom_sdk::{About, Error, PlanInputs, Planned, Port, Result, Run, Stage, column};
use paraloom_t5_core::config::Config as T5Config;
use paraloom_t5_core::device::cpu_device;
use paraloom_t5_core::folder::{self, Format, adapter};
use paraloom_t5_core::model::Model;
use paraloom_t5_core::numeric::Float;
use paraloom_t5_core::tokenizer::{self, Tokenizer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::asked::not_followed;
use super::card::{self, Card};
use super::shared::pool;

/// Settings of `model`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A directory in the Hugging Face layout (`config.json`, `model.safetensors` or `pytorch_model.bin`,
    /// `tokenizer.json` or `spiece.model`), or a hub reference such as `hf://google-t5/t5-base`.
    #[serde(default)]
    #[schemars(extend("x-paraloom-path" = true))]
    from: Option<String>,
    /// A directory with a low-rank adapter (LoRA) of that model, as PEFT writes it and as `finetune` does with `lora`: `adapter_config.json`
    /// and `adapter_model.safetensors`. It is merged into the weights.
    #[serde(default)]
    #[schemars(extend("x-paraloom-path" = true))]
    adapter: Option<String>,
    /// Make a new model of this size instead, with a tokenizer trained on the tables that
    /// enter `texts`, or with the one that `tokenizer` names.
    #[serde(default)]
    new: Option<Size>,
    /// A directory with the `tokenizer.json` of a new model.
    #[serde(default)]
    #[schemars(extend("x-paraloom-path" = true))]
    tokenizer: Option<String>,
    /// The text columns that the tokenizer is trained on; all if left out.
    #[serde(default)]
    columns: Option<Vec<String>>,
    /// Words that become one piece each of the tokenizer that is trained, such as the prompts of tasks of your own.
    /// Those of T5's prompts and labels always do.
    #[serde(default)]
    words: Vec<String>,
    /// The numbers that the weights are written as; as they are read, or f32 for a new model and with an adapter,
    /// if left out. They are computed with in f32 all the same.
    #[serde(default)]
    dtype: Option<Float>,
}

/// The size of a new T5.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Size {
    /// Pieces of a tokenizer that is trained here; rows of the embedding matrix where the
    /// tokenizer is given.
    #[schemars(range(min = 64, max = 1_000_000))]
    vocabulary: usize,
    /// Width of the model.
    #[schemars(range(min = 8, max = 8192))]
    d_model: usize,
    /// Width of the feed-forward layers.
    #[schemars(range(min = 8, max = 65_536))]
    d_ff: usize,
    /// Layers of the encoder, and of the decoder.
    #[schemars(range(min = 1, max = 96))]
    layers: usize,
    /// Attention heads.
    #[schemars(range(min = 1, max = 256))]
    heads: usize,
    /// Dropout that `fine-tuning` uses unless it is told otherwise.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.9))]
    dropout: f64,
}

impl Size {
    fn config(self, vocabulary: usize) -> T5Config {
        let Self { d_model, d_ff, layers, heads, dropout, .. } = self;
        let small = T5Config::small(vocabulary, d_model, d_ff, layers, heads);
        T5Config { dropout_rate: dropout, ..small }
    }
}

/// The words of the official prompts and labels, which any new tokenizer has as one piece each: short prompts cost
/// less, and a label is then one decision.
const PROMPTS: &str = "paraphrase: stsb sentence1: sentence2: cola sentence: acceptable unacceptable \
    0.0 0.2 0.4 0.6 0.8 1.0 1.2 1.4 1.6 1.8 2.0 2.2 2.4 2.6 2.8 3.0 3.2 3.4 3.6 3.8 4.0 4.2 4.4 4.6 4.8 5.0";

/// What any new tokenizer can spell.
const CHARACTERS: &str = "0 1 2 3 4 5 6 7 8 9 . , : ; ! ? ' \" ( ) - % $ & /";

/// The stage.
pub struct ModelStage {
    config: Config,
}

impl Stage for ModelStage {
    type Config = Config;

    fn about() -> About {
        About::new("model", "1.3.0", "A T5 model to start from: from a directory, or new.")
            .input(
                Port::table("texts", "What the tokenizer of a new model is trained on.")
                    .optional()
                    .many(),
            )
            .output(Port::artifact("model", "The model, in the Hugging Face layout."))
            .uses_seed()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        match (&config.from, &config.new) {
            (Some(_), Some(_)) => {
                return Err(
                    Error::config("a model is either read `from` a directory or `new`").at("/new")
                );
            }
            (None, None) => {
                return Err(Error::config("`model` needs `from` or `new`")
                    .hint("from: a directory; new: { vocabulary: 2000, d_model: 128, d_ff: 512, layers: 3, heads: 4 }"));
            }
            (Some(from), None) if from.starts_with("hf://datasets/") => {
                let error = Error::config(format!("{from} is a data set, not a model"));
                return Err(error.at("/from").hint("a model is hf://OWNER/NAME[@REVISION]"));
            }
            (Some(from), None) if !from.contains("://") => check_folder(Path::new(from))?,
            (None, Some(_)) => match (&config.tokenizer, inputs.is_connected("texts")) {
                (None, false) => {
                    return Err(Error::config("a new model needs a tokenizer").hint(
                        "connect tables to `texts` to train one, or name a directory with `tokenizer`",
                    ));
                }
                (Some(_), true) => {
                    let error =
                        Error::config("the tokenizer is given, so nothing is trained on `texts`");
                    return Err(error.at("/tokenizer"));
                }
                _ => {}
            },
            _ => {}
        }
        check_adapter(&config)?;
        for (at, name) in config.columns.iter().flatten().enumerate() {
            let mut tables = inputs.tables("texts").peekable();
            let mut missing = None;
            if tables.peek().is_some()
                && !tables.any(|(_, table)| {
                    let found = table.text(name, &format!("/columns/{at}"));
                    found.map_err(|error| missing = Some(error)).is_ok()
                })
            {
                return Err(missing
                    .unwrap_or_else(|| Error::config(format!("no table has a column `{name}`"))));
            }
        }
        let note = note(&config);
        Ok(Planned::new(Self { config }, [None]).note(0, note))
    }

    fn run(&self, run: &mut Run) -> Result<()> {
        let out = run.output_dir("model")?.to_owned();
        match (&self.config.from, &self.config.new) {
            (Some(from), _) => {
                let dtype = self.config.dtype;
                let adapter = self.config.adapter.as_deref().map(Path::new);
                for told in not_followed(Path::new(from), adapter) {
                    run.services().info(&told);
                }
                pool(run.threads())?.install(|| copy(Path::new(from), &out, dtype, adapter))
            }
            (None, Some(size)) => self.make(*size, run, &out),
            (None, None) => Err(Error::internal("the plan was checked")),
        }
    }
}

/// What will be in the model's `config.json`, as far as that is known.
fn note(config: &Config) -> String {
    match (&config.from, &config.new) {
        (Some(from), _) => {
            std::fs::read_to_string(Path::new(from).join("config.json")).unwrap_or_default()
        }
        (None, Some(size)) => size.config(size.vocabulary).to_json().to_string(),
        (None, None) => String::new(),
    }
}

/// Says early what an adapter lacks.
fn check_adapter(config: &Config) -> Result<()> {
    let Some(adapter) = &config.adapter else { return Ok(()) };
    if config.from.is_none() {
        return Err(Error::config("an adapter belongs to a model that is read `from` somewhere")
            .at("/adapter"));
    }
    if adapter.contains("://") || Path::new(adapter).join(adapter::CONFIG).is_file() {
        return Ok(());
    }
    Err(Error::not_found(format!("{adapter} has no {}", adapter::CONFIG))
        .at("/adapter")
        .hint("name the directory of an adapter, as PEFT's `save_pretrained` writes it"))
}

/// Says early what a directory lacks.
fn check_folder(from: &Path) -> Result<()> {
    let has = |name: &str| from.join(name).is_file();
    if !from.is_dir() {
        return Err(Error::not_found(format!("{} is not a directory", from.display())).at("/from"));
    }
    let missing =
        |what: &str| Error::not_found(format!("{} has no {what}", from.display())).at("/from");
    if !has("config.json") {
        return Err(if has("adapter_config.json") {
            missing("config.json").hint(format!(
                "this is an adapter: write `from: BASE, adapter: {}`, where BASE is the model that it was learnt on",
                from.display()
            ))
        } else {
            missing("config.json")
        });
    }
    // Before the files are missed that it needs: of another architecture there may be others.
    let found = T5Config::read(&from.join("config.json")).map(drop);
    found.map_err(|error| Error::from(error).at("/from"))?;
    if !Tokenizer::is_in(from)? {
        return Err(missing("tokenizer.json or spiece.model"));
    }
    if !folder::has_weights(from) {
        return Err(missing("model.safetensors or pytorch_model.bin"));
    }
    Ok(())
}

/// Copies the files that make up a model, after they were read without error. What is to be of another form is
/// written anew.
fn copy(from: &Path, out: &Path, dtype: Option<Float>, adapter: Option<&Path>) -> Result<()> {
    let mut model = folder::load(from, &cpu_device())?;
    if let Some(adapter) = adapter {
        model = adapter::merged(model, adapter)?;
    }
    let is_as_read = dtype.is_none() && adapter.is_none();
    let tokenizer = Tokenizer::load(from)?;
    if !from.join(tokenizer::FILE).is_file() {
        tokenizer.save(out)?;
    }
    if !is_as_read {
        let precision = dtype.unwrap_or_default();
        folder::save_as(&model, out, Format { precision, ..Format::default() })?;
    } else if folder::is_pickled(from) {
        folder::convert(from, out)?;
    }
    let mut names: BTreeSet<_> = [
        "README.md",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ]
    .map(str::to_owned)
    .into();
    for entry in std::fs::read_dir(from).map_err(paraloom_t5_core::Error::io(from))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let weights = name.starts_with("model")
            && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"));
        if is_as_read && (weights || name == "config.json") {
            names.insert(name);
        }
    }
    for name in names {
        if from.join(&name).is_file() {
            folder::copy_file(&from.join(&name), &out.join(&name))?;
        }
    }
    match hub_name(from) {
        Some(name) => Ok(folder::name(out, &name)?),
        None => Ok(()),
    }
}

/// The name on the hub of a model in the cache of hubs, `models--OWNER--NAME/snapshots/COMMIT`. What is made of the model
/// says so in its card.
fn hub_name(from: &Path) -> Option<String> {
    let snapshots = from.parent().filter(|dir| dir.ends_with("snapshots"))?;
    let repository = snapshots.parent()?.file_name()?.to_str()?;
    Some(repository.strip_prefix("models--")?.replacen("--", "/", 1))
}

impl ModelStage {
    fn make(&self, size: Size, run: &mut Run, out: &Path) -> Result<()> {
        let mut texts = vec![CHARACTERS.to_owned()];
        for (_, table) in run.tables("texts") {
            for rows in table {
                run.services().check_cancelled()?;
                let rows = rows?;
                for field in rows.schema().fields() {
                    let wanted = self
                        .config
                        .columns
                        .as_ref()
                        .is_none_or(|names| names.contains(field.name()));
                    if wanted
                        && field.data_type() == &DataType::Utf8
                        && !field.name().starts_with('_')
                    {
                        texts.extend(
                            column::text(&rows, field.name())?.iter().flatten().map(str::to_owned),
                        );
                    }
                }
            }
        }
        let tokenizer = match &self.config.tokenizer {
            Some(from) => Tokenizer::load(Path::new(from))?,
            None => {
                let words = self.config.words.iter().map(String::as_str);
                let words: Vec<_> = PROMPTS.split_whitespace().chain(words).collect();
                Tokenizer::train(&texts, &words, size.vocabulary)?
            }
        };
        let pieces = tokenizer.vocab_size();
        let vocabulary = if self.config.tokenizer.is_some() { size.vocabulary } else { pieces };
        if vocabulary < pieces {
            return Err(Error::config(format!(
                "the tokenizer has {pieces} pieces, which do not fit {vocabulary} rows"
            ))
            .at("/new/vocabulary"));
        }
        let (pool, seed) = (pool(run.threads())?, run.seed());
        let initial = || Model::initial(size.config(vocabulary), &cpu_device(), seed);
        let model = pool.install(initial)?;
        let precision = self.config.dtype.unwrap_or_default();
        let format = Format { precision, ..Format::default() };
        pool.install(|| folder::save_as(&model, out, format))?;
        tokenizer.save(out)?;
        let card = Card {
            what: "with random weights",
            base: None,
            tables: &[],
            sections: vec![
                ("Configuration", card::section(&size)),
                ("Tokenizer", json!({ "pieces": pieces, "texts": texts.len() })),
            ],
        };
        Ok(card.write(&model, out)?)
    }
}
