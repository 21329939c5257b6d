//! The factors of a matrix product: how they lie in memory, and how they are packed for the micro-kernels.

use std::borrow::Cow;

use super::arithmetic::{first_of, pack_pair, pack_row_pair, pack_rows, second_of, to_bf16};
use super::matmul::NR;
use super::simd::{LANES, made_in_blocks, made_in_blocks_beside, prefetch, vectorized};

/// Wraps a function in a closure that is inlined into the loop around it. Passed by name, it would be called through a shim that is
/// compiled for the baseline instruction set.
macro_rules! inlined {
    ($function:ident, $($argument:ident),+) => {
        #[inline(always)]
        |$($argument),+| $function($($argument),+)
    };
}

/// The left-hand matrix, `[rows, depth]`.
#[derive(Clone, Copy)]
pub(super) enum Lhs<'a> {
    /// Row-major.
    Rows(&'a [f32]),
    /// Its transpose, `[depth, rows]`, row-major.
    Transposed(&'a [f32]),
}

/// Columns of a matrix that are packed together.
#[derive(Clone, Copy)]
pub(super) struct ColumnRange {
    pub(super) first: usize,
    pub(super) width: usize,
    /// Words from one packed row to the next; what is past the width is padding.
    pub(super) stride: usize,
}

impl ColumnRange {
    /// The panel that begins at a column, of a matrix of so many.
    #[inline(always)]
    pub(super) fn of_panel(first: usize, columns: usize) -> Self {
        let width = NR.min(columns - first);
        Self { first, width, stride: width.next_multiple_of(LANES) }
    }
}

impl Lhs<'_> {
    /// Packs this matrix of `rows` in strips of `most` rows, the last one shorter and padded with zeros as [`strip_rows`] says; each
    /// strip is column-major.
    pub(super) fn pack_strips(&self, rows: usize, layout: Layout, most: usize) -> Vec<f32> {
        let padded = rows / most * most + strip_rows(rows % most, most);
        made_in_blocks(padded * layout.words(), most * layout.words(), |first, to| {
            vectorized(
                #[inline(always)]
                || self.fill_strips(to, first * most, rows, layout, most),
            );
        })
    }

    #[inline(always)]
    fn fill_strips(
        &self,
        mut to: &mut [f32],
        mut first: usize,
        rows: usize,
        layout: Layout,
        most: usize,
    ) {
        while !to.is_empty() {
            let stride = most.min(to.len() / layout.words());
            let (strip, rest) = to.split_at_mut(stride * layout.words());
            // Columns of the transpose.
            let range = ColumnRange { first, width: stride.min(rows - first), stride };
            match self {
                Lhs::Rows(values) => from_columns(strip, values, layout, range),
                Lhs::Transposed(values) => from_rows(strip, values, layout, rows, range),
            }
            (to, first) = (rest, first + stride);
        }
    }

    /// Packs this matrix of `rows` row after row, padded with zeros to whole tiles in both directions.
    pub(super) fn pack_tiles(&self, rows: usize, layout: Layout) -> Vec<f32> {
        let (words, padded) = (layout.padded_words(), rows.next_multiple_of(LANES));
        match self {
            Lhs::Rows(values) => pack_rows(values, layout.elements(), [padded, words]),
            Lhs::Transposed(values) => {
                made_in_blocks(padded * words, words * BLOCK_ROWS, |block, to| {
                    for (number, to) in (block..).zip(to.chunks_mut(words * BLOCK_ROWS)) {
                        let from = &values[number * BLOCK_ROWS..];
                        let count = (to.len() / words).min(rows - number * BLOCK_ROWS);
                        vectorized(
                            #[inline(always)]
                            || transpose_pairs(&mut to[..words * count], words, from, rows),
                        );
                    }
                })
            }
        }
    }
}

/// Rows of a micro-kernel: with two registers to a row, 24 sums and their operands fit into 32 registers.
pub(super) const MR: usize = 12;
/// The same for 16 registers, as AVX2 has them.
pub(super) const SHORT_MR: usize = MR / 2;

/// Rows of the strip that begins where `left` rows are left, `most` of them at most. Fewer are padded up to the next number that
/// there is a micro-kernel for, instead of being cut into strips of 8, 2 and 1: those of few rows wait for their sums most of
/// the time.
pub(super) fn strip_rows(left: usize, most: usize) -> usize {
    [0, 1, 2, 4, SHORT_MR, 8]
        .into_iter()
        .find(|&rows| left <= rows)
        .map_or(most, |rows| rows.min(most))
}

/// Rows that [`transpose_pairs`] makes at a time.
const BLOCK_ROWS: usize = 4 * LANES;

