//! Tokenizers: training, and text that looks like special tokens.

#![expect(clippy::print_stdout, reason = "a test that is left out says so")]

use std::path::{Path, PathBuf};

use paraloom_t5_core::{score::Labels, tokenizer::Tokenizer};

type TestResult = Result<(), Box<dyn std::error::Error>>;

const TEXTS: [&str; 4] = [
    "The company raised its forecast for the year after strong sales in the third quarter.",
    "Sales in the third quarter were strong, and the forecast for the year was raised.",
    "stsb sentence1: sentence2: cola sentence: acceptable unacceptable 0.0 1.2 2.4 3.6 4.8 5.0 0123456789",
    "paraphrase: <pad> </s> <unk> pads are not tokens",
];

const WORDS: [&str; 3] = ["stsb", "unacceptable", "4.8"];

fn trained() -> Result<Tokenizer, paraloom_t5_core::Error> {
    Tokenizer::train(TEXTS, &WORDS, 120)
}

#[test]
fn training_is_the_same_in_any_order_and_survives_the_disk() -> TestResult {
    let (folder, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let tokenizer = trained()?;
    tokenizer.save(folder.path())?;
    Tokenizer::train(TEXTS.into_iter().rev(), &WORDS, 120)?.save(other.path())?;
    let read = |folder: &tempfile::TempDir| std::fs::read(folder.path().join("tokenizer.json"));
    assert!(read(&folder)? == read(&other)?);
    assert_eq!(tokenizer.vocab_size(), 120);
    let loaded = Tokenizer::load(folder.path())?;
    for text in TEXTS {
        assert_eq!(loaded.encode(text, None)?, tokenizer.encode(text, None)?);
    }
    Ok(())
}

#[test]
fn text_comes_back_and_ends_once() -> TestResult {
    let tokenizer = trained()?;
    for text in TEXTS {
        let ids = tokenizer.encode(text, None)?;
        assert_eq!(tokenizer.decode(&ids)?, text);
        assert_eq!(ids.iter().filter(|&&id| id < 3).copied().collect::<Vec<_>>(), [1], "{text}");
    }
    assert_eq!(tokenizer.encode(TEXTS[0], Some(4))?.len(), 4);
    assert_eq!(tokenizer.encode("", None)?, [1]);
    Ok(())
}

#[test]
fn texts_are_cleaned_up_where_a_model_asks_for_it() -> TestResult {
    let (folder, again) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let text = "it 's on , is n't it ? yes ! We 've won . ' a ' 're 'm";
    Tokenizer::train([text], &[], 60)?.save(folder.path())?;
    let ids = Tokenizer::load(folder.path())?.encode(text, None)?;
    // What transformers 5.24 makes of it with the setting, and without.
    let cleaned = "it's on, isn't it? yes! We've won.'a''re'm";
    for (setting, expected) in [("true", cleaned), ("false", text), ("null", text)] {
        let path = folder.path().join("tokenizer_config.json");
        std::fs::write(path, format!(r#"{{ "clean_up_tokenization_spaces": {setting} }}"#))?;
        let tokenizer = Tokenizer::load(folder.path())?;
        assert_eq!(tokenizer.decode(&ids)?, expected);
        tokenizer.save(again.path())?;
        assert_eq!(Tokenizer::load(again.path())?.decode(&ids)?, expected, "also a copy");
    }
    Ok(())
}

/// Puts tokens into a `tokenizer.json`: name, id, whether it is special.
fn with_tokens(tokens: &[(&str, u32, bool)]) -> Result<Tokenizer, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    trained()?.save(folder.path())?;
    let path = folder.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    let list = json["added_tokens"].as_array_mut().ok_or("a list")?;
    list.extend(tokens.iter().map(|(content, id, special)| {
        serde_json::json!({ "id": id, "content": content, "special": special, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": !special })
    }));
    std::fs::write(&path, json.to_string())?;
    Ok(Tokenizer::load(folder.path())?)
}

#[test]
fn tokens_that_were_added_mean_themselves_in_any_order_of_ids() -> TestResult {
    let text = "<hl>sales</s><extra_id_0>{";
    let plain = trained()?.encode(text, None)?;
    assert!(plain.iter().all(|id| *id < 120));
    for tokens in [
        [("<hl>", 120, true), ("{", 121, false), ("<extra_id_0>", 122, true)],
        [("{", 121, false), ("<extra_id_0>", 122, true), ("<hl>", 120, true)],
        [("<extra_id_0>", 120, true), ("<hl>", 121, true), ("{", 122, false)],
        [("<hl>", 120, true), ("<extra_id_0>", 121, true), ("{", 130, false)],
        // A writer that forgot what is special.
        [("<hl>", 120, true), ("{", 121, false), ("<extra_id_0>", 122, false)],
    ] {
        let tokenizer = with_tokens(&tokens)?;
        let id = |name| tokens.iter().find(|token| token.0 == name).map(|token| token.1);
        let ids = tokenizer.encode(text, None)?;
        assert_eq!(ids.first().copied(), id("<hl>"), "{tokens:?}");
        assert_eq!(ids.iter().rev().nth(1).copied(), id("{"), "{tokens:?}");
        assert!(!ids.contains(&id("<extra_id_0>").ok_or("its id")?), "{tokens:?}");
        assert_eq!(ids.iter().filter(|id| **id == 1).count(), 1, "the end is written once");
        assert_eq!(
            tokenizer.vocab_size() as u32,
            tokens.iter().map(|t| t.1).max().unwrap_or(0) + 1
        );
        let all: Vec<u32> = tokens.iter().map(|token| token.1).collect();
        assert_eq!(tokenizer.decode(&all)?, "{", "special tokens are not written");
    }
    assert!(with_tokens(&[("<hl>", u32::MAX, true)]).is_err());
    Ok(())
}

#[test]
fn built_in_tokens_mean_themselves_where_that_is_asked_for() -> TestResult {
    let text = "sales <extra_id_0> rose</s> a <extra_id_1>";
    for tokens in [
        [("<extra_id_0>", 121, true), ("<extra_id_1>", 120, true), ("<hl>", 122, true)],
        [("<hl>", 120, true), ("<extra_id_0>", 121, false), ("<extra_id_1>", 130, false)],
    ] {
        let plain = with_tokens(&tokens)?;
        let parsing = plain.parsing_special_tokens()?;
        let id = |name| tokens.iter().find(|token| token.0 == name).map(|token| token.1);
        let gaps = [id("<extra_id_0>"), Some(1), id("<extra_id_1>"), Some(1)];
        let ids = parsing.encode(text, None)?;
        let found: Vec<_> =
            ids.iter().copied().filter(|id| *id >= 120 || *id == 1).map(Some).collect();
        assert_eq!(found, gaps, "{tokens:?}");
        // What is written has the gaps that it fills, and no end.
        let written = parsing.decode(&ids)?;
        for part in ["<extra_id_0>", "rose", "<extra_id_1>"] {
            assert!(written.contains(part), "{written}");
        }
        assert!(!written.contains("</s>"), "{written}");
        assert!(!plain.encode(text, None)?.iter().any(|id| *id >= 120), "not unless it is");
        let text = "sales rose";
        assert_eq!(plain.encode(text, None)?, parsing.encode(text, None)?);
    }
    Ok(())
}

#[test]
fn some_words_are_one_piece_whatever_the_texts_say() -> TestResult {
    let tokenizer = trained()?;
    for word in WORDS {
        assert_eq!(tokenizer.pieces(word)?.len(), 1, "{word}");
    }
    assert!(tokenizer.pieces("unacceptably")?.len() > 1);
    Ok(())
}

#[test]
fn a_text_of_ten_megabytes_is_cut() -> TestResult {
    let tokenizer = trained()?;
    for text in ["Sales were strong. ".repeat(500_000), "s".repeat(10 << 20)] {
        let ids = tokenizer.encode(&text, Some(512))?;
        assert_eq!((ids.len(), ids.last()), (512, Some(&1)));
    }
    Ok(())
}

#[test]
fn a_vocabulary_too_small_for_the_characters_is_refused() {
    assert!(Tokenizer::train(TEXTS, &WORDS, 20).is_err());
}

#[test]
fn labels_are_those_of_the_tokenizer_at_hand() -> TestResult {
    let tokenizer = trained()?;
    assert_eq!(Labels::stsb(&tokenizer)?.names().len(), 26);
    assert_eq!(Labels::cola(&tokenizer)?.names(), ["unacceptable", "acceptable"]);
    Ok(())
}

/// A directory with the real data, which is not part of the repository.
fn data() -> Option<PathBuf> {
    let data = std::env::var_os("PARALOOM_DATA").map(PathBuf::from);
    if data.is_none() {
        println!("skipped: PARALOOM_DATA does not name the directory with the real data");
    }
    data
}

/// A tokenizer of one file of the genuine one.
fn only(file: &str, of: &Path) -> Result<Tokenizer, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    std::fs::copy(of.join(file), folder.path().join(file))?;
    Ok(Tokenizer::load(folder.path())?)
}

#[test]
fn t5_s_sentencepiece_model_agrees_with_its_tokenizer_json() -> TestResult {
    let Some(data) = data() else { return Ok(()) };
    let genuine = data.join("t5-tokenizer");
    let (json, spiece) = (only("tokenizer.json", &genuine)?, only("spiece.model", &genuine)?);
    assert_eq!(spiece.vocab_size(), json.vocab_size());
    let table = std::fs::read_to_string(data.join("business/fomc_sentences.tsv"))?;
    let sentences: Vec<&str> =
        table.lines().skip(1).filter_map(|line| Some(line.split_once('\t')?.1)).collect();
    let differing = |texts: &[String]| -> Result<usize, Box<dyn std::error::Error>> {
        let (one, other) =
            (json.encode_all(texts, usize::MAX)?, spiece.encode_all(texts, usize::MAX)?);
        Ok(one.iter().zip(&other).filter(|(one, other)| one != other).count())
    };
    let plain: Vec<String> = sentences.iter().map(|text| (*text).to_owned()).collect();
    // What the normalisation table is for: ligatures, fractions, full-width letters, combining marks, odd spaces.
    let dressed: Vec<String> = sentences
        .iter()
        .map(|text| format!("\u{fb01}ne \u{bd}  {text}\u{3000}\u{ff21}e\u{301}\t</s> \u{1f600}"))
        .collect();
    println!(
        "ids differ for {} of {} sentences, and for {} of {} with odd characters",
        differing(&plain)?,
        plain.len(),
        differing(&dressed)?,
        dressed.len()
    );
    assert_eq!(differing(&plain)? + differing(&dressed)?, 0);
    Ok(())
}
