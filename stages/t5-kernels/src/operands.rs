//! What the matrix product multiplies: either side as it lies in memory, and the orders in which the loops want it.

use super::arithmetic::{first_of_pair, halved, pair, pair_rows, pairs, second_of_pair};
use super::product::PANEL;
use super::simd::{LANES, made_in_blocks, prefetch, vectorized};

/// A function as a closure that is compiled into the loop around it: a function by its name is called by another one, which is
/// compiled for the oldest machine.
macro_rules! inlined {
    ($function:ident, $($argument:ident),+) => {
        #[inline(always)]
        |$($argument),+| $function($($argument),+)
    };
}

/// The left-hand matrix, `[rows, depth]`.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// As it is.
    Rows(&'a [f32]),
    /// As its transpose, `[depth, rows]`.
    Transposed(&'a [f32]),
}

/// A part of a matrix.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The first column, and how many.
    pub(super) first: usize,
    pub(super) width: usize,
    /// Words from one row to the next where the part is copied to.
    pub(super) stride: usize,
}

impl Place {
    /// The panel from a column on.
    #[inline(always)]
    pub(super) fn new(first: usize, columns: usize) -> Self {
        let width = PANEL.min(columns - first);
        Self { first, width, stride: width.next_multiple_of(LANES) }
    }
}

impl Left<'_> {
    /// The words of this matrix of `rows` in strips: rows in groups of `most`, and of fewer at the end, filled up with
    /// zeros as [`height`] says, each strip column after column.
    pub(super) fn strips(&self, rows: usize, depth: Depth, most: usize) -> Vec<f32> {
        let filled = rows / most * most + height(rows % most, most);
        made_in_blocks(filled * depth.words(), most * depth.words(), |first, to| {
            vectorized(
                #[inline(always)]
                || self.fill_strips(to, first * most, rows, depth, most),
            );
        })
    }

    #[inline(always)]
    fn fill_strips(
        &self,
        mut to: &mut [f32],
        mut first: usize,
        rows: usize,
        depth: Depth,
        most: usize,
    ) {
        while !to.is_empty() {
            let stride = most.min(to.len() / depth.words());
            let (strip, rest) = to.split_at_mut(stride * depth.words());
            let place = Place { first, width: stride.min(rows - first), stride };
            match self {
                Left::Rows(values) => from_columns(strip, values, depth, place),
                Left::Transposed(values) => from_rows(strip, values, depth, rows, place),
            }
            (to, first) = (rest, first + stride);
        }
    }

    /// The same row by row, with zeros up to whole tiles in both directions.
    pub(super) fn tiles(&self, rows: usize, depth: Depth) -> Vec<f32> {
        let (words, filled) = (depth.filled(), rows.next_multiple_of(LANES));
        match self {
            Left::Rows(values) => pairs(values, depth.numbers(), [filled, words]),
            Left::Transposed(values) => {
                made_in_blocks(filled * words, words * TURNED, |block, to| {
                    for (number, to) in (block..).zip(to.chunks_mut(words * TURNED)) {
                        let from = &values[number * TURNED..];
                        let count = (to.len() / words).min(rows - number * TURNED);
                        vectorized(
                            #[inline(always)]
                            || turn(&mut to[..words * count], words, from, rows),
                        );
                    }
                })
            }
        }
    }
}

/// Rows of the left-hand matrix in a register tile: with two registers in its width, 24 sums and what feeds them fit into
/// 32 registers.
pub(super) const STRIP: usize = 12;
/// The same of 16 registers, as AVX2 has them.
pub(super) const SHORT_STRIP: usize = STRIP / 2;

