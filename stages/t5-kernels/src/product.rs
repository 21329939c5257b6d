//! The matrix product: half the time of a training step and more of writing.
//!
//! The right-hand matrix is read in panels: its columns in groups of [`PANEL`], each group row after row,
//! which is the order in which the registers want it. Weights that are only read are kept like that. Every element
//! is one chain of multiply-adds over the depth, first to last: the same, to the bit, in any batch, on any number
//! of threads and with vectors of any width.
//!
//! `benches/linear.rs` times it; docs/design/performance.md has it beside the general products of MKL and `gemm`.

use std::{cell::RefCell, mem::MaybeUninit};

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::arithmetic::{self, Arithmetic, InSingles};
use super::int8::{scaled, write_scaled};
use super::operands::{Depth, Left, Place, Right, SHORT_STRIP, STRIP, height};
use super::part::Part;
use super::simd::{LANES, prefetch, vectorized};
use super::tiles::{self, Factors, SIDE, Tiles};

/// Columns of a panel: two registers of AVX-512, four of AVX2, eight of NEON; two tiles of AMX.
pub(super) const PANEL: usize = 2 * LANES;
/// Rows of the left-hand matrix that stay in the second-level cache: a multiple of the rows of all register tiles.
const ROWS: usize = 24 * STRIP;
/// Rows of it that stay in the first-level cache, as many as all register tiles can share.
const FEW_ROWS: usize = 8 * STRIP;
/// Multiplications below which one thread does it all.
const PARALLEL_FROM: usize = 1 << 19;
/// Tasks that every thread gets, so that a slow one does not hold up the rest.
const TASKS: usize = 4;

thread_local! {
    /// Room for a panel, kept from one task to the next.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Right-hand matrices, and where the product of the same left-hand one and each goes: `[rows, columns]`, all of which is
/// written.
pub(super) type Products<'a, 'b> = &'a mut [(Right<'b>, &'b mut [MaybeUninit<f32>])];

/// Products of `left`, which is brought into its order once for all of them.
pub(super) fn multiply(left: Left<'_>, depth: usize, products: Products<'_, '_>) {
    multiply_strips(left, Depth::Singles(depth), products, in_singles);
}

/// The same of numbers that are rounded to bf16. Panels are those of [`half_panels`](super::operands::half_panels).
pub(super) fn multiply_half(left: Left<'_>, depth: usize, products: Products<'_, '_>) {
    if let Some(tiles) = tiles::of_halves() {
        return multiply_tiles(left, depth, products, tiles);
    }
    match arithmetic::in_fast_pairs() {
        Some(work) => multiply_strips(left, Depth::Pairs(depth), products, work),
        None => multiply_strips(left, Depth::Apart(depth), products, in_singles),
    }
}

/// Whether this processor has fast instructions for that; without them it is as fast as in f32 at most.
pub fn has_half_instructions() -> bool {
    tiles::of_halves().is_some() || arithmetic::in_fast_pairs().is_some()
}

/// Whether they are by tiles.
pub fn has_half_tiles() -> bool {
    tiles::of_halves().is_some()
}

/// Runs products of f32.
fn in_singles(run: Run<'_>) {
    Arch::new().dispatch(InSingles(run));
}

/// By instructions for vectors.
fn multiply_strips(
    left: Left<'_>,
    depth: Depth,
    products: Products<'_, '_>,
    work: impl Fn(Run<'_>) + Sync,
) {
    let height = strip_height();
    let words = left.strips(rows(products, depth), depth, height);
    let strips = Strips { words: &words, height, scales: None };
    for (right, out) in products {
        share(strips, *right, depth, out, &work);
    }
}

/// By instructions for tiles.
fn multiply_tiles(left: Left<'_>, depth: usize, products: Products<'_, '_>, tiles: impl Tiles) {
    let depth = Depth::Tiles(depth);
    let words = left.tiles(rows(products, depth), depth);
    let strips = Strips { words: &words, height: SIDE, scales: None };
    let work = |run: Run<'_>| {
        vectorized(
            #[inline(always)]
            || run.tiles(tiles),
        );
    };
    for (right, out) in products {
        share(strips, *right, depth, out, work);
    }
}

/// Rows of the products, and of what they share.
fn rows(products: Products<'_, '_>, depth: Depth) -> usize {
    let rows = products.iter().map(|(right, out)| out.len().checked_div(right.columns(depth)));
    rows.flatten().next().unwrap_or_default()
}

/// Rows of a register tile on this machine.
fn strip_height() -> usize {
    struct Height;
    impl WithSimd for Height {
        type Output = usize;

        fn with_simd<S: Simd>(self, _: S) -> usize {
            if S::REGISTER_COUNT < 32 { SHORT_STRIP } else { STRIP }
        }
    }
    Arch::new().dispatch(Height)
}

/// The left-hand matrix as the work wants it.
#[derive(Clone, Copy)]
pub(super) struct Strips<'a> {
    /// In strips, or in tiles.
    pub(super) words: &'a [f32],
    /// Rows of each but the last.
    pub(super) height: usize,
    /// Of whole numbers.
    pub(super) scales: Option<Scales<'a>>,
}

