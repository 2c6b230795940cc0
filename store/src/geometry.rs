//! Sizes before and after preprocessing: pure arithmetic, shared by plan, extractor and heads.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Largest side that a resize rule may ask for, in pixels.
pub const MAX_TARGET_SIDE: u32 = 32_768;

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

    /// Rounded up, right and bottom, to multiples of `divisor`. Sizes near `u32::MAX` stay there; the
    /// plan's size limit is far below.
    pub fn padded(self, divisor: u32) -> Self {
        let up = |v: u32| v.div_ceil(divisor.max(1)).saturating_mul(divisor.max(1));
        Self::new(up(self.height), up(self.width))
    }

    /// Height times width.
    pub fn area(self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
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

impl ResizeRule {
    /// The size that a picture of size `source` is resized to. Never zero on either side.
    pub fn apply(self, source: Size) -> Size {
        let (h, w) = (f64::from(source.height.max(1)), f64::from(source.width.max(1)));
        match self {
            Self::None => rounded(h, w),
            Self::KeepRatio { short, long } => {
                let scale = (f64::from(long) / h.max(w)).min(f64::from(short) / h.min(w));
                rounded(h * scale, w * scale)
            }
            Self::ShortestEdge { short, long } => {
                let (size, limit) = (f64::from(short), f64::from(long));
                let scale = size / h.min(w);
                let (h, w) = if h < w { (size, scale * w) } else { (scale * h, size) };
                if h.max(w) > limit {
                    let scale = limit / h.max(w);
                    rounded(h * scale, w * scale)
                } else {
                    rounded(h, w)
                }
            }
            Self::Square { side } => Size::new(side.max(1), side.max(1)),
            Self::Longest { side } => {
                let scale = f64::from(side) / h.max(w);
                rounded(h * scale, w * scale)
            }
        }
    }

    /// Refuses sides of zero, sides over [`MAX_TARGET_SIDE`] and a short side over the long one.
    pub fn check(self) -> Result<()> {
        let (short, long) = match self {
            Self::None => return Ok(()),
            Self::KeepRatio { short, long } | Self::ShortestEdge { short, long } => (short, long),
            Self::Square { side } | Self::Longest { side } => (side, side),
        };
        if short == 0 || short > long || long > MAX_TARGET_SIDE {
            return Err(Error::invalid(format!(
                "resize {self}: expected sides of 1 to {MAX_TARGET_SIDE}, the short one first"
            )));
        }
        Ok(())
    }
}

/// `int(x + 0.5)` on both sides, as all the rules round, and at least one pixel.
fn rounded(height: f64, width: f64) -> Size {
    #[expect(clippy::cast_possible_truncation, reason = "truncates and saturates, as it should")]
    let side = |v: f64| ((v + 0.5) as u32).max(1);
    Size::new(side(height), side(width))
}

impl std::fmt::Display for ResizeRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::KeepRatio { short, long } => write!(f, "{short},{long}"),
            Self::ShortestEdge { short, long } => write!(f, "shortest:{short},{long}"),
            Self::Square { side } => write!(f, "square:{side}"),
            Self::Longest { side } => write!(f, "longest:{side}"),
        }
    }
}

impl FromStr for ResizeRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || {
            Error::invalid(format!(
                "resize {text:?} is unknown: expected SHORT,LONG, shortest:SHORT,LONG, square:SIDE, \
                 longest:SIDE or none"
            ))
        };
        let side = |text: &str| text.trim().parse::<u32>().map_err(|_| unknown());
        let pair = |text: &str| {
            let (short, long) = text.split_once(',').ok_or_else(unknown)?;
            Ok::<_, Error>((side(short)?, side(long)?))
        };
        let rule = match text.split_once(':') {
            None if text == "none" => Self::None,
            None => pair(text).map(|(short, long)| Self::KeepRatio { short, long })?,
            Some(("shortest", sides)) => {
                pair(sides).map(|(short, long)| Self::ShortestEdge { short, long })?
            }
            Some(("square", sides)) => Self::Square { side: side(sides)? },
            Some(("longest", sides)) => Self::Longest { side: side(sides)? },
            Some(_) => return Err(unknown()),
        };
        rule.check().map(|()| rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(rule: &str, height: u32, width: u32) -> Size {
        rule.parse::<ResizeRule>().unwrap().apply(Size::new(height, width))
    }

    #[test]
    fn rules_round_as_their_sources_do() {
        // mmcv.rescale_size((640, 427), (1333, 800)) = (1199, 800); (640, 480) → (1067, 800).
        assert_eq!(apply("800,1333", 427, 640), Size::new(800, 1199));
        assert_eq!(apply("800,1333", 480, 640), Size::new(800, 1067));
        // The long side rules: 1333 / 640 on 200 rows is 416.56.
        assert_eq!(apply("800,1333", 200, 640), Size::new(417, 1333));
        // ResizeShortestEdge.get_output_shape(427, 640, 800, 1333) = (800, 1199).
        assert_eq!(apply("shortest:800,1333", 427, 640), Size::new(800, 1199));
        assert_eq!(apply("shortest:800,1333", 640, 200), Size::new(1333, 417));
        assert_eq!(apply("longest:1024", 427, 640), Size::new(683, 1024));
        assert_eq!(apply("square:512", 427, 640), Size::new(512, 512));
        assert_eq!(apply("none", 427, 640), Size::new(427, 640));
    }

    #[test]
    fn sizes_are_never_zero() {
        for rule in ["800,1333", "shortest:800,1333", "longest:16", "none", "square:1"] {
            for (h, w) in [(1, u32::MAX), (u32::MAX, 1), (1, 1), (0, 7)] {
                let size = apply(rule, h, w);
                assert!(size.height > 0 && size.width > 0, "{rule} of {h}x{w} gave {size}");
            }
        }
    }

    #[test]
    fn unusable_rules_are_refused() {
        for text in ["", "800", "0,5", "1333,800", "square:0", "square:99999", "longest:x", "wide:3"] {
            assert!(text.parse::<ResizeRule>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn display_parses_back(short in 1..2000u32, extra in 0..2000u32, kind in 0..5) {
            let long = short + extra;
            let rule = match kind {
                0 => ResizeRule::None,
                1 => ResizeRule::KeepRatio { short, long },
                2 => ResizeRule::ShortestEdge { short, long },
                3 => ResizeRule::Square { side: short },
                _ => ResizeRule::Longest { side: long },
            };
            prop_assert_eq!(rule.to_string().parse::<ResizeRule>().unwrap(), rule);
        }
    }
}
