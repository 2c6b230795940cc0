//! Seeded numbers that depend on nothing but their seed: not on torch's global generator, not on the
//! order of calls, not on the number of threads. Whatever is random in training derives from here, so
//! that a resumed run repeats an uninterrupted one. Not for cryptography.

/// A seed from which independent seeds are derived by name or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The `number`-th seed derived from this one.
    pub fn derive(self, number: u64) -> Self {
        Self(mix(self.0 ^ mix(number.wrapping_add(GOLDEN))))
    }

    /// The seed derived for a name, such as a parameter's.
    pub fn named(self, name: &str) -> Self {
        name.bytes().fold(self.derive(name.len() as u64), |seed, byte| seed.derive(u64::from(byte)))
    }

    /// The endless stream of numbers of this seed.
    pub fn stream(self) -> Stream {
        Stream { state: self.0 }
    }
}

/// Numbers of one seed, in order (SplitMix64, Steele et al. 2014).
#[derive(Debug, Clone)]
pub struct Stream {
    state: u64,
}

impl Stream {
    /// Uniform over all 64-bit numbers.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Two independent standard normal numbers (Box-Muller).
    pub fn normals(&mut self) -> [f64; 2] {
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let angle = std::f64::consts::TAU * self.uniform();
        [radius * angle.cos(), radius * angle.sin()]
    }
}

/// 2^64 / golden ratio: the increment of SplitMix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64: a bijection of the 64-bit numbers.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
