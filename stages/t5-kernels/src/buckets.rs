//! Relative positions: which bucket of the bias table a distance falls into.

/// The buckets of all distances up to some length.
#[derive(Debug, Clone)]
pub struct Buckets {
    /// Index of distance 0 in `of`.
    zero: usize,
    /// The bucket of each distance, from the most negative to the most positive.
    of: Vec<u32>,
}

impl Buckets {
    /// The buckets of the distances `key - query` between positions below `length`.
    ///
    /// Encoders are `bidirectional`; in a decoder keys never lie ahead, so half as many distances share all buckets.
    pub fn new(length: usize, bidirectional: bool, buckets: usize, max_distance: usize) -> Self {
        let zero = length.saturating_sub(1);
        let of = (0..=2 * zero)
            .map(|index| {
                bucket(index as i64 - zero as i64, bidirectional, buckets, max_distance) as u32
            })
            .collect();
        Self { zero, of }
    }

    /// Index of distance 0 in [`Buckets::all`].
    pub fn zero(&self) -> usize {
        self.zero
    }

    /// The bucket of each distance, from the most negative to the most positive.
    pub fn all(&self) -> &[u32] {
        &self.of
    }
}

/// The bucket of one distance, computed in f32 as the reference does, so that the edges fall alike.
fn bucket(distance: i64, bidirectional: bool, buckets: usize, max_distance: usize) -> usize {
    let (buckets, offset) = if bidirectional {
        (buckets / 2, if distance > 0 { buckets / 2 } else { 0 })
    } else {
        (buckets, 0)
    };
    let apart =
        if bidirectional { distance.unsigned_abs() } else { (-distance).max(0) as u64 } as usize;
    let exact = buckets / 2;
    if apart < exact {
        return offset + apart;
    }
    let log_range = (max_distance as f64 / exact as f64).ln() as f32;
    let position = (apart as f32 / exact as f32).ln() / log_range * (buckets - exact) as f32;
    offset + (exact + position as usize).min(buckets - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_the_original_t5() {
        // From transformers' `_relative_position_bucket`, 32 buckets, distance 128.
        let known = [
            (0, true, 0),
            (1, true, 17),
            (-1, true, 1),
            (-7, true, 7),
            (-8, true, 8),
            (-11, true, 8),
            (-12, true, 9),
            (-16, true, 10),
            (-32, true, 12),
            (-64, true, 14),
            (-91, true, 15),
            (-1000, true, 15),
            (128, true, 31),
            (5, false, 0),
            (-15, false, 15),
            (-16, false, 16),
            (-18, false, 16),
            (-19, false, 17),
            (-32, false, 21),
            (-64, false, 26),
            (-128, false, 31),
        ];
        for (distance, bidirectional, expected) in known {
            assert_eq!(
                bucket(distance, bidirectional, 32, 128),
                expected,
                "distance {distance}, {bidirectional}"
            );
        }
    }
}
