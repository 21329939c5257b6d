//! The matrix product: half the time of a training step, and more of decoding.
//!
//! It is blocked as BLIS does it: a *panel* is [`NR`] columns of the right-hand matrix, row after row; a *strip* is [`MR`] rows of the
//! left-hand one, column after column; a micro-kernel multiplies a strip by a panel with all sums in registers. Packed weights are
//! kept in panels. There is no blocking along the depth (K): every element is one chain of multiply-adds from first to last, so
//! that it is the same, to the bit, in any batch, on any number of threads and with vectors of any width.
//!
//! `benches/linear.rs` times it; docs/design/performance.md has it beside MKL and `gemm`.

use std::{cell::RefCell, mem::MaybeUninit};

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::arithmetic::{self, InF32, MultiplyAdd};
use super::int8::{QuantizedRow, dequantize, write_dequantized};
use super::packing::{ColumnRange, Layout, Lhs, MR, Rhs, SHORT_MR, strip_rows};
use super::simd::{LANES, prefetch, vectorized};
use super::submatrix::SubMatrixMut;
use super::tiles::{self, Factors, SIDE, Tiles};

/// ColumnRange of a panel: two registers of AVX-512, four of AVX2, eight of NEON; two tiles of AMX.
pub(super) const NR: usize = 2 * LANES;
/// Rows of the left-hand matrix that fit into the second-level cache: a multiple of the rows of every micro-kernel.
const MC: usize = 24 * MR;
/// Rows of it that fit into the first-level cache: a multiple as well.
const SMALL_MC: usize = 8 * MR;
/// Multiplications below which one thread does them all.
const PARALLEL_FROM: usize = 1 << 19;
/// Tasks for each thread, so that a slow one does not hold up the rest.
const TASKS_PER_THREAD: usize = 4;

thread_local! {
    /// Memory for a panel, reused by the tasks of a thread.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Right-hand matrices, each with the memory for its product with the same left-hand one: `[rows, columns]`, all of which is
/// written.
pub(super) type Products<'a, 'b> = &'a mut [(Rhs<'b>, &'b mut [MaybeUninit<f32>])];

/// The products of `lhs`, `[rows, depth]`, in f32. It is packed once for all of them.
pub(super) fn matmul(lhs: Lhs<'_>, depth: usize, products: Products<'_, '_>) {
    by_vectors(lhs, Layout::F32(depth), products, by_f32);
}

/// The same of factors that are rounded to bf16, with sums in f32. Panels are those of
/// [`pack_bf16_panels`](super::packing::pack_bf16_panels).
pub(super) fn matmul_bf16(lhs: Lhs<'_>, depth: usize, products: Products<'_, '_>) {
    if let Some(tiles) = tiles::bf16_tiles() {
        return by_tiles(lhs, depth, products, tiles);
    }
    match arithmetic::fast_bf16_pairs() {
        Some(kernel) => by_vectors(lhs, Layout::Bf16Pairs(depth), products, kernel),
        None => by_vectors(lhs, Layout::Widened(depth), products, by_f32),
    }
}

/// Whether this processor has fast instructions for bf16; without them it is as fast as f32 at most.
pub fn has_fast_bf16() -> bool {
    tiles::bf16_tiles().is_some() || arithmetic::fast_bf16_pairs().is_some()
}

/// Whether bf16 is multiplied by AMX, whose sums are rounded otherwise than those of vector instructions.
pub fn has_bf16_tiles() -> bool {
    tiles::bf16_tiles().is_some()
}

/// Runs micro-kernels of f32.
fn by_f32(run: Run<'_>) {
    Arch::new().dispatch(InF32(run));
}

/// By vector instructions, in the micro-kernels that `kernel` runs.
fn by_vectors(
    lhs: Lhs<'_>,
    layout: Layout,
    products: Products<'_, '_>,
    kernel: impl Fn(Run<'_>) + Sync,
) {
    let strip = max_strip_rows();
    let words = lhs.pack_strips(rows(products, layout), layout, strip);
    let lhs = PackedLhs { words: &words, strip, quantized: None };
    for (rhs, out) in products {
        run_tasks(lhs, *rhs, layout, out, &kernel);
    }
}

/// By tiles.
fn by_tiles(lhs: Lhs<'_>, depth: usize, products: Products<'_, '_>, tiles: impl Tiles) {
    let layout = Layout::Bf16Tiles(depth);
    let words = lhs.pack_tiles(rows(products, layout), layout);
    let lhs = PackedLhs { words: &words, strip: SIDE, quantized: None };
    let kernel = |run: Run<'_>| {
        vectorized(
            #[inline(always)]
            || run.tiles(tiles),
        );
    };
    for (rhs, out) in products {
        run_tasks(lhs, *rhs, layout, out, kernel);
    }
}

/// Rows of the products, which they have in common.
fn rows(products: Products<'_, '_>, layout: Layout) -> usize {
    let rows = products.iter().map(|(rhs, out)| out.len().checked_div(rhs.columns(layout)));
    rows.flatten().next().unwrap_or_default()
}

/// Rows of a strip, by how many registers this processor has.
fn max_strip_rows() -> usize {
    struct Rows;
    impl WithSimd for Rows {
        type Output = usize;

        fn with_simd<S: Simd>(self, _: S) -> usize {
            if S::REGISTER_COUNT < 32 { SHORT_MR } else { MR }
        }
    }
    Arch::new().dispatch(Rows)
}

/// The left-hand matrix, packed for the micro-kernels.
#[derive(Clone, Copy)]
pub(super) struct PackedLhs<'a> {
    /// In strips, or row after row for tiles.
    pub(super) words: &'a [f32],
    /// Rows of each strip but the last.
    pub(super) strip: usize,
    /// How sums of whole numbers become f32.
    pub(super) quantized: Option<Quantization<'a>>,
}

