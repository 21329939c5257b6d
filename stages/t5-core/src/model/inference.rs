//! A model for inference.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor};
use paraloom_t5_kernels::weight::PackedWeight;

use super::{Model, Network, Parameter, WeightSpec, Weights, made, tensor, values_of};
use crate::{
    Result, config::Config, device::has_packed, numeric::Precision, operations::read_values,
};

/// A T5 model for generating and scoring: in a precision, and with packed linear layers where the device has those. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct InferenceModel {
    config: Config,
    weights: Weights<Weight>,
    /// The output projection. Where it is packed, `weights` has it as a tensor too: rows are embedded by it, and the highest logits of
    /// int8 are recomputed.
    output: Weight,
}

/// A weight of an [`InferenceModel`].
#[derive(Debug, Clone)]
pub enum Weight {
    /// A tensor.
    Tensor(Box<Tensor<2>>),
    /// The packed weight of a linear layer.
    Packed(Arc<PackedWeight>),
}

impl Parameter for Weight {
    fn tensor(&self) -> &Tensor<2> {
        match self {
            Self::Tensor(tensor) => tensor,
            Self::Packed(_) => unreachable!("what is packed is multiplied by, and nothing else"),
        }
    }

    fn packed(&self) -> Option<&Arc<PackedWeight>> {
        match self {
            Self::Tensor(_) => None,
            Self::Packed(packed) => Some(packed),
        }
    }
}

impl InferenceModel {
    /// A model whose weights `values` gives by spec, as many as the spec asks for, in memory that it may use again for them. Each is
    /// packed as soon as it is read, so that not all are in memory twice. A precision that the device does not have is f32.
    ///
    /// # Errors
    /// What `values` gives, or that a weight has the wrong number of values.
    pub fn from_values(
        config: Config,
        device: &Device,
        precision: Precision,
        values: impl Fn(&WeightSpec, Vec<f32>) -> Result<Vec<f32>> + Sync,
    ) -> Result<Self> {
        let is_packed = has_packed(device);
        let used = Mutex::new(Vec::new());
        let used = || used.lock().unwrap_or_else(PoisonError::into_inner);
        let weights = made(&config, |_, spec, is_linear| {
            if is_packed && is_linear {
                let memory = used().pop().unwrap_or_default();
                let values = values_of(spec, |spec| values(spec, memory))?;
                let packed = packed(&values, spec.columns, precision);
                used().push(values);
                return Ok(packed);
            }
            let values = values_of(spec, |spec| values(spec, Vec::new()))?;
            let weight = tensor(values, spec, device);
            let is_half = !is_packed && precision == Precision::Bf16;
            Ok(Weight::Tensor(Box::new(if is_half { weight.cast(DType::BF16) } else { weight })))
        })?;
        let output = output(&weights, is_packed.then_some(precision));
        Ok(Self { config, weights, output })
    }

    /// A model in f32.
    pub(super) fn new(model: &Model) -> Self {
        let precision = has_packed(&model.device()).then_some(Precision::F32);
        let mut weights = model.weights.map(|weight| Weight::Tensor(Box::new(weight.clone())));
        if let Some(precision) = precision {
            for weight in weights.linear_mut() {
                *weight = packed_tensor(weight.tensor(), precision);
            }
        }
        let output = output(&weights, precision);
        Self { config: model.config.clone(), weights, output }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The device of its weights.
    pub fn device(&self) -> Device {
        self.weights.shared.tensor().device()
    }

    /// The forward pass.
    pub fn network(&self) -> Network<'_, Weight> {
        Network::new(&self.config, &self.weights, None).with_output(&self.output)
    }

    pub(super) fn weights(&self) -> &Weights<Weight> {
        &self.weights
    }
}

/// The output projection, packed where there is a precision for that.
fn output(weights: &Weights<Weight>, precision: Option<Precision>) -> Weight {
    let output = weights.output();
    precision.map_or_else(|| output.clone(), |precision| packed_tensor(output.tensor(), precision))
}

fn packed_tensor(weight: &Tensor<2>, precision: Precision) -> Weight {
    let inputs = weight.dims()[1];
    read_values(weight, |values| packed(values, inputs, precision)).expect("weights are of f32")
}

fn packed(values: &[f32], inputs: usize, precision: Precision) -> Weight {
    Weight::Packed(Arc::new(match precision {
        Precision::F32 => PackedWeight::f32(values, inputs),
        Precision::Bf16 => PackedWeight::bf16(values, inputs),
        Precision::Int8 => PackedWeight::int8(values, inputs),
    }))
}
