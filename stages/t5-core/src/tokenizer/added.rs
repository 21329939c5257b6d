//! What older tokenizers keep beside `spiece.model`: the tokens that the author of a model added to T5's own.
//!
//! `added_tokens.json` has their ids. Which of them are special is in `special_tokens_map.json` or `tokenizer_config.json`;
//! newer writers put everything into the `added_tokens_decoder` of the latter.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

const ADDED: &str = "added_tokens.json";
const SPECIAL: &str = "special_tokens_map.json";
pub(super) const CONFIG: &str = "tokenizer_config.json";
/// Tokens for the gaps of T5's pre-training task, which `spiece.model` does not hold.
const EXTRA_IDS: usize = 100;

/// What goes into a tokenizer besides the pieces of `spiece.model`.
pub(super) struct Added {
    /// How many tokens `<extra_id_0>` and so on there are.
    pub(super) extra_ids: usize,
    /// Tokens with their ids.
    tokens: BTreeMap<u64, Token>,
    /// Special tokens that no file gives an id: they come last.
    without_id: Vec<String>,
}

/// A token as `tokenizer.json` lists it, but for its id.
struct Token {
    content: String,
    fields: Map<String, Value>,
}

impl Default for Added {
    fn default() -> Self {
        Self { extra_ids: EXTRA_IDS, tokens: BTreeMap::new(), without_id: Vec::new() }
    }
}

impl Added {
    /// Reads what a directory has of it.
    ///
    /// # Errors
    /// When a file is not what `transformers` writes.
    pub(super) fn read(directory: &Path) -> Result<Self> {
        let [added, special, config] =
            [ADDED, SPECIAL, CONFIG].map(|name| read_object(&directory.join(name)));
        let (added, special, config) = (added?, special?, config?);
        let mut all = Self::default();
        if let Some(count) = config.get("extra_ids").and_then(Value::as_u64) {
            all.extra_ids = usize::try_from(count).unwrap_or(usize::MAX);
        }
        let lists = [&special, &config].into_iter().flat_map(|file| {
            ["additional_special_tokens", "extra_special_tokens"].map(|name| file.get(name))
        });
        let specials: BTreeSet<String> = lists.flatten().flat_map(names).collect();
        let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
        for (id, fields) in decoder.into_iter().flatten() {
            let id: u64 = id.parse().map_err(|_| malformed(directory, CONFIG, id))?;
            let fields = fields.as_object().cloned().unwrap_or_default();
            let content = fields.get("content").and_then(Value::as_str).map(str::to_owned);
            let content = content.ok_or_else(|| malformed(directory, CONFIG, &id.to_string()))?;
            all.tokens.insert(id, Token { content, fields });
        }
        for (content, id) in &added {
            let id = id.as_u64().ok_or_else(|| malformed(directory, ADDED, content))?;
            let token = || Token::new(content, specials.contains(content));
            all.tokens.entry(id).or_insert_with(token);
        }
        let is_new = |name: &String| all.tokens.values().all(|token| token.content != **name);
        all.without_id = specials.into_iter().filter(is_new).collect();
        Ok(all)
    }

    /// The same where only those are special that `tokenizer_config.json` names, of those that have ids in `added_tokens.json`:
    /// so `transformers` 5 takes a tokenizer like RoBERTa's, and keeps the others in what is written.
    pub(super) fn special_as_in(mut self, config: &Map<String, Value>) -> Self {
        let lists = ["additional_special_tokens", "extra_special_tokens"];
        let named: BTreeSet<String> =
            lists.iter().filter_map(|name| config.get(*name)).flat_map(names).collect();
        if !config.contains_key("added_tokens_decoder") {
            for token in self.tokens.values_mut() {
                *token = Token::new(&token.content, named.contains(&token.content));
            }
        }
        self
    }

