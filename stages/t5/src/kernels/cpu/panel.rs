//! Products of the small matrices inside attention, where the general matrix product spends its time on setup.

use super::simd::LANES;

/// Rows of the register tile.
const TILE: usize = 4;

/// A matrix read in place: element `(i, j)` is `data[i * row + j * column]`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

/// A scratch matrix whose rows are padded with zeros to whole vector registers.
#[derive(Default)]
pub(super) struct Panel {
    pub(super) data: Vec<f32>,
    pub(super) stride: usize,
}

impl Panel {
    /// Makes this a zeroed matrix.
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

    /// Adds nothing to, and copies, the first `columns` of every row to rows `to_stride` apart.
    #[inline(always)]
    pub(super) fn copy_to(&self, columns: usize, to: &mut [f32], to_stride: usize) {
        for (row, from) in self.data.chunks_exact(self.stride).enumerate() {
            to[row * to_stride..][..columns].copy_from_slice(&from[..columns]);
        }
    }
}

/// `out = a * b`, for `a` of `rows` x `depth` and `b` of `depth` rows; `out` is sized here.
#[inline(always)]
pub(super) fn multiply(out: &mut Panel, a: View<'_>, rows: usize, depth: usize, b: &Panel) {
    out.stride = b.stride;
    out.data.clear();
    out.data.resize(rows * b.stride, 0.0);
    let mut first = 0;
    while first + TILE <= rows {
        tile_columns::<TILE>(out, a, first, depth, b);
        first += TILE;
    }
    for row in first..rows {
        tile_columns::<1>(out, a, row, depth, b);
    }
}

#[inline(always)]
fn tile_columns<const ROWS: usize>(
    out: &mut Panel,
    a: View<'_>,
    first: usize,
    depth: usize,
    b: &Panel,
) {
    for column in (0..b.stride).step_by(LANES) {
        let mut sums = [[0.0f32; LANES]; ROWS];
        for k in 0..depth {
            let from = &b.data[k * b.stride + column..][..LANES];
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = a.data[(first + row) * a.row + k * a.column];
                for lane in 0..LANES {
                    sums[lane] += factor * from[lane];
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            out.data[(first + row) * out.stride + column..][..LANES].copy_from_slice(sums);
        }
    }
}
