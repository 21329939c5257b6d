//! A model directory in the Hugging Face layout: `config.json`, `generation_config.json` and `model.safetensors`, or
//! the `pytorch_model.bin` of older models, whole or in shards with an index.

pub mod adapter;
mod pickled;
mod tensors;
mod write;

use std::path::Path;

use burn::tensor::Device;
use serde_json::Value;

use self::tensors::PIECE;
pub use self::write::{Format, copy_file, parse_size, save, save_as, write_file};
pub(crate) use self::{
    tensors::TensorFiles,
    write::{Stored, write_json, write_tensors},
};
use crate::{
    Error, Result,
    config::Config,
    model::{InferenceModel, Model, Weights},
    numeric::Precision,
};

const CONFIG: &str = "config.json";
/// The field of it that says what the model is called.
const NAME: &str = "_name_or_path";
const GENERATION: &str = "generation_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PICKLED: &str = "pytorch_model.bin";
const PICKLED_INDEX: &str = "pytorch_model.bin.index.json";

/// Where the embedding may lie; some writers keep only one of its aliases.
const SHARED_ALIASES: [&str; 3] =
    ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
const HEAD: &str = "lm_head.weight";

/// Reads a model.
///
/// Whether the head is tied to the embedding is decided by whether the files hold a head that differs from it.
///
/// # Errors
/// When a file is missing, damaged or not T5, has tensors that the model does not use, or a weight has a value that is NaN or
/// infinite; every message names the file.
pub fn load(directory: &Path, device: &Device) -> Result<Model> {
    let (config, files) = open_checked(directory)?;
    Model::from_values(config, device, |spec| files.values(spec, Vec::new()))
}

/// Reads a model for writing and scoring, in a precision.
///
/// # Errors
/// As [`load`].
pub fn load_for_inference(
    directory: &Path,
    device: &Device,
    precision: Precision,
) -> Result<InferenceModel> {
    let (config, files) = open_checked(directory)?;
    InferenceModel::from_values(config, device, precision, |spec, memory| {
        files.values(spec, memory)
    })
}

fn open(directory: &Path) -> Result<(Config, TensorFiles)> {
    let mut config = Config::read(&directory.join(CONFIG))?;
    let files = TensorFiles::open(directory)?;
    config.untied_head = files.has_own_head()?;
    Ok((config, files))
}

fn open_checked(directory: &Path) -> Result<(Config, TensorFiles)> {
    let (config, files) = open(directory)?;
    files.check_all_used(&Weights::layout(&config).list())?;
    Ok((config, files))
}

/// Whether the weights in a directory are pickled.
pub fn is_pickled(directory: &Path) -> bool {
    let has = |name: &str| directory.join(name).exists();
    (has(PICKLED) || has(PICKLED_INDEX)) && !has(WEIGHTS) && !has(INDEX)
}

/// Whether there are weights in a directory.
pub fn has_weights(directory: &Path) -> bool {
    [WEIGHTS, INDEX, PICKLED, PICKLED_INDEX].iter().any(|name| directory.join(name).is_file())
}

/// Writes the weights of one directory into another as safetensors, to the byte as they are stored.
///
/// # Errors
/// When they cannot be read or written.
pub fn convert(from: &Path, to: &Path) -> Result<()> {
    let (config, files) = open(from)?;
    write::copy_weights(&files, &Weights::layout(&config).list(), &to.join(WEIGHTS))
}

/// The configuration of the model in a directory.
///
/// # Errors
/// When it cannot be read, or is not that of a T5.
pub fn config(directory: &Path) -> Result<Config> {
    Ok(open(directory)?.0)
}

/// Says in a model's `config.json` what it is called, where that says nothing yet.
///
/// # Errors
/// When the file cannot be read or written.
pub fn name(directory: &Path, name: &str) -> Result<()> {
    let path = directory.join(CONFIG);
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let mut value: Value =
        serde_json::from_str(&text).map_err(|error| Error::malformed(&path, error))?;
    match value.as_object_mut() {
        Some(fields) if !fields.contains_key(NAME) => {
            fields.insert(NAME.to_owned(), name.into());
            write_json(&path, &value)
        }
        _ => Ok(()),
    }
}