/// Makes rows of `words` bf16 pairs of the columns of `from`, whose rows are `stride` apart.
#[inline(always)]
fn transpose_pairs(to: &mut [f32], words: usize, from: &[f32], stride: usize) {
    let width = to.len() / words;
    let mut block = [[0.0; BLOCK_ROWS]; LANES];
    for (number, from) in from.chunks(2 * LANES * stride).enumerate() {
        let rows = from.chunks(2 * stride);
        let count = rows.len();
        for (pairs, from) in block.iter_mut().zip(rows) {
            pack_row_pair(&mut pairs[..width], &from[..width], from.get(stride..stride + width));
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
pub(super) enum Rhs<'a> {
    /// Row-major.
    Rows(&'a [f32]),
    /// Its transpose, `[columns, depth]`, row-major: a weight as models store it, `[out, in]`.
    Transposed(&'a [f32]),
    /// A packed weight: panels, by [`pack_panels`] or [`pack_bf16_panels`], without padding.
    Panels(&'a [f32]),
    /// Padded panels, by [`Rhs::pack_all`].
    Packed(&'a [f32]),
}

impl<'a> Rhs<'a> {
    /// Columns of the matrix.
    pub(super) fn columns(&self, layout: Layout) -> usize {
        match self {
            Self::Panels(words) => words.len() / layout.stored_words(),
            Self::Rows(values) | Self::Transposed(values) => values.len() / layout.elements(),
            Self::Packed(words) => words.len() / layout.padded_words(),
        }
    }

    /// All panels of a matrix of so many columns, for [`Rhs::Packed`].
    pub(super) fn pack_all(&self, layout: Layout, columns: usize) -> Vec<f32> {
        let words = layout.padded_words();
        let (size, panel) = (columns.next_multiple_of(LANES) * words, NR * words);
        made_in_blocks(size, panel, |block, to| {
            for (number, to) in (block..).zip(to.chunks_mut(panel)) {
                let range = ColumnRange::of_panel(number * NR, columns);
                let to = &mut to[..layout.words() * range.stride];
                vectorized(
                    #[inline(always)]
                    || self.pack_panel(to, layout, columns, range),
                );
            }
        })
    }

    /// Where the panel after this one begins, if it is not packed before use.
    #[inline(always)]
    pub(super) fn next_panel(&self, layout: Layout, range: ColumnRange) -> Option<*const f32> {
        let next = range.first + range.width;
        match self {
            Self::Panels(words) => Some(words.as_ptr().wrapping_add(next * layout.stored_words())),
            Self::Transposed(values) => {
                Some(values.as_ptr().wrapping_add(next * layout.elements()))
            }
            Self::Rows(_) | Self::Packed(_) => None,
        }
    }

    /// A panel, in `scratch` where it has to be packed first. Its rows are padded with zeros to the stride, and their number to what
    /// the micro-kernel reads.
    #[inline(always)]
    pub(super) fn panel<'b>(
        &self,
        scratch: &'b mut Vec<f32>,
        layout: Layout,
        columns: usize,
        range: ColumnRange,
    ) -> &'b [f32]
    where
        'a: 'b,
    {
        let ColumnRange { first, width, stride } = range;
        let (words, padded) = (layout.words(), layout.padded_words());
        if let Self::Panels(values) = self
            && width == stride
            && layout.stored_words() == padded
        {
            return &values[first * words..][..words * width];
        }
        if let Self::Packed(values) = self {
            return &values[first * padded..][..padded * stride];
        }
        let size = padded * stride;
        scratch.resize(size.max(scratch.len()), 0.0);
        let to = &mut scratch[..size];
        if width < stride || words < padded {
            to.fill(0.0);
        }
        self.pack_panel(&mut to[..words * stride], layout, columns, range);
        to
    }

    /// Packs a panel, without its padding.
    #[inline(always)]
    fn pack_panel(&self, to: &mut [f32], layout: Layout, columns: usize, range: ColumnRange) {
        let ColumnRange { first, width, stride } = range;
        match self {
            Self::Rows(values) => from_rows(to, values, layout, columns, range),
            Self::Transposed(values) => from_columns(to, values, layout, range),
            Self::Panels(values) | Self::Packed(values) => {
                let words = layout.stored_words();
                let from = &values[first * words..][..words * width];
                match layout {
                    Layout::Widened(_) => widen_pairs(to, stride, from, width),
                    _ => copy_rows(to, stride, from, width, width),
                }
            }
        }
    }
}

/// Packs columns of the transpose of a row-major matrix.
#[inline(always)]
fn from_columns(to: &mut [f32], values: &[f32], layout: Layout, range: ColumnRange) {
    let ColumnRange { first, width, stride } = range;
    let depth = layout.elements();
    let columns = &values[first * depth..][..width * depth];
    match layout {
        Layout::F32(_) => transpose(to, stride, columns, depth, inlined!(f32_at, row, first)),
        Layout::Bf16Pairs(_) | Layout::Bf16Tiles(_) => {
            transpose(to, stride, columns, depth, inlined!(pairs_at, row, first));
        }
        Layout::Widened(_) => {
            transpose(to, stride, columns, depth, inlined!(widened_at, row, first));
        }
    }
}

/// Packs columns of a row-major matrix.
#[inline(always)]
fn from_rows(to: &mut [f32], values: &[f32], layout: Layout, columns: usize, range: ColumnRange) {
    let ColumnRange { first, width, stride } = range;
    match layout {
        Layout::F32(_) => {
            copy_rows(to, stride, &values[first..], columns, width);
        }
        Layout::Bf16Pairs(_) | Layout::Bf16Tiles(_) => {
            let rows = values[first..].chunks(2 * columns);
            for (to, from) in to.chunks_exact_mut(stride).zip(rows) {
                prefetch_later(from, columns, width);
                prefetch_later(&from[from.len().min(columns)..], columns, width);
                let second = from.get(columns..columns + width);
                pack_row_pair(&mut to[..width], &from[..width], second);
            }
        }
        Layout::Widened(depth) => {
            let (from, seconds) = (&values[first..], depth / 2 * 2 * stride);
            map_rows(&mut to[stride..], 2 * stride, from, 2 * columns, width, inlined!(to_bf16, x));
            if depth > 1 {
                map_rows(
                    &mut to[..seconds],
                    2 * stride,
                    &from[columns..],
                    2 * columns,
                    width,
                    inlined!(to_bf16, x),
                );
            }
            if depth % 2 == 1 {
                to[seconds..seconds + stride].fill(0.0);
            }
        }
    }
}

/// Prefetches what will be read some rows later: pieces of rows are too short and too far apart for the hardware prefetcher.
#[inline(always)]
fn prefetch_later(from: &[f32], stride: usize, width: usize) {
    const ROWS: usize = 16;
    for line in (0..width).step_by(LANES) {
        prefetch(from.as_ptr().wrapping_add(ROWS * stride + line));
    }
}

/// Copies rows of `width`, `from_stride` apart, to rows `stride` apart.
#[inline(always)]
fn copy_rows(to: &mut [f32], stride: usize, from: &[f32], from_stride: usize, width: usize) {
    map_rows(to, stride, from, from_stride, width, |x| x);
}

/// The same through `f`.
#[inline(always)]
fn map_rows(
    to: &mut [f32],
    stride: usize,
    from: &[f32],
    from_stride: usize,
    width: usize,
    f: impl Fn(f32) -> f32,
) {
    match width {
        NR => map_rows_of::<NR>(to, stride, from, from_stride, f),
        LANES => map_rows_of::<LANES>(to, stride, from, from_stride, f),
        MR => map_rows_of::<MR>(to, stride, from, from_stride, f),
        SHORT_MR => map_rows_of::<SHORT_MR>(to, stride, from, from_stride, f),
        _ => {
            for (to, from) in to.chunks_mut(stride).zip(from.chunks(from_stride)) {
                for (to, from) in to.iter_mut().zip(&from[..width]) {
                    *to = f(*from);
                }
            }
        }
    }
}

/// The same for a width known to the compiler: a `memcpy` call for each of these short rows costs more than the copy.
#[inline(always)]
fn map_rows_of<const WIDTH: usize>(
    to: &mut [f32],
    stride: usize,
    from: &[f32],
    from_stride: usize,
    f: impl Fn(f32) -> f32,
) {
    for (to, from) in to.chunks_mut(stride).zip(from.chunks(from_stride)) {
        prefetch_later(from, from_stride, WIDTH);
        if let (Some(to), Some(from)) = (to.first_chunk_mut(), from.first_chunk::<WIDTH>()) {
            // A local array, so that the compiler knows that it does not alias what is read.
            let mut row = [0.0; WIDTH];
            for place in 0..WIDTH {
                row[place] = f(from[place]);
            }
            *to = row;
        }
    }
}

/// Widens rows of `width` bf16 pairs, each into two rows of f32 `stride` words apart.
#[inline(always)]
fn widen_pairs(to: &mut [f32], stride: usize, pairs: &[f32], width: usize) {
    map_rows(to, 2 * stride, pairs, width, width, inlined!(second_of, x));
    map_rows(&mut to[stride..], 2 * stride, pairs, width, width, inlined!(first_of, x));
}

/// Copies the transpose of rows of `depth` elements to rows `stride` apart; `words` gives a register of words of a row.
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

/// The words of a row from `first` on, for [`Layout::F32`]; zeros past its end.
#[inline(always)]
fn f32_at(row: &[f32], first: usize) -> [f32; LANES] {
    let row = &row[first..];
    if let Some(words) = row.first_chunk() {
        return *words;
    }
    let mut words = [0.0; LANES];
    words[..row.len()].copy_from_slice(row);
    words
}

/// The same for [`Layout::Bf16Pairs`].
#[inline(always)]
fn pairs_at(row: &[f32], first: usize) -> [f32; LANES] {
    let (one, other) = (f32_at(row, 2 * first), 2 * first + LANES);
    let other = if other < row.len() { f32_at(row, other) } else { [0.0; LANES] };
    let mut words = [0.0; LANES];
    for half in 0..LANES / 2 {
        words[half] = pack_pair(one[2 * half], one[2 * half + 1]);
        words[LANES / 2 + half] = pack_pair(other[2 * half], other[2 * half + 1]);
    }
    words
}

/// The same for [`Layout::Widened`].
#[inline(always)]
fn widened_at(row: &[f32], first: usize) -> [f32; LANES] {
    let elements = f32_at(row, first);
    let mut words = [0.0; LANES];
    for place in 0..LANES {
        words[place] = to_bf16(elements[place ^ 1]);
    }
    words
}

/// How the elements of a row along the depth are laid out in words of 32 bits; each variant has their number.
#[derive(Clone, Copy)]
pub(super) enum Layout {
    /// A word is an element in f32.
    F32(usize),
    /// A word is a pair of elements in bf16.
    Bf16Pairs(usize),
    /// The same, padded with zeros to whole tiles.
    Bf16Tiles(usize),
    /// Elements rounded to bf16, but in f32, for processors without a fast instruction for pairs: the second of a pair comes first,
    /// which is the order in which the instruction adds them up.
    Widened(usize),
}

impl Layout {
    /// Elements in a row.
    pub(super) fn elements(self) -> usize {
        match self {
            Self::F32(elements)
            | Self::Bf16Pairs(elements)
            | Self::Bf16Tiles(elements)
            | Self::Widened(elements) => elements,
        }
    }

    /// Words in a row.
    pub(super) fn words(self) -> usize {
        match self {
            Self::F32(elements) => elements,
            Self::Bf16Pairs(elements) | Self::Bf16Tiles(elements) => elements.div_ceil(2),
            Self::Widened(elements) => elements.next_multiple_of(2),
        }
    }

    /// Words in a row of a packed weight.
    fn stored_words(self) -> usize {
        match self {
            Self::F32(elements) => elements,
            Self::Bf16Pairs(elements) | Self::Bf16Tiles(elements) | Self::Widened(elements) => {
                elements.div_ceil(2)
            }
        }
    }

    /// Words in a row that the micro-kernel reads.
    pub(super) fn padded_words(self) -> usize {
        match self {
            Self::Bf16Tiles(_) => self.words().next_multiple_of(LANES),
            Self::F32(_) | Self::Bf16Pairs(_) | Self::Widened(_) => self.words(),
        }
    }
}

/// Packs a weight, `[columns, depth]`, into panels.
pub(super) fn pack_panels(rows: &[f32], depth: usize) -> Vec<f32> {
    pack_panels_beside(rows, depth, depth, 0, |rows, (): &mut ()| rows.into()).0
}

/// The same in bf16 pairs, half the size: the panels of `[columns, depth / 2]`.
pub(super) fn pack_bf16_panels(rows: &[f32], depth: usize) -> Vec<f32> {
    let words = depth.div_ceil(2);
    let pairs =
        |rows: &[f32], (): &mut ()| pack_rows(rows, depth, [rows.len() / depth, words]).into();
    pack_panels_beside(rows, depth, words, 0, pairs).0
}

/// Packs a weight, `[columns, depth]`, into panels of the words, so many for each row, that `words(rows, beside)` makes of the rows of
/// one panel, and what it says beside it. To the panels, `room` words can be added without a copy.
pub(super) fn pack_panels_beside<'r, T: Clone + Default + Send>(
    rows: &'r [f32],
    depth: usize,
    width: usize,
    room: usize,
    words: impl Fn(&'r [f32], &mut T) -> Cow<'r, [f32]> + Sync,
) -> (Vec<f32>, Vec<T>) {
    let (panel, size) = (NR * width, rows.len() / depth * width);
    made_in_blocks_beside(size, panel, room, |first, to, beside| {
        let rows = rows[first * NR * depth..].chunks(NR * depth);
        for ((panel, rows), beside) in to.chunks_mut(panel).zip(rows).zip(beside) {
            let words = words(rows, beside);
            transpose(panel, rows.len() / depth, &words, width, inlined!(f32_at, row, first));
        }
    })
}