/// What sums of whole numbers stand for.
#[derive(Clone, Copy)]
pub(super) struct Scales<'a> {
    /// What the numbers of each row are multiples of.
    pub(super) rows: &'a [f32],
    /// What its sums have too much.
    pub(super) offsets: &'a [i32],
    /// What the numbers of each column are multiples of.
    pub(super) columns: &'a [f32],
}

/// Shares the work out.
pub(super) fn share(
    left: Strips<'_>,
    right: Right<'_>,
    depth: Depth,
    out: &mut [MaybeUninit<f32>],
    work: impl Fn(Run<'_>) + Sync,
) {
    if out.is_empty() {
        return;
    }
    let columns = right.columns(depth);
    let rows = out.len() / columns;
    let work_to_do = rows * columns * depth.words();
    let threads = if work_to_do < PARALLEL_FROM { 1 } else { rayon::current_num_threads() };
    // A panel that has to be made is made once: by the task that has its columns, or for all tasks beforehand where there
    // are more rows than columns. Then rows are shared out, and are written in order.
    let by_rows = rows >= columns && matches!(right, Right::Rows(_));
    let packed = if by_rows { right.packed(depth, columns) } else { Vec::new() };
    let right = if by_rows { Right::Packed(&packed) } else { right };
    let group = columns.div_ceil(PANEL).div_ceil(TASKS * threads) * PANEL;
    let [high, wide] = match right {
        Right::Packed(_) => [FEW_ROWS, columns],
        Right::Panels(_) => [ROWS, group],
        Right::Rows(_) | Right::Transposed(_) => [rows, group],
    };
    let tasks = Part::whole(out, columns).cut(high, wide);
    let tasks = tasks.map(|([first_row, first_column], out)| Task {
        left,
        first_row,
        right,
        first_column,
        columns,
        depth,
        out,
    });
    let run = |task| SCRATCH.with_borrow_mut(|scratch| work(Run { task, scratch }));
    if threads == 1 {
        tasks.for_each(run);
    } else {
        let tasks: Vec<_> = tasks.collect();
        tasks.into_par_iter().with_max_len(1).for_each(run);
    }
}

/// Some rows and columns of the result.
struct Task<'a> {
    /// The whole left-hand matrix.
    left: Strips<'a>,
    first_row: usize,
    right: Right<'a>,
    first_column: usize,
    /// Columns of the whole right-hand matrix.
    columns: usize,
    depth: Depth,
    out: Part<'a>,
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
        for column in (0..task.out.columns()).step_by(PANEL) {
            let place = Place::new(task.first_column + column, task.columns);
            let Place { width, stride, .. } = place;
            let values = task.right.panel(scratch, task.depth, task.columns, place);
            let next = task.right.next(task.depth, place);
            work(&mut task, Panel { values, next, stride, column, width });
        }
    }

    /// By multiply-adds of vectors.
    #[inline(always)]
    pub(super) fn vectors<S: Simd, A: Arithmetic<S>>(self, simd: S) {
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
    /// What is likely to be read after it.
    next: Option<*const f32>,
    /// Words in a row.
    stride: usize,
    /// The first column in the part of the task.
    column: usize,
    /// Columns that there are, without the padding.
    width: usize,
}

