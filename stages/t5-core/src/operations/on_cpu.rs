//! The operations on the CPU: each calls its kernel, and says what it keeps for the backward pass.

use std::{mem::MaybeUninit, sync::Arc};

use burn::backend::TensorMetadata;
use paraloom_t5_kernels::{
    attention, elementwise, embedding, linear, loss, norm, update,
    weight::{PackedWeight, matmul_packed},
};

use rayon::prelude::*;

use super::{
    graph::{Array, Operation},
    native::{dense, matrix, scalar, values, values_mut, written},
    ops::{Activate, Add, Attend, CrossEntropy, Drop, Embed, Linear, Norm},
    update::{AdafactorStep, AdamStep},
};

/// Columns of a matrix.
fn columns(array: &Array) -> usize {
    array.shape()[1]
}

/// Zeros in the shape of a matrix, to be changed in place.
#[expect(unsafe_code, reason = "memory that is cleared by many threads")]
pub(super) fn zeros_like(array: &Array) -> Array {
    // What the allocator requests from the system at least: page faults are most of the work.
    const PIECE: usize = 1 << 18;
    let clear = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(PIECE).for_each(|piece| piece.fill(MaybeUninit::new(0.0)));
    };
    // SAFETY: the pieces cover all of it.
    unsafe { written(array.shape()[0], columns(array), clear) }
}

impl Operation<1> for Embed {
    /// Rows and columns of the table.
    type Kept = (usize, usize);

    fn forward(&self, [table]: [Array; 1]) -> (Array, Self::Kept) {
        let (rows, width) = (table.shape()[0], columns(&table));
        (matrix(embedding::gather(values(&table), width, &self.ids), width), (rows, width))
    }

    fn backward(self, (rows, width): Self::Kept, grad: Array) -> [Array; 1] {
        let mut table = vec![0.0; rows * width];
        embedding::add_rows(&mut table, width, &self.ids, values(&grad));
        [matrix(table, width)]
    }
}

#[expect(unsafe_code, reason = "memory that is written before it is read")]
impl Operation<2> for Norm {
    type Kept = [Array; 2];

    fn forward(&self, inputs: [Array; 2]) -> (Array, Self::Kept) {
        let [x, w] = &inputs;
        let write = |out: &mut [_]| norm::forward(values(x), values(w), self.eps, out);
        // SAFETY: the rows cover all of it.
        let out = unsafe { written(x.shape()[0], columns(x), write) };
        (out, inputs)
    }

    fn backward(self, [x, w]: Self::Kept, grad: Array) -> [Array; 2] {
        let mut dx = zeros_like(&x);
        let grad = values(&grad);
        let dw = norm::backward(values(&x), values(&w), self.eps, grad, values_mut(&mut dx));
        [dx, matrix(dw, columns(&x))]
    }
}

#[expect(
    unsafe_code,
    reason = "zeros that are written over at once cost as much as an optimizer's step"
)]
impl Operation<2> for Linear {
    type Kept = [Array; 2];

    fn forward(&self, inputs: [Array; 2]) -> (Array, Self::Kept) {
        let [x, w] = &inputs;
        let [rows, depth, width] = [x.shape()[0], columns(x), w.shape()[0]];
        // SAFETY: the product writes all of it.
        let out = unsafe {
            written(rows, width, |out| {
                linear::forward(values(x), depth, self.0, values(w), out);
            })
        };
        (out, inputs)
    }

    fn backward(self, kept: Self::Kept, grad: Array) -> [Array; 2] {
        self.backward_of(kept, grad, [true; 2]).map(|grad| grad.expect("all are wanted"))
    }

    fn backward_of(self, [x, w]: Self::Kept, grad: Array, wanted: [bool; 2]) -> [Option<Array>; 2] {
        let [rows, depth, width] = [x.shape()[0], columns(&x), w.shape()[0]];
        let [x, w, grad] = [values(&x), values(&w), values(&grad)];
        // SAFETY: the products write all of them.
        unsafe {
            [
                wanted[0].then(|| {
                    written(rows, depth, |out| linear::backward_x(grad, w, width, self.0, out))
                }),
                wanted[1].then(|| {
                    written(width, depth, |out| linear::backward_w(grad, x, depth, self.0, out))
                }),
            ]
        }
    }
}

/// The products of a matrix and the transposes of packed weights.
pub(super) fn linear_packed<const N: usize>(
    x: Array,
    weights: &[Arc<PackedWeight>; N],
) -> [Array; N] {
    let x = dense(x);
    let mut products = packed_into(&x, weights, Vec::new()).into_iter().rev();
    std::array::from_fn(|_| products.next().expect("there is one of each weight"))
}

