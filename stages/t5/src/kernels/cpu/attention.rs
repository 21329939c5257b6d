//! Attention over runs of rows: scores, position bias, mask, softmax, dropout and the weighted sum in one operation.
//!
//! Queries, keys and values are rows of `heads * d_kv`. A segment is worked on by one thread, head by head, with
//! everything it touches in cache; segments are independent, so the thread count never changes a bit.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    panel::{Panel, multiply},
    simd::{LANES, add_to, dot, softmax, vectorized},
};
use crate::kernels::{AttentionPlan, Keys, Segment};

/// The tensors that attention reads.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    /// Heads together.
    pub(super) width: usize,
    /// The bias of every bucket, `[buckets, heads]`.
    pub(super) bias: Option<&'a [f32]>,
}

/// Probabilities that a segment keeps for the backward pass, rows padded to whole registers.
fn scores(segment: &Segment, heads: usize) -> usize {
    heads * segment.queries.len() * segment.keys.len().next_multiple_of(LANES)
}

/// Where each segment's probabilities start, for numbering them.
fn score_offsets(plan: &AttentionPlan) -> Vec<usize> {
    let starts = plan.segments.iter().scan(0, |end, segment| {
        let start = *end;
        *end += scores(segment, plan.heads);
        Some(start)
    });
    starts.collect()
}

/// The attended values, `[queries, width]`, into zeros, and each segment's probabilities for [`backward`].
pub(super) fn forward(inputs: Inputs<'_>, plan: &AttentionPlan, out: &mut [f32]) -> Vec<Vec<f32>> {
    let bias = BiasByDistance::new(inputs.bias, plan);
    let offsets = score_offsets(plan);
    let rows =
        split_rows(out, plan.segments.iter().map(|segment| segment.queries.len() * inputs.width));
    rows.into_par_iter()
        .zip(&*plan.segments)
        .zip(&offsets)
        .with_min_len(segments_per_task(plan, inputs.width))
        .map_init(Scratch::default, |scratch, ((out, segment), &offset)| {
            let work = Work { inputs, plan, segment, bias: &bias, offset };
            match segment.keys {
                Keys::Run(_) if segment.queries.len() > 1 => vectorized(
                    #[inline(always)]
                    || work.forward(scratch, out),
                ),
                _ => Arch::new().dispatch(RowByRow { work, out }),
            }
        })
        .collect()
}

/// Gradients of queries, keys and values, into zeros, and of the bias, from that of the attended values and what
/// [`forward`] kept. The last is of zeros where there is no bias.
pub(super) fn backward(
    inputs: Inputs<'_>,
    plan: &AttentionPlan,
    kept: &[Vec<f32>],
    grad: &[f32],
    [dq, dk, dv]: [&mut [f32]; 3],
) -> Vec<f32> {
    let width = inputs.width;
    let bias = BiasByDistance::new(inputs.bias, plan);
    let offsets = score_offsets(plan);
    let query_rows = || plan.segments.iter().map(|segment| segment.queries.len() * width);
    let key_rows = || plan.segments.iter().map(|segment| segment.keys.len() * width);
    let slots: Vec<_> = split_rows(dq, query_rows())
        .into_iter()
        .zip(split_rows(dk, key_rows()))
        .zip(split_rows(dv, key_rows()))
        .collect();
    let by_distance: Vec<Vec<f32>> = slots
        .into_par_iter()
        .zip(plan.segments.par_iter().zip(&offsets).zip(kept))
        .with_min_len(segments_per_task(plan, width))
        .map_init(Scratch::default, |scratch, (((dq, dk), dv), ((segment, &offset), kept))| {
            let work = Work { inputs, plan, segment, bias: &bias, offset };
            vectorized(
                #[inline(always)]
                || work.backward(scratch, kept, grad, [dq, dk, dv]),
            )
        })
        .collect();
    bias.gather(plan, &by_distance)
}

/// Cuts a matrix into the given consecutive pieces.
fn split_rows(mut rest: &mut [f32], lengths: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    lengths
        .map(|length| {
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(length);
            rest = tail;
            piece
        })
        .collect()
}

