//! Writing a model directory: the same bytes for the same weights, whole or in shards, in f32 or bf16.

use std::{borrow::Cow, collections::HashMap, fs::File, io::Write, path::Path};

use burn::tensor::Tensor;
use rayon::prelude::*;
use safetensors::{Dtype, View};
use serde_json::{Map, Value, json};

use super::{CONFIG, GENERATION, INDEX, PIECE, TensorFiles, WEIGHTS};
use crate::{
    Error, Result,
    model::{Model, WeightSpec, Weights},
    numeric::Float,
    operations::read_values,
};

/// How weights are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// The numbers.
    pub precision: Float,
    /// Most bytes of weights per file; a larger tensor gets a file of its own.
    pub max_shard_bytes: u64,
}

impl Default for Format {
    /// f32 in one file, unless it is huge: what `transformers` does.
    fn default() -> Self {
        Self { precision: Float::F32, max_shard_bytes: 50_000_000_000 }
    }
}

/// Understands a size such as `5GB` or `512MiB`, as `transformers` writes them; a bare number counts bytes.
///
/// # Errors
/// [`Error::Invalid`] that says how a size is written.
pub fn parse_size(text: &str) -> Result<u64> {
    let number = text.trim_end_matches(|symbol: char| symbol.is_ascii_alphabetic());
    let unit = match text[number.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => Some(1),
        "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "KIB" => Some(1 << 10),
        "MIB" => Some(1 << 20),
        "GIB" => Some(1 << 30),
        _ => None,
    };
    let size = number.trim().parse::<u64>().ok().zip(unit);
    size.and_then(|(number, unit)| number.checked_mul(unit)).filter(|&size| size > 0).ok_or_else(
        || {
            Error::Invalid(format!(
                "`{text}` is not a size; write a whole number and KB, MB or GB, such as 5GB"
            ))
        },
    )
}

/// Writes a model in f32, in one file.
///
/// # Errors
/// As [`save_as`].
pub fn save(model: &Model, directory: &Path) -> Result<()> {
    save_as(model, directory, Format::default())
}

/// Writes a model: the same bytes for the same weights.
///
/// # Errors
/// When a weight is not finite, or a file cannot be written.
pub fn save_as(model: &Model, directory: &Path, format: Format) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
    let config = model.config();
    let mut json = config.to_json();
    if let (Float::Bf16, Some(fields)) = (format.precision, json.as_object_mut()) {
        fields.insert("dtype".into(), "bfloat16".into());
        fields.sort_keys();
    }
    write_json(&directory.join(CONFIG), &json)?;
    let generation = json!({
        "_from_model_config": true,
        "decoder_start_token_id": config.decoder_start_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    });
    write_json(&directory.join(GENERATION), &generation)?;
    let layout = Weights::layout(config);
    let tensors: Vec<Stored<'_>> = layout
        .list()
        .into_iter()
        .zip(model.weights().list())
        .map(|(spec, tensor)| Stored::new(spec, tensor, format.precision))
        .collect::<Result<_>>()?;
    match shards(tensors, format.max_shard_bytes).as_slice() {
        [whole] => write_weights(whole, &directory.join(WEIGHTS)),
        shards => write_shards(shards, directory),
    }
}

/// Writes weights as they are stored, one at a time, under their own names.
///
/// # Errors
/// When one cannot be read, or the file cannot be written.
pub(super) fn copy_weights(files: &TensorFiles, specs: &[&WeightSpec], path: &Path) -> Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut length = 0;
    for spec in specs {
        let (_, place) = files.place(spec)?;
        let end = length + place.bytes();
        header.insert(
            spec.name.clone(),
            json!({ "dtype": place.dtype, "shape": place.shape, "data_offsets": [length, end] }),
        );
        length = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let needed = 8 + header.len() as u64 + length as u64;
    let unwritten = |error| Error::unwritten(path, needed, error);
    let mut file = File::create(path).map_err(unwritten)?;
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(unwritten)?;
    file.write_all(&header).map_err(unwritten)?;
    for spec in specs {
        let (_, place) = files.place(spec)?;
        file.write_all(&place.read_bytes()?).map_err(unwritten)?;
    }
    Ok(())
}

/// Writes JSON with a final newline.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_file(path, format!("{value:#}\n").as_bytes())
}

pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|error| Error::unwritten(path, bytes.len() as u64, error))
}

/// Copies a file of a model.
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let length = std::fs::metadata(from).map_err(Error::io(from))?.len();
    match std::fs::copy(from, to) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.kind() {
            // These are of the file that is written.
            StorageFull | QuotaExceeded | FileTooLarge | ReadOnlyFilesystem => {
                Error::unwritten(to, length, error)
            }
            _ => Error::io(from)(error),
        }),
    }
}

