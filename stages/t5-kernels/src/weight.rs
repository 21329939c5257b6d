//! Weights that are only read, packed as the matrix product reads them fastest.

use std::mem::MaybeUninit;

use super::int8::{byte_panels, multiply_int8};
use super::operands::{Left, Right, half_panels, panels};
use super::product::{Products, multiply, multiply_half};

/// A weight, `[out, in]`, of a linear layer that nothing is learnt of. There are no gradients.
#[derive(Debug, Clone)]
pub enum PackedWeight {
    /// In f32.
    F32(Panels),
    /// Rounded to bf16, as is what it is multiplied with; sums are of f32.
    Bf16(Panels),
    /// In whole numbers of 8 bits with a scale for each output, as is what it is multiplied with; sums are of whole numbers.
    Int8(Panels),
}

/// The numbers of a packed weight: its outputs in groups, each group input after input.
#[derive(Debug, Clone)]
pub struct Panels {
    outputs: usize,
    inputs: usize,
    /// Words of 32 bits: a number of f32, two of bf16, or four of 8 bits.
    words: Vec<f32>,
}

impl PackedWeight {
    /// A weight in f32 of its `values`, row after row of `inputs`, which is at least 1.
    pub fn f32(values: &[f32], inputs: usize) -> Self {
        Self::F32(Panels::new(values, inputs, panels))
    }

    /// The same rounded to bf16.
    pub fn bf16(values: &[f32], inputs: usize) -> Self {
        Self::Bf16(Panels::new(values, inputs, half_panels))
    }

    /// The same rounded to 8 bits.
    pub fn int8(values: &[f32], inputs: usize) -> Self {
        Self::Int8(Panels::new(values, inputs, byte_panels))
    }

    /// The width of what it gives.
    pub fn outputs(&self) -> usize {
        self.panels().outputs
    }

    /// The width of what it is multiplied with.
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

/// The products of `x`, `[rows, inputs]`, and the transposes of weights, each into its place, `[rows, outputs]`, all of which is
/// written. What is made of `x` is made once for neighbours of one kind.
///
/// # Panics
/// When a weight has another number of inputs than the first, or a place another number of rows.
pub fn multiply_packed(x: &[f32], products: &mut [(&PackedWeight, &mut [MaybeUninit<f32>])]) {
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
            .map(|(weight, out)| (Right::Panels(&weight.panels().words), &mut **out))
            .collect();
        let products: Products<'_, '_> = &mut products;
        match kind {
            PackedWeight::F32(_) => multiply(Left::Rows(x), inputs, products),
            PackedWeight::Bf16(_) => multiply_half(Left::Rows(x), inputs, products),
            PackedWeight::Int8(_) => multiply_int8(x, inputs, products),
        }
    }
}
