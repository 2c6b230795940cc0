//! Objects drawn over a picture: tinted masks with contours, boxes and captions. It draws what it is
//! given; scores, thresholds and whose mask it is are the caller's.

use super::overlay::{BoxMark, boxes};
use super::{Canvas, Palette, Rgb};
use anyhow::Result;

/// The part of a mask that has pixels, row-major; what is not 0 is inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    inside: Vec<u8>,
}

impl Bitmap {
    /// A mask whose pixels lie in the box left, top, width, height of the picture, with `inside`
    /// `[height, width]`.
    ///
    /// # Errors
    /// If there are not `width · height` values.
    pub fn new([left, top, width, height]: [usize; 4], inside: Vec<u8>) -> Result<Self> {
        anyhow::ensure!(
            width.checked_mul(height) == Some(inside.len()),
            "a {height}x{width} mask has {} values",
            inside.len()
        );
        Ok(Self { left, top, width, height, inside })
    }

    fn at(&self, x: usize, y: usize) -> bool {
        x < self.width && y < self.height && self.inside[y * self.width + x] != 0
    }

    /// The mask for its picture of `from` (width, height) that is shown at the size `to` (nearest).
    fn scaled(&self, from: (usize, usize), to: (usize, usize)) -> Self {
        let [columns, rows] = [(from.0, to.0), (from.1, to.1)].map(|(from, to)| Nearest { from, to });
        let (left, right) = (columns.first(self.left), columns.first(self.left + self.width));
        let (top, bottom) = (rows.first(self.top), rows.first(self.top + self.height));
        let row = |y: usize| {
            let y = rows.source(y) - self.top;
            (left..right).map(move |x| u8::from(self.at(columns.source(x) - self.left, y)))
        };
        let inside = (top..bottom).flat_map(row).collect();
        Self { left, top, width: right - left, height: bottom - top, inside }
    }

    fn is_edge(&self, x: usize, y: usize) -> bool {
        let beyond = |x: Option<usize>, y: Option<usize>| !x.zip(y).is_some_and(|(x, y)| self.at(x, y));
        beyond(x.checked_sub(1), Some(y))
            || beyond(Some(x + 1), Some(y))
            || beyond(Some(x), y.checked_sub(1))
            || beyond(Some(x), Some(y + 1))
    }
}

/// Which of `from` places is shown at each of `to`.
#[derive(Clone, Copy)]
struct Nearest {
    from: usize,
    to: usize,
}

impl Nearest {
    fn source(self, at: usize) -> usize {
        (2 * at + 1) * self.from / (2 * self.to)
    }

    /// The first place that shows `source` or a later one.
    fn first(self, source: usize) -> usize {
        let odd = (2 * self.to * source).div_ceil(self.from.max(1));
        odd.saturating_sub(1).div_ceil(2).min(self.to)
    }
}

/// An object to draw.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its box, caption and class.
    pub mark: BoxMark,
    /// Its mask, if it has one.
    pub mask: Option<Bitmap>,
}

impl Instance {
    /// The object for its picture of `from` (width, height) shown at the size `to`.
    pub fn scaled(&self, from: (usize, usize), to: (usize, usize)) -> Self {
        let (x, y) = (to.0 as f64 / from.0.max(1) as f64, to.1 as f64 / from.1.max(1) as f64);
        let [left, top, width, height] = self.mark.bbox;
        let bbox = [left * x, top * y, width * x, height * y];
        let mask = self.mask.as_ref().map(|mask| mask.scaled(from, to));
        Self { mark: BoxMark { bbox, ..self.mark.clone() }, mask }
    }
}

/// How strongly a mask covers the picture.
const TINT: f32 = 0.45;

/// `picture` with every object's mask, then every box: the first in front.
pub fn instances(picture: &Canvas, objects: &[Instance], palette: &Palette) -> Canvas {
    let mut result = picture.clone();
    for object in objects.iter().rev() {
        if let Some(mask) = &object.mask {
            tint(&mut result, mask, palette.color(object.mark.class));
        }
    }
    let marks: Vec<BoxMark> = objects.iter().rev().map(|object| object.mark.clone()).collect();
    boxes(&result, &marks, palette)
}

fn tint(canvas: &mut Canvas, mask: &Bitmap, color: Rgb) {
    for y in 0..mask.height {
        for x in 0..mask.width {
            if mask.at(x, y) {
                let alpha = if mask.is_edge(x, y) { 0.95 } else { TINT };
                canvas.blend((mask.left + x) as i64, (mask.top + y) as i64, color, alpha);
            }
        }
    }
}
