//! Text to tokens and back, with a `tokenizer.json` or what older models of the family have in its place.
//!
//! Data is data: a text that contains `</s>` or `<extra_id_0>` gets the pieces of these characters, never the tokens
//! of that name. The `tokenizers` crate has a switch for this, but it does not reach the model's vocabulary, where the
//! same names stand as pieces with the best score of all. So both are taken out of the encoder's sight when a
//! tokenizer is loaded. Tokens that the author of a model added, such as `<hl>` around an answer, are put into texts on
//! purpose, and mean themselves; the built-in ones do where that is asked for ([`Tokenizer::parsing_special_tokens`]).

mod added;
mod byte_level;
mod charsmap;
mod encoder;
mod protobuf;
mod spiece;
mod unigram;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use self::added::{Added, CONFIG, read_object};
use self::encoder::{GAP, Own, encoder, is_own};
use crate::{Error, Result};

/// The name of the file in a model directory.
pub const FILE: &str = "tokenizer.json";
/// The file that older models have in its place.
pub const SPIECE: &str = "spiece.model";
/// Texts that a thread encodes in one go: they are short, and handing one over costs too.
pub const TEXTS_PER_THREAD: usize = 16;
/// The setting of `tokenizer_config.json`; it was on by default in files that transformers 4 wrote.
const CLEANS_UP: &str = "clean_up_tokenization_spaces";
/// More tokens than any vocabulary has.
const MOST_TOKENS: u32 = 1 << 20;

/// The tokens of a text, ended by exactly one `</s>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The tokens, the end included.
    pub ids: Vec<u32>,
    /// Whether tokens of the text were left out, for want of room.
    pub cut: bool,
}

/// A T5 tokenizer. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    /// Encodes and decodes; T5's own special pieces are unmatchable.
    inner: Arc<tokenizers::Tokenizer>,
    /// The file as it came, for writing it again.
    json: Arc<Value>,
    /// Tokens that are left out of what is written.
    special: BTreeSet<u32>,
    /// The bytes of the tokens that are one byte each, where all pieces are.
    bytes: Option<BTreeMap<u32, u8>>,
    /// Tokens before every text; T5 has none.
    start: Vec<u32>,
    eos: u32,
    /// Whether spaces before punctuation are taken out of what is written, as `clean_up_tokenization_spaces` asks.
    cleans_up: bool,
}

impl Tokenizer {
    /// Whether a directory has a tokenizer.
    ///
    /// # Errors
    /// When its configuration cannot be read.
    pub fn is_in(directory: &Path) -> Result<bool> {
        let has = |name: &str| directory.join(name).is_file();
        let known = has(FILE) || has(SPIECE) || (has(byte_level::VOCAB) && has(byte_level::MERGES));
        Ok(known || byte_level::is_byt5(&read_object(&directory.join(CONFIG))?))
    }

    /// Reads the tokenizer of a model directory: `tokenizer.json`, or else `spiece.model`, `vocab.json` with `merges.txt`,
    /// or that of bytes, with the added tokens in the files beside it.
    ///
    /// # Errors
    /// When all are missing, or a file is damaged or not of such a tokenizer.
    pub fn load(directory: &Path) -> Result<Self> {
        let config = read_object(&directory.join(CONFIG))?;
        let mut tokenizer = Self::load_files(directory, &config)?;
        tokenizer.cleans_up = tokenizer.is_cleaned_up(&config);
        Ok(tokenizer)
    }

    /// Whether texts are cleaned up, as `transformers` sees it: not those of pairs of bytes, unless that is asked for with a
    /// warning in its name.
    fn is_cleaned_up(&self, config: &Map<String, Value>) -> bool {
        let is_set = |name: &str| config.get(name).and_then(Value::as_bool) == Some(true);
        let is_of_pairs = self.json["model"]["type"] == "BPE" && self.bytes.is_none();
        is_set(CLEANS_UP)
            && (!is_of_pairs
                || is_set(
                    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
                ))
    }

    fn load_files(directory: &Path, config: &Map<String, Value>) -> Result<Self> {
        let (path, old) = (directory.join(FILE), directory.join(SPIECE));
        if path.exists() {
            let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
            return Self::from_text(text, &path);
        }
        if old.exists() {
            let bytes = std::fs::read(&old).map_err(Error::io(&old))?;
            let added = Added::read(directory)?;
            return Self::of_spiece(&bytes, &added).map_err(|error| Error::malformed(&old, error));
        }
        let pairs = directory.join(byte_level::VOCAB);
        if pairs.exists() && directory.join(byte_level::MERGES).exists() {
            let json = byte_level::roberta(directory, config)?;
            return Self::from_json(json).map_err(|error| Error::malformed(&pairs, error));
        }
        if byte_level::is_byt5(config) {
            let mut json = byte_level::byt5(config)?;
            Added::read(directory)?.put_into(&mut json)?;
            return Self::from_json(json);
        }
        Err(Error::malformed(directory, format!("there is no {FILE} or {SPIECE} here")))
    }

