//! The operations that a T5 is made of, on the CPU: loops over slices of f32, in one pass over memory where that can be.
//!
//! Matrices are slices of rows one after another. A result is a fixed function of its inputs: neither the number of threads
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
pub mod norm;
mod operands;
mod panel;
mod part;
pub mod peaks;
pub mod plan;
mod product;
mod simd;
mod tiles;
pub mod update;
pub mod weight;

pub use self::product::{has_half_instructions, has_half_tiles};
pub use self::simd::not_finite;
