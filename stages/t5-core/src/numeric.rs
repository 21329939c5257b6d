//! The kinds of numbers that there is a choice of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// The numbers that weights are written as, or that are computed with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Float {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of f32: half the size, two to three digits.
    Bf16,
}

impl Float {
    /// Bytes of a value.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::Bf16 => size_of::<half::bf16>(),
        }
    }

    /// A value as it will be read back.
    pub(crate) fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::Bf16 => half::bf16::from_f32(value).to_f32(),
        }
    }
}
