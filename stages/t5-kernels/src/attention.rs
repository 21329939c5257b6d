//! Attention over runs of rows: scores, position bias, mask, softmax, dropout and the weighted sum in one operation.
//!
//! Queries, keys and values are rows of `heads * d_kv`. A segment is worked on by one thread, head by head, with
//! everything it touches in cache; segments are independent, so the thread count never changes a bit.

mod few;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use self::few::Few;
use super::plan::{AttentionPlan, Keys, Segment};
use super::{
    arithmetic::pack_row_pair,
    simd::{LANES, add_to, dot, made_in_blocks, softmax, vectorized},
    small_matmul::{Panel, View, multiply},
};

/// The tensors that attention reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The queries, `[queries, width]`.
    pub q: &'a [f32],
    /// The keys, `[keys, width]`; half as wide in bf16.
    pub k: &'a [f32],
    /// The values, like the keys.
    pub v: &'a [f32],
    /// Heads times `d_kv`.
    pub width: usize,
    /// Whether keys and values are in bf16, by [`to_bf16_rows`].
    pub bf16_kv: bool,
    /// The bias of every bucket, `[buckets, heads]`.
    pub bias: Option<&'a [f32]>,
}

/// Probabilities that a segment keeps for the backward pass, rows padded to whole registers.
fn scores(segment: &Segment, heads: usize) -> usize {
    heads * segment.queries.len() * segment.keys.len().next_multiple_of(LANES)
}

/// The index of each segment's first probability, for dropout.
fn score_offsets(plan: &AttentionPlan) -> Vec<usize> {
    let starts = plan.segments.iter().scan(0, |end, segment| {
        let start = *end;
        *end += scores(segment, plan.heads);
        Some(start)
    });
    starts.collect()
}

/// The attended values, `[queries, width]`, into zeros, and each segment's probabilities for [`backward`].
pub fn forward(inputs: Inputs<'_>, plan: &AttentionPlan, out: &mut [f32]) -> Vec<Vec<f32>> {
    attend(inputs, plan, out, |work, scratch, out| {
        let mut kept = Vec::with_capacity(scores(work.segment, plan.heads));
        work.forward(scratch, out, |of_head| kept.extend_from_slice(of_head));
        kept
    })
}

/// The attended values alone.
pub fn result(inputs: Inputs<'_>, plan: &AttentionPlan, out: &mut [f32]) {
    let _: Vec<()> = attend(inputs, plan, out, |work, scratch, out| {
        work.forward(scratch, out, |_| {});
    });
}

/// Calls `of_segment` with each segment and its rows of `out`.
fn attend<T: Send>(
    inputs: Inputs<'_>,
    plan: &AttentionPlan,
    out: &mut [f32],
    of_segment: impl Fn(Work<'_>, &mut Scratch, &mut [f32]) -> T + Sync,
) -> Vec<T> {
    let bias = BiasByDistance::new(inputs.bias, plan);
    let offsets = score_offsets(plan);
    let rows =
        split_rows(out, plan.segments.iter().map(|segment| segment.queries.len() * inputs.width));
    rows.into_par_iter()
        .zip(&*plan.segments)
        .zip(&offsets)
        .with_min_len(segments_per_task(plan, inputs.width))
        .map_init(Scratch::default, |scratch, ((out, segment), &offset)| {
            of_segment(Work { inputs, plan, segment, bias: &bias, offset }, scratch, out)
        })
        .collect()
}

/// Gradients of queries, keys and values, into zeros, and of the bias, from that of the attended values and what
/// [`forward`] kept. The last is of zeros where there is no bias.
pub fn backward(
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
            Arch::new().dispatch(Gradients { work, scratch, kept, grad, out: [dq, dk, dv] })
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

/// Segments of a task, so that it is worth a thread.
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

/// Many queries over a run of keys, by products of small matrices.
struct Many<'a> {
    work: Work<'a>,
    scratch: &'a mut Scratch,
    out: &'a mut [f32],
    /// Gets the probabilities of each head, before dropout.
    keep: &'a mut dyn FnMut(&[f32]),
}

impl WithSimd for Many<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { work, scratch, out, keep } = self;
        let (segment, inputs, d) = (work.segment, work.inputs, work.d_kv());
        let (queries, keys, width) = (segment.queries.len(), segment.keys.len(), inputs.width);
        let first_key = segment.keys.row(0);
        for head in 0..work.plan.heads {
            let Scratch { b, c, scores, out: attended, .. } = scratch;
            let q = work.head(inputs.q, segment.queries.start, head);
            b.transpose(keys, d, work.head(inputs.k, first_key, head), width);
            multiply(simd, scores, View { data: q, row: width, column: 1 }, [queries, d], b);
            work.normalise(&mut scores.data, scores.stride, head);
            keep(&scores.data);
            work.drop(&mut scores.data, head);
            c.copy(keys, d, work.head(inputs.v, first_key, head), width);
            multiply(simd, attended, scores.view(), [queries, keys], c);
            attended.copy_to(d, &mut out[head * d..], width);
        }
    }
}