    /// Puts the tokens into the `added_tokens` of a `tokenizer.json` made of `spiece.model`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when an id or a name is taken by another token.
    pub(super) fn put_into(&self, json: &mut Value) -> Result<()> {
        let pieces: BTreeMap<u64, String> = match json.pointer("/model/vocab") {
            Some(Value::Array(pieces)) => {
                let text = |piece: &Value| piece[0].as_str().unwrap_or_default().to_owned();
                (0..).zip(pieces.iter().map(text)).collect()
            }
            Some(Value::Object(pieces)) => {
                let id = |(text, id): (&String, &Value)| Some((id.as_u64()?, text.clone()));
                pieces.iter().filter_map(id).collect()
            }
            _ => BTreeMap::new(),
        };
        let Some(list) = json.get_mut("added_tokens").and_then(Value::as_array_mut) else {
            return Ok(());
        };
        let mut by_name: BTreeMap<String, u64> =
            pieces.iter().map(|(id, text)| (text.clone(), *id)).collect();
        for (&id, token) in &self.tokens {
            let name = &token.content;
            let there = pieces.get(&id);
            let taken = there.filter(|piece| *piece != name).cloned();
            let other = by_name.insert(name.clone(), id).filter(|other| *other != id);
            if taken.is_some() || other.is_some() {
                let by = taken.map_or_else(
                    || format!("`{name}` has the id {} already", other.unwrap_or_default()),
                    |taken| format!("it is that of `{taken}`"),
                );
                let message = format!("the added token `{name}` cannot have the id {id}: {by}");
                return Err(Error::Tokenizer(message));
            }
            list.retain(|listed| listed["id"].as_u64() != Some(id));
            list.push(token.listed(id));
        }
        let last = list.iter().filter_map(|token| token["id"].as_u64()).max();
        let next =
            last.map_or(0, |last| last + 1).max(pieces.keys().last().map_or(0, |last| last + 1));
        let new = self.without_id.iter().filter(|name| !by_name.contains_key(*name));
        list.extend(new.zip(next..).map(|(name, id)| Token::new(name, true).listed(id)));
        Ok(())
    }
}

impl Token {
    /// A token of which no more is known, as `transformers` takes it.
    fn new(content: &str, special: bool) -> Self {
        let fields = [("special", special), ("normalized", !special)];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.into()));
        Self { content: content.to_owned(), fields: fields.into_iter().collect() }
    }

    fn listed(&self, id: u64) -> Value {
        let flag = |name: &str| self.fields.get(name).and_then(Value::as_bool).unwrap_or(false);
        let mut token = super::special_token(id as usize, &self.content);
        for name in ["special", "single_word", "lstrip", "rstrip", "normalized"] {
            token[name] = flag(name).into();
        }
        token
    }
}

/// The names in a list of tokens, which are texts or objects with their `content`.
fn names(list: &Value) -> Vec<String> {
    let items: Vec<&Value> = match list {
        Value::Array(items) => items.iter().collect(),
        Value::Object(items) => items.values().collect(),
        _ => Vec::new(),
    };
    let name =
        |item: &Value| item.as_str().or_else(|| item.get("content")?.as_str()).map(str::to_owned);
    items.into_iter().filter_map(name).filter(|name| !name.is_empty()).collect()
}

/// The object in a file; an empty one where there is no file.
pub(super) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(Error::io(path)(error)),
    };
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::malformed(path, "this is not a JSON object")),
        Err(error) => Err(Error::malformed(path, error)),
    }
}

