//! The tensors of a model directory, by name: where they lie, and their values.
//!
//! Files are read, not mapped: a file that is cut short under us is then an error and not a crash.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use safetensors::{Dtype, tensor::Metadata};
use serde_json::Value;

use super::{HEAD, INDEX, PICKLED, PICKLED_INDEX, SHARED_ALIASES, WEIGHTS, pickled};
use crate::{Error, Result, model::WeightSpec};
use paraloom_t5_kernels::not_finite;

/// Numbers that a thread reads or looks at in one go: where a file is in memory already, to copy it is most of the work.
pub(super) const PIECE: usize = 1 << 18;
/// Tensors that some checkpoints have and no model uses: `transformers` passes over the same.
const UNUSED: [&str; 1] =
    ["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"];
/// Names shown of those that are wrong.
const SHOWN: usize = 3;

/// What is said of a file that only names the one that is meant.
pub(super) const POINTER: &str =
    "this is a pointer of Git LFS, not the file itself; `git lfs pull` brings the file";

/// Whether a file that begins so is such a pointer.
pub(super) fn is_pointer(start: &[u8]) -> bool {
    start.starts_with(b"version https://git-lfs")
}

/// The tensors of a model directory or a file, by name.
pub(crate) struct TensorFiles {
    /// What they are of, for messages.
    path: PathBuf,
    places: BTreeMap<String, Place>,
    /// Whether they are pickled.
    pub(super) pickled: bool,
}

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    /// Where its first value begins.
    pub(super) offset: u64,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// How far neighbours along each dimension are apart, in elements, where the values do not lie one after the other.
    pub(super) strides: Option<Vec<usize>>,
}

