//! A T5 model: its configuration, its weights and what they compute.

mod inference;
mod network;
mod session;
pub mod weights;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

pub use self::{
    inference::{InferenceModel, Weight},
    network::{Adapter, Network, Parameter, Sequences},
    session::{Lane, Session},
    weights::{Init, WeightSpec, Weights},
};
use crate::{
    Error, Result,
    config::Config,
    random::{Stream, mix},
};

/// A T5 model, as it is read from files, trained and written. Cloning is cheap: clones share the weights, which are never
/// changed while they are shared.
#[derive(Debug, Clone)]
pub struct Model {
    config: Config,
    weights: Weights<Tensor<2>>,
}

impl Model {
    /// A model whose weights `values` gives by spec, as many as the spec asks for.
    ///
    /// # Errors
    /// What `values` gives, or that a weight has the wrong number of values.
    pub fn from_values(
        config: Config,
        device: &Device,
        values: impl Fn(&WeightSpec) -> Result<Vec<f32>> + Sync,
    ) -> Result<Self> {
        let weights =
            made(&config, |_, spec, _| Ok(tensor(values_of(spec, &values)?, spec, device)))?;
        Ok(Self { config, weights })
    }

    /// A new model with random weights, distributed as the reference initialises them; the same for the same seed.
    ///
    /// # Errors
    /// When the configuration cannot be a model.
    pub fn initial(config: Config, device: &Device, seed: u64) -> Result<Self> {
        let factor = config.initializer_factor;
        let initial = |number, spec: &WeightSpec| {
            let deviation = match spec.init {
                Init::Ones => return vec![factor as f32; spec.len()],
                Init::Unit => factor,
                Init::InverseRoot(n) => factor / (n as f64).sqrt(),
            };
            let mut stream = Stream::new(mix(seed, number as u64 + 1));
            (0..spec.len()).map(|_| (stream.normal() * deviation) as f32).collect()
        };
        let weights =
            made(&config, |number, spec, _| Ok(tensor(initial(number, spec), spec, device)))?;
        Ok(Self { config, weights })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The device of its weights.
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

    /// The forward pass without dropout.
    pub fn network(&self) -> Network<'_> {
        Network::new(&self.config, &self.weights, None)
    }

    /// The same model for generating and scoring, in f32.
    pub fn for_inference(&self) -> InferenceModel {
        InferenceModel::new(self)
    }

    /// The number of weights.
    pub fn parameters(&self) -> usize {
        Weights::layout(&self.config).list().iter().map(|spec| spec.len()).sum()
    }
}

/// Makes every weight of a model: `make` gets its number, its spec, and whether it belongs to a linear layer in a block.
fn made<P: Send>(
    config: &Config,
    make: impl Fn(usize, &WeightSpec, bool) -> Result<P> + Sync,
) -> Result<Weights<P>> {
    config.check()?;
    let mut layout = Weights::layout(config).map(|spec| (spec.clone(), false));
    for (_, is_linear) in layout.linear_mut() {
        *is_linear = true;
    }
    let make =
        |(number, (spec, is_linear)): (usize, &&(WeightSpec, bool))| make(number, spec, *is_linear);
    // Of several errors the first in order is returned, whichever thread was faster.
    let all: Vec<Result<P>> = layout.list().par_iter().enumerate().map(make).collect();
    let mut all = all.into_iter();
    let missing = || Err(Error::Weights("there are fewer than the model has".into()));
    layout.try_map(|_| all.next().unwrap_or_else(missing))
}

/// The values of a weight, as many as there have to be.
fn values_of(
    spec: &WeightSpec,
    values: impl FnOnce(&WeightSpec) -> Result<Vec<f32>>,
) -> Result<Vec<f32>> {
    let values = values(spec)?;
    if values.len() == spec.len() {
        return Ok(values);
    }
    let message = format!("`{}` has {} values, not {}", spec.name, values.len(), spec.len());
    Err(Error::Weights(message))
}

fn tensor(values: Vec<f32>, spec: &WeightSpec, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, [spec.rows, spec.columns]), device)
}
