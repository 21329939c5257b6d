//! Attention over runs of rows by way of torch's, which wants sequences of one length.

use tch::Tensor;

use super::ops::{drop, index};
use crate::operations::{
    AttentionPlan,
    graph::Array,
    padding::{KeyRows, Padding},
};

/// The attended values, `[queries, width]`, of queries, keys and values of the same width; `bias` is `[buckets, heads]`.
pub(super) fn attend(
    [q, k, v]: [&Tensor; 3],
    bias: Option<&Tensor>,
    plan: &AttentionPlan,
) -> Tensor {
    let layout = plan.layout.get_or_init(|| Layout::new(plan, q));
    let q = layout.heads(&select(q, layout.padded_queries.as_ref()), layout.queries);
    let [k, v] =
        [k, v].map(|rows| layout.heads(&select_keys(rows, &layout.padded_keys), layout.keys));
    let mask = layout.mask(bias, &q);
    let attended = match plan.dropout {
        None => Tensor::scaled_dot_product_attention(
            &q,
            &k,
            &v,
            mask.as_ref(),
            0.0,
            false,
            Some(1.0),
            false,
        ),
        Some(_) => {
            let scores = q.matmul(&k.transpose(2, 3));
            let scores = match mask {
                Some(mask) => scores + mask,
                None => scores,
            };
            drop(scores.softmax(-1, scores.kind()), plan.dropout).matmul(&v)
        }
    };
    select(&attended.transpose(1, 2).flatten(0, 1).flatten(1, 2), layout.real_queries.as_ref())
}

/// Rows of a table; none named is all of them.
fn select(table: &Tensor, rows: Option<&Array>) -> Tensor {
    rows.map_or_else(|| table.shallow_clone(), |rows| table.index_select(0, &rows.tensor))
}

fn select_keys(table: &Tensor, rows: &KeyRows<Array>) -> Tensor {
    match rows {
        KeyRows::Run { first, count } => table.narrow(0, *first as i64, *count as i64),
        KeyRows::Each(rows) => table.index_select(0, &rows.tensor),
    }
}

/// A plan as torch wants it, on the device of the tensors; the same for all layers.
#[derive(Debug)]
pub(in crate::operations) struct Layout {
    segments: i64,
    heads: i64,
    /// Lengths of the longest sequence.
    queries: i64,
    keys: i64,
    /// The row of every query of the padded sequences, unless they are as they are.
    padded_queries: Option<Array>,
    /// Where the queries are among the padded ones.
    real_queries: Option<Array>,
    padded_keys: KeyRows<Array>,
    /// The bucket of every distance, `[segments or 1, queries, keys]`.
    buckets: Option<Array>,
    /// Minus infinity where a query must not look, `[segments, 1, queries or 1, keys]`.
    hidden: Option<Array>,
}

impl Layout {
    fn new(plan: &AttentionPlan, like: &Tensor) -> Self {
        let padding = Padding::new(plan);
        let [segments, queries, keys] =
            [padding.segments, padding.queries, padding.keys].map(|count| count as i64);
        let numbers = |numbers: Vec<i64>| Array::new(index(numbers.into_iter(), like));
        let hidden = padding.hidden.map(|hidden| {
            let mask = Tensor::from_slice(&hidden.mask(f32::NEG_INFINITY));
            let mask = mask.view(hidden.shape.map(|size| size as i64));
            Array::new(mask.to_device(like.device()).to_kind(like.kind()))
        });
        let of_distance = |buckets: Vec<i64>| {
            Array::new(index(buckets.into_iter(), like).view([-1, queries, keys]))
        };
        Self {
            segments,
            heads: plan.heads as i64,
            queries,
            keys,
            padded_queries: padding.padded_queries.map(numbers),
            real_queries: padding.real_queries.map(numbers),
            padded_keys: padding.padded_keys.map(numbers),
            buckets: padding.buckets.map(of_distance),
            hidden,
        }
    }

    /// `[segments * length, width]` as `[segments, heads, length, d_kv]`.
    fn heads(&self, rows: &Tensor, length: i64) -> Tensor {
        rows.reshape([self.segments, length, self.heads, -1]).transpose(1, 2)
    }

    /// What is added to the scores, `[segments or 1, heads or 1, queries or 1, keys]`.
    fn mask(&self, bias: Option<&Tensor>, like: &Tensor) -> Option<Tensor> {
        let bias = bias.zip(self.buckets.as_ref()).map(|(bias, buckets)| {
            let shape = [-1, self.queries, self.keys, self.heads];
            let rows = bias.index_select(0, &buckets.tensor.view(-1));
            rows.view(shape).permute([0, 3, 1, 2]).to_kind(like.kind())
        });
        match (bias, &self.hidden) {
            (Some(bias), Some(hidden)) => Some(bias + &hidden.tensor),
            (bias, hidden) => bias.or(hidden.as_ref().map(|hidden| hidden.tensor.shallow_clone())),
        }
    }
}
