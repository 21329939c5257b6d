//! Attention over runs of rows by way of torch's, which wants sequences of one length.
//!
//! Sequences are padded to the longest of the batch: queries that stand for nothing attend to what the others of their
//! sequence do and are left out of the result, keys that stand for nothing are masked.

use tch::Tensor;

use super::ops::{drop, index};
use crate::kernels::{AttentionPlan, Keys, Segment, graph::Array};

/// The attended values, `[queries, width]`, of queries, keys and values of the same width; `bias` is `[buckets, heads]`.
pub(super) fn attend(
    [q, k, v]: [&Tensor; 3],
    bias: Option<&Tensor>,
    plan: &AttentionPlan,
) -> Tensor {
    let layout = plan.layout.get_or_init(|| Layout::new(plan, q));
    let q = layout.heads(&select(q, layout.padded_queries.as_ref()), layout.queries);
    let [k, v] = [k, v].map(|rows| layout.heads(&layout.padded_keys.of(rows), layout.keys));
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

/// Which rows the keys are.
#[derive(Debug)]
enum KeyRows {
    /// So many from the first on, in order.
    Run {
        first: i64,
        count: i64,
    },
    Each(Array),
}

impl KeyRows {
    fn of(&self, table: &Tensor) -> Tensor {
        match self {
            Self::Run { first, count } => table.narrow(0, *first, *count),
            Self::Each(rows) => table.index_select(0, &rows.tensor),
        }
    }
}

/// A plan as torch wants it, on the device of the tensors; the same for all layers.
#[derive(Debug)]
pub(in crate::kernels) struct Layout {
    segments: i64,
    heads: i64,
    /// Lengths of the longest sequence.
    queries: i64,
    keys: i64,
    /// The row of every query of the padded sequences, unless they are as they are.
    padded_queries: Option<Array>,
    /// Where the queries are among the padded ones.
    real_queries: Option<Array>,
    padded_keys: KeyRows,
    /// The bucket of every distance, `[segments or 1, queries, keys]`.
    buckets: Option<Array>,
    /// Minus infinity where a query must not look, `[segments, 1, queries or 1, keys]`.
    hidden: Option<Array>,
}

impl Layout {
    fn new(plan: &AttentionPlan, like: &Tensor) -> Self {
        let longest = |length: fn(&Segment) -> usize| {
            plan.segments.iter().map(length).max().unwrap_or(0) as i64
        };
        let queries = longest(|segment| segment.queries.len());
        let keys = longest(|segment| segment.keys.len());
        let numbers = |numbers: Vec<i64>| Array::new(index(numbers.into_iter(), like));
        let is_even = |segment: &Segment| segment.queries.len() as i64 == queries;
        let is_even = plan.segments.iter().all(is_even);
        let hidden = hidden(plan, queries, keys)
            .map(|hidden| Array::new(hidden.to_device(like.device()).to_kind(like.kind())));
        let buckets = buckets(plan, queries, keys)
            .map(|buckets| Array::new(index(buckets.into_iter(), like).view([-1, queries, keys])));
        Self {
            segments: plan.segments.len() as i64,
            heads: plan.heads as i64,
            queries,
            keys,
            padded_queries: (!is_even).then(|| numbers(padded_queries(plan, queries))),
            real_queries: (!is_even).then(|| numbers(real_queries(plan, queries))),
            padded_keys: match run_of_keys(plan, keys) {
                Some(first) => KeyRows::Run { first, count: plan.segments.len() as i64 * keys },
                None => KeyRows::Each(numbers(padded_keys(plan, keys))),
            },
            buckets,
            hidden,
        }
    }

    /// `[segments * length, width]` as `[segments, heads, length, d_kv]`.
    fn heads(&self, rows: &Tensor, length: i64) -> Tensor {
        rows.view([self.segments, length, self.heads, -1]).transpose(1, 2)
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

fn padded_queries(plan: &AttentionPlan, longest: i64) -> Vec<i64> {
    let row = |segment: &Segment, query: i64| {
        segment.queries.start as i64 + query.min(segment.queries.len() as i64 - 1)
    };
    let segments = plan.segments.iter();
    segments.flat_map(|segment| (0..longest).map(move |query| row(segment, query))).collect()
}

fn real_queries(plan: &AttentionPlan, longest: i64) -> Vec<i64> {
    let lengths = plan.segments.iter().map(|segment| segment.queries.len() as i64);
    let rows = |(number, length): (i64, i64)| number * longest..number * longest + length;
    (0..).zip(lengths).flat_map(rows).collect()
}

/// The first row of the keys, if they are all there is from it on, sequence by sequence of one length.
fn run_of_keys(plan: &AttentionPlan, longest: i64) -> Option<i64> {
    let start = |segment: &Segment| match &segment.keys {
        Keys::Run(run) if run.len() as i64 == longest => Some(run.start as i64),
        _ => None,
    };
    let first = plan.segments.first().and_then(start)?;
    let mut places = (first..).step_by(longest.max(1) as usize).zip(plan.segments.iter());
    places.all(|(place, segment)| start(segment) == Some(place)).then_some(first)
}

fn padded_keys(plan: &AttentionPlan, longest: i64) -> Vec<i64> {
    let row = |segment: &Segment, key: i64| {
        segment.keys.row((key as usize).min(segment.keys.len() - 1)) as i64
    };
    let segments = plan.segments.iter();
    segments.flat_map(|segment| (0..longest).map(move |key| row(segment, key))).collect()
}

fn buckets(plan: &AttentionPlan, queries: i64, keys: i64) -> Option<Vec<i64>> {
    let buckets = plan.buckets.as_ref()?;
    let all = buckets.all();
    let bucket = |query: i64, key: i64| {
        let at = buckets.zero() as i64 + key - query;
        i64::from(all[at.clamp(0, all.len() as i64 - 1) as usize])
    };
    let of_position = |position: i64| {
        (position..position + queries)
            .flat_map(move |query| (0..keys).map(move |key| bucket(query, key)))
    };
    Some(distinct_positions(plan).into_iter().flat_map(of_position).collect())
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

fn hidden(plan: &AttentionPlan, queries: i64, keys: i64) -> Option<Tensor> {
    let is_even = |segment: &Segment| segment.keys.len() as i64 == keys;
    if plan.segments.iter().all(is_even) && !plan.causal {
        return None;
    }
    let queries = if plan.causal { queries } else { 1 };
    let hides = |segment: &Segment, query: i64, key: i64| {
        key >= segment.keys.len() as i64 || plan.causal && key > segment.position as i64 + query
    };
    let value = |hides: bool| if hides { f32::NEG_INFINITY } else { 0.0 };
    let values = plan.segments.iter().flat_map(|segment| {
        (0..queries)
            .flat_map(move |query| (0..keys).map(move |key| value(hides(segment, query, key))))
    });
    let values: Vec<f32> = values.collect();
    Some(Tensor::from_slice(&values).view([plan.segments.len() as i64, 1, queries, keys]))
}