/// Segments that are worth waking a thread for.
fn segments_per_task(plan: &AttentionPlan, width: usize) -> usize {
    let work: usize = plan
        .segments
        .iter()
        .map(|segment| segment.queries.len() * segment.keys.len() * width)
        .sum();
    let each = (work / plan.segments.len().max(1)).max(1);
    ((1 << 17) / each).max(1)
}

/// The bias spread out over distances, one row per head.
struct BiasByDistance {
    values: Vec<f32>,
    zero: usize,
    distances: usize,
    /// Elements of the bias by bucket.
    elements: usize,
}

impl BiasByDistance {
    fn new(bias: Option<&[f32]>, plan: &AttentionPlan) -> Self {
        let (Some(bias), Some(buckets)) = (bias, &plan.buckets) else {
            return Self { values: Vec::new(), zero: 0, distances: 0, elements: 0 };
        };
        let of = |head: usize| {
            buckets.all().iter().map(move |&bucket| bias[bucket as usize * plan.heads + head])
        };
        let values = (0..plan.heads).flat_map(of).collect();
        Self { values, zero: buckets.zero(), distances: buckets.all().len(), elements: bias.len() }
    }

    /// The bias of `head` for a query at `position` and the keys from 0 on.
    #[inline(always)]
    fn row(&self, head: usize, position: usize) -> &[f32] {
        if self.distances == 0 {
            &[]
        } else {
            &self.values[head * self.distances + self.zero - position..]
        }
    }

    /// Adds up the segments' gradients by distance, in order, into one by bucket.
    fn gather(&self, plan: &AttentionPlan, segments: &[Vec<f32>]) -> Vec<f32> {
        let Some(buckets) = &plan.buckets else { return Vec::new() };
        let mut total = vec![0.0; self.values.len()];
        for segment in segments {
            add_to(&mut total, segment);
        }
        let mut by_bucket = vec![0.0; self.elements];
        for head in 0..plan.heads {
            for (distance, &bucket) in buckets.all().iter().enumerate() {
                by_bucket[bucket as usize * plan.heads + head] +=
                    total[head * self.distances + distance];
            }
        }
        by_bucket
    }
}

/// Buffers that a thread uses again and again.
#[derive(Default)]
struct Scratch {
    a: Panel,
    b: Panel,
    c: Panel,
    scores: Panel,
    slopes: Panel,
    out: Panel,
}

/// One segment of one attention operation.
#[derive(Clone, Copy)]
struct Work<'a> {
    inputs: Inputs<'a>,
    plan: &'a AttentionPlan,
    segment: &'a Segment,
    bias: &'a BiasByDistance,
    /// Number of this segment's first probability, for dropout.
    offset: usize,
}

