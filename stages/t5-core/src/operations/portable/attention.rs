//! Attention over runs of rows, by way of sequences of one length.

use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation::softmax};

use super::{cast, drop, index};
use crate::operations::{
    AttentionPlan,
    padding::{KeyRows, Padding},
};

/// Added to the score of what a query must not see. Not infinite: shaders need not know infinity.
const HIDDEN: f32 = -1e30;

/// The attended values, `[queries, width]`, of queries, keys and values of the same width; `bias` is `[buckets, heads]`.
pub(in crate::operations) fn attend(
    [q, k, v]: [Tensor<2>; 3],
    bias: Option<&Tensor<2>>,
    plan: &AttentionPlan,
) -> Tensor<2> {
    let layout = plan.portable.get_or_init(|| Layout::new(plan, &q.device()));
    let [_, width] = q.dims();
    let q = layout.heads(select(q, layout.padded_queries.as_ref()), layout.queries);
    let [k, v] =
        [k, v].map(|rows| layout.heads(select_keys(rows, &layout.padded_keys), layout.keys));
    let dtype = v.dtype();
    let mut scores = cast(q.matmul(k.transpose()), DType::F32);
    if let Some(mask) = layout.mask(bias) {
        scores = scores + mask;
    }
    let attended = cast(drop(softmax(scores, 3), plan.dropout), dtype).matmul(v);
    let rows = attended.swap_dims(1, 2).reshape([layout.segments * layout.queries, width]);
    select(rows, layout.real_queries.as_ref())
}

/// Rows of a table; none named is all of them.
fn select(table: Tensor<2>, rows: Option<&Tensor<1, Int>>) -> Tensor<2> {
    match rows {
        Some(rows) => table.select(0, rows.clone()),
        None => table,
    }
}

fn select_keys(table: Tensor<2>, rows: &KeyRows<Tensor<1, Int>>) -> Tensor<2> {
    match rows {
        KeyRows::Run { first, count } => table.narrow(0, *first, *count),
        KeyRows::Each(rows) => table.select(0, rows.clone()),
    }
}

/// A plan on the device of the tensors; the same for all layers.
#[derive(Debug)]
pub(in crate::operations) struct Layout {
    segments: usize,
    heads: usize,
    /// Lengths of the longest sequence.
    queries: usize,
    keys: usize,
    padded_queries: Option<Tensor<1, Int>>,
    real_queries: Option<Tensor<1, Int>>,
    padded_keys: KeyRows<Tensor<1, Int>>,
    /// The bucket of every distance, segments or one, queries and keys one after another.
    buckets: Option<Tensor<1, Int>>,
    /// [`HIDDEN`] where a query must not look, `[segments, 1, queries or 1, keys]`.
    hidden: Option<Tensor<4>>,
}

impl Layout {
    fn new(plan: &AttentionPlan, device: &Device) -> Self {
        let padding = Padding::new(plan);
        let numbers = |numbers: Vec<i64>| index(numbers, device);
        let hidden = padding.hidden.map(|hidden| {
            Tensor::from_data(TensorData::new(hidden.mask(HIDDEN), hidden.shape), device)
        });
        Self {
            segments: padding.segments,
            heads: plan.heads,
            queries: padding.queries,
            keys: padding.keys,
            padded_queries: padding.padded_queries.map(numbers),
            real_queries: padding.real_queries.map(numbers),
            padded_keys: padding.padded_keys.map(numbers),
            buckets: padding.buckets.map(numbers),
            hidden,
        }
    }

    /// `[segments * length, width]` as `[segments, heads, length, d_kv]`.
    fn heads(&self, rows: Tensor<2>, length: usize) -> Tensor<4> {
        let [_, width] = rows.dims();
        let shape = [self.segments, length, self.heads, width / self.heads];
        rows.reshape(shape).swap_dims(1, 2)
    }

    /// What is added to the scores, `[segments or 1, heads or 1, queries or 1, keys]`.
    fn mask(&self, bias: Option<&Tensor<2>>) -> Option<Tensor<4>> {
        let bias = bias.zip(self.buckets.as_ref()).map(|(bias, buckets)| {
            let positions = buckets.dims()[0] / (self.queries * self.keys);
            let rows = cast(bias.clone().select(0, buckets.clone()), DType::F32);
            let shape = [positions, self.queries, self.keys, self.heads];
            rows.reshape(shape).permute([0, 3, 1, 2])
        });
        match (bias, self.hidden.clone()) {
            (Some(bias), Some(hidden)) => Some(bias + hidden),
            (bias, hidden) => bias.or(hidden),
        }
    }
}
