//! A small seeded generator (SplitMix64: Steele, Lea & Flood, "Fast splittable pseudorandom number
//! generators", 2014). Its numbers are part of the demo's identity, so no crate may change them.

/// A stream of numbers that its seed determines.
#[derive(Debug, Clone)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The seed of part `index` of what `seed` determines: neighbours have unrelated streams.
    pub(super) fn derive(seed: u64, index: u64) -> u64 {
        let mut random = Self::new(seed ^ index.wrapping_mul(0xd134_2543_de82_ef95));
        random.bits() ^ index
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub(super) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Uniform between `from` and `to`.
    pub(super) fn range(&mut self, from: f32, to: f32) -> f32 {
        from + (to - from) * self.unit()
    }

    /// Uniform in 0..`end`; 0 if `end` is 0. The bias of the remainder is below 2^-50 here.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.bits() % (end as u64).max(1)) as usize
    }

    /// Normal with mean 0 and deviation 1, as a sum of four uniforms: bounded, and good enough for
    /// grain.
    pub(super) fn normal(&mut self) -> f32 {
        let bits = self.bits();
        let sum: u64 = (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum();
        (sum as f32 / 65_536.0 - 2.0) * 3f32.sqrt()
    }
}