impl Work<'_> {
    #[inline(always)]
    fn d_kv(&self) -> usize {
        self.inputs.width / self.plan.heads
    }

    /// How many keys query `row` sees.
    #[inline(always)]
    fn visible(&self, row: usize) -> usize {
        let keys = self.segment.keys.len();
        if self.plan.causal { keys.min(self.segment.position + row + 1) } else { keys }
    }

    /// The part of `head` in `rows`, from row `first` on.
    #[inline(always)]
    fn head<'b>(&self, rows: &'b [f32], first: usize, head: usize) -> &'b [f32] {
        &rows[first * self.inputs.width + head * self.d_kv()..]
    }

    /// A row.
    #[inline(always)]
    fn row<'b>(&self, rows: &'b [f32], row: usize) -> &'b [f32] {
        &rows[row * self.inputs.width..][..self.inputs.width]
    }

    /// Many queries over a run of keys, by products of small matrices.
    #[inline(always)]
    fn forward(&self, scratch: &mut Scratch, out: &mut [f32]) -> Vec<f32> {
        let (queries, keys, d, width) =
            (self.segment.queries.len(), self.segment.keys.len(), self.d_kv(), self.inputs.width);
        let first_key = self.segment.keys.row(0);
        let mut kept = Vec::with_capacity(scores(self.segment, self.plan.heads));
        for head in 0..self.plan.heads {
            let Scratch { a, b, c, scores, out: attended, .. } = scratch;
            a.copy(queries, d, self.head(self.inputs.q, self.segment.queries.start, head), width);
            b.transpose(keys, d, self.head(self.inputs.k, first_key, head), width);
            multiply(scores, a.view(), queries, d, b);
            self.normalise(&mut scores.data, scores.stride, head);
            kept.extend_from_slice(&scores.data);
            self.drop(&mut scores.data, head);
            c.copy(keys, d, self.head(self.inputs.v, first_key, head), width);
            multiply(attended, scores.view(), queries, keys, c);
            attended.copy_to(d, &mut out[head * d..], width);
        }
        kept
    }

    /// Bias, mask and softmax over the rows of a head's scores; what a query does not see becomes 0.
    #[inline(always)]
    fn normalise(&self, scores: &mut [f32], stride: usize, head: usize) {
        for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
            let visible = self.visible(row);
            let (seen, hidden) = scores.split_at_mut(visible);
            add_to(seen, self.bias.row(head, self.segment.position + row));
            hidden.fill(f32::NEG_INFINITY);
            softmax(scores);
            scores[visible..].fill(0.0);
        }
    }

    /// Dropout over a head's probabilities.
    #[inline(always)]
    fn drop(&self, scores: &mut [f32], head: usize) {
        if let Some(dropout) = self.plan.dropout {
            let first = (self.offset + head * scores.len()) as u32;
            for (index, score) in scores.iter_mut().enumerate() {
                *score *= dropout.factor(first.wrapping_add(index as u32));
            }
        }
    }

    /// Writes the segment's gradients of q, k and v; returns that of the bias by distance.
    #[inline(always)]
    fn backward(
        &self,
        scratch: &mut Scratch,
        kept: &[f32],
        grad: &[f32],
        out: [&mut [f32]; 3],
    ) -> Vec<f32> {
        let (queries, keys, d, width) =
            (self.segment.queries.len(), self.segment.keys.len(), self.d_kv(), self.inputs.width);
        let (first_query, first_key) = (self.segment.queries.start, self.segment.keys.row(0));
        let stride = keys.next_multiple_of(LANES);
        let [dq, dk, dv] = out;
        let mut by_distance = vec![0.0; self.bias.values.len()];
        for (head, kept) in kept.chunks_exact((queries * stride).max(1)).enumerate() {
            let Scratch { a, b, c, scores, slopes, out } = scratch;
            let column = head * d;
            // dV = P^T dO, with the probabilities as they were after dropout.
            scores.stride = stride;
            scores.data.clear();
            scores.data.extend_from_slice(kept);
            self.drop(&mut scores.data, head);
            a.copy(queries, d, self.head(grad, first_query, head), width);
            multiply(out, scores.transposed(), keys, queries, a);
            out.copy_to(d, &mut dv[column..], width);
            // dP = dO V^T, then through dropout and softmax to dS.
            b.transpose(keys, d, self.head(self.inputs.v, first_key, head), width);
            multiply(slopes, a.view(), queries, d, b);
            self.drop(&mut slopes.data, head);
            for (slope, p) in slopes.data.chunks_exact_mut(stride).zip(kept.chunks_exact(stride)) {
                let pull = dot(slope, p);
                for (slope, p) in slope.iter_mut().zip(p) {
                    *slope = p * (*slope - pull);
                }
            }
            self.add_by_distance(&mut by_distance, slopes, head);
            // dQ = dS K and dK = dS^T Q.
            c.copy(keys, d, self.head(self.inputs.k, first_key, head), width);
            multiply(out, slopes.view(), queries, keys, c);
            out.copy_to(d, &mut dq[column..], width);
            a.copy(queries, d, self.head(self.inputs.q, first_query, head), width);
            multiply(out, slopes.transposed(), keys, queries, a);
            out.copy_to(d, &mut dk[column..], width);
        }
        by_distance
    }

    #[inline(always)]
    fn add_by_distance(&self, by_distance: &mut [f32], slopes: &Panel, head: usize) {
        if by_distance.is_empty() {
            return;
        }
        for row in 0..self.segment.queries.len() {
            let start = head * self.bias.distances + self.bias.zero - (self.segment.position + row);
            add_to(&mut by_distance[start..], slopes.row(row, self.visible(row)));
        }
    }
}