/// Deals tensors out to files, in order. Those that are larger than a file may be go alone.
fn shards(tensors: Vec<Stored<'_>>, most: u64) -> Vec<Vec<Stored<'_>>> {
    let (mut shards, mut last, mut filled) = (Vec::new(), Vec::new(), 0);
    for tensor in tensors {
        let bytes = tensor.data_len() as u64;
        if bytes > most {
            shards.push(vec![tensor]);
            continue;
        }
        if filled + bytes > most {
            shards.push(std::mem::take(&mut last));
            filled = 0;
        }
        filled += bytes;
        last.push(tensor);
    }
    if !last.is_empty() {
        shards.push(last);
    }
    shards
}

/// Writes numbered files and the index that says which tensor lies where.
fn write_shards(shards: &[Vec<Stored<'_>>], directory: &Path) -> Result<()> {
    let mut places = Map::new();
    for (shard, number) in shards.iter().zip(1..) {
        let name = format!("model-{number:05}-of-{:05}.safetensors", shards.len());
        write_weights(shard, &directory.join(&name))?;
        places
            .extend(shard.iter().map(|tensor| (tensor.name.to_owned(), Value::from(name.clone()))));
    }
    places.sort_keys();
    let all = || shards.iter().flatten();
    let index = json!({
        "metadata": {
            "total_parameters": all().map(|tensor| tensor.tensor.dims().iter().product::<usize>()).sum::<usize>(),
            "total_size": all().map(Stored::data_len).sum::<usize>(),
        },
        "weight_map": places,
    });
    write_json(&directory.join(INDEX), &index)
}

/// Writes tensors one after the other, of which one at a time is copied.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_tensors(
    tensors: &[Stored<'_>],
    metadata: Option<HashMap<String, String>>,
    path: &Path,
) -> Result<()> {
    let views = tensors.iter().map(|tensor| (tensor.name, tensor));
    let needed = tensors.iter().map(Stored::data_len).sum();
    safetensors::serialize_to_file(views, metadata, path)
        .map_err(|error| Error::unwritten_tensors(path, needed, error))
}

fn write_weights(tensors: &[Stored<'_>], path: &Path) -> Result<()> {
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    write_tensors(tensors, Some(format), path)?;
    // That file is its owner's only; a model is read by whoever may read the rest of its directory.
    let others = path.with_file_name(CONFIG);
    let mode = std::fs::metadata(&others).map_err(Error::io(&others))?.permissions();
    std::fs::set_permissions(path, mode).map_err(Error::io(path))
}

/// A tensor on its way into a file; its bytes are fetched when they are written.
pub(crate) struct Stored<'a> {
    name: &'a str,
    shape: Vec<usize>,
    tensor: &'a Tensor<2>,
    precision: Float,
}

impl<'a> Stored<'a> {
    /// A tensor of f32 as it is.
    pub(crate) fn exact(name: &'a str, tensor: &'a Tensor<2>) -> Self {
        Self { name, shape: tensor.dims().to_vec(), tensor, precision: Float::F32 }
    }

    /// Refuses weights that nobody could use.
    fn new(spec: &'a WeightSpec, tensor: &'a Tensor<2>, precision: Float) -> Result<Self> {
        let unusable = read_values(tensor, |values| {
            let unusable = |value: &f32| !precision.round(*value).is_finite();
            let pieces = values.par_chunks(PIECE);
            pieces.find_map_first(|piece| piece.iter().copied().find(unusable))
        })?;
        match unusable {
            Some(value) if value.is_finite() => Err(Error::Weights(format!(
                "`{}` holds {value:e}, which is too large for bf16; the model was not saved. Leave `dtype` out",
                spec.name
            ))),
            Some(value) => Err(Error::Weights(format!(
                "`{}` holds {value}; the model was not saved",
                spec.name
            ))),
            None => Ok(Self { name: &spec.name, shape: spec.shape(), tensor, precision }),
        }
    }
}

impl View for &Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self.precision {
            Float::F32 => Dtype::F32,
            Float::Bf16 => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = read_values(self.tensor, |values| match self.precision {
            Float::F32 => bytemuck::cast_slice(values).to_vec(),
            Float::Bf16 => {
                let halves = values.par_iter().map(|&value| half::bf16::from_f32(value));
                halves.flat_map_iter(half::bf16::to_le_bytes).collect()
            }
        });
        bytes.expect("what is kept is of f32").into()
    }

    fn data_len(&self) -> usize {
        Stored::data_len(self)
    }
}

impl Stored<'_> {
    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.precision.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_transformers() {
        let cases = [("5GB", 5_000_000_000), ("512MiB", 512 << 20), ("24kb", 24_000), ("100", 100)];
        for (text, size) in cases {
            assert_eq!(parse_size(text).ok(), Some(size), "{text}");
        }
        for text in ["", "GB", "5TB", "-1GB", "1.5GB", "0", "99999999999999GB", "５GB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
