//! A model directory in the Hugging Face layout: `config.json`, `generation_config.json` and `model.safetensors`, whole
//! or in shards with an index.
//!
//! Files are read, not mapped: a file that is cut short under us is then an error and not a crash.

mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use rayon::prelude::*;
use safetensors::{Dtype, tensor::Metadata};
use serde_json::Value;

pub use self::write::{Float, Format, parse_size, save, save_as};
pub(crate) use self::write::{Stored, copy_file, write_file, write_json, write_tensors};
use crate::{
    Error, Result,
    config::Config,
    model::{Model, Precision, Slot},
};

const CONFIG: &str = "config.json";
/// The field of it that says what the model is called.
const NAME: &str = "_name_or_path";
const GENERATION: &str = "generation_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PICKLED: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Where the embedding may lie; some writers keep only one of its aliases.
const SHARED_ALIASES: [&str; 3] =
    ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
const HEAD: &str = "lm_head.weight";

/// Reads a model.
///
/// Whether the head is tied to the embedding is decided by whether the files hold a head that differs from it.
///
/// # Errors
/// When a file is missing, damaged or not T5, or a weight has a value that is NaN or infinite; every message names the
/// file.
pub fn load(directory: &Path, device: &Device) -> Result<Model> {
    let (config, files) = open(directory)?;
    Model::from_values(config, device, |slot| files.values(slot))
}

/// Reads a model that is only read from, in a precision.
///
/// # Errors
/// As [`load`].
pub fn load_to_read(directory: &Path, device: &Device, precision: Precision) -> Result<Model> {
    let (config, files) = open(directory)?;
    Model::to_read(config, device, precision, |slot| files.values(slot))
}

fn open(directory: &Path) -> Result<(Config, TensorFiles)> {
    let mut config = Config::read(&directory.join(CONFIG))?;
    let files = TensorFiles::open(directory)?;
    config.untied_head = files.has_own_head()?;
    Ok((config, files))
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

/// The tensors of a model directory or a file, by name.
pub(crate) struct TensorFiles {
    /// What they are of, for messages.
    path: PathBuf,
    places: BTreeMap<String, Place>,
}

/// Where a tensor lies.
#[derive(Clone)]
struct Place {
    file: PathBuf,
    offset: u64,
    bytes: usize,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl TensorFiles {
    /// Those of one file.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub(crate) fn of_file(path: &Path) -> Result<Self> {
        let mut files = Self { path: path.to_path_buf(), places: BTreeMap::new() };
        files.add(path)?;
        Ok(files)
    }

    fn open(directory: &Path) -> Result<Self> {
        let mut files = Self { path: directory.to_path_buf(), places: BTreeMap::new() };
        let (whole, index) = (directory.join(WEIGHTS), directory.join(INDEX));
        if whole.exists() {
            files.add(&whole)?;
        } else if index.exists() {
            for shard in shards(&index)? {
                files.add(&directory.join(shard))?;
            }
        } else if PICKLED.iter().any(|name| directory.join(name).exists()) {
            return Err(Error::malformed(directory, pickled_advice(directory)));
        } else {
            return Err(Error::malformed(
                directory,
                format!("there is no {WEIGHTS} here, nor {INDEX}"),
            ));
        }
        Ok(files)
    }

    /// The values of a weight.
    fn values(&self, slot: &Slot) -> Result<Vec<f32>> {
        let aliases: &[&str] =
            if slot.name == SHARED_ALIASES[0] { &SHARED_ALIASES } else { &[&slot.name] };
        let values = self.read(aliases, &slot.shape())?;
        let not_finite = |piece: &[f32]| piece.iter().filter(|value| !value.is_finite()).count();
        match values.par_chunks(PIECE).map(not_finite).sum() {
            0 => Ok(values),
            count => Err(self.not_finite(aliases, count, values.len())),
        }
    }

    /// Says which tensor has `count` values that are no numbers: a model with a single one computes nothing but NaN.
    fn not_finite(&self, aliases: &[&str], count: usize, total: usize) -> Error {
        let named = aliases.iter().find_map(|name| self.places.get_key_value(*name));
        let (tensor, path) = match named {
            Some((name, place)) => (name.clone(), place.file.clone()),
            None => (aliases[0].to_owned(), self.path.clone()),
        };
        Error::NotFinite { path, tensor, count, total }
    }

    /// Takes in the header of a file.
    fn add(&mut self, path: &Path) -> Result<()> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(Error::io(path))?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > length.saturating_sub(8) {
            return Err(Error::malformed(path, "not a safetensors file, or cut short"));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header).map_err(Error::io(path))?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| Error::malformed(path, error))?;
        let data = 8 + header_length;
        if data + metadata.data_len() as u64 != length {
            return Err(Error::malformed(
                path,
                "the file is cut short, or longer than its header says",
            ));
        }
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let place = Place {
                file: path.to_path_buf(),
                offset: data + start as u64,
                bytes: end - start,
                dtype: info.dtype,
                shape: info.shape.clone(),
            };
            self.places.insert(name, place);
        }
        Ok(())
    }

    fn has_own_head(&self) -> Result<bool> {
        let Some(head) = self.places.get(HEAD) else { return Ok(false) };
        let Some(shared) = SHARED_ALIASES.iter().find_map(|name| self.places.get(*name)) else {
            return Ok(true);
        };
        Ok(head.dtype != shared.dtype || head.read_bytes()? != shared.read_bytes()?)
    }

    /// The values of the first of `names` that exists, as f32.
    ///
    /// # Errors
    /// When there is none, it has another shape, or cannot be read.
    pub(crate) fn read(&self, names: &[&str], shape: &[usize]) -> Result<Vec<f32>> {
        let Some(place) = names.iter().find_map(|name| self.places.get(*name)) else {
            let message =
                format!("the weights lack `{}`; are they of the model in config.json?", names[0]);
            return Err(Error::malformed(&self.path, message));
        };
        if place.shape != shape {
            let message =
                format!("`{}` is {:?}, but config.json says {shape:?}", names[0], place.shape);
            return Err(Error::malformed(&place.file, message));
        }
        match place.dtype {
            Dtype::F32 => place.read_f32(),
            Dtype::BF16 => place.read_halves(|bytes| half::bf16::from_le_bytes(bytes).to_f32()),
            Dtype::F16 => place.read_halves(|bytes| half::f16::from_le_bytes(bytes).to_f32()),
            other => {
                let message =
                    format!("`{}` is stored as {other:?}; known are F32, BF16 and F16", names[0]);
                Err(Error::malformed(&place.file, message))
            }
        }
    }
}

