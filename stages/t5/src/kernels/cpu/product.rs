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

use super::arithmetic::{Arithmetic, InPairs, InSingles};
use super::operands::{Depth, Left, Right};
use super::simd::{LANES, vectorized};
use super::tiles::{self, Factors, SIDE, Tiles};

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

/// `left` times `right`, into `out`, `[rows, columns]`.
pub(super) fn multiply(left: Left<'_>, right: Right<'_>, depth: usize, out: &mut [f32]) {
    let columns = right.values().len() / depth;
    let work = |run: Run<'_>| Arch::new().dispatch(InSingles(run));
    share(left, right, Depth::Singles(depth), columns, out, work);
}

/// The same of numbers that are rounded to bf16. Panels are those of [`half_panels`](super::half_panels).
pub(super) fn multiply_half(left: Left<'_>, right: Right<'_>, depth: usize, out: &mut [f32]) {
    match tiles::available() {
        Some(tiles) => multiply_tiles(left, right, depth, out, tiles),
        None => multiply_pairs(left, right, depth, out, |run| InPairs(run).run()),
    }
}

/// By instructions for vectors.
fn multiply_pairs(
    left: Left<'_>,
    right: Right<'_>,
    depth: usize,
    out: &mut [f32],
    work: impl Fn(Run<'_>) + Sync,
) {
    let columns = half_columns(right, depth);
    let words = left.pairs(out.len() / columns, depth);
    let left = match left {
        Left::Rows(_) => Left::Rows(&words),
        Left::Transposed(_) => Left::Transposed(&words),
    };
    share(left, right, Depth::Pairs(depth), columns, out, work);
}

/// By instructions for tiles.
fn multiply_tiles(
    left: Left<'_>,
    right: Right<'_>,
    depth: usize,
    out: &mut [f32],
    tiles: impl Tiles,
) {
    let columns = half_columns(right, depth);
    let left = left.tiles(out.len() / columns, depth);
    let work = |run: Run<'_>| {
        vectorized(
            #[inline(always)]
            || run.tiles(tiles),
        );
    };
    share(Left::Rows(&left), right, Depth::Tiles(depth), columns, out, work);
}

/// Columns of a matrix of `depth` rows, whose panels are of pairs.
fn half_columns(right: Right<'_>, depth: usize) -> usize {
    match right {
        Right::Panels(values) => values.len() / depth.div_ceil(2),
        Right::Rows(values) | Right::Transposed(values) => values.len() / depth,
    }
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
    /// Calls `work` with each panel of the task.
    #[inline(always)]
    fn panels(self, work: impl Fn(&mut Task<'_>, Panel<'_>)) {
        let Self { mut task, scratch } = self;
        let columns = task.out.first().map_or(0, |part| part.len());
        for column in (0..columns).step_by(PANEL) {
            let width = PANEL.min(columns - column);
            let stride = width.next_multiple_of(LANES);
            let place = [task.first_column + column, width, stride];
            let values = task.right.panel(scratch, task.depth, task.columns, place);
            work(&mut task, Panel { values, stride, column, width });
        }
    }

    /// By multiply-adds of vectors.
    #[inline(always)]
    pub(super) fn vectors<S: Simd, A: Arithmetic<S>>(self, simd: S) {
        self.panels(
            #[inline(always)]
            |task, panel| {
                for offset in (0..panel.stride / S::F32_LANES).step_by(WIDTH) {
                    let registers = Registers { simd, panel, offset };
                    match panel.stride / S::F32_LANES - offset {
                        1 => task.columns::<S, A, 1>(&registers),
                        2 => task.columns::<S, A, 2>(&registers),
                        _ => task.columns::<S, A, WIDTH>(&registers),
                    }
                }
            },
        );
    }

    /// By products of tiles.
    #[inline(always)]
    fn tiles(self, tiles: impl Tiles) {
        tiles.with_registers(
            #[inline(always)]
            || {
                self.panels(
                    #[inline(always)]
                    |task, panel| task.tiles(tiles, panel),
                );
            },
        );
    }
}

/// Some columns of the right-hand matrix.
#[derive(Clone, Copy)]
struct Panel<'a> {
    values: &'a [f32],
    /// Words in a row.
    stride: usize,
    /// The first column in the part of the task.
    column: usize,
    /// Columns that there are, without the padding.
    width: usize,
}

