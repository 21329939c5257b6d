//! Dropout without a state: a result does not depend on threads, on order, or on where a run was resumed.

/// Which elements a dropout site drops: a pure function of the site's key and the element's index.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    key: [u32; 2],
    threshold: u32,
    keep_scale: f32,
}

impl Dropout {
    /// Drops each element with probability `rate`, in [0, 1), as decided by `key`.
    pub fn new(rate: f32, key: u64) -> Self {
        let threshold = (f64::from(rate) * 4_294_967_296.0) as u32;
        Self { key: [key as u32, (key >> 32) as u32], threshold, keep_scale: 1.0 / (1.0 - rate) }
    }

    /// What element `index` is multiplied by: 0 or `1 / (1 - rate)`.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "it has to be compiled into the vectorised loop around it"
    )]
    pub fn factor(self, index: u32) -> f32 {
        // Two rounds of a 32-bit mixer: cheap, and vector units have every operation in it.
        let mut x = index.wrapping_mul(0x9e37_79b1) ^ self.key[0];
        x ^= x >> 16;
        x = x.wrapping_mul(0x7feb_352d);
        x ^= (x >> 15) ^ self.key[1];
        x = x.wrapping_mul(0x846c_a68b);
        x ^= x >> 16;
        if x >= self.threshold { self.keep_scale } else { 0.0 }
    }
}
