//! Views: declared deterministic transforms of a sample, with the geometry that labels need.

use crate::{Error, Result, Size};
use serde::{Deserialize, Serialize};

/// Largest and smallest scale of a view, in hundredths.
const SCALES: std::ops::RangeInclusive<u32> = 1..=1000;

/// One view of every sample. Nothing random happens at extraction: a view is data, never a die roll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewSpec {
    /// Name in paths and tables.
    pub name: String,
    /// Mirrored left-right after resizing, before padding.
    pub hflip: bool,
    /// Both sides of what the resize rule gives, in hundredths; left out of the JSON where it is 100.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub scale_percent: u32,
}

fn whole() -> u32 {
    100
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_whole(percent: &u32) -> bool {
    *percent == whole()
}

impl ViewSpec {
    /// The picture as the resize rule leaves it.
    pub fn base() -> Self {
        Self { name: "base".into(), hflip: false, scale_percent: whole() }
    }

    /// The view of this name: `base`, `hflip`, `scaleN` or `scaleN-hflip`, where `N` is a scale in
    /// hundredths.
    pub fn named(name: &str) -> Result<Self> {
        let unknown = || {
            Error::invalid(format!(
                "view {name:?} is unknown: expected base, hflip, scaleN or scaleN-hflip with N in hundredths, \
                 {} to {} but not 100",
                SCALES.start(),
                SCALES.end()
            ))
        };
        let view = |hflip, scale_percent| Self { name: name.into(), hflip, scale_percent };
        match name {
            "base" => Ok(Self::base()),
            "hflip" => Ok(view(true, whole())),
            _ => {
                let scale = name.strip_prefix("scale").ok_or_else(unknown)?;
                let (digits, hflip) =
                    scale.strip_suffix("-hflip").map_or((scale, false), |digits| (digits, true));
                let percent = digits.parse().map_err(|_| unknown())?;
                let view = view(hflip, percent);
                // One name for a view: no sign, no leading zeros, no second base.
                let told = percent.to_string() == digits && percent != whole();
                if told && view.check().is_ok() { Ok(view) } else { Err(unknown()) }
            }
        }
    }

    /// Refuses scales outside of 0.01 to 10.
    pub(crate) fn check(&self) -> Result<()> {
        if SCALES.contains(&self.scale_percent) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "view {}: scale_percent {}, expected {} to {}",
            self.name,
            self.scale_percent,
            SCALES.start(),
            SCALES.end()
        )))
    }

    /// The size of a picture in this view, from what the resize rule makes of it: `int(x · scale + 0.5)`,
    /// at least 1.
    pub fn valid_size(&self, resized: Size) -> Size {
        let side = |side: u32| {
            let scaled = (u64::from(side) * u64::from(self.scale_percent) + 50) / 100;
            u32::try_from(scaled).unwrap_or(u32::MAX).max(1)
        };
        Size::new(side(resized.height), side(resized.width))
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

    #[test]
    fn scaled_views_have_names_and_sizes_of_their_own() {
        let half = ViewSpec::named("scale50-hflip").unwrap();
        assert_eq!((half.hflip, half.scale_percent), (true, 50));
        assert_eq!(half.valid_size(Size::new(801, 1)), Size::new(401, 1));
        assert_eq!(ViewSpec::named("scale150").unwrap().valid_size(Size::new(3, 5)), Size::new(5, 8));
        assert_eq!(ViewSpec::base().valid_size(Size::new(801, 7)), Size::new(801, 7));
        for bad in ["scale100", "scale0", "scale1001", "scale050", "scale+50", "scale", "scale50-vflip", "x"]
        {
            let error = ViewSpec::named(bad).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("scaleN"), "{error}");
        }
    }

    #[test]
    fn a_scale_of_one_is_not_written_and_others_are() {
        let json = |name| serde_json::to_string(&ViewSpec::named(name).unwrap()).unwrap();
        assert_eq!(json("base"), r#"{"name":"base","hflip":false}"#);
        assert_eq!(json("scale50"), r#"{"name":"scale50","hflip":false,"scale_percent":50}"#);
        for name in ["base", "scale50"] {
            assert_eq!(
                serde_json::from_str::<ViewSpec>(&json(name)).unwrap(),
                ViewSpec::named(name).unwrap()
            );
        }
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