/// The arguments of [`Work::backward`].
struct Gradients<'a, 'b> {
    work: Work<'a>,
    scratch: &'b mut Scratch,
    kept: &'b [f32],
    grad: &'b [f32],
    out: [&'b mut [f32]; 3],
}

impl WithSimd for Gradients<'_, '_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        self.work.backward(simd, self.scratch, self.kept, self.grad, self.out)
    }
}

/// Queries of a segment up to which they are dot products: packing the keys would cost more.
const FEW: usize = 8;

/// Rounds rows of keys or values to bf16, two to a word: the first half of a row is in the lower halves of its words, the second in
/// the upper ones.
pub fn to_bf16_rows(rows: &[f32], width: usize) -> Vec<f32> {
    made_in_blocks(rows.len() / 2, width / 2, |first, block| {
        let rows = rows.chunks_exact(width).skip(first);
        vectorized(
            #[inline(always)]
            || {
                for (to, row) in block.chunks_exact_mut(width / 2).zip(rows) {
                    let (lower, upper) = row.split_at(width / 2);
                    pack_row_pair(to, lower, Some(upper));
                }
            },
        );
    })
}

/// Buffers that a thread reuses.
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
    /// Index of this segment's first probability, for dropout.
    offset: usize,
}

impl Work<'_> {
    #[inline(always)]
    fn d_kv(&self) -> usize {
        self.inputs.width / self.plan.heads
    }

    /// How many keys query `row` attends to.
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

    /// Writes the attended values of the segment; `keep` gets the probabilities of each head, before dropout.
    fn forward(&self, scratch: &mut Scratch, out: &mut [f32], mut keep: impl FnMut(&[f32])) {
        match self.segment.keys {
            Keys::Run(_) if self.segment.queries.len() > FEW => {
                Arch::new().dispatch(Many { work: *self, scratch, out, keep: &mut keep });
            }
            _ => Arch::new().dispatch(Few { work: *self, scratch, out, keep: &mut keep }),
        }
    }

    /// Bias, mask and softmax over the rows of a head's scores; what is masked becomes 0.
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
    fn backward<S: Simd>(
        &self,
        simd: S,
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
            multiply(simd, out, scores.transposed(), [keys, queries], a);
            out.copy_to(d, &mut dv[column..], width);
            // dP = dO V^T, then through dropout and softmax to dS.
            b.transpose(keys, d, self.head(self.inputs.v, first_key, head), width);
            multiply(simd, slopes, a.view(), [queries, d], b);
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
            multiply(simd, out, slopes.view(), [queries, keys], c);
            out.copy_to(d, &mut dq[column..], width);
            a.copy(queries, d, self.head(self.inputs.q, first_query, head), width);
            multiply(simd, out, slopes.transposed(), [keys, queries], a);
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
