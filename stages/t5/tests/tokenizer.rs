//! Tokenizers: training, and text that looks like special tokens.

use paraloom_stages_t5::{score::Labels, tokenizer::Tokenizer};

type TestResult = Result<(), Box<dyn std::error::Error>>;

const TEXTS: [&str; 4] = [
    "The company raised its forecast for the year after strong sales in the third quarter.",
    "Sales in the third quarter were strong, and the forecast for the year was raised.",
    "stsb sentence1: sentence2: cola sentence: acceptable unacceptable 0.0 1.2 2.4 3.6 4.8 5.0 0123456789",
    "paraphrase: <pad> </s> <unk> pads are not tokens",
];

const WORDS: [&str; 3] = ["stsb", "unacceptable", "4.8"];

fn trained() -> Result<Tokenizer, paraloom_stages_t5::Error> {
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
fn some_words_are_one_piece_whatever_the_texts_say() -> TestResult {
    let tokenizer = trained()?;
    for word in WORDS {
        assert_eq!(tokenizer.pieces(word)?.len(), 1, "{word}");
    }
    assert!(tokenizer.pieces("unacceptably")?.len() > 1);
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
