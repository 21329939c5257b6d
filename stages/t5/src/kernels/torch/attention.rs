//! Attention over runs of rows by way of torch's, which wants sequences of one length.
//!
//! Sequences are padded to the longest of the batch: queries that stand for nothing attend to what the others of their
//! sequence do and are left out of the result, keys that stand for nothing are masked.

use tch::Tensor;

use super::ops::{drop, index};
use crate::kernels::{AttentionPlan, Keys, Segment};

/// The attended values, `[queries, width]`, of queries, keys and values of the same width; `bias` is `[buckets, heads]`.
pub(super) fn attend(
    [q, k, v]: [&Tensor; 3],
    bias: Option<&Tensor>,
    plan: &AttentionPlan,
) -> Tensor {
    let shape = Shape::of(plan, q.size()[1]);
    let queries = shape.padded_queries(plan);
    let keys = shape.padded_keys(plan);
    let q = shape.heads(select(q, queries.as_deref()), shape.queries);
    let k = shape.heads(select_keys(k, &keys), shape.keys);
    let v = shape.heads(select_keys(v, &keys), shape.keys);
    let mask = shape.mask(plan, bias, &q);
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
    let rows = attended.transpose(1, 2).reshape([-1, shape.width]);
    match queries {
        None => rows,
        Some(_) => rows.index_select(0, &index(shape.real_queries(plan), &rows)),
    }
}

/// Rows of a table; none named is all of them.
fn select(table: &Tensor, rows: Option<&[i64]>) -> Tensor {
    match rows {
        None => table.shallow_clone(),
        Some(rows) => table.index_select(0, &index(rows.iter().copied(), table)),
    }
}

/// Which rows the keys are.
enum KeyRows {
    /// So many from the first on, in order.
    Run(i64, i64),
    Each(Vec<i64>),
}

fn select_keys(table: &Tensor, rows: &KeyRows) -> Tensor {
    match rows {
        KeyRows::Run(first, count) => table.narrow(0, *first, *count),
        KeyRows::Each(rows) => select(table, Some(rows)),
    }
}

/// The sizes of one attention.
struct Shape {
    segments: i64,
    heads: i64,
    /// Of all heads together.
    width: i64,
    /// Of the longest sequence.
    queries: i64,
    keys: i64,
}

impl Shape {
    fn of(plan: &AttentionPlan, width: i64) -> Self {
        let longest = |length: fn(&Segment) -> usize| {
            plan.segments.iter().map(length).max().unwrap_or(0) as i64
        };
        Self {
            segments: plan.segments.len() as i64,
            heads: plan.heads as i64,
            width,
            queries: longest(|segment| segment.queries.len()),
            keys: longest(|segment| segment.keys.len()),
        }
    }

    /// `[segments * length, width]` as `[segments, heads, length, d_kv]`.
    fn heads(&self, rows: Tensor, length: i64) -> Tensor {
        rows.reshape([self.segments, length, self.heads, self.width / self.heads]).transpose(1, 2)
    }

    /// The row of every query of the padded sequences, unless they are as they are.
    fn padded_queries(&self, plan: &AttentionPlan) -> Option<Vec<i64>> {
        let is_even = |segment: &Segment| segment.queries.len() as i64 == self.queries;
        if plan.segments.iter().all(is_even) {
            return None;
        }
        let row = |segment: &Segment, query: i64| {
            segment.queries.start as i64 + query.min(segment.queries.len() as i64 - 1)
        };
        let rows = plan
            .segments
            .iter()
            .flat_map(|segment| (0..self.queries).map(move |query| row(segment, query)));
        Some(rows.collect())
    }

    /// Where the queries are among the padded ones.
    fn real_queries(&self, plan: &AttentionPlan) -> impl Iterator<Item = i64> {
        let length = self.queries;
        let counts = plan.segments.iter().map(|segment| segment.queries.len() as i64);
        (0..)
            .zip(counts)
            .flat_map(move |(number, count): (i64, i64)| number * length..number * length + count)
    }

    fn padded_keys(&self, plan: &AttentionPlan) -> KeyRows {
        let first = |segment: &Segment| match &segment.keys {
            Keys::Run(run) if run.len() as i64 == self.keys => Some(run.start as i64),
            _ => None,
        };
        if let Some(start) = plan.segments.first().and_then(first) {
            let place = |number: usize| Some(start + number as i64 * self.keys);
            if plan.segments.iter().enumerate().all(|(number, it)| first(it) == place(number)) {
                return KeyRows::Run(start, self.segments * self.keys);
            }
        }
        let row = |segment: &Segment, key: i64| {
            segment.keys.row((key as usize).min(segment.keys.len() - 1)) as i64
        };
        let rows = plan
            .segments
            .iter()
            .flat_map(|segment| (0..self.keys).map(move |key| row(segment, key)));
        KeyRows::Each(rows.collect())
    }

    /// What is added to the scores, `[segments or 1, heads or 1, queries or 1, keys]`.
    fn mask(&self, plan: &AttentionPlan, bias: Option<&Tensor>, like: &Tensor) -> Option<Tensor> {
        let bias = bias.and_then(|bias| self.bias(plan, bias));
        let hidden = self.hidden(plan);
        let hidden = hidden.map(|hidden| hidden.to_device(like.device()).to_kind(like.kind()));
        match (bias, hidden) {
            (Some(bias), Some(hidden)) => Some(bias + hidden),
            (bias, hidden) => bias.or(hidden),
        }
    }

    fn bias(&self, plan: &AttentionPlan, bias: &Tensor) -> Option<Tensor> {
        let buckets = plan.buckets.as_ref()?;
        let all = buckets.all();
        let bucket = |query: i64, key: i64| {
            let at = buckets.zero() as i64 + key - query;
            i64::from(all[at.clamp(0, all.len() as i64 - 1) as usize])
        };
        let positions = distinct_positions(plan);
        let distances = positions.iter().flat_map(|position| {
            (0..self.queries)
                .flat_map(move |query| (0..self.keys).map(move |key| bucket(position + query, key)))
        });
        let shape = [positions.len() as i64, self.queries, self.keys, self.heads];
        Some(bias.index_select(0, &index(distances, bias)).reshape(shape).permute([0, 3, 1, 2]))
    }

    /// Minus infinity where a query must not look.
    fn hidden(&self, plan: &AttentionPlan) -> Option<Tensor> {
        let is_even = |segment: &Segment| segment.keys.len() as i64 == self.keys;
        let is_even = plan.segments.iter().all(is_even);
        if is_even && !plan.causal {
            return None;
        }
        let queries = if plan.causal { self.queries } else { 1 };
        let hides = |segment: &Segment, query: i64, key: i64| {
            key >= segment.keys.len() as i64 || plan.causal && key > segment.position as i64 + query
        };
        let values: Vec<f32> = plan
            .segments
            .iter()
            .flat_map(|segment| {
                (0..queries).flat_map(move |query| {
                    (0..self.keys).map(move |key| {
                        if hides(segment, query, key) { f32::NEG_INFINITY } else { 0.0 }
                    })
                })
            })
            .collect();
        Some(Tensor::from_slice(&values).reshape([self.segments, 1, queries, self.keys]))
    }
}

/// The position of each segment's first query, or the one that all have.
fn distinct_positions(plan: &AttentionPlan) -> Vec<i64> {
    let mut positions: Vec<_> =
        plan.segments.iter().map(|segment| segment.position as i64).collect();
    if positions.iter().all(|position| *position == positions[0]) {
        positions.truncate(1);
    }
    positions
}
