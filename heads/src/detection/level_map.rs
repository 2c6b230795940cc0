//! The rule by which a region is pooled from one level of the pyramid (FPN, Lin et al. 2017, eq. 1).
//! Must not pool.

use super::boxes::area;

/// Region → level, by the square root of its area.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LevelMap {
    /// mmdetection's `SingleRoIExtractor`: ⌊log2(√area / finest + 1e-6)⌋, where `finest` (56 in its
    /// detectors) is the side in pixels that level 0 is meant for.
    Finest(f32),
    /// torchvision's `LevelMapper`: ⌊`level` + log2(√area / `side`) + 1e-6⌋ less `first`. Its detectors
    /// have side 224, level 4, and levels that start at 2 (stride 4).
    Canonical {
        /// Side in pixels of a region on the canonical level.
        side: f32,
        /// The canonical level: log2 of its stride.
        level: f32,
        /// log2 of the first map's stride.
        first: f32,
    },
}

impl LevelMap {
    /// The rule of mmdetection's published detectors.
    pub const MMDETECTION: Self = Self::Finest(56.0);
    /// The rule of torchvision's detectors.
    pub const TORCHVISION: Self = Self::Canonical { side: 224.0, level: 4.0, first: 2.0 };

    /// Index in `0..levels` of the level for a box; 0 for a degenerate box and where there is only one.
    pub fn level(&self, bounds: [f32; 4], levels: usize) -> usize {
        let side = area(bounds).sqrt();
        let level = match *self {
            Self::Finest(finest) => (side / finest + 1e-6).log2().floor(),
            Self::Canonical { side: canonical, level, first } => {
                (level + (side / canonical).log2() + 1e-6).floor() - first
            }
        };
        // Saturates: −∞ of an empty box and NaN become 0.
        (level as usize).min(levels.saturating_sub(1))
    }
}
