//! The matrix product: half the time of a training step and more of writing.
//!
//! The right-hand matrix is read in panels: its columns in groups of [`PANEL`], each group row after row,
//! which is the order in which the registers want it. Weights that are only read are kept like that. Every element
//! is one chain of multiply-adds over the depth, first to last: the same, to the bit, in any batch, on any number
//! of threads and with vectors of any width.
//!
//! Beside the general products of MKL and `gemm` this is about twice as fast for the shapes of T5.

use pulp::{Arch, Simd};
use rayon::prelude::*;

use super::arithmetic::{Arithmetic, InPairs, InSingles, pair, pair_rows, pairs};
use super::simd::{LANES, vectorized};

/// Columns of a panel: three registers of AVX-512, six of AVX2, twelve of NEON.
pub(super) const PANEL: usize = 3 * LANES;
/// Rows of the left-hand matrix in a register tile.
const TILE: usize = 8;
/// Registers in the width of a tile: with 8 rows, 24 sums and what feeds them fit into 32 registers.
const WIDTH: usize = 3;
/// Rows of the left-hand matrix that stay in the second-level cache.
const ROWS: usize = 256;
/// Multiplications below which one thread does it all.
const PARALLEL_FROM: usize = 1 << 19;
/// Tasks that every thread gets, so that a slow one does not hold up the rest.
const TASKS: usize = 4;

