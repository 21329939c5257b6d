//! Random numbers as functions of what they are for.
//!
//! Nothing here has a state that somebody else could advance: a draw depends only on its key, so a result does not
//! depend on threads, on order, or on where a run was resumed.

/// Mixes two numbers into one (the finaliser of splitmix64).
pub fn mix(seed: u64, value: u64) -> u64 {
    let mut z =
        seed ^ value.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xff51_afd7_ed55_8ccd);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of random numbers (splitmix64) for places that need many in a row.
#[derive(Debug, Clone)]
pub struct Stream(u64);

impl Stream {
    /// The stream that belongs to `key`.
    pub fn new(key: u64) -> Self {
        Self(mix(key, 0))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0, 0)
    }

    /// The next number in [0, 1), with 53 random bits.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The next number in `0..bound`; `bound` is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        // The bias of the multiplication is below 2^-40 for any data set that fits in memory.
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A draw from the standard normal distribution (Box-Muller, one of the pair).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.next_f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.next_f64()).cos()
    }

    /// Puts `items` in random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
