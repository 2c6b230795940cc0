//! Sizes before and after preprocessing: pure arithmetic, shared by plan, extractor and heads.

use serde::{Deserialize, Serialize};

/// Height and width, in pixels or feature cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

impl Size {
    /// A size from height and width, in this order.
    pub fn new(height: u32, width: u32) -> Self {
        Self { height, width }
    }

    /// Rounded up, right and bottom, to multiples of `divisor`.
    pub fn padded(self, divisor: u32) -> Self {
        let up = |v: u32| v.div_ceil(divisor.max(1)) * divisor.max(1);
        Self::new(up(self.height), up(self.width))
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

/// How a picture's size becomes the size that the backbone sees, before padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, tag = "rule")]
pub enum ResizeRule {
    /// As it is.
    None,
    /// Aspect ratio kept: short side `short` unless the long side would pass `long`; sizes rounded
    /// `int(x · scale + 0.5)` (mmdetection `rescale_size`, mmcv `imrescale`).
    KeepRatio {
        /// Target of the short side.
        short: u32,
        /// Limit of the long side.
        long: u32,
    },
    /// As `KeepRatio` with detectron2's `ResizeShortestEdge.get_output_shape` rounding.
    ShortestEdge {
        /// Target of the short side.
        short: u32,
        /// Limit of the long side.
        long: u32,
    },
    /// Exactly `side × side`, aspect ratio lost.
    Square {
        /// Both sides.
        side: u32,
    },
    /// Aspect ratio kept, long side exactly `side` (segment-anything `ResizeLongestSide`).
    Longest {
        /// Target of the long side.
        side: u32,
    },
}