/// What turns the 32-bit sums of an int8 product into f32: `(sum - row.correction) * row.scale * column_scale`.
#[derive(Clone, Copy)]
pub(super) struct Quantization<'a> {
    pub(super) rows: &'a [QuantizedRow],
    pub(super) column_scales: &'a [f32],
}

/// Cuts a product into tasks and runs them, in parallel where that pays.
pub(super) fn run_tasks(
    lhs: PackedLhs<'_>,
    rhs: Rhs<'_>,
    layout: Layout,
    out: &mut [MaybeUninit<f32>],
    kernel: impl Fn(Run<'_>) + Sync,
) {
    if out.is_empty() {
        return;
    }
    let columns = rhs.columns(layout);
    let rows = out.len() / columns;
    let multiplications = rows * columns * layout.words();
    let threads = if multiplications < PARALLEL_FROM { 1 } else { rayon::current_num_threads() };
    // A panel is packed once: by the task that has its columns; or, where there are more rows than columns, before all tasks, which
    // then divide the rows and write them in order.
    let by_rows = rows >= columns && matches!(rhs, Rhs::Rows(_));
    let packed = if by_rows { rhs.pack_all(layout, columns) } else { Vec::new() };
    let rhs = if by_rows { Rhs::Packed(&packed) } else { rhs };
    let group = columns.div_ceil(NR).div_ceil(TASKS_PER_THREAD * threads) * NR;
    let [high, wide] = match rhs {
        Rhs::Packed(_) => [SMALL_MC, columns],
        Rhs::Panels(_) => [MC, group],
        Rhs::Rows(_) | Rhs::Transposed(_) => [rows, group],
    };
    let tasks = SubMatrixMut::whole(out, columns).cut(high, wide);
    let tasks = tasks.map(|([first_row, first_column], out)| Task {
        lhs,
        first_row,
        rhs,
        first_column,
        columns,
        layout,
        out,
    });
    let run = |task| SCRATCH.with_borrow_mut(|scratch| kernel(Run { task, scratch }));
    if threads == 1 {
        tasks.for_each(run);
    } else {
        let tasks: Vec<_> = tasks.collect();
        tasks.into_par_iter().with_max_len(1).for_each(run);
    }
}

/// Some rows and columns of the product.
struct Task<'a> {
    /// All of the left-hand matrix.
    lhs: PackedLhs<'a>,
    first_row: usize,
    rhs: Rhs<'a>,
    first_column: usize,
    /// ColumnRange of all of the right-hand matrix.
    columns: usize,
    layout: Layout,
    out: SubMatrixMut<'a>,
}

