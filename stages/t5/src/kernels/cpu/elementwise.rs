//! Activations, gates, residual sums and dropout, each in one pass over memory.

use rayon::prelude::*;

use super::simd::{exp, for_row_blocks, vectorized};
use crate::{config::Activation, random::Dropout};

/// Elements that a thread works on at once.
const BLOCK: usize = 1 << 13;
/// The cubic term of the tanh form of GELU.
const CUBIC: f32 = 0.044_715;
/// `2 * sqrt(2 / pi)`: the tanh form of GELU is `x * sigmoid(2 u)`.
const TWICE_ROOT: f32 = 1.595_769;

/// `drop(act(x) * gate)`, in the place of `x`; without a gate, `drop(act(x))`.
pub(super) fn activate(
    x: &mut [f32],
    gate: Option<&[f32]>,
    activation: Activation,
    drop: Option<Dropout>,
) {
    each(
        x,
        #[inline(always)]
        |first, y| {
            for y in y.iter_mut() {
                *y = value(activation, *y);
            }
            if let Some(gate) = gate {
                multiply(y, &gate[first..]);
            }
            apply(drop, first, y);
        },
    );
}

/// Gradients of [`activate`] with respect to `x`, in the place of that of its result, and to the gate, into its place there.
pub(super) fn activate_backward(
    x: &[f32],
    gate: Option<(&[f32], &mut [f32])>,
    activation: Activation,
    drop: Option<Dropout>,
    grad: &mut [f32],
) {
    let Some((gate, dgate)) = gate else {
        return each(
            grad,
            #[inline(always)]
            |first, d| {
                apply(drop, first, d);
                for (d, &x) in d.iter_mut().zip(&x[first..]) {
                    *d *= value_and_slope(activation, x).1;
                }
            },
        );
    };
    let blocks = grad.par_chunks_mut(BLOCK).zip(dgate.par_chunks_mut(BLOCK)).enumerate();
    blocks.with_min_len(4).for_each(|(block, (dx, dgate))| {
        let first = block * BLOCK;
        vectorized(
            #[inline(always)]
            || {
                apply(drop, first, dx);
                for (((dx, dgate), &x), &gate) in
                    dx.iter_mut().zip(dgate).zip(&x[first..]).zip(&gate[first..])
                {
                    let (value, slope) = value_and_slope(activation, x);
                    *dgate = *dx * value;
                    *dx *= gate * slope;
                }
            },
        );
    });
}

/// Adds `x`.
pub(super) fn add(sum: &mut [f32], x: &[f32]) {
    each(
        sum,
        #[inline(always)]
        |first, sum| {
            for (y, x) in sum.iter_mut().zip(&x[first..]) {
                *y += x;
            }
        },
    );
}

/// Adds `drop(x)`.
pub(super) fn add_dropped(sum: &mut [f32], x: &[f32], drop: Dropout) {
    each(
        sum,
        #[inline(always)]
        |first, y| {
            for (offset, (y, x)) in y.iter_mut().zip(&x[first..]).enumerate() {
                *y += x * drop.factor((first + offset) as u32);
            }
        },
    );
}

/// Multiplies every element by its dropout factor.
pub(super) fn drop_in_place(x: &mut [f32], drop: Dropout) {
    each(
        x,
        #[inline(always)]
        |first, block| apply(Some(drop), first, block),
    );
}

fn each(out: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    for_row_blocks(out, 1, |first, block| {
        vectorized(
            #[inline(always)]
            || f(first, block),
        );
    });
}

#[inline(always)]
fn apply(drop: Option<Dropout>, first: usize, block: &mut [f32]) {
    if let Some(drop) = drop {
        for (offset, value) in block.iter_mut().enumerate() {
            *value *= drop.factor((first + offset) as u32);
        }
    }
}

#[inline(always)]
fn multiply(values: &mut [f32], factors: &[f32]) {
    for (value, factor) in values.iter_mut().zip(factors) {
        *value *= factor;
    }
}

#[inline(always)]
fn value(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Gelu => x * gelu_sigmoid(x),
    }
}

/// The activation and its derivative.
#[inline(always)]
fn value_and_slope(activation: Activation, x: f32) -> (f32, f32) {
    match activation {
        Activation::Relu => (x.max(0.0), f32::from(u8::from(x > 0.0))),
        Activation::Gelu => {
            let s = gelu_sigmoid(x);
            (x * s, s + x * s * (1.0 - s) * TWICE_ROOT * (1.0 + 3.0 * CUBIC * x * x))
        }
    }
}

/// `0.5 * (1 + tanh(u))` without the cancellation of that form.
#[inline(always)]
fn gelu_sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-TWICE_ROOT * (x + CUBIC * x * x * x)))
}
