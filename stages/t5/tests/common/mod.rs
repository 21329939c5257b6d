//! A model of a few thousand weights, and rows for it.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use paraloom_sdk::Error;
use paraloom_t5_core::{
    config::Config, device::default_device, folder, model::Model, tokenizer::Tokenizer,
};
use tempfile::TempDir;

const TEXTS: [&str; 3] = [
    "stsb sentence1: sentence2: cola sentence: acceptable unacceptable 0123456789 0.0 1.2 2.4 3.6 4.8 5.0",
    "a dog and a cat",
    "rain or sun",
];

/// A directory with a model and its tokenizer.
pub(crate) fn model() -> Result<TempDir, Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let tokenizer = Tokenizer::train(TEXTS, &[], 64)?;
    let model = Model::initial(Config::small(72, 16, 32, 2, 2), &default_device(), 9)?;
    folder::save(&model, directory.path())?;
    tokenizer.save(directory.path())?;
    Ok(directory)
}

/// Rows of two texts each, with ids `r0`, `r1`, ...
pub(crate) fn rows(texts: &[(Option<&str>, Option<&str>)]) -> RecordBatch {
    let ids: StringArray = (0..texts.len()).map(|row| Some(format!("r{row}"))).collect();
    let sources: StringArray = texts.iter().map(|(source, _)| *source).collect();
    let targets: StringArray = texts.iter().map(|(_, target)| *target).collect();
    let columns = [
        ("_id", Arc::new(ids) as ArrayRef),
        ("source", Arc::new(sources)),
        ("target", Arc::new(targets)),
    ];
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, column)| (name, column, name != "_id")),
    )
    .expect("they fit")
}

/// What a stage says that fails.
pub(crate) fn refusal<T>(result: paraloom_sdk::Result<T>) -> (String, String) {
    let error: Error = result.err().expect("it fails");
    (error.to_string(), error.detail("hint").unwrap_or_default().to_owned())
}
