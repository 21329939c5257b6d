//! The operations on the CPU: loops over slices of f32, in one pass over memory where that can be.

#![expect(
    clippy::inline_always,
    reason = "what is not inlined into the dispatched closure is compiled for the oldest machine"
)]

mod arithmetic;
mod attention;
mod elementwise;
pub(super) mod embedding;
mod int8;
mod linear;
mod loss;
mod norm;
mod operands;
mod ops;
mod panel;
mod part;
mod peaks;
mod product;
mod simd;
mod tiles;
pub(super) mod update;

pub(super) use self::attention::half_rows;
pub(super) use self::int8::byte_panels;
pub(super) use self::operands::{half_panels, panels};
pub(super) use self::ops::{linear_each, zeros_like};
pub use self::peaks::{Again, Peaks, add_to_all};
pub(super) use self::product::{has_half_instructions, has_half_tiles};
pub use self::simd::not_finite;
