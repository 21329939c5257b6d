//! Tokenizers of bytes that come without a `tokenizer.json`: that of ByT5, which has a token for each byte, and those of
//! CodeT5, which join pairs of bytes as RoBERTa does (`vocab.json` and `merges.txt`).

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value, json};

use super::{added::Added, sequence, special_token};
use crate::{Error, Result};

pub(super) const VOCAB: &str = "vocab.json";
pub(super) const MERGES: &str = "merges.txt";
/// The class that `tokenizer_config.json` names where the tokens are bytes.
const BYT5: &str = "ByT5Tokenizer";
/// Classes whose `vocab.json` and `merges.txt` are read.
const ROBERTA: [&str; 2] = ["RobertaTokenizer", "RobertaTokenizerFast"];
/// Tokens of ByT5 before those of the bytes.
const OWN: [&str; 3] = ["<pad>", "</s>", "<unk>"];
/// Tokens for the gaps of ByT5's pre-training task.
const EXTRA_IDS: usize = 125;
/// RoBERTa's special tokens, by the fields that name others.
const SPECIAL: [(&str, &str); 7] = [
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("sep_token", "</s>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<s>"),
    ("mask_token", "<mask>"),
];

/// The class that the configuration of a tokenizer names.
fn class(config: &Map<String, Value>) -> Option<&str> {
    config.get("tokenizer_class").and_then(Value::as_str)
}

/// Whether the configuration is that of ByT5's tokenizer, which needs no other file.
pub(super) fn is_byt5(config: &Map<String, Value>) -> bool {
    class(config) == Some(BYT5)
}

/// The `tokenizer.json` of ByT5's tokenizer, without what its files add.
pub(super) fn byt5(config: &Map<String, Value>) -> Result<Value> {
    let count = config.get("extra_ids").and_then(Value::as_u64).filter(|count| *count > 0);
    let count = count.map_or(Ok(EXTRA_IDS), usize::try_from).unwrap_or(usize::MAX);
    if count > super::MOST_TOKENS as usize {
        return Err(Error::Tokenizer("`extra_ids` is more than any vocabulary has".into()));
    }
    let bytes = (0..=u8::MAX).map(|byte| character(byte).to_string());
    let names = OWN.map(str::to_owned).into_iter().chain(bytes);
    let mut vocab: Map<String, Value> =
        names.zip(0..).map(|(name, id)| (name, Value::from(id))).collect();
    let mut added: Vec<Value> =
        OWN.iter().enumerate().map(|(id, name)| special_token(id, name)).collect();
    for extra in 0..count {
        let (name, id) = (format!("<extra_id_{extra}>"), vocab.len());
        added.push(special_token(id, &name));
        vocab.insert(name, id.into());
    }
    let mut json = bpe(&added, Value::Object(vocab), Vec::new(), false);
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [sequence("A"), super::special("</s>")],
        "pair": [sequence("A"), super::special("</s>"), sequence("B"), super::special("</s>")],
        "special_tokens": { "</s>": { "id": "</s>", "ids": [1], "tokens": ["</s>"] } },
    });
    Ok(json)
}