    /// Understands a SentencePiece model, the `spiece.model` of older checkpoints.
    ///
    /// # Errors
    /// When the bytes are damaged, or are not of a Unigram model as T5 has it.
    pub fn from_spiece(bytes: &[u8]) -> Result<Self> {
        Self::of_spiece(bytes, &Added::default())
    }

    fn of_spiece(bytes: &[u8], added: &Added) -> Result<Self> {
        let mut json = spiece::to_json(bytes, added.extra_ids)
            .map_err(|what| Error::Tokenizer(format!("not a SentencePiece model of T5: {what}")))?;
        added.put_into(&mut json)?;
        Self::from_json(json)
    }

    /// Trains a tokenizer of `vocab_size` tokens: pad 0, end 1, unknown 2, then `words`, which are one piece each
    /// whatever the texts say, then pieces by falling score.
    ///
    /// The result depends only on the texts, not on their order.
    ///
    /// # Errors
    /// When the vocabulary cannot hold even the words and the characters of the texts.
    pub fn train<I, S>(texts: I, words: &[&str], vocab_size: usize) -> Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let special = ["<pad>", "</s>", "<unk>"];
        let added: Vec<_> =
            special.iter().enumerate().map(|(id, name)| special_token(id, name)).collect();
        let vocab = special.map(|name| json!([name, 0.0]));
        let mut json = unigram_json(&added, &json!({ "type": "NFKC" }), [2, 1], &vocab);
        let blank = Self::from_json(json.clone())?.inner;
        let counts = unigram::count_words(&blank, texts)?;
        let whole = unigram::count_words(&blank, words)?;
        let pieces = unigram::train(&counts, vocab_size.saturating_sub(3), &whole)?;
        if let Some(vocab) = json.pointer_mut("/model/vocab").and_then(Value::as_array_mut) {
            vocab.extend(pieces.into_iter().map(|(piece, score)| json!([piece, score])));
        }
        Self::from_json(json)
    }

    /// Understands the text of a `tokenizer.json`. The last one is kept: the nodes of a pipeline have models whose tokenizers are mostly
    /// the same, and to make one of 32,000 pieces takes as long as to read the weights of a small model.
    fn from_text(text: String, path: &Path) -> Result<Self> {
        static LAST: Mutex<Option<(String, Tokenizer)>> = Mutex::new(None);
        let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tokenizer)) = last().as_ref().filter(|(of_text, _)| *of_text == text) {
            return Ok(tokenizer.clone());
        }
        let json = serde_json::from_str(&text).map_err(|error| Error::malformed(path, error))?;
        let tokenizer = Self::from_json(json).map_err(|error| Error::malformed(path, error))?;
        let before = last().replace((text, tokenizer.clone()));
        // Not while the lock is held.
        drop(before);
        Ok(tokenizer)
    }

    /// Understands a `tokenizer.json`.
    fn from_json(mut json: Value) -> Result<Self> {
        if !json.is_object() {
            return Err(Error::Tokenizer("this is not a tokenizer".into()));
        }
        check_charsmaps(&json["normalizer"])?;
        json["truncation"] = Value::Null;
        json["padding"] = Value::Null;
        let tokens: BTreeMap<u32, &Value> = added_tokens(&json).collect();
        let eos = tokens.iter().find(|(_, token)| name(token) == "</s>");
        let eos = *eos.ok_or_else(|| Error::Tokenizer("there is no `</s>` token".into()))?.0;
        let start = start(&json["post_processor"])?;
        let own = Own::Hidden { starts: start.clone() };
        let skipped = tokens.iter().filter(|(id, token)| is_special(token) || own.has(**id, token));
        let special = skipped.map(|(id, _)| *id).collect();
        let inner = encoder(&json, &tokens, &own)?.into();
        let bytes = byte_level::bytes(&json);
        Ok(Self { inner, json: json.into(), special, bytes, start, eos, cleans_up: false })
    }

    /// The same tokenizer, to which the built-in special tokens mean themselves in texts too, as to `transformers`: `</s>` in a text
    /// is the end, and `<extra_id_0>` the first gap, which texts that are made of tokens then have.
    ///
    /// # Errors
    /// When the tokenizer cannot be read like that.
    pub fn parsing_special_tokens(&self) -> Result<Self> {
        let tokens: BTreeMap<u32, &Value> = added_tokens(&self.json).collect();
        let inner = encoder(&self.json, &tokens, &Own::Seen)?.into();
        let is_gap = |id: &u32| {
            tokens
                .get(id)
                .map(|token| name(token))
                .is_some_and(|name| is_own(name) && name.starts_with(GAP))
        };
        let special = self.special.iter().filter(|id| !is_gap(id)).copied().collect();
        Ok(Self { inner, special, ..self.clone() })
    }

    /// The tokens of a text, ended by exactly one `</s>`; cut to `max_tokens`, the end included, where that is given.
    ///
    /// # Errors
    /// When the tokenizer cannot process the text.
    pub fn encode(&self, text: &str, max_tokens: Option<usize>) -> Result<Vec<u32>> {
        Ok(self.encode_within(text, max_tokens.unwrap_or(usize::MAX))?.ids)
    }

    /// [`Tokenizer::encode`] in at most `max_tokens`, which says whether they were enough.
    ///
    /// # Errors
    /// When the tokenizer cannot process the text.
    pub fn encode_within(&self, text: &str, max_tokens: usize) -> Result<Encoded> {
        Ok(self.ended(self.pieces(text)?, max_tokens))
    }

    /// [`Tokenizer::encode_within`] of many texts, on all threads.
    ///
    /// # Errors
    /// When the tokenizer cannot process a text.
    pub fn encode_all<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        max_tokens: usize,
    ) -> Result<Vec<Encoded>> {
        let encode = |text: &S| self.encode_within(text.as_ref(), max_tokens);
        texts.par_iter().with_min_len(TEXTS_PER_THREAD).map(encode).collect()
    }

    /// Pieces with their end, together at most `max_tokens`.
    pub fn ended(&self, mut pieces: Vec<u32>, max_tokens: usize) -> Encoded {
        let room = max_tokens.saturating_sub(1 + self.start.len());
        let cut = pieces.len() > room;
        pieces.truncate(room);
        pieces.push(self.eos);
        pieces.splice(0..0, self.start.iter().copied());
        Encoded { ids: pieces, cut }
    }

    /// The tokens of a text, without an end.
    ///
    /// # Errors
    /// When the tokenizer cannot process the text.
    pub fn pieces(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| Error::Tokenizer(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens before every text, which what is written begins with too.
    pub fn start(&self) -> &[u32] {
        &self.start
    }

    /// The text of tokens; special tokens and ids without a piece are left out.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = self.raw_text(ids)?;
        Ok(if self.cleans_up { cleaned_up(&text) } else { text })
    }

    fn raw_text(&self, ids: &[u32]) -> Result<String> {
        let plain: Vec<u32> = ids.iter().copied().filter(|id| !self.special.contains(id)).collect();
        if let Some(bytes) = &self.bytes {
            let mut text = Vec::new();
            for id in &plain {
                match bytes.get(id) {
                    Some(byte) => text.push(*byte),
                    None => text.extend(self.inner.id_to_token(*id).unwrap_or_default().bytes()),
                }
            }
            return Ok(text.utf8_chunks().map(|chunk| chunk.valid()).collect());
        }
        self.inner.decode(&plain, false).map_err(|error| Error::Tokenizer(error.to_string()))
    }

    /// A token as the vocabulary has it; nothing for a number that is none.
    pub fn name(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_default()
    }

    /// What each token adds to a text that has begun; special tokens add nothing.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn texts(&self) -> Result<Vec<Vec<u8>>> {
        let of_bytes = (self.json["decoder"]["type"] == "ByteLevel").then(byte_level::characters);
        // In front of a first token, decoders may take off a space.
        let first = self.pieces("a")?;
        let begun = self.raw_text(&first)?;
        let text = |id: u32| -> Result<Vec<u8>> {
            if self.special.contains(&id) {
                return Ok(Vec::new());
            }
            if let Some(byte) = self.bytes.as_ref().and_then(|bytes| bytes.get(&id)) {
                return Ok(vec![*byte]);
            }
            if let Some(bytes) = &of_bytes {
                // Of other characters are the names of added tokens.
                let name = self.name(id);
                let of_name = name.chars().map(|char| bytes.get(&char).copied());
                return Ok(of_name
                    .collect::<Option<_>>()
                    .unwrap_or_else(|| name.clone().into_bytes()));
            }
            let both = self.raw_text(&[first.as_slice(), &[id]].concat())?;
            Ok(both.strip_prefix(&begun).unwrap_or_default().into())
        };
        (0..self.vocab_size() as u32).into_par_iter().map(text).collect()
    }

    /// The number of tokens, which the model's vocabulary has to reach.
    pub fn vocab_size(&self) -> usize {
        let pieces = match self.json.pointer("/model/vocab") {
            Some(Value::Array(pieces)) => pieces.len(),
            Some(Value::Object(pieces)) => pieces.values().map(end).max().unwrap_or(0),
            _ => 0,
        };
        let added = added_tokens(&self.json).map(|(id, _)| id as usize + 1);
        added.fold(pieces, usize::max)
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`, which lets `AutoTokenizer` find the class.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
        crate::folder::write_json(&directory.join(FILE), &self.json)?;
        let mut config = json!({
            // Not T5's own class: from transformers 5 on it makes a normaliser of its own in place of the file's.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "model_max_length": 512,
        });
        if self.cleans_up {
            config[CLEANS_UP] = true.into();
        }
        for id in &self.start {
            let token = added_tokens(&self.json).find(|(of_token, _)| of_token == id);
            config["bos_token"] = token.map(|(_, token)| name(token)).into();
        }
        crate::folder::write_json(&directory.join(CONFIG), &config)
    }
}

/// A text as `transformers` cleans it up, in its order.
fn cleaned_up(text: &str) -> String {
    const REPLACED: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    REPLACED.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// A special token, as tokenizer.json lists it.
fn special_token(id: usize, name: &str) -> Value {
    json!({ "id": id, "content": name, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false })
}

/// A text in the template of a post-processor.
fn sequence(id: &str) -> Value {
    json!({ "Sequence": { "id": id, "type_id": 0 } })
}

/// A special token there.
fn special(name: &str) -> Value {
    json!({ "SpecialToken": { "id": name, "type_id": 0 } })
}

/// The tokens that a post-processor puts in front of a text. The end is put behind it whatever it says.
fn start(processor: &Value) -> Result<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let start = match processor["type"].as_str() {
        Some("RobertaProcessing" | "BertProcessing") => id(&processor["cls"][1]).map(|id| vec![id]),
        Some("TemplateProcessing") => {
            let steps = processor["single"].as_array().into_iter().flatten();
            let names = steps.map_while(|step| step["SpecialToken"]["id"].as_str());
            let ids = |name: &str| {
                let ids = processor["special_tokens"][name]["ids"].as_array()?;
                ids.iter().map(id).collect::<Option<Vec<_>>>()
            };
            names.map(ids).collect::<Option<Vec<_>>>().map(|ids| ids.concat())
        }
        Some("Sequence") => {
            let parts = processor["processors"].as_array().into_iter().flatten();
            Some(parts.map(start).collect::<Result<Vec<_>>>()?.concat())
        }
        _ => Some(Vec::new()),
    };
    start.ok_or_else(|| Error::Tokenizer("the post-processor names tokens without ids".into()))
}

/// The tokenizer.json of a Unigram tokenizer as T5 has it; `ids` are those of the unknown piece and of `</s>`.
fn unigram_json(added: &[Value], normalizer: &Value, ids: [usize; 2], vocab: &[Value]) -> Value {
    let [unknown, end] = ids;
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
    let eos = special("</s>");
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [{ "type": "WhitespaceSplit" }, metaspace] },
        // For other readers of the file; here the end is appended by hand.
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [sequence("A"), eos],
            "pair": [sequence("A"), eos, sequence("B"), eos],
            "special_tokens": { "</s>": { "id": "</s>", "ids": [end], "tokens": ["</s>"] } },
        },
        "decoder": metaspace,
        "model": { "type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": false },
    })
}

/// Refuses normalisation tables that the library would follow out of bounds.
fn check_charsmaps(normalizer: &Value) -> Result<()> {
    if let Some(parts) = normalizer["normalizers"].as_array() {
        parts.iter().try_for_each(check_charsmaps)?;
    }
    match normalizer["precompiled_charsmap"].as_str() {
        Some(table) => charsmap::from_base64(table)
            .and_then(|table| charsmap::check(&table))
            .map_err(|what| Error::Tokenizer(what.into())),
        None => Ok(()),
    }
}

/// The tokens beside the pieces, by id.
fn added_tokens(json: &Value) -> impl Iterator<Item = (u32, &Value)> {
    let tokens = json.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    tokens.filter_map(|token| Some((u32::try_from(token.get("id")?.as_u64()?).ok()?, token)))
}

fn name(token: &Value) -> &str {
    token.get("content").and_then(Value::as_str).unwrap_or_default()
}

fn is_special(token: &Value) -> bool {
    token.get("special").and_then(Value::as_bool).unwrap_or(false)
}

/// A token's id counted as a length.
fn end(id: &Value) -> usize {
    id.as_u64().and_then(|id| usize::try_from(id).ok()).map_or(0, |id| id.saturating_add(1))
}
