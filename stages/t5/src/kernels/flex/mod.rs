//! The operations on burn's CPU backend, which are our own loops.

#![expect(
    clippy::inline_always,
    reason = "what is not inlined into the dispatched closure is compiled for the oldest machine"
)]

mod array;
mod attention;
mod elementwise;
mod embedding;
mod linear;
mod loss;
mod norm;
pub(super) mod ops;
mod product;
mod simd;
mod update;

pub(super) use self::array::dense;
