//! Disjoint mutable parts of one matrix, each for one thread.
#![expect(unsafe_code, reason = "parts of one slice that are not contiguous")]

use std::{marker::PhantomData, mem::MaybeUninit};

/// Some rows and columns of a matrix, with exclusive access.
pub(super) struct SubMatrixMut<'a> {
    first: *mut MaybeUninit<f32>,
    rows: usize,
    columns: usize,
    /// Elements from one row to the next.
    stride: usize,
    of: PhantomData<&'a mut [MaybeUninit<f32>]>,
}

// SAFETY: it is a mutable slice, though not a contiguous one.
unsafe impl Send for SubMatrixMut<'_> {}

impl<'a> SubMatrixMut<'a> {
    /// All of a row-major matrix.
    pub(super) fn whole(matrix: &'a mut [MaybeUninit<f32>], columns: usize) -> Self {
        let (rows, first) = (matrix.len() / columns.max(1), matrix.as_mut_ptr());
        Self { first, rows, columns, stride: columns, of: PhantomData }
    }

    /// Cuts this into parts of so many rows and columns, fewer at the ends, each with the position of its first element.
    pub(super) fn cut(
        self,
        rows: usize,
        columns: usize,
    ) -> impl Iterator<Item = ([usize; 2], Self)> {
        let firsts = (0..self.rows).step_by(rows).flat_map(move |row| {
            (0..self.columns).step_by(columns).map(move |column| [row, column])
        });
        firsts.map(move |[row, column]| {
            let part = Self {
                // Parts begin where others end, so that they are disjoint.
                first: self.first.wrapping_add(row * self.stride + column),
                rows: rows.min(self.rows - row),
                columns: columns.min(self.columns - column),
                ..self
            };
            ([row, column], part)
        })
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Elements from one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// The first element; rows are [`SubMatrixMut::stride`] apart.
    pub(super) fn first(&mut self) -> *mut f32 {
        self.first.cast()
    }

    #[inline(always)]
    pub(super) fn row(&mut self, row: usize) -> &mut [MaybeUninit<f32>] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: the row is in this part, and `self` is borrowed as long.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.stride), self.columns) }
    }

    /// Some rows and columns of this part.
    #[inline(always)]
    pub(super) fn area(
        &mut self,
        [row, rows]: [usize; 2],
        [column, columns]: [usize; 2],
    ) -> SubMatrixMut<'_> {
        assert!(row + rows <= self.rows && column + columns <= self.columns, "outside of the part");
        let first = self.first.wrapping_add(row * self.stride + column);
        SubMatrixMut { first, rows, columns, stride: self.stride, of: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_matrix_and_are_disjoint() {
        for [rows, columns, high, wide] in [[5, 7, 2, 3], [4, 4, 4, 4], [1, 9, 3, 2], [6, 1, 1, 1]]
        {
            let mut matrix = vec![MaybeUninit::new(-1.0); rows * columns];
            for ([row, column], mut part) in
                SubMatrixMut::whole(&mut matrix, columns).cut(high, wide)
            {
                for y in 0..part.rows() {
                    for (x, number) in part.row(y).iter_mut().enumerate() {
                        // SAFETY: all are initialized from the start.
                        assert!(unsafe { number.assume_init() } < 0.0);
                        number.write(((row + y) * columns + column + x) as f32);
                    }
                }
            }
            for (index, number) in matrix.into_iter().enumerate() {
                // SAFETY: as above.
                assert_eq!(unsafe { number.assume_init() } as usize, index);
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside of the part")]
    fn an_area_is_inside() {
        let mut matrix = vec![MaybeUninit::new(0.0); 12];
        let _ = SubMatrixMut::whole(&mut matrix, 4).area([1, 2], [2, 3]);
    }
}