/// Rows of a strip where so many are left, and `most` are in a whole one. Fewer than that are filled up to a number that
/// there are loops for: of strips of 8, 2 and 1 the last two would wait for their sums most of the time.
pub(super) fn height(left: usize, most: usize) -> usize {
    [0, 1, 2, 4, SHORT_STRIP, 8]
        .into_iter()
        .find(|&height| left <= height)
        .map_or(most, |height| height.min(most))
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
    /// In panels with all their padding, as [`Right::packed`] gives them.
    Packed(&'a [f32]),
}

impl<'a> Right<'a> {
    /// Columns of the matrix; of weights in panels, which are of as many bits as the product reads.
    pub(super) fn columns(&self, depth: Depth) -> usize {
        match self {
            Self::Panels(values) => values.len() / depth.kept(),
            Self::Rows(values) | Self::Transposed(values) => values.len() / depth.numbers(),
            Self::Packed(values) => values.len() / depth.filled(),
        }
    }

    /// All panels of a matrix of so many columns, for [`Right::Packed`].
    pub(super) fn packed(&self, depth: Depth, columns: usize) -> Vec<f32> {
        let (size, panel) =
            (columns.next_multiple_of(LANES) * depth.filled(), PANEL * depth.filled());
        made_in_blocks(size, panel, |block, to| {
            for (number, to) in (block..).zip(to.chunks_mut(panel)) {
                let place = Place::new(number * PANEL, columns);
                vectorized(
                    #[inline(always)]
                    || self.fill(&mut to[..depth.words() * place.stride], depth, columns, place),
                );
            }
        })
    }

    /// Where the panel after the one at a place lies in one piece, if it does.
    #[inline(always)]
    pub(super) fn next(&self, depth: Depth, place: Place) -> Option<*const f32> {
        match self {
            Self::Panels(values) => {
                Some(values.as_ptr().wrapping_add((place.first + place.width) * depth.kept()))
            }
            Self::Transposed(values) => {
                Some(values.as_ptr().wrapping_add((place.first + place.width) * depth.numbers()))
            }
            Self::Rows(_) | Self::Packed(_) => None,
        }
    }

    /// The panel at a place. Its rows are filled up with zeros to the stride, and their number to what the product reads.
    #[inline(always)]
    pub(super) fn panel<'b>(
        &self,
        scratch: &'b mut Vec<f32>,
        depth: Depth,
        columns: usize,
        place: Place,
    ) -> &'b [f32]
    where
        'a: 'b,
    {
        let Place { first, width, stride } = place;
        let words = depth.words();
        if let Self::Panels(values) = self
            && width == stride
            && depth.kept() == depth.filled()
        {
            return &values[first * words..][..words * width];
        }
        if let Self::Packed(values) = self {
            return &values[first * depth.filled()..][..depth.filled() * stride];
        }
        let size = depth.filled() * stride;
        scratch.resize(size.max(scratch.len()), 0.0);
        let to = &mut scratch[..size];
        if width < stride || words < depth.filled() {
            to.fill(0.0);
        }
        self.fill(&mut to[..words * stride], depth, columns, place);
        to
    }

    /// Copies the words of the panel at a place.
    #[inline(always)]
    fn fill(&self, to: &mut [f32], depth: Depth, columns: usize, place: Place) {
        let Place { first, width, stride } = place;
        match self {
            Self::Rows(values) => from_rows(to, values, depth, columns, place),
            Self::Transposed(values) => from_columns(to, values, depth, place),
            Self::Panels(values) | Self::Packed(values) => {
                let words = depth.kept();
                let from = &values[first * words..][..words * width];
                match depth {
                    Depth::Apart(_) => take_apart(to, stride, from, width),
                    _ => copy_rows(to, stride, from, width, width),
                }
            }
        }
    }
}

/// Copies a part of a matrix that lies column after column.
#[inline(always)]
fn from_columns(to: &mut [f32], values: &[f32], depth: Depth, place: Place) {
    let Place { first, width, stride } = place;
    let numbers = depth.numbers();
    let columns = &values[first * numbers..][..width * numbers];
    match depth {
        Depth::Singles(_) => {
            transpose(to, stride, columns, numbers, inlined!(singles_at, row, first));
        }
        Depth::Pairs(_) | Depth::Tiles(_) => {
            transpose(to, stride, columns, numbers, inlined!(pairs_at, row, first));
        }
        Depth::Apart(_) => transpose(to, stride, columns, numbers, inlined!(halves_at, row, first)),
    }
}

/// The same of a matrix that lies row after row.
#[inline(always)]
fn from_rows(to: &mut [f32], values: &[f32], depth: Depth, columns: usize, place: Place) {
    let Place { first, width, stride } = place;
    match depth {
        Depth::Singles(_) => {
            copy_rows(to, stride, &values[first..], columns, width);
        }
        Depth::Pairs(_) | Depth::Tiles(_) => {
            let rows = values[first..].chunks(2 * columns);
            for (to, from) in to.chunks_exact_mut(stride).zip(rows) {
                ask_for_later(from, columns, width);
                ask_for_later(&from[from.len().min(columns)..], columns, width);
                pair_rows(&mut to[..width], &from[..width], from.get(columns..columns + width));
            }
        }
        Depth::Apart(numbers) => {
            let (from, seconds) = (&values[first..], numbers / 2 * 2 * stride);
            map_rows(&mut to[stride..], 2 * stride, from, 2 * columns, width, inlined!(halved, x));
            if numbers > 1 {
                map_rows(
                    &mut to[..seconds],
                    2 * stride,
                    &from[columns..],
                    2 * columns,
                    width,
                    inlined!(halved, x),
                );
            }
            if numbers % 2 == 1 {
                to[seconds..seconds + stride].fill(0.0);
            }
        }
    }
}