/// The `tokenizer.json` of the `vocab.json` and `merges.txt` in a directory, with what the files beside them add.
///
/// # Errors
/// When a file cannot be read, or they are not of a tokenizer like RoBERTa's.
pub(super) fn roberta(directory: &Path, config: &Map<String, Value>) -> Result<Value> {
    let [vocab_path, merges_path] = [VOCAB, MERGES].map(|name| directory.join(name));
    if let Some(other) = class(config).filter(|class| !ROBERTA.contains(class)) {
        let message = format!(
            "`{other}` is not known; let transformers write its tokenizer.json: python -c \"import transformers as t; \
             t.AutoTokenizer.from_pretrained('{0}').save_pretrained('{0}')\"",
            directory.display()
        );
        return Err(Error::malformed(&vocab_path, message));
    }
    let read = |path: &Path| std::fs::read_to_string(path).map_err(Error::io(path));
    let vocab: BTreeMap<String, u32> = serde_json::from_str(&read(&vocab_path)?)
        .map_err(|error| Error::malformed(&vocab_path, error))?;
    let merges = read(&merges_path)?;
    let merges: Vec<Value> = merges
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.is_empty())
        .map(|line| {
            let pair = line.split_once(' ').ok_or_else(|| {
                Error::malformed(&merges_path, format!("`{line}` is not a pair of pieces"))
            });
            pair.map(|(one, other)| json!([one, other]))
        })
        .collect::<Result<_>>()?;
    let named = |(field, usual): (&str, &str)| {
        let value = config.get(field);
        let text = value.and_then(|value| value.as_str().or_else(|| value["content"].as_str()));
        text.unwrap_or(usual).to_owned()
    };
    let id = |name: &str| {
        vocab.get(name).copied().ok_or_else(|| {
            Error::malformed(&vocab_path, format!("there is no special token `{name}`"))
        })
    };
    let mut special = BTreeMap::new();
    for field in SPECIAL {
        let name = named(field);
        special.insert(id(&name)?, name);
    }
    let added: Vec<_> =
        special.iter().map(|(id, name)| special_token(*id as usize, name)).collect();
    let [start, end] = [("cls_token", "<s>"), ("sep_token", "</s>")].map(named);
    let add_prefix_space = config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    let (start_id, end_id) = (id(&start)?, id(&end)?);
    let mut json = bpe(&added, json!(vocab), merges, add_prefix_space);
    json["pre_tokenizer"]["use_regex"] = true.into();
    json["post_processor"] = json!({
        "type": "RobertaProcessing", "cls": [start, start_id], "sep": [end, end_id],
        "trim_offsets": true, "add_prefix_space": add_prefix_space,
    });
    Added::read(directory)?.special_as_in(config).put_into(&mut json)?;
    Ok(json)
}

/// The `tokenizer.json` of pairs of bytes.
fn bpe(added: &[Value], vocab: Value, merges: Vec<Value>, add_prefix_space: bool) -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": false,
        },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    })
}

/// The bytes that the tokens of a `tokenizer.json` stand for, where each is one.
pub(super) fn bytes(json: &Value) -> Option<BTreeMap<u32, u8>> {
    let model = &json["model"];
    let has_no_pairs = model["merges"].as_array().is_some_and(Vec::is_empty);
    if model["type"] != "BPE" || !has_no_pairs || json["decoder"]["type"] != "ByteLevel" {
        return None;
    }
    let id = |byte: u8| {
        let id = model["vocab"][character(byte).to_string().as_str()].as_u64()?;
        Some((u32::try_from(id).ok()?, byte))
    };
    (0..=u8::MAX).map(id).collect()
}

/// The bytes of all characters that stand for one.
pub(super) fn characters() -> BTreeMap<char, u8> {
    (0..=u8::MAX).map(|byte| (character(byte), byte)).collect()
}

/// The printable character that stands for a byte in vocabularies, as GPT-2 began it.
pub(super) fn character(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        // The others come behind all of those, in their order.
        0..=0x20 => shifted(u32::from(byte)),
        0x7f..=0xa0 => shifted(u32::from(byte) - 0x7f + 0x21),
        0xad => shifted(0x43),
    }
}