fn malformed(directory: &Path, file: &str, token: &str) -> Error {
    Error::malformed(&directory.join(file), format!("the token `{token}` has no id or no name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Tokenizer, spiece::tests::model};
    use super::*;

    /// The tokenizer of a directory with `spiece.model`, whose pieces end at 9, and other files.
    fn tokenizer(files: &[(&str, Value)]) -> Result<Tokenizer> {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(directory.path().join(name), bytes).expect("it is ours");
        };
        write("spiece.model", &model());
        files.iter().for_each(|(name, json)| write(name, json.to_string().as_bytes()));
        let tokenizer = Tokenizer::load(directory.path())?;
        // What is written out and read again is the same.
        std::fs::remove_file(directory.path().join("tokenizer_config.json")).ok();
        tokenizer.save(directory.path())?;
        let again = Tokenizer::load(directory.path())?;
        for text in ["a<hl>bc", "<hl> a", "<extra_id_0></s>{"] {
            assert_eq!(again.encode(text, None)?, tokenizer.encode(text, None)?);
        }
        Ok(tokenizer)
    }

    #[test]
    fn added_tokens_mean_themselves() -> Result<()> {
        let ids = (ADDED, json!({ "<hl>": 109, "{": 110 }));
        let hl = json!(["<hl>"]);
        let objects = json!([{ "content": "<hl>", "lstrip": false }]);
        let decoder = json!({
            "109": { "content": "<hl>", "special": true }, "110": { "content": "{", "special": false }
        });
        for files in [
            vec![ids.clone(), (SPECIAL, json!({ "additional_special_tokens": hl }))],
            vec![ids.clone(), (SPECIAL, json!({ "additional_special_tokens": objects }))],
            vec![ids.clone(), (CONFIG, json!({ "extra_special_tokens": { "mark": "<hl>" } }))],
            vec![(CONFIG, json!({ "added_tokens_decoder": decoder }))],
        ] {
            let tokenizer = tokenizer(&files)?;
            assert_eq!(tokenizer.vocab_size(), 111, "{files:?}");
            assert_eq!(tokenizer.encode("a<hl>bc{", None)?, [7, 109, 3, 8, 110, 1], "{files:?}");
            // T5's own are text all the same, and special ones are not written.
            assert_eq!(tokenizer.encode("a</s>", None)?, [7, 2, 1]);
            assert_eq!(tokenizer.decode(&[7, 109, 8, 110, 1])?, "abc{", "{files:?}");
        }
        Ok(())
    }

    #[test]
    fn a_special_token_without_an_id_comes_last() -> Result<()> {
        let special = json!({ "additional_special_tokens": ["<extra_id_0>", "<hl>"] });
        let tokenizer = tokenizer(&[(SPECIAL, special)])?;
        assert_eq!(tokenizer.encode("<hl>", None)?, [109, 1]);
        Ok(())
    }

    #[test]
    fn extra_ids_are_as_many_as_the_file_says() -> Result<()> {
        let files = [(CONFIG, json!({ "extra_ids": 0 })), (ADDED, json!({ "<hl>": 9 }))];
        let tokenizer = tokenizer(&files)?;
        assert_eq!((tokenizer.vocab_size(), tokenizer.encode("<hl>", None)?), (10, vec![9, 1]));
        Ok(())
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let cases = [
            (ADDED, json!({ "<hl>": 4 }), "`<hl>` cannot have the id 4: it is that of `a`"),
            (ADDED, json!({ "a": 109 }), "`a` cannot have the id 109: `a` has the id 4 already"),
            (ADDED, json!({ "<hl>": 150, "<b>": u32::MAX }), "more than any vocabulary"),
            (ADDED, json!({ "<hl>": "x" }), "added_tokens.json: the token `<hl>` has no id"),
            (ADDED, json!(["<hl>"]), "added_tokens.json: this is not a JSON object"),
            (CONFIG, json!({ "added_tokens_decoder": { "x": {} } }), "the token `x` has no id"),
            (CONFIG, json!({ "added_tokens_decoder": { "109": {} } }), "has no id or no name"),
            (CONFIG, json!({ "extra_ids": 5_000_000_000_u64 }), "more than any vocabulary"),
        ];
        for (file, json, message) in cases {
            let error = tokenizer(&[(file, json)]).expect_err(message).to_string();
            assert!(error.contains(message), "{error}, not {message}");
        }
    }
}
