//! Weights of inference, packed once for the matrix product.

use std::mem::MaybeUninit;

use super::int8::{matmul_int8, pack_int8_panels};
use super::matmul::{Products, matmul, matmul_bf16};
use super::packing::{Lhs, Rhs, pack_bf16_panels, pack_panels};

/// The weight of a linear layer, `[out, in]`, packed for products. It has no gradients.
#[derive(Debug, Clone)]
pub enum PackedWeight {
    /// f32.
    F32(Panels),
    /// bf16. The other factor is rounded to bf16 too; sums are in f32.
    Bf16(Panels),
    /// 8 bits with a scale for each output. The other factor is quantized too, with a scale for each row; sums are in 32 bits.
    Int8(Panels),
}

/// The elements of a packed weight: groups of outputs, each group input after input.
#[derive(Debug, Clone)]
pub struct Panels {
    outputs: usize,
    inputs: usize,
    /// Words of 32 bits: one element in f32, two in bf16, or four in int8.
    words: Vec<f32>,
}

impl PackedWeight {
    /// Packs the `values` of a weight, `[out, inputs]`, with at least one input.
    pub fn f32(values: &[f32], inputs: usize) -> Self {
        Self::F32(Panels::new(values, inputs, pack_panels))
    }

    /// The same, rounded to bf16.
    pub fn bf16(values: &[f32], inputs: usize) -> Self {
        Self::Bf16(Panels::new(values, inputs, pack_bf16_panels))
    }

    /// The same, quantized to 8 bits.
    pub fn int8(values: &[f32], inputs: usize) -> Self {
        Self::Int8(Panels::new(values, inputs, pack_int8_panels))
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.panels().outputs
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.panels().inputs
    }

    fn panels(&self) -> &Panels {
        let (Self::F32(panels) | Self::Bf16(panels) | Self::Int8(panels)) = self;
        panels
    }
}

impl Panels {
    fn new(values: &[f32], inputs: usize, pack: fn(&[f32], usize) -> Vec<f32>) -> Self {
        Self { outputs: values.len() / inputs, inputs, words: pack(values, inputs) }
    }
}

/// The products of `x`, `[rows, inputs]`, and the transposes of weights, each into memory for `[rows, outputs]`, all of which is
/// written. `x` is packed once for weights of one precision that are next to each other.
///
/// # Panics
/// When a weight has another number of inputs than the first, or the memory another number of rows.
pub fn matmul_packed(x: &[f32], products: &mut [(&PackedWeight, &mut [MaybeUninit<f32>])]) {
    let Some((first, _)) = products.first() else { return };
    let inputs = first.inputs();
    let rows = x.len() / inputs;
    for (weight, out) in products.iter() {
        assert_eq!(weight.inputs(), inputs, "the weights have inputs of one width");
        assert_eq!(out.len(), rows * weight.outputs(), "there is a place for each row");
    }
    let same_kind = |one: &(&PackedWeight, _), other: &(&PackedWeight, _)| {
        std::mem::discriminant(one.0) == std::mem::discriminant(other.0)
    };
    for products in products.chunk_by_mut(same_kind) {
        let kind = products[0].0;
        let mut products: Vec<_> = products
            .iter_mut()
            .map(|(weight, out)| (Rhs::Panels(&weight.panels().words), &mut **out))
            .collect();
        let products: Products<'_, '_> = &mut products;
        match kind {
            PackedWeight::F32(_) => matmul(Lhs::Rows(x), inputs, products),
            PackedWeight::Bf16(_) => matmul_bf16(Lhs::Rows(x), inputs, products),
            PackedWeight::Int8(_) => matmul_int8(x, inputs, products),
        }
    }
}
