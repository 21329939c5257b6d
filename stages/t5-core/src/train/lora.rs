//! What is trained: all weights, some of them, or low-rank adapters beside them.
//!
//! LoRA (arXiv 2106.09685) as PEFT trains it: the weights stay, and a linear layer of the kinds that are named gets two small
//! matrices whose product is added to it.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use glob::Pattern;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Error, Result,
    folder::{Stored, adapter::ends_with, write_json, write_tensors},
    model::{Adapter, Model, Parameter, WeightSpec, Weights},
    operations,
    random::{Stream, mix},
};

/// How low-rank adapters are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// Width of the adapters.
    pub rank: usize,
    /// Their product counts `alpha / rank` times.
    pub alpha: f64,
    /// Dropout before them.
    pub dropout: f64,
    /// Linear layers that get one, by the last parts of their names: `q`, or `EncDecAttention.q`.
    pub targets: Vec<String>,
}

impl Lora {
    pub(super) fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    fn is_target(&self, spec: &WeightSpec) -> bool {
        self.targets.iter().any(|target| ends_with(module(&spec.name), target))
    }
}

/// `a.b.weight` without its end, as PEFT counts.
pub fn module(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// The two matrices of an adapter: `[rank, in]` and `[out, rank]`.
type Pair = [Tensor<2>; 2];

/// What is trained of a model, in the order of its weights.
#[derive(Debug, Clone)]
pub(super) struct Trainable {
    /// Whether a weight itself is trained.
    pub(super) weights: Vec<bool>,
    /// The adapters, where there are some.
    pub(super) adapters: Vec<Option<Pair>>,
}

/// Something that gradients are computed of: a weight, or a matrix of its adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The number of the weight.
    pub(super) weight: usize,
    /// The number of the matrix.
    pub(super) matrix: Option<usize>,
    /// Its own name and shape.
    pub(super) spec: WeightSpec,
}

impl Trainable {
    /// What is trained before the first step; `frozen` are patterns of names of weights that stay as they are.
    ///
    /// # Errors
    /// When a pattern or a target fits nothing, or nothing is left to learn.
    pub(super) fn new(
        model: &Model,
        layout: &Weights<WeightSpec>,
        lora: Option<&Lora>,
        frozen: &[String],
        seed: u64,
    ) -> Result<Self> {
        let frozen = Patterns::new(frozen)?;
        let specs = layout.list();
        frozen.check(&specs)?;
        let Some(lora) = lora else {
            let weights: Vec<_> = specs.iter().map(|spec| !frozen.has(&spec.name)).collect();
            if !weights.contains(&true) {
                return Err(Error::Invalid(
                    "all weights are frozen: there is nothing to learn".into(),
                ));
            }
            return Ok(Self { adapters: vec![None; weights.len()], weights });
        };
        let mut linear = layout.map(|_| false);
        linear.linear_mut().into_iter().for_each(|is_linear| *is_linear = true);
        let is_target = |(spec, linear): (&&WeightSpec, &&bool)| {
            **linear && lora.is_target(spec) && !frozen.has(&spec.name)
        };
        let linear = linear.list();
        let targets: Vec<_> = specs.iter().zip(&linear).map(is_target).collect();
        for target in &lora.targets {
            let one = Lora { targets: vec![target.clone()], ..lora.clone() };
            if !specs.iter().zip(&linear).any(|(spec, linear)| **linear && one.is_target(spec)) {
                let message = format!(
                    "the model has no linear layer `{target}`; there are q, k, v, o, {}",
                    feed_forward(&specs)
                );
                return Err(Error::Invalid(message));
            }
        }
        if !targets.contains(&true) {
            return Err(Error::Invalid("all layers that would get an adapter are frozen".into()));
        }
        let device = model.device();
        let pair = |(number, (spec, is_target)): (usize, (&&WeightSpec, bool))| {
            is_target.then(|| {
                initial(spec, lora.rank, mix(mix(seed, 0x6c6f_7261), number as u64), &device)
            })
        };
        let adapters = specs.iter().zip(targets).enumerate().map(pair).collect();
        Ok(Self { weights: vec![false; specs.len()], adapters })
    }

    /// Everything that is trained, in a fixed order.
    pub(super) fn parts(&self, layout: &Weights<WeightSpec>) -> Vec<Part> {
        let mut parts = Vec::new();
        for (weight, spec) in layout.list().into_iter().enumerate() {
            if self.weights[weight] {
                parts.push(Part { weight, matrix: None, spec: spec.clone() });
            }
            let pair = self.adapters[weight].iter().flatten().zip(["A", "B"]).enumerate();
            parts.extend(pair.map(|(matrix, (tensor, letter))| {
                let [rows, columns] = tensor.dims();
                let name = format!("{}.lora_{letter}.weight", module(&spec.name));
                Part {
                    weight,
                    matrix: Some(matrix),
                    spec: WeightSpec { name, rows, columns, ..spec.clone() },
                }
            }));
        }
        parts
    }

    /// A tensor that is trained.
    pub(super) fn tensor<'a>(&'a self, model: &'a Model, part: &Part) -> &'a Tensor<2> {
        match (part.matrix, &self.adapters[part.weight]) {
            (Some(matrix), Some(pair)) => &pair[matrix],
            _ => model.weights().list()[part.weight],
        }
    }

