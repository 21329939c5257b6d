//! A T5 model: its configuration, its weights and what they compute.

mod network;
pub mod positions;
mod session;
pub mod weights;

use burn::tensor::{DType, Device, Tensor};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    network::{Adapter, Network, Packed, Parameter},
    session::{Lane, Session},
    weights::{Slot, Spread, Weights},
};
use crate::{
    Error, Result,
    config::Config,
    folder::Float,
    kernels::{Order, has_panels, in_order, reordered},
    random::{Stream, mix},
};

/// What matrix products are computed in, where a model is only read from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of f32: two to three digits.
    Bf16,
    /// Weights in 8 bits, with a scale for each output.
    Int8,
}

impl From<Float> for Precision {
    fn from(float: Float) -> Self {
        match float {
            Float::F32 => Self::F32,
            Float::Bf16 => Self::Bf16,
        }
    }
}

/// A T5 model. Cloning is cheap: clones share the weights, which are never changed while they are shared.
#[derive(Debug, Clone)]
pub struct Model {
    config: Config,
    weights: Weights<Tensor<2>>,
    /// Of a model that is only read from: the order of the weights of its linear layers, and those that make logits.
    output: Option<(Order, Tensor<2>)>,
}

impl Model {
    /// A model whose weights `values` gives by their slots, as many as the slot asks for.
    ///
    /// # Errors
    /// What `values` gives, or that a weight has the wrong number of values.
    pub fn from_values(
        config: Config,
        device: &Device,
        values: impl Fn(&Slot) -> Result<Vec<f32>> + Sync,
    ) -> Result<Self> {
        Self::in_order(config, device, Order::Plain, |_, slot| values(slot))
    }

    /// The same, only to be read from: in this precision, if its device has it, and in the order in which weights are read
    /// fastest.
    ///
    /// # Errors
    /// As [`Model::from_values`].
    pub fn to_read(
        config: Config,
        device: &Device,
        precision: Precision,
        values: impl Fn(&Slot) -> Result<Vec<f32>> + Sync,
    ) -> Result<Self> {
        if !has_panels(device) {
            let mut model = Self::from_values(config, device, values)?;
            if precision == Precision::Bf16 {
                model.weights = model.weights.map(|weight| weight.clone().cast(DType::BF16));
            }
            return Ok(model);
        }
        let order = match precision {
            Precision::F32 => Order::Panels,
            Precision::Bf16 => Order::HalfPanels,
            Precision::Int8 => Order::BytePanels,
        };
        let mut model = Self::in_order(config, device, order, |_, slot| values(slot))?;
        model.output = Some((order, reordered(model.weights.output(), order)));
        Ok(model)
    }

    /// The same model, only to be read from, in the order in which weights are read fastest.
    pub(crate) fn prepared(mut self) -> Self {
        if !has_panels(&self.device()) {
            return self;
        }
        let order = Order::Panels;
        for weight in self.weights.linear_mut() {
            *weight = reordered(weight, order);
        }
        self.output = Some((order, reordered(self.weights.output(), order)));
        self
    }

    /// A model with its linear layers in an order; `values` gets the number of a slot too. Each weight is brought into its
    /// order as soon as it is there, so that not all of them are in memory twice.
    fn in_order(
        config: Config,
        device: &Device,
        order: Order,
        values: impl Fn(usize, &Slot) -> Result<Vec<f32>> + Sync,
    ) -> Result<Self> {
        config.check()?;
        let mut layout = Weights::layout(&config).map(|slot| (slot.clone(), Order::Plain));
        for (_, of_slot) in layout.linear_mut() {
            *of_slot = order;
        }
        let tensor = |(number, (slot, order)): (usize, &&(Slot, Order))| {
            let values = values(number, slot)?;
            if values.len() != slot.len() {
                let message =
                    format!("`{}` has {} values, not {}", slot.name, values.len(), slot.len());
                return Err(Error::Weights(message));
            }
            Ok(in_order(values, [slot.rows, slot.columns], *order, device))
        };
        // Of several errors the first is told, whichever thread was faster.
        let tensors: Vec<Result<_>> = layout.list().par_iter().enumerate().map(tensor).collect();
        let mut tensors = tensors.into_iter();
        let missing = || Err(Error::Weights("there are fewer than the model has".into()));
        let weights = layout.try_map(|_| tensors.next().unwrap_or_else(missing))?;
        Ok(Self { config, weights, output: None })
    }

    /// A new model with random weights, distributed as the reference initialises them; the same for the same seed.
    ///
    /// # Errors
    /// When the configuration cannot be a model.
    pub fn initial(config: Config, device: &Device, seed: u64) -> Result<Self> {
        let factor = config.initializer_factor;
        Self::in_order(config, device, Order::Plain, |number, slot| {
            let deviation = match slot.spread {
                Spread::One => return Ok(vec![factor as f32; slot.len()]),
                Spread::Unit => factor,
                Spread::InverseRoot(n) => factor / (n as f64).sqrt(),
            };
            let mut stream = Stream::new(mix(seed, number as u64 + 1));
            Ok((0..slot.len()).map(|_| (stream.normal() * deviation) as f32).collect())
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where its weights are.
    pub fn device(&self) -> Device {
        self.weights.shared.device()
    }

    /// The weights.
    pub fn weights(&self) -> &Weights<Tensor<2>> {
        &self.weights
    }

    pub(crate) fn weights_mut(&mut self) -> &mut Weights<Tensor<2>> {
        &mut self.weights
    }

    pub(crate) fn set_dropout(&mut self, rate: f64) {
        self.config.dropout_rate = rate;
    }

    /// The forward pass for inference.
    pub fn network(&self) -> Network<'_> {
        let network = Network::new(&self.config, &self.weights, None);
        match &self.output {
            Some((order, output)) => network.ordered(*order, output),
            None => network,
        }
    }

    /// The number of weights.
    pub fn parameters(&self) -> usize {
        Weights::layout(&self.config).list().iter().map(|slot| slot.len()).sum()
    }

    /// Refuses token sequences that the model cannot read.
    ///
    /// # Errors
    /// When a sequence is empty or has a token outside the vocabulary.
    pub fn check_ids(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::Invalid(
                "an empty token sequence; it should at least end with </s>".into(),
            ));
        }
        match ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            Some(id) => Err(Error::Invalid(format!(
                "token {id} is outside the model's vocabulary of {}; is this the model's tokenizer?",
                self.config.vocab_size
            ))),
            None => Ok(()),
        }
    }
}