/// Where in a panel a register tile is.
struct Registers<'a, S> {
    simd: S,
    panel: Panel<'a>,
    /// The first register of the row.
    offset: usize,
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
            let width = lanes.min(at.panel.width.saturating_sub(start));
            out[at.panel.column + start..][..width].copy_from_slice(&buffer[..width]);
        }
        R
    }

    /// All rows of a panel.
    #[inline(always)]
    fn tiles(&mut self, tiles: impl Tiles, panel: Panel<'_>) {
        let Left::Rows(left) = self.left else { unreachable!("tiles are read row by row") };
        let stride = self.depth.filled();
        let mut sums = [[0.0; PANEL]; 2 * SIDE];
        for (number, out) in self.out.chunks_mut(2 * SIDE).enumerate() {
            let first = self.first_row + number * 2 * SIDE;
            let factors = Factors {
                left: &left[first * stride..][..out.len().next_multiple_of(SIDE) * stride],
                left_stride: stride,
                right: panel.values,
                right_stride: panel.stride,
            };
            tiles.multiply(factors, &mut sums);
            for (out, sums) in out.iter_mut().zip(&sums) {
                out[panel.column..][..panel.width].copy_from_slice(&sums[..panel.width]);
            }
        }
    }
}

/// The sums of a tile; `factors` gives the left-hand numbers of a step in depth.
#[inline(always)]
fn sums<S: Simd, A: Arithmetic<S>, const R: usize, const C: usize>(
    at: &Registers<'_, S>,
    depth: usize,
    factors: impl Fn(usize) -> [f32; R],
) -> [[S::f32s; C]; R] {
    let (panel, _) = S::as_simd_f32s(at.panel.values);
    let mut sums = [[at.simd.splat_f32s(0.0); C]; R];
    for (k, row) in panel.chunks_exact(at.panel.stride / S::F32_LANES).enumerate().take(depth) {
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
    use super::super::operands::{half_panels, panels};
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

    /// `multiply` of halves agrees with the definition in every form, and all forms with each other to the bit: the
    /// products.
    fn halves(multiply: impl Fn(Left<'_>, Right<'_>, usize, &mut [f32])) -> Vec<Vec<f32>> {
        let round = |x: f32| f64::from(half::bf16::from_f32(x));
        let products = SHAPES.map(|[rows, depth, columns]| {
            let (a, b) = (matrix(rows, depth, 0.37), matrix(columns, depth, 0.73));
            let (panels, left, right) =
                (half_panels(&b, depth), turned(&a, depth), turned(&b, depth));
            let forms = [Right::Rows(&right), Right::Transposed(&b), Right::Panels(&panels)];
            let lefts = [Left::Rows(&a), Left::Transposed(&left)];
            let products = lefts.iter().flat_map(|left| forms.map(|right| (*left, right)));
            let products = products.map(|(left, right)| {
                let mut out = vec![0.0; rows * columns];
                multiply(left, right, depth, &mut out);
                out
            });
            let products: Vec<_> = products.collect();
            for (index, value) in products[0].iter().enumerate() {
                let (x, w) = (&a[index / columns * depth..], &b[index % columns * depth..]);
                let products = x[..depth].iter().zip(w).map(|(x, w)| round(*x) * round(*w));
                let exact: f64 = products.sum();
                assert!((f64::from(*value) - exact).abs() < 1e-4, "{value} is not {exact}");
            }
            assert!(products.iter().all(|product| *product == products[0]));
            products.into_iter().next().unwrap_or_default()
        });
        products.into()
    }

    #[test]
    fn pairs_are_summed_in_singles_with_the_instruction_and_without_it() {
        let emulated = |run: Run<'_>| Arch::new().dispatch(InPairs(run));
        let emulated = halves(|left, right, depth, out| {
            multiply_pairs(left, right, depth, out, emulated);
        });
        let fastest = halves(|left, right, depth, out| {
            multiply_pairs(left, right, depth, out, |run| InPairs(run).run());
        });
        assert_eq!(emulated, fastest);
    }

    #[test]
    fn tiles_are_summed_in_singles_with_the_instruction_and_without_it() {
        let emulated = halves(|left, right, depth, out| {
            multiply_tiles(left, right, depth, out, tiles::Emulated);
        });
        if let Some(tiles) = tiles::available() {
            let fastest = halves(|left, right, depth, out| {
                multiply_tiles(left, right, depth, out, tiles);
            });
            assert_eq!(emulated, fastest);
        }
    }

    #[test]
    fn a_row_is_the_same_in_any_batch() {
        let (depth, columns) = (96, 530);
        let panels = panels(&matrix(columns, depth, 0.31), depth);
        let panels = Right::Panels(&panels);
        let halves = half_panels(&matrix(columns, depth, 0.31), depth);
        let halves = Right::Panels(&halves);
        let x = matrix(77, depth, 0.17);
        let of = |rows: usize| {
            let x = Left::Rows(&x[..rows * depth]);
            let mut products = [vec![0.0; rows * columns], vec![0.0; rows * columns]];
            multiply(x, panels, depth, &mut products[0]);
            multiply_half(x, halves, depth, &mut products[1]);
            products
        };
        let all = of(77);
        for rows in [1, 2, 5, 11, 64] {
            for (some, all) in of(rows).iter().zip(&all) {
                assert_eq!(*some, all[..some.len()]);
            }
        }
    }
}
