//! The library's tokenizer of a `tokenizer.json`, to which the built-in special tokens are no part of any text.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
    models::unigram::Unigram,
};

use super::{MOST_TOKENS, end, is_special, name};
use crate::{Error, Result};

/// A character that pre-tokenized text cannot contain, so a piece that has it is never matched.
const UNMATCHABLE: char = ' ';

/// The built-in special tokens: T5's, and what stands before every text.
pub(super) enum Own {
    /// They are no part of any text.
    Hidden { starts: Vec<u32> },
    /// They are found in texts like those that somebody added.
    Seen,
}

impl Own {
    /// Whether a token is one that the encoder does not see.
    pub(super) fn has(&self, id: u32, token: &Value) -> bool {
        let Self::Hidden { starts } = self else { return false };
        // Tokens for gaps are T5's. To a tokenizer like RoBERTa's, as CodeT5 has it, they are tokens that somebody added.
        let is_gap = !starts.is_empty() && name(token).starts_with(GAP);
        (is_own(name(token)) && (!is_gap || is_special(token))) || starts.contains(&id)
    }

    /// Whether a piece of the vocabulary is one.
    fn has_piece(&self, id: u32, piece: &str, token: Option<&&Value>) -> bool {
        matches!(self, Self::Hidden { .. })
            && (is_own(piece) || token.is_some_and(|token| self.has(id, token)))
    }
}

/// What encodes, with built-in special tokens as `own` says, and the other added tokens.
pub(super) fn encoder(
    json: &Value,
    tokens: &BTreeMap<u32, &Value>,
    own: &Own,
) -> Result<tokenizers::Tokenizer> {
    let mut sighted = json.clone();
    blind(&mut sighted, tokens, own)?;
    let inner = read(sighted).map_err(|error| Error::Tokenizer(error.to_string()))?;
    for (id, token) in tokens.iter().filter(|(id, token)| !own.has(**id, token)) {
        // The library numbers added tokens itself.
        if inner.token_to_id(name(token)) != Some(*id) {
            let message = format!("the added token `{}` cannot have the id {id}", name(token));
            return Err(Error::Tokenizer(message));
        }
    }
    Ok(inner)
}

/// The library's tokenizer of a `tokenizer.json`.
fn read(mut json: Value) -> tokenizers::Result<tokenizers::Tokenizer> {
    // A list of pieces with scores is a Unigram model, which older files do not say. Where the library has to find out the type of a
    // model, it copies the vocabulary twice.
    let model = &mut json["model"];
    let is_unigram =
        model["vocab"].is_array() && (model["type"].is_null() || model["type"] == "Unigram");
    if is_unigram && let Some(model) = model.as_object_mut() {
        model.remove("type");
        return Ok(serde_json::from_value::<OfPieces>(json)?.into());
    }
    json.to_string().parse()
}

/// A tokenizer that is known to have pieces with scores.
type OfPieces = TokenizerImpl<
    Unigram,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// How the names of tokens for the gaps of T5's pre-training begin.
pub(super) const GAP: &str = "<extra_id_";

/// Whether this is the name of one of T5's own special tokens.
pub(super) fn is_own(name: &str) -> bool {
    let extra = name.strip_prefix(GAP).and_then(|rest| rest.strip_suffix('>'));
    matches!(name, "<pad>" | "</s>" | "<unk>")
        || extra.is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Makes tokens invisible to the encoder, as added tokens and as pieces.
fn blind(json: &mut Value, tokens: &BTreeMap<u32, &Value>, own: &Own) -> Result<()> {
    json["post_processor"] = Value::Null;
    let seen: BTreeMap<u32, &str> = tokens
        .iter()
        .filter(|(id, token)| !own.has(**id, token))
        .map(|(id, token)| (*id, name(token)))
        .collect();
    let last = tokens.keys().last().copied().unwrap_or(0);
    if last > MOST_TOKENS {
        let message = format!("an added token has the id {last}, more than any vocabulary has");
        return Err(Error::Tokenizer(message));
    }
    match json.pointer_mut("/model/vocab") {
        Some(Value::Array(vocab)) => {
            for (entry, id) in vocab.iter_mut().zip(0..) {
                let Some(piece) = entry.get_mut(0) else { continue };
                if let Some(text) = piece.as_str()
                    && own.has_piece(id, text, tokens.get(&id))
                {
                    *piece = Value::String(format!("{UNMATCHABLE}{text}"));
                }
            }
            let score = |entry: &Value| entry.get(1).and_then(Value::as_f64);
            let least = vocab.iter().filter_map(score).fold(0.0, f64::min);
            for (id, text) in kept_places(vocab.len(), last, &seen) {
                debug_assert_eq!(id as usize, vocab.len());
                vocab.push(json!([text, least]));
            }
        }
        // Pieces grow by merging, and no merge makes one of these names.
        Some(Value::Object(vocab)) => {
            let length = vocab.values().map(end).max().unwrap_or(0);
            for (id, text) in kept_places(length, last, &seen) {
                vocab.insert(text, id.into());
            }
        }
        _ => return Err(Error::Tokenizer("this tokenizer has no vocabulary".into())),
    }
    // In this order they get their own ids.
    let kept = tokens.iter().filter(|(id, _)| seen.contains_key(id));
    json["added_tokens"] = kept.map(|(_, token)| (*token).clone()).collect();
    Ok(())
}

/// What keeps the places of tokens behind a vocabulary that the encoder does not see: the library numbers those that it
/// sees one after another.
fn kept_places<'a>(
    length: usize,
    last: u32,
    seen: &'a BTreeMap<u32, &str>,
) -> impl Iterator<Item = (u32, String)> + use<'a> {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let mut end = last + 1;
    while end > length && seen.contains_key(&(end - 1)) {
        end -= 1;
    }
    (length..end).map(|id| {
        // One that is seen is found as an added token before any piece is looked for.
        let text =
            seen.get(&id).map_or_else(|| format!("{UNMATCHABLE}{id}"), |name| (*name).to_owned());
        (id, text)
    })
}
