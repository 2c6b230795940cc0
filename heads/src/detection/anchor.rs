//! Anchors: the boxes that a region proposal network starts from, the same few around every cell of a
//! level. Must not know which level or detector it serves.

use crate::{Error, Result};
use featcache_store::Size;

/// The anchors of one level.
#[derive(Debug, Clone, PartialEq)]
pub struct AnchorGrid {
    base: Vec<[f32; 4]>,
    stride: [u32; 2],
}

impl AnchorGrid {
    /// mmdetection's `AnchorGenerator` with centre offset 0: around (x · stride, y · stride) boxes of
    /// width `scale · stride / √ratio` and height `scale · stride · √ratio`, unrounded. Published
    /// detectors take scale 8 and ratios 0.5, 1, 2.
    ///
    /// # Errors
    /// A stride of 0, scales or ratios that are not positive numbers.
    pub fn mmdetection(stride: u32, scales: &[f32], ratios: &[f32]) -> Result<Self> {
        let side = stride as f32;
        let half = |share: f32, scale: f32| 0.5 * (side * share * scale);
        Self::new([stride; 2], scales, ratios, half)
    }

    /// torchvision's `AnchorGenerator`: boxes of width `size / √ratio` and height `size · √ratio`, their
    /// halves rounded to whole pixels (ties to even). `stride` is (rows, columns): the padded input's
    /// sides over the map's, rounded down.
    ///
    /// # Errors
    /// A stride of 0, sizes or ratios that are not positive numbers.
    pub fn torchvision(stride: [u32; 2], sizes: &[f32], ratios: &[f32]) -> Result<Self> {
        Self::new(stride, sizes, ratios, |share, size| (share * size / 2.0).round_ties_even())
    }

    /// Ratio by ratio, and scale by scale within a ratio.
    fn new(stride: [u32; 2], scales: &[f32], ratios: &[f32], half: impl Fn(f32, f32) -> f32) -> Result<Self> {
        let positive =
            |values: &[f32]| !values.is_empty() && values.iter().all(|v| *v > 0.0 && v.is_finite());
        if stride.contains(&0) || !positive(scales) || !positive(ratios) {
            let text = format!("anchors of stride {stride:?}, scales {scales:?}, ratios {ratios:?}");
            return Err(Error::invalid(format!("{text}: expected positive numbers")));
        }
        let base = |&ratio: &f32| {
            let tall = ratio.sqrt();
            let half = &half;
            scales.iter().map(move |&scale| {
                let (x, y) = (half(1.0 / tall, scale), half(tall, scale));
                [-x, -y, x, y]
            })
        };
        Ok(Self { base: ratios.iter().flat_map(base).collect(), stride })
    }

    /// Anchors a cell.
    pub fn per_cell(&self) -> usize {
        self.base.len()
    }

    /// All anchors of a map of `map` cells, row by row, cell by cell, anchor by anchor: the order of a
    /// score map `[h, w, per_cell]`. They may reach over the input's edge.
    pub fn anchors(&self, map: Size) -> Vec<[f32; 4]> {
        let [down, right] = self.stride.map(|stride| stride as f32);
        let cell = |y: u32, x: u32| {
            let (y, x) = (y as f32 * down, x as f32 * right);
            self.base.iter().map(move |[x1, y1, x2, y2]| [x + x1, y + y1, x + x2, y + y2])
        };
        let row = |y| (0..map.width).flat_map(move |x| cell(y, x));
        (0..map.height).flat_map(row).collect()
    }
}

/// Does an anchor stay within `border` pixels of the picture (mmdetection's `allowed_border`, 0 in
/// Cascade R-CNN and HTC)? The right and lower edge are exclusive, as there.
pub fn inside(anchor: [f32; 4], picture: Size, border: f32) -> bool {
    let [x1, y1, x2, y2] = anchor;
    let (width, height) = (picture.width as f32 + border, picture.height as f32 + border);
    x1 >= -border && y1 >= -border && x2 < width && y2 < height
}