/// What to ask for with each row of a panel.
#[derive(Clone, Copy)]
struct Ahead {
    next: *const f32,
    /// Words from one row to the next.
    step: usize,
}

impl Task<'_> {
    /// All rows of a panel, whose width is `C` registers of AVX-512.
    #[inline(always)]
    fn strips<S: Simd, A: Arithmetic<S>, const C: usize>(&mut self, simd: S, panel: Panel<'_>) {
        // The next panel is asked for bit by bit, as much of it with each row of this one, so that memory keeps up.
        let (depth, most) = (self.depth.words(), self.left.height);
        let rows = self.out.rows().div_ceil(most) * depth;
        let ahead = Ahead {
            next: panel.next.unwrap_or(panel.values.as_ptr()),
            step: panel.next.map_or(0, |_| panel.values.len().div_ceil(rows).min(LANES)),
        };
        let mut row = 0;
        while row < self.out.rows() {
            let height = height(self.out.rows() - row, most);
            let ahead =
                Ahead { next: ahead.next.wrapping_add(row / most * depth * ahead.step), ..ahead };
            match height {
                1 => self.strip::<S, A, 1, C>(simd, row, panel, ahead),
                2 => self.strip::<S, A, 2, C>(simd, row, panel, ahead),
                4 => self.strip::<S, A, 4, C>(simd, row, panel, ahead),
                SHORT_STRIP => self.strip::<S, A, SHORT_STRIP, C>(simd, row, panel, ahead),
                8 => self.strip::<S, A, 8, C>(simd, row, panel, ahead),
                _ => self.strip::<S, A, STRIP, C>(simd, row, panel, ahead),
            }
            row += height;
        }
    }

    /// `R` of them.
    #[inline(always)]
    fn strip<S: Simd, A: Arithmetic<S>, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        row: usize,
        panel: Panel<'_>,
        ahead: Ahead,
    ) {
        let depth = self.depth.words();
        let strip = &self.left.words[(self.first_row + row) * depth..][..R * depth];
        let (left, _) = strip.as_chunks::<R>();
        let (right, _) = S::as_simd_f32s(panel.values);
        let stride = panel.stride / S::F32_LANES;
        // With narrower registers there are more of them than stay in the processor.
        for part in 0..LANES / S::F32_LANES {
            let first = (part * C * S::F32_LANES).min(panel.width);
            let width = (C * S::F32_LANES).min(panel.width - first);
            let sums = if stride == C {
                sums::<S, A, R, C>(simd, left, right.as_chunks().0, ahead)
            } else {
                let rows = right[part * C..].chunks(stride).filter_map(<[_]>::first_chunk);
                sums::<S, A, R, C>(simd, left, rows, ahead)
            };
            for (row, sums) in (row..).zip(sums) {
                // Not a shorter loop, for which sums would not stay in registers.
                if row >= self.out.rows() {
                    continue;
                }
                let sums = match self.left.scales {
                    Some(scales) => {
                        let place = self.first_column + panel.column + first;
                        let (row, columns) = (self.first_row + row, &scales.columns[place..]);
                        let (offset, scale) = (scales.offsets[row], scales.rows[row]);
                        scaled::<S, A, C>(simd, sums, offset, scale, &columns[..width])
                    }
                    None => sums,
                };
                store(simd, &mut self.out.row(row)[panel.column + first..][..width], sums);
            }
        }
    }

    /// All rows of a panel.
    #[inline(always)]
    fn tiles(&mut self, tiles: impl Tiles, panel: Panel<'_>) {
        let stride = self.depth.filled();
        let mut padded = [MaybeUninit::uninit(); 2 * SIDE * PANEL];
        for (number, row) in (0..self.out.rows()).step_by(2 * SIDE).enumerate() {
            let rows = (self.out.rows() - row).min(2 * SIDE);
            let whole = rows.next_multiple_of(SIDE);
            let factors = Factors {
                left: &self.left.words[(self.first_row + row) * stride..][..whole * stride],
                left_stride: stride,
                right: panel.values,
                right_stride: panel.stride,
                // Two of these ask for the whole of it.
                next: panel.next.filter(|_| number < 2).map(
                    #[inline(always)]
                    |next| next.wrapping_add(number * panel.values.len() / 2),
                ),
            };
            let scales = self.left.scales;
            if rows == whole && panel.width == panel.stride && scales.is_none() {
                tiles.multiply(factors, self.out.area([row, rows], [panel.column, panel.width]));
                continue;
            }
            let sums = tiles.product(factors, &mut padded[..whole * panel.stride]);
            for (row, sums) in (row..row + rows).zip(sums.chunks_exact(panel.stride)) {
                let out = &mut self.out.row(row)[panel.column..][..panel.width];
                match scales {
                    Some(scales) => {
                        let columns = &scales.columns[self.first_column + panel.column..];
                        let row = self.first_row + row;
                        write_scaled(out, sums, scales.offsets[row], scales.rows[row], columns);
                    }
                    None => {
                        out.write_copy_of_slice(&sums[..panel.width]);
                    }
                }
            }
        }
    }
}

