//! Rows of a table by index, and the sum back into the table.

use super::simd::{add_to, vectorized};
use rayon::prelude::*;

/// The rows of `table` that `ids` name.
pub fn gather(table: &[f32], width: usize, ids: &[u32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(ids.len() * width);
    for &id in ids {
        out.extend_from_slice(&table[id as usize * width..][..width]);
    }
    out
}

/// Adds every row of `rows` to the row of `table` that its id names, in order.
pub fn add_rows(table: &mut [f32], width: usize, ids: &[u32], rows: &[f32]) {
    // Threads own ranges of the table, so that each row is summed in the order of `ids`.
    let height = table.len() / width;
    let share = height.div_ceil(rayon::current_num_threads().max(1)).max(1);
    table.par_chunks_mut(share * width).enumerate().for_each(|(part, chunk)| {
        let first = part * share;
        let owned = first..first + chunk.len() / width;
        vectorized(
            #[inline(always)]
            || {
                for (&id, row) in ids.iter().zip(rows.chunks_exact(width)) {
                    if owned.contains(&(id as usize)) {
                        add_to(&mut chunk[(id as usize - first) * width..][..width], row);
                    }
                }
            },
        );
    });
}
