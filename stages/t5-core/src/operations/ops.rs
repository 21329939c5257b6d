//! The operations as data; each backend implements them.

use std::sync::Arc;

use paraloom_t5_kernels::{dropout::Dropout, elementwise::Activation};

use super::{AttentionPlan, LossScale, Rounding};

/// Rows of a table.
#[derive(Debug, Clone)]
pub(super) struct Embed {
    pub(super) ids: Arc<[u32]>,
}

/// RMS norm.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) eps: f32,
}

/// Product with a transposed weight.
#[derive(Debug, Clone)]
pub(super) struct Linear(pub(super) Rounding);

/// An activation with dropout; of two inputs the second is a gate.
#[derive(Debug, Clone)]
pub(super) struct Activate {
    pub(super) activation: Activation,
    pub(super) dropout: Option<Dropout>,
}

/// Dropout; of two inputs the first is a residual that the second is added to.
#[derive(Debug, Clone)]
pub(super) struct Drop(pub(super) Dropout);

/// The sum of two matrices, in the memory of the second if it has no other owner.
#[derive(Debug, Clone)]
pub(super) struct Add;

/// Attention; a fourth input is the position bias.
#[derive(Debug, Clone)]
pub(super) struct Attend(pub(super) Arc<AttentionPlan>);

/// Cross-entropy.
#[derive(Debug, Clone)]
pub(super) struct CrossEntropy {
    pub(super) targets: Arc<[u32]>,
    pub(super) scale: LossScale,
}
