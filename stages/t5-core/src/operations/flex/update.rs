//! Optimizer steps, which are the loops of [`on_cpu`](crate::operations::on_cpu).

use std::sync::Arc;

use burn::backend::Flex;

use crate::operations::graph::Array;
use crate::operations::on_cpu::{self, zeros_like};
use crate::operations::update::{AdafactorStep, AdamStep, UpdateBackend};
use crate::operations::values::ValuesBackend;

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
        on_cpu::adam([w, g, first, second], step).into()
    }

    fn t5_adafactor(
        w: Array,
        g: Array,
        rows: Array,
        columns: Array,
        step: AdafactorStep,
    ) -> (Array, Array, Array) {
        on_cpu::adafactor([w, g, rows, columns], step).into()
    }

    fn t5_adafactor_vector(w: Array, g: Array, mean: Array, step: AdafactorStep) -> (Array, Array) {
        on_cpu::adafactor_vector([w, g, mean], step).into()
    }

    fn t5_add_rows(table: Array, rows: Array, ids: Arc<[u32]>) -> Array {
        on_cpu::add_rows(table, rows, &ids)
    }

    fn t5_square_sum(x: Array) -> Array {
        on_cpu::square_sum(x)
    }
}