/// The left-hand matrix, `[rows, depth]`.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// As it is.
    Rows(&'a [f32]),
    /// As its transpose, `[depth, rows]`.
    Transposed(&'a [f32]),
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
    fn values(&self) -> &'a [f32] {
        match self {
            Self::Rows(values) | Self::Transposed(values) | Self::Panels(values) => values,
        }
    }

    /// The panel of `width` columns from `first` on, its rows filled up with zeros to `stride`, a multiple of registers.
    #[inline(always)]
    fn panel<'b>(
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
        if matches!(self, Self::Panels(_)) && width == stride {
            return &values[first * rows..][..width * rows];
        }
        scratch.clear();
        scratch.resize(rows * stride, 0.0);
        match (self, depth) {
            (Self::Panels(_), _) => {
                copy_rows(scratch, stride, &values[first * rows..][..width * rows], width, width);
            }
            (Self::Rows(_), Depth::Singles(_)) => {
                copy_rows(scratch, stride, &values[first..], columns, width);
            }
            (Self::Rows(_), Depth::Pairs(_)) => {
                let rows = values[first..].chunks(2 * columns);
                for (to, from) in scratch.chunks_exact_mut(stride).zip(rows) {
                    pair_rows(&mut to[..width], &from[..width], from.get(columns..columns + width));
                }
            }
            (Self::Transposed(_), Depth::Singles(depth)) => {
                let rows = &values[first * depth..][..width * depth];
                transpose(scratch, stride, rows, depth, singles_at);
            }
            (Self::Transposed(_), Depth::Pairs(depth)) => {
                let rows = &values[first * depth..][..width * depth];
                transpose(scratch, stride, rows, depth, pairs_at);
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

/// How much of a row is multiplied and added up.
#[derive(Clone, Copy)]
enum Depth {
    /// So many numbers of f32.
    Singles(usize),
    /// So many numbers, rounded to bf16 and taken in pairs.
    Pairs(usize),
}

impl Depth {
    /// 32-bit words.
    fn words(self) -> usize {
        match self {
            Self::Singles(numbers) => numbers,
            Self::Pairs(numbers) => numbers.div_ceil(2),
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
    panels(&pairs(rows, depth), depth.div_ceil(2))
}

/// `left` times `right`, into `out`, `[rows, columns]`.
pub(super) fn multiply(left: Left<'_>, right: Right<'_>, depth: usize, out: &mut [f32]) {
    let columns = right.values().len() / depth;
    let work = |run: Run<'_>| Arch::new().dispatch(InSingles(run));
    share(left, right, Depth::Singles(depth), columns, out, work);
}

/// The same of numbers that are rounded to bf16. Panels are those of [`half_panels`].
pub(super) fn multiply_half(left: Left<'_>, right: Right<'_>, depth: usize, out: &mut [f32]) {
    let words = Depth::Pairs(depth).words();
    let columns = match right {
        Right::Panels(values) => values.len() / words,
        Right::Rows(values) | Right::Transposed(values) => values.len() / depth,
    };
    let rows = out.len() / columns;
    let left_pairs = match left {
        Left::Rows(values) => pairs(values, depth),
        Left::Transposed(values) => {
            let mut pairs = vec![0.0; words * rows];
            let columns = pairs.par_chunks_mut(rows).zip(values.par_chunks(2 * rows));
            columns.with_min_len(16).for_each(|(to, from)| {
                vectorized(
                    #[inline(always)]
                    || pair_rows(to, &from[..rows], from.get(rows..2 * rows)),
                );
            });
            pairs
        }
    };
    let left = match left {
        Left::Rows(_) => Left::Rows(&left_pairs),
        Left::Transposed(_) => Left::Transposed(&left_pairs),
    };
    share(left, right, Depth::Pairs(depth), columns, out, |run| InPairs(run).run());
}

/// Shares the work out.
fn share(
    left: Left<'_>,
    right: Right<'_>,
    depth: Depth,
    columns: usize,
    out: &mut [f32],
    work: impl Fn(Run<'_>) + Sync,
) {
    let rows = out.len() / columns;
    let work_to_do = rows * columns * depth.words();
    let threads = if work_to_do < PARALLEL_FROM { 1 } else { rayon::current_num_threads() };
    // Every task gets its part of each of its rows. A panel that has to be made first is made once.
    let block_rows = if matches!(right, Right::Panels(_)) { ROWS } else { rows };
    let group = columns.div_ceil(PANEL).div_ceil(TASKS * threads) * PANEL;
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for (number, block) in out.chunks_mut(block_rows * columns).enumerate() {
        let first = tasks.len();
        tasks.extend((0..columns).step_by(group).map(|first_column| Task {
            left,
            first_row: number * block_rows,
            rows,
            right,
            first_column,
            columns,
            depth,
            out: Vec::with_capacity(block.len() / columns),
        }));
        for row in block.chunks_exact_mut(columns) {
            for (task, part) in tasks[first..].iter_mut().zip(row.chunks_mut(group)) {
                task.out.push(part);
            }
        }
    }
    let run = |scratch: &mut Vec<f32>, task| work(Run { task, scratch });
    if threads == 1 {
        let mut scratch = Vec::new();
        tasks.into_iter().for_each(|task| run(&mut scratch, task));
    } else {
        tasks.into_par_iter().for_each_init(Vec::new, run);
    }
}

/// Some rows and columns of the result.
struct Task<'a> {
    left: Left<'a>,
    first_row: usize,
    /// Rows of the whole left-hand matrix.
    rows: usize,
    right: Right<'a>,
    first_column: usize,
    /// Columns of the whole right-hand matrix.
    columns: usize,
    depth: Depth,
    /// The part of each row.
    out: Vec<&'a mut [f32]>,
}

/// A task, and room for a panel.
pub(super) struct Run<'a> {
    task: Task<'a>,
    scratch: &'a mut Vec<f32>,
}

impl Run<'_> {
    #[inline(always)]
    pub(super) fn all<S: Simd, A: Arithmetic<S>>(self, simd: S) {
        let Self { mut task, scratch } = self;
        let columns = task.out.first().map_or(0, |part| part.len());
        for column in (0..columns).step_by(PANEL) {
            let width = PANEL.min(columns - column);
            let stride = width.next_multiple_of(LANES);
            let place = [task.first_column + column, width, stride];
            let panel = task.right.panel(scratch, task.depth, task.columns, place);
            for offset in (0..stride / S::F32_LANES).step_by(WIDTH) {
                let registers = Registers { simd, panel, stride, offset, column, width };
                match stride / S::F32_LANES - offset {
                    1 => task.columns::<S, A, 1>(&registers),
                    2 => task.columns::<S, A, 2>(&registers),
                    _ => task.columns::<S, A, WIDTH>(&registers),
                }
            }
        }
    }
}

/// Where in a panel a tile is.
struct Registers<'a, S> {
    simd: S,
    panel: &'a [f32],
    /// Numbers in a row of the panel.
    stride: usize,
    /// The first register of the row.
    offset: usize,
    /// The panel's first column in the part of the task.
    column: usize,
    /// Columns that there are, without the padding.
    width: usize,
}

impl Task<'_> {
    /// All rows of the columns of one to three registers.
    #[inline(always)]
    fn columns<S: Simd, A: Arithmetic<S>, const C: usize>(&mut self, at: &Registers<'_, S>) {
        let mut row = 0;
        while row < self.out.len() {
            // Of 16 registers, as AVX2 has them, four rows leave some to read into.
            let most = if S::REGISTER_COUNT < 32 { TILE / 2 } else { TILE };
            row += match most.min(self.out.len() - row) {
                1 => self.tile::<S, A, 1, C>(at, row),
                2 | 3 => self.tile::<S, A, 2, C>(at, row),
                4..8 => self.tile::<S, A, 4, C>(at, row),
                _ => self.tile::<S, A, TILE, C>(at, row),
            }
        }
    }

    /// So many rows of them, which it returns.
    #[inline(always)]
    fn tile<S: Simd, A: Arithmetic<S>, const R: usize, const C: usize>(
        &mut self,
        at: &Registers<'_, S>,
        row: usize,
    ) -> usize {
        let (depth, first) = (self.depth.words(), self.first_row + row);
        let sums = match self.left {
            Left::Rows(values) => {
                let rows: [&[f32]; R] =
                    std::array::from_fn(|i| &values[(first + i) * depth..][..depth]);
                sums::<S, A, R, C>(
                    at,
                    depth,
                    #[inline(always)]
                    |k| {
                        std::array::from_fn(
                            #[inline(always)]
                            |i| rows[i][k],
                        )
                    },
                )
            }
            Left::Transposed(values) => {
                let values = &values[first..];
                sums::<S, A, R, C>(
                    at,
                    depth,
                    #[inline(always)]
                    |k| {
                        let column = &values[k * self.rows..][..R];
                        std::array::from_fn(
                            #[inline(always)]
                            |i| column[i],
                        )
                    },
                )
            }
        };
        let (start, lanes) = (at.offset * S::F32_LANES, C * S::F32_LANES);
        let mut buffer = [0.0; PANEL];
        for (out, sums) in self.out[row..].iter_mut().zip(&sums) {
            let (registers, _) = S::as_mut_simd_f32s(&mut buffer);
            registers[..C].copy_from_slice(sums);
            let width = lanes.min(at.width.saturating_sub(start));
            out[at.column + start..][..width].copy_from_slice(&buffer[..width]);
        }
        R
    }
}

/// The sums of a tile; `factors` gives the left-hand numbers of a step in depth.
#[inline(always)]
fn sums<S: Simd, A: Arithmetic<S>, const R: usize, const C: usize>(
    at: &Registers<'_, S>,
    depth: usize,
    factors: impl Fn(usize) -> [f32; R],
) -> [[S::f32s; C]; R] {
    let (panel, _) = S::as_simd_f32s(at.panel);
    let mut sums = [[at.simd.splat_f32s(0.0); C]; R];
    for (k, row) in panel.chunks_exact(at.stride / S::F32_LANES).enumerate().take(depth) {
        let row = &row[at.offset..][..C];
        let row: [S::f32s; C] = std::array::from_fn(|j| row[j]);
        let factors = factors(k);
        for i in 0..R {
            for j in 0..C {
                sums[i][j] = A::multiply_add(at.simd, factors[i], row[j], sums[i][j]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize, seed: f32) -> Vec<f32> {
        (0..rows * columns).map(|i| (i as f32 * seed).sin()).collect()
    }

    fn turned(matrix: &[f32], columns: usize) -> Vec<f32> {
        (0..columns)
            .flat_map(|column| matrix.iter().skip(column).step_by(columns))
            .copied()
            .collect()
    }

    const SHAPES: [[usize; 3]; 7] = [
        [1, 1, 1],
        [3, 5, 7],
        [8, 16, 48],
        [13, 33, 50],
        [70, 64, 130],
        [300, 20, 95],
        [65, 500, 512],
    ];

    #[test]
    fn agrees_with_the_definition_in_every_form() {
        for [rows, depth, columns] in SHAPES {
            let (a, b) = (matrix(rows, depth, 0.37), matrix(columns, depth, 0.73));
            let exact = |row: usize, column: usize| -> f64 {
                let (x, w) = (&a[row * depth..][..depth], &b[column * depth..][..depth]);
                x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
            };
            let panels = panels(&b, depth);
            let (left, right) = (turned(&a, depth), turned(&b, depth));
            let forms = [Right::Rows(&right), Right::Transposed(&b), Right::Panels(&panels)];
            let lefts = [Left::Rows(&a), Left::Transposed(&left)];
            for (left, right) in lefts.iter().flat_map(|left| forms.map(|right| (*left, right))) {
                let mut out = vec![0.0; rows * columns];
                multiply(left, right, depth, &mut out);
                for (index, value) in out.iter().enumerate() {
                    let exact = exact(index / columns, index % columns);
                    assert!((f64::from(*value) - exact).abs() < 1e-4, "{value} is not {exact}");
                }
            }
        }
    }

    #[test]
    fn halves_are_rounded_and_summed_in_singles() {
        for [rows, depth, columns] in SHAPES {
            let (a, b) = (matrix(rows, depth, 0.37), matrix(columns, depth, 0.73));
            let (panels, left, right) =
                (half_panels(&b, depth), turned(&a, depth), turned(&b, depth));
            let mut expected = vec![0.0; rows * columns];
            let words = pairs(&a, depth);
            let emulated = |run: Run<'_>| Arch::new().dispatch(InPairs(run));
            let (words, depths) = (Left::Rows(&words), Depth::Pairs(depth));
            share(words, Right::Panels(&panels), depths, columns, &mut expected, emulated);
            let round = |x: f32| f64::from(half::bf16::from_f32(x));
            for (index, value) in expected.iter().enumerate() {
                let (x, w) = (&a[index / columns * depth..], &b[index % columns * depth..]);
                let products = x[..depth].iter().zip(w).map(|(x, w)| round(*x) * round(*w));
                let exact: f64 = products.sum();
                assert!((f64::from(*value) - exact).abs() < 1e-4, "{value} is not {exact}");
            }
            let forms = [Right::Rows(&right), Right::Transposed(&b), Right::Panels(&panels)];
            let lefts = [Left::Rows(&a), Left::Transposed(&left)];
            for (left, right) in lefts.iter().flat_map(|left| forms.map(|right| (*left, right))) {
                let mut out = vec![0.0; rows * columns];
                multiply_half(left, right, depth, &mut out);
                assert_eq!(out, expected, "by the instruction and without it, in every form");
            }
        }
    }

    #[test]
    fn a_row_is_the_same_in_any_batch() {
        let (depth, columns) = (96, 530);
        let panels = panels(&matrix(columns, depth, 0.31), depth);
        let panels = Right::Panels(&panels);
        let x = matrix(77, depth, 0.17);
        let mut all = vec![0.0; 77 * columns];
        multiply(Left::Rows(&x), panels, depth, &mut all);
        for rows in [1, 2, 5, 11, 64] {
            let mut some = vec![0.0; rows * columns];
            multiply(Left::Rows(&x[..rows * depth]), panels, depth, &mut some);
            assert_eq!(some, all[..some.len()]);
        }
    }
}