/// Few queries, or keys from anywhere: one dot product after the other. Keys and values are most of what is read, so the
/// outer loop is over them, and each comes from memory once and in order.
struct RowByRow<'a> {
    work: Work<'a>,
    out: &'a mut [f32],
}

impl WithSimd for RowByRow<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { work, out } = self;
        let (segment, inputs, d) = (work.segment, work.inputs, work.d_kv());
        let (queries, heads) = (segment.queries.len(), work.plan.heads);
        let stride = segment.keys.len().next_multiple_of(LANES);
        let of_head = queries * stride;
        let mut kept = vec![0.0; scores(segment, heads)];
        for row in 0..queries {
            let query = work.row(inputs.q, segment.queries.start + row);
            for position in 0..work.visible(row) {
                let key = work.row(inputs.k, segment.keys.row(position));
                let heads = query.chunks_exact(d).zip(key.chunks_exact(d));
                for (head, (query, key)) in heads.enumerate() {
                    kept[head * of_head + row * stride + position] = dot_product(simd, query, key);
                }
            }
        }
        for (head, kept) in kept.chunks_exact_mut(of_head.max(1)).enumerate() {
            work.normalise(kept, stride, head);
        }
        let mut dropped = Vec::new();
        let mut weights: &[f32] = &kept;
        if work.plan.dropout.is_some() {
            dropped.extend_from_slice(&kept);
            for (head, weights) in dropped.chunks_exact_mut(of_head.max(1)).enumerate() {
                work.drop(weights, head);
            }
            weights = &dropped;
        }
        for (row, out) in out.chunks_exact_mut(inputs.width).enumerate() {
            for first in (0..work.visible(row)).step_by(VALUES) {
                let count = VALUES.min(work.visible(row) - first);
                let mut values: [&[f32]; VALUES] = [&[]; VALUES];
                for (offset, values) in values[..count].iter_mut().enumerate() {
                    *values = work.row(inputs.v, segment.keys.row(first + offset));
                }
                for (head, out) in out.chunks_exact_mut(d).enumerate() {
                    let weights = &weights[head * of_head + row * stride + first..][..count];
                    add_weighted(simd, weights, &values[..count], head * d, out);
                }
            }
        }
        kept
    }
}

/// Values that are summed up together; their rows stay in the first-level cache.
const VALUES: usize = 8;
/// Registers that a weighted sum is collected in at a time.
const SUMS: usize = 4;

/// The dot product of two equally long slices, in registers.
#[inline(always)]
fn dot_product<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = simd.mul_add_e_f32s(*a, *b, sum);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    simd.reduce_sum_f32s(sum) + rest
}

/// Adds rows, from a column on, each times its weight.
#[inline(always)]
fn add_weighted<S: Simd>(
    simd: S,
    weights: &[f32],
    rows: &[&[f32]],
    column: usize,
    out: &mut [f32],
) {
    let width = out.len();
    let (registers, rest) = S::as_mut_simd_f32s(out);
    let whole = registers.len();
    let (blocks, single) = registers.as_chunks_mut::<SUMS>();
    for (block, out) in blocks.iter_mut().enumerate() {
        // Of its own, so that it stays in registers.
        let mut sums = *out;
        for (weight, row) in weights.iter().zip(rows) {
            let (row, _) = S::as_simd_f32s(&row[column..][..width]);
            let Some(row) = row[block * SUMS..].first_chunk::<SUMS>() else { break };
            let weight = simd.splat_f32s(*weight);
            for index in 0..SUMS {
                sums[index] = simd.mul_add_e_f32s(weight, row[index], sums[index]);
            }
        }
        *out = sums;
    }
    for (index, out) in single.iter_mut().enumerate() {
        let index = whole / SUMS * SUMS + index;
        for (weight, row) in weights.iter().zip(rows) {
            let (row, _) = S::as_simd_f32s(&row[column..][..width]);
            *out = simd.mul_add_e_f32s(simd.splat_f32s(*weight), row[index], *out);
        }
    }
    for (weight, row) in weights.iter().zip(rows) {
        for (sum, value) in rest.iter_mut().zip(&row[column + whole * S::F32_LANES..]) {
            *sum += weight * value;
        }
    }
}