    /// The same, for changing it.
    pub(super) fn tensor_mut<'a>(
        &'a mut self,
        model: &'a mut Model,
        part: &Part,
    ) -> &'a mut Tensor<2> {
        match (part.matrix, &mut self.adapters[part.weight]) {
            (Some(matrix), Some(pair)) => &mut pair[matrix],
            _ => model.weights_mut().list_mut().swap_remove(part.weight),
        }
    }

    /// The weights with their adapters, tracked where they are trained if `track` says so.
    pub(super) fn tracked(
        &self,
        model: &Model,
        lora: Option<&Lora>,
        track: bool,
    ) -> Weights<Tracked> {
        let mut number = 0;
        model.weights().map(|weight| {
            let weight = Tensor::from_inner(weight.clone());
            let leaf = |tensor: Tensor<2>| if track { tensor.require_grad() } else { tensor };
            let is_trained = self.weights[number];
            let adapter = self.adapters[number].as_ref().zip(lora).map(|([down, up], lora)| {
                let matrix = |matrix: &Tensor<2>| leaf(Tensor::from_inner(matrix.clone()));
                Adapter {
                    down: matrix(down),
                    up: matrix(up),
                    scale: lora.scale(),
                    dropout: lora.dropout as f32,
                }
            });
            number += 1;
            Tracked { weight: if is_trained { leaf(weight) } else { weight }, adapter }
        })
    }

    /// The model with its adapters added to its weights.
    pub(super) fn merged(&self, model: &Model, lora: Option<&Lora>) -> Model {
        let mut merged = model.clone();
        let weights = merged.weights_mut().list_mut();
        for (weight, pair) in weights.into_iter().zip(&self.adapters) {
            if let (Some([down, up]), Some(lora)) = (pair, lora) {
                *weight = merge(weight, down, up, lora.scale());
            }
        }
        merged
    }
}

/// `weight + scale * up * down`, which [`Adapter`] computes in parts.
pub(crate) fn merge(weight: &Tensor<2>, down: &Tensor<2>, up: &Tensor<2>, scale: f64) -> Tensor<2> {
    let product =
        operations::linear(up.clone(), &down.clone().transpose(), operations::Rounding::None);
    weight.clone() + product * scale
}

/// A weight in the pass of a training step.
pub(super) struct Tracked {
    pub(super) weight: Tensor<2>,
    pub(super) adapter: Option<Adapter>,
}

impl Parameter for Tracked {
    fn tensor(&self) -> &Tensor<2> {
        &self.weight
    }

    fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }
}

/// As PEFT begins: the first matrix uniform within `1 / sqrt(in)`, the second zero, so that nothing changes yet.
fn initial(spec: &WeightSpec, rank: usize, key: u64, device: &Device) -> Pair {
    let mut stream = Stream::new(key);
    let bound = 1.0 / (spec.columns as f64).sqrt();
    let down = (0..rank * spec.columns).map(|_| ((2.0 * stream.next_f64() - 1.0) * bound) as f32);
    let down = TensorData::new(down.collect::<Vec<_>>(), [rank, spec.columns]);
    [Tensor::from_data(down, device), Tensor::zeros([spec.rows, rank], device)]
}

/// The names of the feed-forward layers.
fn feed_forward(specs: &[&WeightSpec]) -> &'static str {
    let is_gated = specs.iter().any(|spec| spec.name.ends_with("wi_1.weight"));
    if is_gated { "wi_0, wi_1 and wo" } else { "wi and wo" }
}

/// Patterns of names of weights: `*` stands for any characters.
struct Patterns(Vec<Pattern>);

impl Patterns {
    fn new(texts: &[String]) -> Result<Self> {
        let pattern = |text: &String| {
            Pattern::new(text).map_err(|error| Error::Invalid(format!("`{text}`: {error}")))
        };
        texts.iter().map(pattern).collect::<Result<_>>().map(Self)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }

    /// That each fits a weight.
    fn check(&self, specs: &[&WeightSpec]) -> Result<()> {
        let fits = |pattern: &&Pattern| specs.iter().any(|spec| pattern.matches(&spec.name));
        match self.0.iter().find(|pattern| !fits(pattern)) {
            Some(pattern) => Err(Error::Invalid(format!(
                "no weight is called `{pattern}`; names are such as `{}`, and `*` stands for any characters",
                specs.get(1).map_or("", |spec| &spec.name)
            ))),
            None => Ok(()),
        }
    }
}

/// An adapter by itself, as PEFT reads it.
#[derive(Debug)]
pub struct Saved {
    pub(super) lora: Lora,
    /// Matrices by PEFT's names.
    pub(super) tensors: Vec<(String, Tensor<2>)>,
}

impl Saved {
    /// Writes `adapter_config.json` and `adapter_model.safetensors`; `base` is the name of the model that it belongs to.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, base: Option<&str>, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
        let Self { lora, tensors } = self;
        let stored: Vec<_> =
            tensors.iter().map(|(name, tensor)| Stored::exact(name, tensor)).collect();
        write_tensors(&stored, None, &directory.join("adapter_model.safetensors"))?;
        let config = json!({
            "peft_type": "LORA",
            "task_type": "SEQ_2_SEQ_LM",
            "base_model_name_or_path": base,
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "target_modules": lora.targets,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "use_rslora": false,
            "use_dora": false,
            "modules_to_save": null,
        });
        write_json(&directory.join("adapter_config.json"), &config)
    }
}
