//! Views: declared deterministic transforms of a sample, with the geometry that labels need.

use crate::{Error, Result, Size};
use serde::{Deserialize, Serialize};

/// One view of every sample. Nothing random happens at extraction: a view is data, never a die roll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewSpec {
    /// Name in paths and tables.
    pub name: String,
    /// Mirrored left-right after resizing, before padding.
    pub hflip: bool,
}

impl ViewSpec {
    /// The view of this name: `base` or `hflip`.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "base" => Ok(Self { name: name.into(), hflip: false }),
            "hflip" => Ok(Self { name: name.into(), hflip: true }),
            _ => Err(Error::invalid(format!("view {name:?} is unknown: expected base or hflip"))),
        }
    }
}

/// Where original coordinates lie in a view and back. Coordinates are continuous: pixel `i` covers
/// `i..i+1`, so a picture of width `w` reaches from 0 to `w`, and mirroring takes `x` to `w - x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ViewGeometry {
    source: [f64; 2], // width, height
    valid: [f64; 2],  // width, height
    hflip: bool,
}

impl ViewSpec {
    /// Geometry of a row: original picture size and resized size before padding.
    pub fn geometry(&self, source: Size, valid: Size) -> Result<ViewGeometry> {
        if source.area() == 0 || valid.area() == 0 {
            return Err(Error::invalid(format!("sizes {source} and {valid}: expected no zero")));
        }
        let sides = |size: Size| [f64::from(size.width), f64::from(size.height)];
        Ok(ViewGeometry { source: sides(source), valid: sides(valid), hflip: self.hflip })
    }
}

impl ViewGeometry {
    /// A point `[x, y]` of the original picture, in the view.
    pub fn point_to_view(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [sw, sh] = self.source;
        let [vw, vh] = self.valid;
        let x = x * vw / sw;
        [if self.hflip { vw - x } else { x }, y * vh / sh]
    }

    /// A point `[x, y]` of the view, in the original picture.
    pub fn point_to_source(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [sw, sh] = self.source;
        let [vw, vh] = self.valid;
        let x = if self.hflip { vw - x } else { x };
        [x * sw / vw, y * sh / vh]
    }

    /// A box `[x, y, width, height]` of the original picture, in the view.
    pub fn box_to_view(&self, bbox: [f64; 4]) -> [f64; 4] {
        corners(bbox, |point| self.point_to_view(point))
    }

    /// A box `[x, y, width, height]` of the view, in the original picture.
    pub fn box_to_source(&self, bbox: [f64; 4]) -> [f64; 4] {
        corners(bbox, |point| self.point_to_source(point))
    }
}

fn corners([x, y, w, h]: [f64; 4], map: impl Fn([f64; 2]) -> [f64; 2]) -> [f64; 4] {
    let ([x0, y0], [x1, y1]) = (map([x, y]), map([x + w, y + h]));
    [x0.min(x1), y0.min(y1), (x1 - x0).abs(), (y1 - y0).abs()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mirrored_boxes_keep_their_size_and_distance() {
        let geometry =
            ViewSpec::named("hflip").unwrap().geometry(Size::new(100, 200), Size::new(50, 100)).unwrap();
        assert_eq!(geometry.box_to_view([10.0, 20.0, 40.0, 60.0]), [75.0, 10.0, 20.0, 30.0]);
        assert_eq!(geometry.point_to_view([0.0, 0.0]), [100.0, 0.0]);
        assert!(ViewSpec::named("base").unwrap().geometry(Size::new(0, 1), Size::new(1, 1)).is_err());
    }

    proptest! {
        #[test]
        fn boxes_come_back(
            flip: bool, sh in 1..2000u32, sw in 1..2000u32, vh in 1..2000u32, vw in 1..2000u32,
            bbox in [0.0..500.0f64, 0.0..500.0, 0.0..500.0, 0.0..500.0],
        ) {
            let view = ViewSpec::named(if flip { "hflip" } else { "base" }).unwrap();
            let geometry = view.geometry(Size::new(sh, sw), Size::new(vh, vw)).unwrap();
            let back = geometry.box_to_source(geometry.box_to_view(bbox));
            for (a, b) in back.iter().zip(bbox) {
                prop_assert!((a - b).abs() < 1e-6, "{back:?} {bbox:?}");
            }
        }
    }
}
