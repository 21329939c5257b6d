//! Products of the small matrices inside attention, for which the general matrix product spends its time on setup.

use pulp::Simd;

use super::simd::LANES;

/// Rows of a micro-kernel.
const TILE: usize = 6;

/// A matrix that is read in place: element `(i, j)` is `data[i * row + j * column]`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

/// A matrix in scratch memory, whose rows are padded with zeros to whole vector registers.
#[derive(Default)]
pub(super) struct Panel {
    pub(super) data: Vec<f32>,
    pub(super) stride: usize,
}

impl Panel {
    /// Makes this a matrix of zeros.
    #[inline(always)]
    pub(super) fn reset(&mut self, rows: usize, columns: usize) {
        self.stride = columns.next_multiple_of(LANES);
        self.data.clear();
        self.data.resize(rows * self.stride, 0.0);
    }

    /// Copies in a row-major matrix with rows `from_stride` apart.
    #[inline(always)]
    pub(super) fn copy(&mut self, rows: usize, columns: usize, from: &[f32], from_stride: usize) {
        self.reset(rows, columns);
        for row in 0..rows {
            self.data[row * self.stride..][..columns]
                .copy_from_slice(&from[row * from_stride..][..columns]);
        }
    }

    /// Copies in the transpose of a `rows` x `columns` matrix with rows `from_stride` apart.
    #[inline(always)]
    pub(super) fn transpose(
        &mut self,
        rows: usize,
        columns: usize,
        from: &[f32],
        from_stride: usize,
    ) {
        self.reset(columns, rows);
        for row in 0..rows {
            for (column, &value) in from[row * from_stride..][..columns].iter().enumerate() {
                self.data[column * self.stride + row] = value;
            }
        }
    }

    /// This matrix, read as it is.
    #[inline(always)]
    pub(super) fn view(&self) -> View<'_> {
        View { data: &self.data, row: self.stride, column: 1 }
    }

    /// This matrix, read as its transpose.
    #[inline(always)]
    pub(super) fn transposed(&self) -> View<'_> {
        View { data: &self.data, row: 1, column: self.stride }
    }

    /// Row `row`, without the padding.
    #[inline(always)]
    pub(super) fn row(&self, row: usize, columns: usize) -> &[f32] {
        &self.data[row * self.stride..][..columns]
    }

    /// Copies the first `columns` of every row to rows `to_stride` apart.
    #[inline(always)]
    pub(super) fn copy_to(&self, columns: usize, to: &mut [f32], to_stride: usize) {
        for (row, from) in self.data.chunks_exact(self.stride).enumerate() {
            to[row * to_stride..][..columns].copy_from_slice(&from[..columns]);
        }
    }
}

/// `out = a * b`, for `a`, `[rows, depth]`, and `b` of `depth` rows; `out` gets its size here.
#[inline(always)]
pub(super) fn multiply<S: Simd>(
    simd: S,
    out: &mut Panel,
    a: View<'_>,
    [rows, depth]: [usize; 2],
    b: &Panel,
) {
    out.stride = b.stride;
    out.data.resize(rows * b.stride, 0.0);
    let mut first = 0;
    while first + TILE <= rows {
        tile_columns::<S, TILE>(simd, out, a, [first, depth], b);
        first += TILE;
    }
    while first < rows {
        tile_columns::<S, 1>(simd, out, a, [first, depth], b);
        first += 1;
    }
}

/// Some rows of it, two registers of columns at a time.
#[inline(always)]
fn tile_columns<S: Simd, const MC: usize>(
    simd: S,
    out: &mut Panel,
    a: View<'_>,
    [first, depth]: [usize; 2],
    b: &Panel,
) {
    let registers = b.stride / S::F32_LANES;
    let (right, _) = S::as_simd_f32s(&b.data);
    let (sums, _) = S::as_mut_simd_f32s(&mut out.data[first * b.stride..]);
    let mut column = 0;
    while column < registers {
        let right = right[column..].chunks(registers).take(depth);
        let sums = sums[column..].chunks_mut(registers);
        if column + 2 <= registers {
            tile::<S, MC, 2>(simd, a, first, right, sums);
        } else {
            tile::<S, MC, 1>(simd, a, first, right, sums);
        }
        column += 2;
    }
}

#[inline(always)]
fn tile<'a, S: Simd, const MC: usize, const WIDTH: usize>(
    simd: S,
    a: View<'_>,
    first: usize,
    right: impl Iterator<Item = &'a [S::f32s]>,
    out: impl Iterator<Item = &'a mut [S::f32s]>,
) {
    let mut sums = [[simd.splat_f32s(0.0); WIDTH]; MC];
    for (k, right) in right.enumerate() {
        let Some(right) = right.first_chunk::<WIDTH>() else { break };
        for (row, sums) in sums.iter_mut().enumerate() {
            let factor = simd.splat_f32s(a.data[(first + row) * a.row + k * a.column]);
            for place in 0..WIDTH {
                sums[place] = simd.mul_add_e_f32s(factor, right[place], sums[place]);
            }
        }
    }
    for (out, sums) in out.zip(sums) {
        out[..WIDTH].copy_from_slice(&sums);
    }
}