impl TensorFiles {
    /// Those of one file, safetensors or, if it ends in `.bin`, pickled.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub(crate) fn of_file(path: &Path) -> Result<Self> {
        let mut files = Self::empty(path);
        if path.extension().is_some_and(|extension| extension == "bin") {
            files.pickled = true;
            files.places = pickled::read(path)?;
        } else {
            files.add(path)?;
        }
        Ok(files)
    }

    /// The names of all.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The shape of one, if it is there.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.places.get(name).map(|place| place.shape.as_slice())
    }

    fn empty(path: &Path) -> Self {
        Self { path: path.to_path_buf(), places: BTreeMap::new(), pickled: false }
    }

    /// Those of a model directory; safetensors where it has both.
    ///
    /// # Errors
    /// When there are none, or a file cannot be read or is damaged.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let mut files = Self::empty(directory);
        let has = |name: &str| directory.join(name).exists();
        if has(WEIGHTS) {
            files.add(&directory.join(WEIGHTS))?;
        } else if has(INDEX) {
            for shard in shards(&directory.join(INDEX))? {
                files.add(&directory.join(shard))?;
            }
        } else if has(PICKLED) || has(PICKLED_INDEX) {
            files.pickled = true;
            let names = if has(PICKLED) {
                BTreeSet::from([PICKLED.to_owned()])
            } else {
                shards(&directory.join(PICKLED_INDEX))?
            };
            for name in names {
                files.places.extend(pickled::read(&directory.join(name))?);
            }
        } else {
            let message =
                format!("there is no {WEIGHTS} here, nor {INDEX}, {PICKLED} or {PICKLED_INDEX}");
            return Err(Error::malformed(directory, message));
        }
        Ok(files)
    }

    /// Takes in the header of a safetensors file.
    fn add(&mut self, path: &Path) -> Result<()> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(Error::io(path))?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > length.saturating_sub(8) {
            let pointer = b"version ";
            return Err(Error::malformed(
                path,
                if prefix == *pointer { POINTER } else { "not a safetensors file, or cut short" },
            ));
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
            let place = Place {
                file: path.to_path_buf(),
                offset: data + info.data_offsets.0 as u64,
                dtype: info.dtype,
                shape: info.shape.clone(),
                strides: None,
            };
            self.places.insert(name, place);
        }
        Ok(())
    }

    /// Whether there is a head that differs from the embedding.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub(super) fn has_own_head(&self) -> Result<bool> {
        let Some(head) = self.places.get(HEAD) else { return Ok(false) };
        match self.shared() {
            Some((_, shared)) => Ok(!head.equals(shared)?),
            None => Ok(true),
        }
    }

    /// The embedding.
    fn shared(&self) -> Option<(&str, &Place)> {
        SHARED_ALIASES.iter().find_map(|&name| Some((name, self.places.get(name)?)))
    }

    /// Refuses tensors that a model with these weights would leave out, and that are not copies of what it has.
    ///
    /// # Errors
    /// When there is one, or it cannot be read.
    pub(super) fn check_all_used(&self, specs: &[&WeightSpec]) -> Result<()> {
        let used: BTreeSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let mut unknown = Vec::new();
        for (name, place) in &self.places {
            let name = name.as_str();
            if used.contains(name) || UNUSED.contains(&name) {
                continue;
            }
            match self.shared() {
                // Some writers keep only one alias, others all: they have to agree.
                Some((shared, _)) if shared == name => {}
                Some((shared, of_shared)) if SHARED_ALIASES.contains(&name) => {
                    if !place.equals(of_shared)? {
                        let message = format!(
                            "`{name}` differs from `{shared}`, which T5 has in common to encoder and decoder"
                        );
                        return Err(Error::malformed(&self.path, message));
                    }
                }
                // Equal to the embedding: otherwise it were used.
                _ if name == HEAD => {}
                _ => unknown.push(name),
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let more = unknown.len().saturating_sub(SHOWN);
        let mut told: Vec<_> = unknown.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
        if more > 0 {
            told.push(format!("{more} more"));
        }
        let message = format!(
            "the model of config.json has no place for {}; are these weights of that model?",
            told.join(", ")
        );
        Err(Error::malformed(&self.path, message))
    }

    /// The values of a weight, in memory that is used again for them.
    pub(super) fn values(&self, spec: &WeightSpec, memory: Vec<f32>) -> Result<Vec<f32>> {
        let (name, place) = self.place(spec)?;
        let (values, not_finite) = place.values_in(memory, name)?;
        match not_finite {
            0 => Ok(values),
            // A model with a single one computes nothing but NaN.
            count => Err(Error::NotFinite {
                path: place.file.clone(),
                tensor: name.to_owned(),
                count,
                total: values.len(),
            }),
        }
    }

    /// Where a weight lies, and under which name.
    ///
    /// # Errors
    /// When it is missing, or of another shape.
    pub(super) fn place(&self, spec: &WeightSpec) -> Result<(&str, &Place)> {
        if spec.name == SHARED_ALIASES[0] {
            self.find(&SHARED_ALIASES, &spec.shape())
        } else {
            self.find(&[&spec.name], &spec.shape())
        }
    }

    pub(super) fn find(&self, names: &[&str], shape: &[usize]) -> Result<(&str, &Place)> {
        let found = names.iter().find_map(|name| self.places.get_key_value(*name));
        let Some((name, place)) = found else {
            let message =
                format!("the weights lack `{}`; are they of the model in config.json?", names[0]);
            return Err(Error::malformed(&self.path, message));
        };
        if place.shape != shape {
            let message =
                format!("`{}` is {:?}, but config.json says {shape:?}", names[0], place.shape);
            return Err(Error::malformed(&place.file, message));
        }
        Ok((name, place))
    }

    /// The values of the first of `names` that exists, as f32.
    ///
    /// # Errors
    /// When there is none, it has another shape, or cannot be read.
    pub(crate) fn read(&self, names: &[&str], shape: &[usize]) -> Result<Vec<f32>> {
        let (name, place) = self.find(names, shape)?;
        place.values(name)
    }
}

impl Place {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of a value.
    fn size(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// Bytes of all values.
    pub(super) fn bytes(&self) -> usize {
        self.elements() * self.size()
    }

    /// Whether the bytes are those of another.
    fn equals(&self, other: &Self) -> Result<bool> {
        Ok(self == other
            || self.dtype == other.dtype
                && self.shape == other.shape
                && self.read_bytes()? == other.read_bytes()?)
    }

    /// Fills `bytes` from a place in this tensor on.
    fn read(&self, from: usize, bytes: &mut [u8]) -> Result<()> {
        let mut file = File::open(&self.file).map_err(Error::io(&self.file))?;
        let start = SeekFrom::Start(self.offset + from as u64);
        file.seek(start).map_err(Error::io(&self.file))?;
        file.read_exact(bytes).map_err(Error::io(&self.file))
    }

    /// The values as they are stored, the last dimension fastest.
    pub(super) fn read_bytes(&self) -> Result<Vec<u8>> {
        let Some(strides) = &self.strides else {
            let mut bytes = vec![0; self.bytes()];
            self.read(0, &mut bytes)?;
            return Ok(bytes);
        };
        let size = self.size();
        let reach = |(&count, &stride): (&usize, &usize)| count.saturating_sub(1) * stride;
        let span = self.shape.iter().zip(strides).map(reach).sum::<usize>() + 1;
        let mut stored = vec![0; if self.elements() == 0 { 0 } else { span * size }];
        self.read(0, &mut stored)?;
        let mut bytes = Vec::with_capacity(self.bytes());
        for number in 0..self.elements() {
            let (mut rest, mut at) = (number, 0);
            for (&count, &stride) in self.shape.iter().zip(strides).rev() {
                at += rest % count * stride;
                rest /= count;
            }
            bytes.extend_from_slice(&stored[at * size..][..size]);
        }
        Ok(bytes)
    }

    /// The values as f32; `name` is for messages.
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.values_in(Vec::new(), name)?.0)
    }

    /// The same, in memory that is used again for them: pages that are there already cost less than new ones. And how many of the
    /// values are not finite.
    fn values_in(&self, mut values: Vec<f32>, name: &str) -> Result<(Vec<f32>, usize)> {
        if values.capacity() < self.elements() {
            values = vec![0.0; self.elements()];
        } else {
            values.resize(self.elements(), 0.0);
        }
        let to = values.as_mut_slice();
        let not_finite = match self.dtype {
            Dtype::F32 if self.strides.is_none() => self.read_f32(to),
            Dtype::F32 => self.decode(to, f32::from_le_bytes),
            Dtype::BF16 => self.decode(to, |bytes| half::bf16::from_le_bytes(bytes).to_f32()),
            Dtype::F16 => self.decode(to, |bytes| half::f16::from_le_bytes(bytes).to_f32()),
            Dtype::F64 => self.decode(to, |bytes| f64::from_le_bytes(bytes) as f32),
            other => {
                let message =
                    format!("`{name}` is stored as {other:?}; known are F32, BF16, F16 and F64");
                Err(Error::malformed(&self.file, message))
            }
        }?;
        Ok((values, not_finite))
    }

    fn read_f32(&self, to: &mut [f32]) -> Result<usize> {
        read_pieces(to, |from, values| {
            self.read(from * size_of::<f32>(), bytemuck::cast_slice_mut(values))?;
            // Files are little-endian.
            values.iter_mut().for_each(|value| *value = f32::from_bits(value.to_bits().to_le()));
            Ok(())
        })
    }

    fn decode<const N: usize>(
        &self,
        to: &mut [f32],
        value: impl Fn([u8; N]) -> f32 + Sync,
    ) -> Result<usize> {
        let whole = self.strides.as_ref().map(|_| self.read_bytes()).transpose()?;
        read_pieces(to, |from, values| {
            let stored = match &whole {
                Some(bytes) => Cow::Borrowed(&bytes[from * N..][..values.len() * N]),
                None => {
                    let mut bytes = vec![0; values.len() * N];
                    self.read(from * N, &mut bytes)?;
                    Cow::Owned(bytes)
                }
            };
            let (stored, _) = stored.as_chunks();
            values.iter_mut().zip(stored).for_each(|(to, bytes)| *to = value(*bytes));
            Ok(())
        })
    }
}

/// Fills `values`, which `read` reads piece by piece from the one with a number on, and counts those that are not finite.
fn read_pieces(
    values: &mut [f32],
    read: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
) -> Result<usize> {
    let pieces = values.par_chunks_mut(PIECE).enumerate();
    let read = |(number, piece): (usize, &mut [f32])| {
        read(number * PIECE, piece)?;
        Ok(not_finite(piece))
    };
    pieces.map(read).try_reduce(|| 0, |one, other| Ok(one + other))
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