/// Weights, and the memory for their products.
type Products<'a> = Vec<(&'a PackedWeight, &'a mut [MaybeUninit<f32>])>;

/// The products with the weights of `rest`, last to first: each gets its memory in turn, and the last call computes all.
#[expect(unsafe_code, reason = "memory that is written before it is read")]
fn packed_into<'a>(
    x: &Array,
    rest: &'a [Arc<PackedWeight>],
    mut places: Products<'a>,
) -> Vec<Array> {
    let Some((weight, rest)) = rest.split_first() else {
        matmul_packed(values(x), &mut places);
        return Vec::new();
    };
    let mut others = Vec::new();
    let write = |out: &mut [MaybeUninit<f32>]| {
        let mut places: Products<'_> = places;
        places.push((weight, out));
        others = packed_into(x, rest, places);
    };
    // SAFETY: the last call writes all of it.
    let own = unsafe { written(x.shape()[0], weight.outputs(), write) };
    others.push(own);
    others
}

impl Operation<1> for Activate {
    type Kept = Array;

    fn result(&self, [mut x]: [Array; 1]) -> Array {
        elementwise::activate(values_mut(&mut x), None, self.activation, self.dropout);
        x
    }

    fn forward(&self, [x]: [Array; 1]) -> (Array, Self::Kept) {
        (Operation::result(self, [x.clone()]), x)
    }

    fn backward(self, x: Self::Kept, mut grad: Array) -> [Array; 1] {
        let Self { activation, dropout } = self;
        let place = values_mut(&mut grad);
        elementwise::activate_backward(values(&x), None, activation, dropout, place);
        [grad]
    }
}

impl Operation<2> for Activate {
    type Kept = [Array; 2];

    fn result(&self, [mut x, gate]: [Array; 2]) -> Array {
        let gate = Some(values(&gate));
        elementwise::activate(values_mut(&mut x), gate, self.activation, self.dropout);
        x
    }

    fn forward(&self, inputs: [Array; 2]) -> (Array, Self::Kept) {
        (Operation::result(self, inputs.clone()), inputs)
    }

    fn backward(self, [x, gate]: Self::Kept, mut grad: Array) -> [Array; 2] {
        let mut dgate = zeros_like(&gate);
        let gate = Some((values(&gate), values_mut(&mut dgate)));
        let place = values_mut(&mut grad);
        elementwise::activate_backward(values(&x), gate, self.activation, self.dropout, place);
        [grad, dgate]
    }
}

impl Operation<2> for Add {
    type Kept = ();

    fn forward(&self, [residual, mut x]: [Array; 2]) -> (Array, ()) {
        elementwise::add(values_mut(&mut x), values(&residual));
        (x, ())
    }

    fn backward(self, (): (), grad: Array) -> [Array; 2] {
        [grad.clone(), grad]
    }
}

impl Operation<1> for Drop {
    type Kept = ();

    fn forward(&self, [mut x]: [Array; 1]) -> (Array, ()) {
        elementwise::drop_in_place(values_mut(&mut x), self.0);
        (x, ())
    }

    fn backward(self, (): (), mut grad: Array) -> [Array; 1] {
        elementwise::drop_in_place(values_mut(&mut grad), self.0);
        [grad]
    }
}

impl Operation<2> for Drop {
    type Kept = ();

    fn forward(&self, [mut residual, x]: [Array; 2]) -> (Array, ()) {
        elementwise::add_dropped(values_mut(&mut residual), values(&x), self.0);
        (residual, ())
    }

    fn backward(self, (): (), grad: Array) -> [Array; 2] {
        let mut dropped = grad.clone();
        elementwise::drop_in_place(values_mut(&mut dropped), self.0);
        [grad, dropped]
    }
}

/// The inputs of an attention and its probabilities.
type AttendKept<const N: usize> = ([Array; N], Arc<Vec<Vec<f32>>>);

