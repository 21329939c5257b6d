//! Activations, gates, residual sums and dropout, each in one pass over memory.

use rayon::prelude::*;

use super::dropout::Dropout;
use super::simd::{exp, for_row_blocks, vectorized};

/// Elements of a task.
const BLOCK: usize = 1 << 13;
/// The cubic term of the tanh form of GELU.
const CUBIC: f32 = 0.044_715;
/// `2 * sqrt(2 / pi)`: the tanh form of GELU is `x * sigmoid(2 u)`.
const TWICE_ROOT: f32 = 1.595_769;

/// `1 / sqrt(2 pi)`.
const ROOT_OF_TAU: f32 = 0.398_942_3;

/// The non-linearity of the feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `max(0, x)`.
    Relu,
    /// The tanh form of GELU (`gelu_new`).
    Gelu,
    /// GELU by the error function, its definition.
    GeluErf,
    /// `x * sigmoid(x)`, also called swish.
    Silu,
}

/// Runs a loop with an activation known to the compiler: choosing it for each element would cost ten times as much.
macro_rules! with_activation {
    ($activation:expr, |$known:ident| $loop:block) => {
        match $activation {
            Activation::Relu => with_activation!(@ Relu, $known, $loop),
            Activation::Gelu => with_activation!(@ Gelu, $known, $loop),
            Activation::GeluErf => with_activation!(@ GeluErf, $known, $loop),
            Activation::Silu => with_activation!(@ Silu, $known, $loop),
        }
    };
    (@ $variant:ident, $known:ident, $loop:block) => {{
        let $known = Activation::$variant;
        $loop
    }};
}

/// `drop(act(x) * gate)`, in the place of `x`; without a gate, `drop(act(x))`.
pub fn activate(
    x: &mut [f32],
    gate: Option<&[f32]>,
    activation: Activation,
    drop: Option<Dropout>,
) {
    each(
        x,
        #[inline(always)]
        |first, y| {
            with_activation!(activation, |activation| {
                for y in y.iter_mut() {
                    *y = value(activation, *y);
                }
            });
            if let Some(gate) = gate {
                multiply(y, &gate[first..]);
            }
            apply(drop, first, y);
        },
    );
}

/// Gradients of [`activate`] with respect to `x`, in the place of that of its result, and to the gate, into its place there.
pub fn activate_backward(
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
                with_activation!(activation, |activation| {
                    for (d, &x) in d.iter_mut().zip(&x[first..]) {
                        *d *= value_and_slope(activation, x).1;
                    }
                });
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
                let (x, gate) = (&x[first..], &gate[first..]);
                with_activation!(activation, |activation| {
                    for (((dx, dgate), &x), &gate) in dx.iter_mut().zip(dgate).zip(x).zip(gate) {
                        let (value, slope) = value_and_slope(activation, x);
                        *dgate = *dx * value;
                        *dx *= gate * slope;
                    }
                });
            },
        );
    });
}

/// Adds `x`.
pub fn add(sum: &mut [f32], x: &[f32]) {
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
pub fn add_dropped(sum: &mut [f32], x: &[f32], drop: Dropout) {
    each(
        sum,
        #[inline(always)]
        |first, y| {
            for (offset, (y, x)) in y.iter_mut().zip(&x[first..]).enumerate() {
                *y += x * drop.factor((first as u32).wrapping_add(offset as u32));
            }
        },
    );
}

/// Multiplies every element by its dropout factor.
pub fn drop_in_place(x: &mut [f32], drop: Dropout) {
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
            *value *= drop.factor((first as u32).wrapping_add(offset as u32));
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
        Activation::GeluErf => x * normal(x),
        Activation::Silu => x * sigmoid(x),
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
        Activation::GeluErf => {
            let s = normal(x);
            (x * s, s + x * exp(-0.5 * x * x) * ROOT_OF_TAU)
        }
        Activation::Silu => {
            let s = sigmoid(x);
            (x * s, s + x * s * (1.0 - s))
        }
    }
}

/// `0.5 * (1 + tanh(u))` without the cancellation of that form.
#[inline(always)]
fn gelu_sigmoid(x: f32) -> f32 {
    sigmoid(TWICE_ROOT * (x + CUBIC * x * x * x))
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The distribution function of the normal distribution: `0.5 * (1 + erf(x / sqrt(2)))`, by the Chebyshev fit of erfc in
/// "Numerical Recipes", whose relative error is below 1.2e-7.
#[inline(always)]
fn normal(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let mut p = 0.170_872_77;
    for coefficient in [
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = p * t + coefficient;
    }
    let tail = 0.5 * t * exp(p - z * z);
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_distribution_is_that_of_the_tables() {
        let known = [
            (-8.0, 6.220_960_6e-16),
            (-3.0, 1.349_898e-3),
            (-1.0, 0.158_655_25),
            (-0.1, 0.460_172_16),
            (0.0, 0.5),
            (0.5, 0.691_462_46),
            (2.0, 0.977_249_87),
            (9.0, 1.0),
        ];
        for (x, expected) in known {
            let error = (normal(x) - expected).abs() / expected;
            assert!(error < 1e-5, "normal({x}) is off by {error:e}");
        }
    }

    /// Each slope is that of the values around it.
    #[test]
    fn slopes_are_those_of_the_values() {
        let all = [Activation::Relu, Activation::Gelu, Activation::GeluErf, Activation::Silu];
        for activation in all {
            for step in -60..60 {
                let (x, h) = (0.1 * step as f32 + 0.05, 1e-2);
                let slope = (value(activation, x + h) - value(activation, x - h)) / (2.0 * h);
                let (of_value, ours) = value_and_slope(activation, x);
                assert!(of_value.to_bits() == value(activation, x).to_bits());
                assert!((ours - slope).abs() < 1e-3, "{activation:?} at {x}: {ours}, not {slope}");
            }
        }
    }
}
