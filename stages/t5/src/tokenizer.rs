//! Text to tokens and back, with a T5 `tokenizer.json`.
//!
//! Data is data: a text that contains `</s>` or `<extra_id_0>` gets the pieces of these characters, never the tokens
//! of that name. The `tokenizers` crate has a switch for this, but it does not reach the model's vocabulary, where the
//! same names stand as pieces with the best score of all. So both are taken out of the encoder's sight when a
//! tokenizer is loaded. Tokens that the author of a model added, such as `<hl>` around an answer, are put into texts on
//! purpose, and mean themselves.

mod added;
mod charsmap;
mod protobuf;
mod spiece;
mod unigram;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    str::FromStr,
};

use rayon::prelude::*;
use serde_json::{Value, json};

use self::added::Added;
use crate::{Error, Result};

/// The name of the file in a model directory.
pub(crate) const FILE: &str = "tokenizer.json";
/// The file that older models have in its place.
pub(crate) const SPIECE: &str = "spiece.model";
/// Texts that a thread encodes in one go: they are short, and handing one over costs too.
pub(crate) const TEXTS_PER_THREAD: usize = 16;
/// A character that pre-tokenized text cannot contain, so a piece that has it is never matched.
const UNMATCHABLE: char = ' ';
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

/// A T5 tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    /// Encodes and decodes; T5's own special pieces are unmatchable.
    inner: tokenizers::Tokenizer,
    /// The file as it came, for writing it again.
    json: Value,
    /// Tokens that are left out of what is written.
    special: BTreeSet<u32>,
    eos: u32,
}

impl Tokenizer {
    /// Reads the tokenizer of a model directory: `tokenizer.json`, or else `spiece.model` with the added tokens in the files
    /// beside it.
    ///
    /// # Errors
    /// When both are missing, or the file is damaged or not a T5 tokenizer.
    pub fn load(directory: &Path) -> Result<Self> {
        let (path, old) = (directory.join(FILE), directory.join(SPIECE));
        if !path.exists() && old.exists() {
            let bytes = std::fs::read(&old).map_err(Error::io(&old))?;
            let added = Added::read(directory)?;
            return Self::of_spiece(&bytes, &added).map_err(|error| Error::malformed(&old, error));
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let json = serde_json::from_str(&text).map_err(|error| Error::malformed(&path, error))?;
        Self::from_json(json).map_err(|error| Error::malformed(&path, error))
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
        let skipped = tokens.iter().filter(|(_, token)| is_special(token) || is_own(name(token)));
        let special = skipped.map(|(id, _)| *id).collect();
        let mut sighted = json.clone();
        blind(&mut sighted, &tokens)?;
        let inner = tokenizers::Tokenizer::from_str(&sighted.to_string())
            .map_err(|error| Error::Tokenizer(error.to_string()))?;
        for (id, token) in tokens.iter().filter(|(_, token)| !is_own(name(token))) {
            // The library numbers added tokens itself.
            if inner.token_to_id(name(token)) != Some(*id) {
                let message = format!("the added token `{}` cannot have the id {id}", name(token));
                return Err(Error::Tokenizer(message));
            }
        }
        Ok(Self { inner, json, special, eos })
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
    pub(crate) fn ended(&self, mut pieces: Vec<u32>, max_tokens: usize) -> Encoded {
        let room = max_tokens.max(1) - 1;
        let cut = pieces.len() > room;
        pieces.truncate(room);
        pieces.push(self.eos);
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

    /// The text of tokens; special tokens and ids without a piece are left out.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let plain: Vec<u32> = ids.iter().copied().filter(|id| !self.special.contains(id)).collect();
        self.inner.decode(&plain, false).map_err(|error| Error::Tokenizer(error.to_string()))
    }

    /// The number of tokens, which the model's vocabulary has to reach.
    pub fn vocab_size(&self) -> usize {
        let pieces =
            self.json.pointer("/model/vocab").and_then(Value::as_array).map_or(0, Vec::len);
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
        let config = json!({
            // Not T5's own class: from transformers 5 on it makes a normaliser of its own in place of the file's.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "model_max_length": 512,
        });
        crate::folder::write_json(&directory.join("tokenizer_config.json"), &config)
    }
}

/// A special token, as tokenizer.json lists it.
fn special_token(id: usize, name: &str) -> Value {
    json!({ "id": id, "content": name, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false })
}

/// The tokenizer.json of a Unigram tokenizer as T5 has it; `ids` are those of the unknown piece and of `</s>`.
fn unigram_json(added: &[Value], normalizer: &Value, ids: [usize; 2], vocab: &[Value]) -> Value {
    let [unknown, end] = ids;
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
    let sequence = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let eos = json!({ "SpecialToken": { "id": "</s>", "type_id": 0 } });
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

/// Whether this is the name of one of T5's own special tokens, which are no part of any text.
fn is_own(name: &str) -> bool {
    let extra = name.strip_prefix("<extra_id_").and_then(|rest| rest.strip_suffix('>'));
    matches!(name, "<pad>" | "</s>" | "<unk>")
        || extra.is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Makes T5's own special tokens invisible to the encoder, as added tokens and as pieces.
fn blind(json: &mut Value, tokens: &BTreeMap<u32, &Value>) -> Result<()> {
    json["post_processor"] = Value::Null;
    let Some(vocab) = json.pointer_mut("/model/vocab").and_then(Value::as_array_mut) else {
        return Err(Error::Tokenizer("this is not a Unigram tokenizer, as those of T5 are".into()));
    };
    for (id, entry) in vocab.iter_mut().enumerate() {
        let token = u32::try_from(id).ok().and_then(|id| tokens.get(&id));
        let Some(piece) = entry.get_mut(0) else { continue };
        if let Some(text) = piece.as_str()
            && (is_own(text) || token.is_some_and(|token| is_own(name(token))))
        {
            *piece = Value::String(format!("{UNMATCHABLE}{text}"));
        }
    }
    keep_places(vocab, tokens)?;
    // In this order they get their own ids.
    let seen = tokens.values().filter(|token| !is_own(name(token)));
    json["added_tokens"] = seen.map(|token| (*token).clone()).collect();
    Ok(())
}

/// Keeps the places of tokens behind the vocabulary that the encoder does not see: the library numbers those that it sees
/// one after another.
fn keep_places(vocab: &mut Vec<Value>, tokens: &BTreeMap<u32, &Value>) -> Result<()> {
    let seen = |id: u32| tokens.get(&id).map(|token| name(token)).filter(|name| !is_own(name));
    let Some(&last) = tokens.keys().last() else { return Ok(()) };
    if last > MOST_TOKENS {
        let message = format!("an added token has the id {last}, more than any vocabulary has");
        return Err(Error::Tokenizer(message));
    }
    let mut end = last + 1;
    while end as usize > vocab.len() && seen(end - 1).is_some() {
        end -= 1;
    }
    let score = |entry: &Value| entry.get(1).and_then(Value::as_f64);
    let least = vocab.iter().filter_map(score).fold(0.0, f64::min);
    while vocab.len() < end as usize {
        let id = vocab.len() as u32;
        // One that is seen is found as an added token before any piece is looked for.
        let text = seen(id).map_or_else(|| format!("{UNMATCHABLE}{id}"), str::to_owned);
        vocab.push(json!([text, least]));
    }
    Ok(())
}