/// A task, with memory for a panel.
pub(super) struct Run<'a> {
    task: Task<'a>,
    scratch: &'a mut Vec<f32>,
}

impl Run<'_> {
    /// Calls `work` with each panel of the task.
    #[inline(always)]
    fn panels(self, work: impl Fn(&mut Task<'_>, Panel<'_>)) {
        let Self { mut task, scratch } = self;
        for column in (0..task.out.columns()).step_by(NR) {
            let range = ColumnRange::of_panel(task.first_column + column, task.columns);
            let ColumnRange { width, stride, .. } = range;
            let words = task.rhs.panel(scratch, task.layout, task.columns, range);
            let next = task.rhs.next_panel(task.layout, range);
            work(&mut task, Panel { words, next, stride, column, width });
        }
    }

    /// By multiply-adds of vectors.
    #[inline(always)]
    pub(super) fn vectors<S: Simd, A: MultiplyAdd<S>>(self, simd: S) {
        self.panels(
            #[inline(always)]
            |task, panel| match panel.stride / LANES {
                1 => task.strips::<S, A, 1>(simd, panel),
                _ => task.strips::<S, A, 2>(simd, panel),
            },
        );
    }

    /// By products of tiles.
    #[inline(always)]
    pub(super) fn tiles(self, tiles: impl Tiles) {
        tiles.configured(
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
    words: &'a [f32],
    /// Where the next panel begins, to prefetch it.
    next: Option<*const f32>,
    /// Words in a row.
    stride: usize,
    /// The first column, counted in the task.
    column: usize,
    /// ColumnRange without the padding.
    width: usize,
}

/// What a micro-kernel prefetches, step by step.
#[derive(Clone, Copy)]
struct Prefetch {
    next: *const f32,
    /// Words from one step to the next.
    step: usize,
}

impl Task<'_> {
    /// All strips by a panel, whose width is `C` registers of AVX-512.
    #[inline(always)]
    fn strips<S: Simd, A: MultiplyAdd<S>, const C: usize>(&mut self, simd: S, panel: Panel<'_>) {
        // The next panel is prefetched evenly, as much of it with each row of this one: all at once would fill the queues to memory.
        let (depth, most) = (self.layout.words(), self.lhs.strip);
        let steps = self.out.rows().div_ceil(most) * depth;
        let ahead = Prefetch {
            next: panel.next.unwrap_or(panel.words.as_ptr()),
            step: panel.next.map_or(0, |_| panel.words.len().div_ceil(steps).min(LANES)),
        };
        let mut row = 0;
        while row < self.out.rows() {
            let rows = strip_rows(self.out.rows() - row, most);
            let next = ahead.next.wrapping_add(row / most * depth * ahead.step);
            let ahead = Prefetch { next, ..ahead };
            match rows {
                1 => self.strip::<S, A, 1, C>(simd, row, panel, ahead),
                2 => self.strip::<S, A, 2, C>(simd, row, panel, ahead),
                4 => self.strip::<S, A, 4, C>(simd, row, panel, ahead),
                SHORT_MR => self.strip::<S, A, SHORT_MR, C>(simd, row, panel, ahead),
                8 => self.strip::<S, A, 8, C>(simd, row, panel, ahead),
                _ => self.strip::<S, A, MR, C>(simd, row, panel, ahead),
            }
            row += rows;
        }
    }

    /// A strip of `R` rows by a panel.
    #[inline(always)]
    fn strip<S: Simd, A: MultiplyAdd<S>, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        row: usize,
        panel: Panel<'_>,
        ahead: Prefetch,
    ) {
        let depth = self.layout.words();
        let strip = &self.lhs.words[(self.first_row + row) * depth..][..R * depth];
        let (lhs, _) = strip.as_chunks::<R>();
        let (rhs, _) = S::as_simd_f32s(panel.words);
        let stride = panel.stride / S::F32_LANES;
        // Narrower registers: the sums of a whole panel would not fit into them.
        for part in 0..LANES / S::F32_LANES {
            let first = (part * C * S::F32_LANES).min(panel.width);
            let width = (C * S::F32_LANES).min(panel.width - first);
            let sums = if stride == C {
                micro_kernel::<S, A, R, C>(simd, lhs, rhs.as_chunks().0, ahead)
            } else {
                let rows = rhs[part * C..].chunks(stride).filter_map(<[_]>::first_chunk);
                micro_kernel::<S, A, R, C>(simd, lhs, rows, ahead)
            };
            for (row, sums) in (row..).zip(sums) {
                // Not a shorter loop, for which sums would not stay in registers.
                if row >= self.out.rows() {
                    continue;
                }
                let sums = match self.lhs.quantized {
                    Some(by) => {
                        let first = self.first_column + panel.column + first;
                        let (row, scales) = (self.first_row + row, &by.column_scales[first..]);
                        let QuantizedRow { scale, correction } = by.rows[row];
                        dequantize::<S, A, C>(simd, sums, correction, scale, &scales[..width])
                    }
                    None => sums,
                };
                store(simd, &mut self.out.row(row)[panel.column + first..][..width], sums);
            }
        }
    }

    /// All rows by a panel, in tiles.
    #[inline(always)]
    fn tiles(&mut self, tiles: impl Tiles, panel: Panel<'_>) {
        let stride = self.layout.padded_words();
        let mut padded = [MaybeUninit::uninit(); 2 * SIDE * NR];
        for (number, row) in (0..self.out.rows()).step_by(2 * SIDE).enumerate() {
            let rows = (self.out.rows() - row).min(2 * SIDE);
            let whole = rows.next_multiple_of(SIDE);
            let factors = Factors {
                lhs: &self.lhs.words[(self.first_row + row) * stride..][..whole * stride],
                lhs_stride: stride,
                rhs: panel.words,
                rhs_stride: panel.stride,
                // Two products prefetch all of the next panel.
                next: panel.next.filter(|_| number < 2).map(
                    #[inline(always)]
                    |next| next.wrapping_add(number * panel.words.len() / 2),
                ),
            };
            let quantized = self.lhs.quantized;
            if rows == whole && panel.width == panel.stride && quantized.is_none() {
                tiles.multiply(factors, self.out.area([row, rows], [panel.column, panel.width]));
                continue;
            }
            let sums = tiles.product(factors, &mut padded[..whole * panel.stride]);
            for (row, sums) in (row..row + rows).zip(sums.chunks_exact(panel.stride)) {
                let out = &mut self.out.row(row)[panel.column..][..panel.width];
                match quantized {
                    Some(by) => {
                        let scales = &by.column_scales[self.first_column + panel.column..];
                        let row = self.first_row + row;
                        let QuantizedRow { scale, correction } = by.rows[row];
                        write_dequantized(out, sums, correction, scale, scales);
                    }
                    None => {
                        out.write_copy_of_slice(&sums[..panel.width]);
                    }
                }
            }
        }
    }
}

