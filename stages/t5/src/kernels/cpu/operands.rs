//! What the matrix product multiplies: either side as it lies in memory, and the orders in which the loops want it.

use rayon::prelude::*;

use super::arithmetic::{pair, pair_rows, pairs};
use super::product::PANEL;
use super::simd::{LANES, vectorized};

/// The left-hand matrix, `[rows, depth]`.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// As it is.
    Rows(&'a [f32]),
    /// As its transpose, `[depth, rows]`.
    Transposed(&'a [f32]),
}

impl Left<'_> {
    /// The words of this matrix of `rows`, whose numbers are rounded to bf16, in the same order.
    pub(super) fn pairs(&self, rows: usize, depth: usize) -> Vec<f32> {
        let words = depth.div_ceil(2);
        let mut to = vec![0.0; words * rows];
        match self {
            Left::Rows(values) => pairs(&mut to, values, depth, words),
            Left::Transposed(values) => {
                let tasks = to.par_chunks_mut(rows).zip(values.par_chunks(2 * rows));
                tasks.with_min_len(16).for_each(|(to, from)| {
                    vectorized(
                        #[inline(always)]
                        || pair_rows(to, &from[..rows], from.get(rows..2 * rows)),
                    );
                });
            }
        }
        to
    }

    /// The same row by row, with zeros up to whole tiles in both directions.
    pub(super) fn tiles(&self, rows: usize, depth: usize) -> Vec<f32> {
        let words = Depth::Tiles(depth).filled();
        let mut to = vec![0.0; words * rows.next_multiple_of(LANES)];
        let filled = &mut to[..words * rows];
        match self {
            Left::Rows(values) => pairs(filled, values, depth, words),
            Left::Transposed(values) => {
                let tasks = filled.par_chunks_mut(words * TURNED).enumerate();
                tasks.for_each(|(number, to)| {
                    vectorized(
                        #[inline(always)]
                        || turn(to, words, &values[number * TURNED..], rows),
                    );
                });
            }
        }
        to
    }
}

/// Rows that are made of columns together.
const TURNED: usize = 4 * LANES;

/// Makes rows of `words` pairs of the columns of `from`, whose rows are `stride` apart.
#[inline(always)]
fn turn(to: &mut [f32], words: usize, from: &[f32], stride: usize) {
    let width = to.len() / words;
    let mut block = [[0.0; TURNED]; LANES];
    for (number, from) in from.chunks(2 * LANES * stride).enumerate() {
        let rows = from.chunks(2 * stride);
        let count = rows.len();
        for (pairs, from) in block.iter_mut().zip(rows) {
            pair_rows(&mut pairs[..width], &from[..width], from.get(stride..stride + width));
        }
        for (column, to) in to.chunks_exact_mut(words).enumerate() {
            let to = &mut to[number * LANES..];
            for (to, pairs) in to.iter_mut().zip(&block[..count]) {
                *to = pairs[column];
            }
        }
    }
}

/// The right-hand matrix, `[depth, columns]`.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    /// As it is.
    Rows(&'a [f32]),
    /// As its transpose, `[columns, depth]`: a weight as it is stored, `[out, in]`.
    Transposed(&'a [f32]),
    /// In panels, as [`panels`] gives them.
    Panels(&'a [f32]),
}

impl<'a> Right<'a> {
    /// Numbers or words, in whatever order.
    pub(super) fn values(&self) -> &'a [f32] {
        match self {
            Self::Rows(values) | Self::Transposed(values) | Self::Panels(values) => values,
        }
    }

    /// The panel of `width` columns from `first` on, its rows filled up with zeros to `stride`, a multiple of registers.
    #[inline(always)]
    pub(super) fn panel<'b>(
        &self,
        scratch: &'b mut Vec<f32>,
        depth: Depth,
        columns: usize,
        [first, width, stride]: [usize; 3],
    ) -> &'b [f32]
    where
        'a: 'b,
    {
        let values = self.values();
        let rows = depth.words();
        let is_whole = width == stride && rows == depth.filled();
        if matches!(self, Self::Panels(_)) && is_whole {
            return &values[first * rows..][..width * rows];
        }
        scratch.clear();
        scratch.resize(depth.filled() * stride, 0.0);
        let to = &mut scratch[..rows * stride];
        match (self, depth) {
            (Self::Panels(_), _) => {
                copy_rows(to, stride, &values[first * rows..][..width * rows], width, width);
            }
            (Self::Rows(_), Depth::Singles(_)) => {
                copy_rows(to, stride, &values[first..], columns, width);
            }
            (Self::Rows(_), Depth::Pairs(_) | Depth::Tiles(_)) => {
                let rows = values[first..].chunks(2 * columns);
                for (to, from) in to.chunks_exact_mut(stride).zip(rows) {
                    pair_rows(&mut to[..width], &from[..width], from.get(columns..columns + width));
                }
            }
            (Self::Transposed(_), Depth::Singles(depth)) => {
                let rows = &values[first * depth..][..width * depth];
                transpose(to, stride, rows, depth, singles_at);
            }
            (Self::Transposed(_), Depth::Pairs(depth) | Depth::Tiles(depth)) => {
                let rows = &values[first * depth..][..width * depth];
                transpose(to, stride, rows, depth, pairs_at);
            }
        }
        scratch
    }
}