/// Asks for a piece of a row that comes a little later: pieces are short and far apart, which the processor does not
/// foresee.
#[inline(always)]
fn ask_for_later(from: &[f32], stride: usize, width: usize) {
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

/// The same of what `f` makes of their numbers.
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
        PANEL => map_rows_of::<PANEL>(to, stride, from, from_stride, f),
        LANES => map_rows_of::<LANES>(to, stride, from, from_stride, f),
        STRIP => map_rows_of::<STRIP>(to, stride, from, from_stride, f),
        SHORT_STRIP => map_rows_of::<SHORT_STRIP>(to, stride, from, from_stride, f),
        _ => {
            for (to, from) in to.chunks_mut(stride).zip(from.chunks(from_stride)) {
                for (to, from) in to.iter_mut().zip(&from[..width]) {
                    *to = f(*from);
                }
            }
        }
    }
}

/// The same of a width that the compiler knows: a call for each of these short rows costs more than the copy.
#[inline(always)]
fn map_rows_of<const WIDTH: usize>(
    to: &mut [f32],
    stride: usize,
    from: &[f32],
    from_stride: usize,
    f: impl Fn(f32) -> f32,
) {
    for (to, from) in to.chunks_mut(stride).zip(from.chunks(from_stride)) {
        ask_for_later(from, from_stride, WIDTH);
        if let (Some(to), Some(from)) = (to.first_chunk_mut(), from.first_chunk::<WIDTH>()) {
            // Of its own, so that the compiler knows that it is not what is read.
            let mut row = [0.0; WIDTH];
            for place in 0..WIDTH {
                row[place] = f(from[place]);
            }
            *to = row;
        }
    }
}

/// Takes rows of `width` pairs apart, each into two rows `stride` words apart.
#[inline(always)]
fn take_apart(to: &mut [f32], stride: usize, pairs: &[f32], width: usize) {
    map_rows(to, 2 * stride, pairs, width, width, inlined!(second_of_pair, x));
    map_rows(&mut to[stride..], 2 * stride, pairs, width, width, inlined!(first_of_pair, x));
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

/// The same of numbers rounded to bf16, each in a word, and the second of a pair first.
#[inline(always)]
fn halves_at(row: &[f32], first: usize) -> [f32; LANES] {
    let numbers = singles_at(row, first);
    let mut words = [0.0; LANES];
    for place in 0..LANES {
        words[place] = halved(numbers[place ^ 1]);
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
    /// The same, taken apart: each in a word, and the second of a pair first, as the instruction for pairs adds them up.
    Apart(usize),
}

impl Depth {
    /// Numbers in a row.
    fn numbers(self) -> usize {
        match self {
            Self::Singles(numbers)
            | Self::Pairs(numbers)
            | Self::Tiles(numbers)
            | Self::Apart(numbers) => numbers,
        }
    }

    /// 32-bit words that the numbers take.
    pub(super) fn words(self) -> usize {
        match self {
            Self::Singles(numbers) => numbers,
            Self::Pairs(numbers) | Self::Tiles(numbers) => numbers.div_ceil(2),
            Self::Apart(numbers) => numbers.next_multiple_of(2),
        }
    }

    /// The same of those of a weight that is only read.
    fn kept(self) -> usize {
        match self {
            Self::Singles(numbers) => numbers,
            Self::Pairs(numbers) | Self::Tiles(numbers) | Self::Apart(numbers) => {
                numbers.div_ceil(2)
            }
        }
    }

    /// 32-bit words that the product reads.
    pub(super) fn filled(self) -> usize {
        match self {
            Self::Tiles(_) => self.words().next_multiple_of(LANES),
            Self::Singles(_) | Self::Pairs(_) | Self::Apart(_) => self.words(),
        }
    }
}

/// A weight `[columns, depth]` in panels.
pub(super) fn panels(rows: &[f32], depth: usize) -> Vec<f32> {
    let panel = PANEL * depth;
    made_in_blocks(rows.len(), panel, |block, to| {
        for (panel, rows) in to.chunks_mut(panel).zip(rows[block * panel..].chunks(panel)) {
            transpose(panel, rows.len() / depth, rows, depth, inlined!(singles_at, row, first));
        }
    })
}

/// The same of pairs of numbers in bf16, half as much: the panels of `[columns, depth / 2]`.
pub(super) fn half_panels(rows: &[f32], depth: usize) -> Vec<f32> {
    let words = depth.div_ceil(2);
    panels(&pairs(rows, depth, [rows.len() / depth, words]), words)
}