/// Numbers that a thread reads or looks at in one go: where a file is in memory already, to copy it is most of the work.
const PIECE: usize = 1 << 18;

impl Place {
    /// Fills `bytes` from a place in this tensor on.
    fn read(&self, from: usize, bytes: &mut [u8]) -> Result<()> {
        let mut file = File::open(&self.file).map_err(Error::io(&self.file))?;
        let start = SeekFrom::Start(self.offset + from as u64);
        file.seek(start).map_err(Error::io(&self.file))?;
        file.read_exact(bytes).map_err(Error::io(&self.file))
    }

    fn read_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.bytes];
        self.read(0, &mut bytes)?;
        Ok(bytes)
    }

    fn read_f32(&self) -> Result<Vec<f32>> {
        self.read_pieces(|from, values| {
            self.read(from * size_of::<f32>(), bytemuck::cast_slice_mut(values))?;
            // Files are little-endian.
            values.iter_mut().for_each(|value| *value = f32::from_bits(value.to_bits().to_le()));
            Ok(())
        })
    }

    fn read_halves(&self, value: impl Fn([u8; 2]) -> f32 + Sync) -> Result<Vec<f32>> {
        self.read_pieces(|from, values| {
            let mut halves = vec![[0; 2]; values.len()];
            self.read(from * size_of::<[u8; 2]>(), halves.as_flattened_mut())?;
            values.iter_mut().zip(halves).for_each(|(to, half)| *to = value(half));
            Ok(())
        })
    }

    /// All values, which `read` reads piece by piece from the one with a number on.
    fn read_pieces(
        &self,
        read: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
    ) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.shape.iter().product()];
        let pieces = values.par_chunks_mut(PIECE).enumerate();
        pieces.try_for_each(|(number, piece)| read(number * PIECE, piece))?;
        Ok(values)
    }
}

/// The files that an index names, each once.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(index).map_err(Error::io(index))?;
    let value: Value =
        serde_json::from_str(&text).map_err(|error| Error::malformed(index, error))?;
    let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::malformed(index, "there is no `weight_map`"));
    };
    let names = map.values().map(|name| match name.as_str() {
        // A shard lies beside its index; anything else would read files that are not the model's.
        Some(name) if Path::new(name).file_name().is_some_and(|file| file == name) => {
            Ok(name.to_owned())
        }
        _ => Err(Error::malformed(
            index,
            format!("{name} is not the name of a file beside the index"),
        )),
    });
    names.collect()
}

fn pickled_advice(directory: &Path) -> String {
    format!(
        "the weights are pickled (pytorch_model.bin), and reading a pickle can run any code. Convert them where you \
         trust them: python -c \"from transformers import T5ForConditionalGeneration as M; \
         M.from_pretrained('{0}').save_pretrained('{0}', safe_serialization=True)\"",
        directory.display()
    )
}
