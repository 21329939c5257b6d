//! Optimizer steps, which are the loops of [`cpu`](crate::kernels::cpu).

use std::sync::Arc;

use burn::backend::Flex;

use crate::kernels::cpu::{update, zeros_like};
use crate::kernels::graph::Array;
use crate::kernels::update::{AdafactorStep, AdamStep, UpdateBackend};
use crate::kernels::values::ValuesBackend;

use super::array::{dense, values, values_mut};

impl ValuesBackend for Flex {
    fn t5_with_values(x: Array, work: &mut dyn FnMut(&mut [f32])) -> Array {
        let mut x = dense(x);
        work(values_mut(&mut x));
        x
    }

    fn t5_read_values(x: Array, work: &mut dyn FnMut(&[f32])) -> Array {
        let x = dense(x);
        work(values(&x));
        x
    }
}

impl UpdateBackend for Flex {
    fn t5_zeros(like: Array) -> Array {
        zeros_like(&like)
    }

    fn t5_adam(
        w: Array,
        g: Array,
        first: Array,
        second: Array,
        step: AdamStep,
    ) -> (Array, Array, Array) {
        update::adam([w, g, first, second], step).into()
    }

    fn t5_adafactor(
        w: Array,
        g: Array,
        rows: Array,
        columns: Array,
        step: AdafactorStep,
    ) -> (Array, Array, Array) {
        update::adafactor([w, g, rows, columns], step).into()
    }

    fn t5_adafactor_vector(w: Array, g: Array, mean: Array, step: AdafactorStep) -> (Array, Array) {
        update::adafactor_vector([w, g, mean], step).into()
    }

    fn t5_add_rows(table: Array, rows: Array, ids: Arc<[u32]>) -> Array {
        update::add_rows(table, rows, &ids)
    }

    fn t5_square_sum(x: Array) -> Array {
        update::square_sum(x)
    }
}