fn shifted(by: u32) -> char {
    char::from_u32(0x100 + by).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Tokenizer;
    use super::*;

    fn load(files: &[(&str, String)]) -> Result<Tokenizer> {
        let directory = tempfile::tempdir().map_err(Error::io("a temporary directory"))?;
        for (name, text) in files {
            let path = directory.path().join(name);
            std::fs::write(&path, text).map_err(Error::io(path))?;
        }
        let tokenizer = Tokenizer::load(directory.path())?;
        // What is written out and read again is the same.
        let saved = directory.path().join("saved");
        tokenizer.save(&saved)?;
        let again = Tokenizer::load(&saved)?;
        for text in ["", "a<hl>bc", "hé </s> x", " two  spaces\n"] {
            assert_eq!(again.encode(text, None)?, tokenizer.encode(text, None)?);
        }
        Ok(tokenizer)
    }

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let all: BTreeSet<char> = (0..=u8::MAX).map(character).collect();
        assert_eq!(all.len(), 256);
        assert_eq!([b' ', b'\n', b'a', 0x7f, 0xad].map(character), ['Ġ', 'Ċ', 'a', 'ġ', 'Ń']);
    }

    #[test]
    fn bytes_are_tokens() -> Result<()> {
        let config = json!({ "tokenizer_class": BYT5, "extra_ids": 0 }).to_string();
        let added = json!({ "<hl>": 384 }).to_string();
        let tokenizer = load(&[("tokenizer_config.json", config), ("added_tokens.json", added)])?;
        assert_eq!(tokenizer.vocab_size(), 385);
        assert_eq!(tokenizer.encode("hé ", None)?, [107, 198, 172, 35, 1]);
        assert_eq!(tokenizer.encode("a<hl>", None)?, [100, 384, 1]);
        let own = "</s>";
        let bytes: Vec<u32> = own.bytes().map(|byte| u32::from(byte) + 3).chain([1]).collect();
        assert_eq!(tokenizer.encode(own, None)?, bytes);
        assert_eq!(tokenizer.decode(&[107, 198, 172, 35, 259, 1])?, "hé ");
        // What is no UTF-8 is left out, as by transformers.
        assert_eq!(tokenizer.decode(&[107, 198, 107, 384, 2, 1])?, "hh<hl>");
        Ok(())
    }

    fn code() -> Vec<(&'static str, String)> {
        let pieces = [
            "<pad>", "<s>", "</s>", "<unk>", "<mask>", "a", "b", "c", "Ġ", "ab", "Ġab", "<", ">",
            "h", "l", "Ċ",
        ];
        let vocab: BTreeMap<&str, usize> = pieces.into_iter().zip(0..).collect();
        vec![
            (VOCAB, json!(vocab).to_string()),
            (MERGES, "#version: 0.2\na b\nĠ ab\n".into()),
            ("tokenizer_config.json", json!({ "tokenizer_class": "RobertaTokenizer" }).to_string()),
            ("added_tokens.json", json!({ "<extra_id_0>": 16, "<hl>": 17 }).to_string()),
            (
                "special_tokens_map.json",
                json!({ "additional_special_tokens": ["<extra_id_0>", "<hl>"] }).to_string(),
            ),
        ]
    }

    #[test]
    fn pairs_of_bytes_are_joined_between_a_start_and_an_end() -> Result<()> {
        let tokenizer = load(&code())?;
        assert_eq!(tokenizer.encode("ab ab c", None)?, [1, 9, 10, 8, 7, 2]);
        assert_eq!(tokenizer.encode("ab<hl>c", None)?, [1, 9, 17, 7, 2]);
        assert_eq!(tokenizer.encode("<s>", None)?, [1, 11, 12, 2], "the built-in ones are text");
        assert_eq!(tokenizer.encode("ab ab c", Some(3))?, [1, 9, 2]);
        assert_eq!(tokenizer.decode(&[1, 9, 10, 17, 16, 2])?, "ab ab<hl><extra_id_0>");
        let mut files = code();
        let config = json!({ "tokenizer_class": "RobertaTokenizer", "additional_special_tokens": ["<extra_id_0>"] });
        files[2].1 = config.to_string();
        assert_eq!(load(&files)?.decode(&[1, 9, 10, 17, 16, 2])?, "ab ab<hl>");
        Ok(())
    }

    #[test]
    fn files_that_are_none_are_told_by_name() {
        let cases = [
            (VOCAB, "{", "vocab.json: EOF"),
            (VOCAB, "{\"a\": 0}", "no special token `<s>`"),
            (MERGES, "ab", "merges.txt: `ab` is not a pair"),
            (
                "tokenizer_config.json",
                "{\"tokenizer_class\": \"GPT2Tokenizer\"}",
                "`GPT2Tokenizer` is not known",
            ),
            ("added_tokens.json", "{\"<hl>\": 5}", "it is that of `a`"),
        ];
        for (name, text, message) in cases {
            let mut files = code();
            files.retain(|(file, _)| *file != name);
            files.push((name, text.to_owned()));
            let error = load(&files).expect_err(message).to_string();
            assert!(error.contains(message), "{error}, not {message}");
        }
    }
}
