//! The optimizers and their state.

use burn::tensor::Tensor;

use super::options::{Optimizer, Options};
use crate::{
    model::WeightSpec,
    operations::update::{AdafactorStep, AdamStep, adafactor, adafactor_vector, adam, zeros_like},
};

/// An optimizer's memory of one weight.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// Running means of the gradient and its square.
    Adam([Tensor<2>; 2]),
    /// Running means of the squared gradient over rows and columns.
    Factored([Tensor<2>; 2]),
    /// Running mean of the squared gradient of a vector.
    Vector(Tensor<2>),
}

impl State {
    /// The state before the first step.
    pub(super) fn initial(optimizer: Optimizer, spec: &WeightSpec, weight: &Tensor<2>) -> Self {
        let zeros = |rows: usize, columns: usize| Tensor::zeros([rows, columns], &weight.device());
        match optimizer {
            Optimizer::AdamW { .. } => Self::Adam([zeros_like(weight), zeros_like(weight)]),
            Optimizer::Adafactor { .. } if spec.is_vector() => Self::Vector(zeros(1, spec.columns)),
            Optimizer::Adafactor { .. } => {
                Self::Factored([zeros(1, spec.rows), zeros(1, spec.columns)])
            }
        }
    }

    /// The tensors of the state, in a fixed order.
    pub(super) fn tensors(&self) -> Vec<&Tensor<2>> {
        match self {
            Self::Adam(pair) | Self::Factored(pair) => pair.iter().collect(),
            Self::Vector(mean) => vec![mean],
        }
    }

    /// The tensors of the state, for restoring them.
    pub(super) fn tensors_mut(&mut self) -> Vec<&mut Tensor<2>> {
        match self {
            Self::Adam(pair) | Self::Factored(pair) => pair.iter_mut().collect(),
            Self::Vector(mean) => vec![mean],
        }
    }
}

/// One step of all weights.
pub(super) struct Step<'a> {
    pub(super) options: &'a Options,
    pub(super) learning_rate: f64,
    /// This step's number, from 1.
    pub(super) number: u64,
    pub(super) gradient_scale: f64,
}

impl Step<'_> {
    /// The new weight; the state moves along.
    pub(super) fn apply(
        &self,
        spec: &WeightSpec,
        weight: Tensor<2>,
        gradient: Tensor<2>,
        state: &mut State,
    ) -> Tensor<2> {
        match state {
            State::Adam(pair) => adam(weight, gradient, pair, self.adam(spec)),
            State::Factored(pair) => adafactor(weight, gradient, pair, self.adafactor(spec)),
            State::Vector(mean) => adafactor_vector(weight, gradient, mean, self.adafactor(spec)),
        }
    }

    fn adam(&self, spec: &WeightSpec) -> AdamStep {
        let (betas, eps) = match self.options.optimizer {
            Optimizer::AdamW { betas, eps } => (betas, eps),
            Optimizer::Adafactor { .. } => ([0.0; 2], 0.0),
        };
        AdamStep {
            learning_rate: self.learning_rate,
            betas,
            eps,
            weight_decay: self.weight_decay(spec),
            step: self.number,
            gradient_scale: self.gradient_scale,
        }
    }

    fn adafactor(&self, spec: &WeightSpec) -> AdafactorStep {
        AdafactorStep {
            learning_rate: self.learning_rate,
            scale_parameter: matches!(
                self.options.optimizer,
                Optimizer::Adafactor { scale_parameter: true }
            ),
            weight_decay: self.weight_decay(spec),
            step: self.number,
            gradient_scale: self.gradient_scale,
        }
    }

    /// Norms and position biases do not decay, as in the reference's trainer.
    fn weight_decay(&self, spec: &WeightSpec) -> f64 {
        if spec.is_vector() || spec.name.contains("bias") { 0.0 } else { self.options.weight_decay }
    }
}
