//! The operations of a T5 on the CPU: loops over slices of f32, in one pass over memory where possible.
//!
//! Matrices are row-major slices. A result is a fixed function of its inputs: neither the number of threads
//! nor what else is in a batch changes a bit of it. Threads are those of rayon's pool that a function is called in.
//!
//! * [`linear`] and [`weight`]: products, with gradients and of weights that are only read.
//! * [`attention`], [`norm`], [`elementwise`], [`embedding`], [`loss`]: the rest of a model, with gradients.
//! * [`peaks`]: the highest logits, and what they weigh.
//! * [`update`]: optimizer steps.

#![expect(
    clippy::inline_always,
    reason = "what is not inlined into the dispatched closure is compiled for the oldest machine"
)]

mod arithmetic;
pub mod attention;
pub mod buckets;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
mod int8;
pub mod linear;
pub mod loss;
mod matmul;
pub mod norm;
mod packing;
pub mod peaks;
pub mod plan;
mod simd;
mod small_matmul;
mod submatrix;
mod tiles;
pub mod update;
pub mod weight;

pub use self::matmul::{has_bf16_tiles, has_fast_bf16};
pub use self::simd::not_finite;