/// Copies rows of `width`, `from_stride` apart, to rows `stride` apart.
#[inline(always)]
fn copy_rows(to: &mut [f32], stride: usize, from: &[f32], from_stride: usize, width: usize) {
    for (to, from) in to.chunks_exact_mut(stride).zip(from.chunks(from_stride)) {
        to[..width].copy_from_slice(&from[..width]);
    }
}

/// Copies the transpose of rows of `depth` to rows `stride` apart; `words` gives some words of a row.
#[inline(always)]
fn transpose(
    to: &mut [f32],
    stride: usize,
    rows: &[f32],
    depth: usize,
    words: impl Fn(&[f32], usize) -> [f32; LANES],
) {
    // A few rows at a time, which stay in the first-level cache meanwhile.
    for (number, to) in to.chunks_mut(LANES * stride).enumerate() {
        for (column, row) in rows.chunks_exact(depth).enumerate() {
            let words = words(row, number * LANES);
            for (to, word) in to.chunks_exact_mut(stride).zip(words) {
                to[column] = word;
            }
        }
    }
}

/// The words of a row from the one at `first` on, as they are; zeros past its end.
#[inline(always)]
fn singles_at(row: &[f32], first: usize) -> [f32; LANES] {
    let row = &row[first..];
    if let Some(words) = row.first_chunk() {
        return *words;
    }
    let mut words = [0.0; LANES];
    words[..row.len()].copy_from_slice(row);
    words
}

/// The same of the pairs of a row.
#[inline(always)]
fn pairs_at(row: &[f32], first: usize) -> [f32; LANES] {
    let (one, other) = (singles_at(row, 2 * first), 2 * first + LANES);
    let other = if other < row.len() { singles_at(row, other) } else { [0.0; LANES] };
    let mut words = [0.0; LANES];
    for half in 0..LANES / 2 {
        words[half] = pair(one[2 * half], one[2 * half + 1]);
        words[LANES / 2 + half] = pair(other[2 * half], other[2 * half + 1]);
    }
    words
}

/// How much of a row is multiplied and added up, and as what.
#[derive(Clone, Copy)]
pub(super) enum Depth {
    /// So many numbers of f32.
    Singles(usize),
    /// So many numbers, rounded to bf16 and taken in pairs.
    Pairs(usize),
    /// The same, with zeros up to whole tiles.
    Tiles(usize),
}

impl Depth {
    /// 32-bit words that the numbers take.
    pub(super) fn words(self) -> usize {
        match self {
            Self::Singles(numbers) => numbers,
            Self::Pairs(numbers) | Self::Tiles(numbers) => numbers.div_ceil(2),
        }
    }

    /// 32-bit words that the product reads.
    pub(super) fn filled(self) -> usize {
        match self {
            Self::Tiles(_) => self.words().next_multiple_of(LANES),
            Self::Singles(_) | Self::Pairs(_) => self.words(),
        }
    }
}

/// A weight `[columns, depth]` in panels.
pub(in crate::kernels) fn panels(rows: &[f32], depth: usize) -> Vec<f32> {
    let mut panels = vec![0.0; rows.len()];
    let tasks = panels.par_chunks_mut(PANEL * depth).zip(rows.par_chunks(PANEL * depth));
    tasks.for_each(|(panel, rows)| {
        transpose(panel, rows.len() / depth, rows, depth, singles_at);
    });
    panels
}

/// The same of pairs of numbers in bf16, half as much: the panels of `[columns, depth / 2]`.
pub(in crate::kernels) fn half_panels(rows: &[f32], depth: usize) -> Vec<f32> {
    let words = depth.div_ceil(2);
    let mut pairs_of_rows = vec![0.0; rows.len() / depth * words];
    pairs(&mut pairs_of_rows, rows, depth, words);
    panels(&pairs_of_rows, words)
}