/// The sums over the depth.
#[inline(always)]
fn sums<'a, S: Simd, A: Arithmetic<S>, const R: usize, const C: usize>(
    simd: S,
    left: &[[f32; R]],
    right: impl IntoIterator<Item = &'a [S::f32s; C]>,
    ahead: Ahead,
) -> [[S::f32s; C]; R] {
    let mut sums = [[simd.splat_f32s(0.0); C]; R];
    let mut next = ahead.next;
    for (factors, row) in left.iter().zip(right) {
        prefetch(next);
        next = next.wrapping_add(ahead.step);
        for i in 0..R {
            for j in 0..C {
                sums[i][j] = A::add_product(simd, factors[i], row[j], sums[i][j]);
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
pub(super) mod tests {
    use super::super::int8::{byte_panels, multiply_int8};
    use super::super::operands::{half_panels, panels};
    use super::*;

    /// Numbers up to 1.
    pub(in super::super) fn matrix(rows: usize, columns: usize, seed: f32) -> Vec<f32> {
        (0..rows * columns).map(|i| (i as f32 * seed).sin()).collect()
    }

    fn turned(matrix: &[f32], columns: usize) -> Vec<f32> {
        (0..columns)
            .flat_map(|column| matrix.iter().skip(column).step_by(columns))
            .copied()
            .collect()
    }

    /// Numbers that `write` writes over others.
    #[expect(unsafe_code, reason = "they are numbers from the start")]
    pub(in super::super) fn written(
        count: usize,
        write: impl FnOnce(&mut [MaybeUninit<f32>]),
    ) -> Vec<f32> {
        let mut out = vec![MaybeUninit::new(f32::NAN); count];
        write(&mut out);
        // SAFETY: as it says above.
        out.into_iter().map(|number| unsafe { number.assume_init() }).collect()
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
                let out = written(rows * columns, |out| multiply(left, depth, &mut [(right, out)]));
                for (index, value) in out.iter().enumerate() {
                    let exact = exact(index / columns, index % columns);
                    assert!((f64::from(*value) - exact).abs() < 1e-4, "{value} is not {exact}");
                }
            }
        }
    }

    /// `multiply` of halves agrees with the definition in every form, and all forms with each other to the bit: the
    /// products.
    fn halves(multiply: impl Fn(Left<'_>, usize, Products<'_, '_>)) -> Vec<Vec<f32>> {
        let round = |x: f32| f64::from(half::bf16::from_f32(x));
        let products = SHAPES.map(|[rows, depth, columns]| {
            let (a, b) = (matrix(rows, depth, 0.37), matrix(columns, depth, 0.73));
            let (panels, left, right) =
                (half_panels(&b, depth), turned(&a, depth), turned(&b, depth));
            let forms = [Right::Rows(&right), Right::Transposed(&b), Right::Panels(&panels)];
            let lefts = [Left::Rows(&a), Left::Transposed(&left)];
            let products = lefts.iter().flat_map(|left| forms.map(|right| (*left, right)));
            let products = products.map(|(left, right)| {
                written(rows * columns, |out| multiply(left, depth, &mut [(right, out)]))
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

    /// The products as processors with narrower and fewer registers have them.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn vectors_of_any_width_give_the_same() {
        let Some(v3) = pulp::x86::V3::try_new() else { return };
        for [rows, depth, columns] in SHAPES {
            let (a, b) = (matrix(rows, depth, 0.37), matrix(columns, depth, 0.73));
            let (left, right) = (Left::Rows(&a), Right::Transposed(&b));
            let narrow = |depth| {
                let strips = left.strips(rows, depth, SHORT_STRIP);
                let left = Strips { words: &strips, height: SHORT_STRIP, scales: None };
                let work = |run: Run<'_>| Simd::vectorize(v3, InSingles(run));
                written(rows * columns, |out| share(left, right, depth, out, work))
            };
            let widest = written(rows * columns, |out| multiply(left, depth, &mut [(right, out)]));
            assert_eq!(widest, narrow(Depth::Singles(depth)));
            let widest = written(rows * columns, |out| apart(left, depth, &mut [(right, out)]));
            assert_eq!(widest, narrow(Depth::Apart(depth)));
        }
    }

    /// Products of pairs that are taken apart.
    fn apart(left: Left<'_>, depth: usize, products: Products<'_, '_>) {
        multiply_strips(left, Depth::Apart(depth), products, in_singles);
    }

    #[test]
    fn pairs_are_summed_in_singles_with_the_instruction_and_without_it() {
        let emulated = halves(apart);
        if let Some(work) = arithmetic::in_pairs() {
            let fastest = halves(|left, depth, products| {
                multiply_strips(left, Depth::Pairs(depth), products, &work);
            });
            assert_eq!(emulated, fastest);
        }
    }

    #[test]
    fn tiles_are_summed_in_singles_with_the_instruction_and_without_it() {
        let emulated = halves(|left, depth, products| {
            multiply_tiles(left, depth, products, tiles::emulated::Halves);
        });
        if let Some(tiles) = tiles::of_halves() {
            let fastest = halves(|left, depth, products| {
                multiply_tiles(left, depth, products, tiles);
            });
            assert_eq!(emulated, fastest);
        }
    }

    #[test]
    fn matrices_without_rows_or_columns_have_no_product() {
        for multiply in [multiply, multiply_half] {
            multiply(Left::Rows(&[]), 4, &mut [(Right::Transposed(&[1.0; 12]), &mut [])]);
            multiply(Left::Rows(&[1.0; 12]), 4, &mut [(Right::Rows(&[]), &mut [])]);
        }
    }

    #[test]
    fn a_row_is_the_same_in_any_batch() {
        let (depth, columns) = (96, 530);
        let panels = panels(&matrix(columns, depth, 0.31), depth);
        let panels = Right::Panels(&panels);
        let halves = half_panels(&matrix(columns, depth, 0.31), depth);
        let halves = Right::Panels(&halves);
        let bytes = byte_panels(&matrix(columns, depth, 0.31), depth);
        let x = matrix(77, depth, 0.17);
        let of = |rows: usize| {
            let x = &x[..rows * depth];
            [
                written(rows * columns, |out| multiply(Left::Rows(x), depth, &mut [(panels, out)])),
                written(rows * columns, |out| {
                    multiply_half(Left::Rows(x), depth, &mut [(halves, out)]);
                }),
                written(rows * columns, |out| {
                    multiply_int8(x, depth, &mut [(Right::Panels(&bytes), out)]);
                }),
            ]
        };
        let all = of(77);
        for rows in [1, 2, 5, 11, 64] {
            for (some, all) in of(rows).iter().zip(&all) {
                assert_eq!(*some, all[..some.len()]);
            }
        }
    }
}