/// The sums of the products of a strip and a panel over the whole depth, in registers.
#[inline(always)]
fn micro_kernel<'a, S: Simd, A: MultiplyAdd<S>, const R: usize, const C: usize>(
    simd: S,
    lhs: &[[f32; R]],
    rhs: impl IntoIterator<Item = &'a [S::f32s; C]>,
    ahead: Prefetch,
) -> [[S::f32s; C]; R] {
    let mut sums = [[simd.splat_f32s(0.0); C]; R];
    let mut next = ahead.next;
    for (factors, row) in lhs.iter().zip(rhs) {
        prefetch(next);
        next = next.wrapping_add(ahead.step);
        for i in 0..R {
            for j in 0..C {
                sums[i][j] = A::multiply_add(simd, factors[i], row[j], sums[i][j]);
            }
        }
    }
    sums
}

/// Writes as many of the sums as there are columns.
#[inline(always)]
fn store<S: Simd, const C: usize>(simd: S, out: &mut [MaybeUninit<f32>], sums: [S::f32s; C]) {
    let (whole, rest) = S::as_uninit_mut_simd_f32s(out);
    let count = whole.len();
    for (out, sums) in whole.iter_mut().zip(sums) {
        out.write(sums);
    }
    if !rest.is_empty() {
        let mut last = [0.0; LANES];
        simd.partial_store_f32s(&mut last[..rest.len()], sums[count]);
        rest.write_copy_of_slice(&last[..rest.len()]);
    }
}

#[cfg(test)]
pub(super) mod tests;