impl Attend {
    fn inputs(inputs: &[Array]) -> attention::Inputs<'_> {
        attention::Inputs {
            q: values(&inputs[0]),
            k: values(&inputs[1]),
            v: values(&inputs[2]),
            width: columns(&inputs[0]),
            bf16_kv: columns(&inputs[1]) < columns(&inputs[0]),
            bias: inputs.get(3).map(values),
        }
    }

    fn attended(&self, inputs: &[Array]) -> Array {
        let mut out = zeros_like(&inputs[0]);
        attention::result(Self::inputs(inputs), &self.0, values_mut(&mut out));
        out
    }

    fn attend<const N: usize>(&self, inputs: [Array; N]) -> (Array, AttendKept<N>) {
        let mut out = zeros_like(&inputs[0]);
        let kept = attention::forward(Self::inputs(&inputs), &self.0, values_mut(&mut out));
        (out, (inputs, Arc::new(kept)))
    }

    fn gradients<const N: usize>(
        &self,
        (inputs, kept): AttendKept<N>,
        grad: Array,
    ) -> ([Array; 3], Vec<f32>) {
        let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|index: usize| zeros_like(&inputs[index]));
        let places = [&mut dq, &mut dk, &mut dv].map(values_mut);
        let grad = values(&grad);
        let bias = attention::backward(Self::inputs(&inputs), &self.0, &kept, grad, places);
        ([dq, dk, dv], bias)
    }
}

impl Operation<3> for Attend {
    type Kept = AttendKept<3>;

    fn result(&self, inputs: [Array; 3]) -> Array {
        self.attended(&inputs)
    }

    fn forward(&self, inputs: [Array; 3]) -> (Array, Self::Kept) {
        self.attend(inputs)
    }

    fn backward(self, kept: Self::Kept, grad: Array) -> [Array; 3] {
        self.gradients(kept, grad).0
    }
}

impl Operation<4> for Attend {
    type Kept = AttendKept<4>;

    fn result(&self, inputs: [Array; 4]) -> Array {
        self.attended(&inputs)
    }

    fn forward(&self, inputs: [Array; 4]) -> (Array, Self::Kept) {
        self.attend(inputs)
    }

    fn backward(self, kept: Self::Kept, grad: Array) -> [Array; 4] {
        let ([q, k, v], bias) = self.gradients(kept, grad);
        [q, k, v, matrix(bias, self.0.heads)]
    }
}

impl Operation<1> for CrossEntropy {
    /// The gradient of the logits.
    type Kept = Array;

    fn forward(&self, [mut logits]: [Array; 1]) -> (Array, Self::Kept) {
        let width = columns(&logits);
        let loss =
            loss::forward_backward(values_mut(&mut logits), width, &self.targets, self.scale);
        (scalar(loss), logits)
    }

    fn backward(self, mut slope: Self::Kept, grad: Array) -> [Array; 1] {
        match values(&grad) {
            // The loss is the root in training.
            [1.0] => {}
            factor => values_mut(&mut slope).iter_mut().for_each(|value| *value *= factor[0]),
        }
        [slope]
    }
}

/// [`UpdateBackend::t5_adam`](super::update::UpdateBackend::t5_adam).
pub(super) fn adam(tensors: [Array; 4], step: AdamStep) -> [Array; 3] {
    let [mut weight, gradient, mut first, mut second] = tensors.map(dense);
    let means = [&mut first, &mut second].map(values_mut);
    update::adam(values_mut(&mut weight), values(&gradient), means, step);
    [weight, first, second]
}

/// [`UpdateBackend::t5_adafactor`](super::update::UpdateBackend::t5_adafactor).
pub(super) fn adafactor(tensors: [Array; 4], step: AdafactorStep) -> [Array; 3] {
    let [mut weight, gradient, mut rows, mut columns_of] = tensors.map(dense);
    let width = columns(&weight);
    let means = [&mut rows, &mut columns_of].map(values_mut);
    update::adafactor(values_mut(&mut weight), width, values(&gradient), means, step);
    [weight, rows, columns_of]
}

/// [`UpdateBackend::t5_adafactor_vector`](super::update::UpdateBackend::t5_adafactor_vector).
pub(super) fn adafactor_vector(tensors: [Array; 3], step: AdafactorStep) -> [Array; 2] {
    let [mut weight, gradient, mut mean] = tensors.map(dense);
    let gradient = values(&gradient);
    update::adafactor_vector(values_mut(&mut weight), gradient, values_mut(&mut mean), step);
    [weight, mean]
}

/// [`UpdateBackend::t5_add_rows`](super::update::UpdateBackend::t5_add_rows).
pub(super) fn add_rows(table: Array, rows: Array, ids: &[u32]) -> Array {
    let [mut table, rows] = [table, rows].map(dense);
    let width = columns(&table);
    embedding::add_rows(values_mut(&mut table), width, ids, values(&rows));
    table
}

/// The sum of squares, `[1]`.
pub(super) fn square_sum(x: Array) -> Array {
    scalar(update::square_sum(values(&dense(x))) as f32)
}
