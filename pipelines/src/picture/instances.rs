//! Objects drawn over a picture: tinted masks with contours, boxes and captions. It draws what it is
//! given; scores, thresholds and whose mask it is are the caller's.

use super::overlay::{BoxMark, boxes};
use super::{Canvas, Palette, Rgb};
use anyhow::Result;

/// A mask at the size of its picture, row-major; what is not 0 is inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    width: usize,
    height: usize,
    inside: Vec<u8>,
}

impl Bitmap {
    /// A mask of `inside`, `[height, width]`.
    ///
    /// # Errors
    /// If there are not `width · height` values.
    pub fn new(width: usize, height: usize, inside: Vec<u8>) -> Result<Self> {
        anyhow::ensure!(
            width.checked_mul(height) == Some(inside.len()),
            "a {height}x{width} mask has {} values",
            inside.len()
        );
        Ok(Self { width, height, inside })
    }

    fn at(&self, x: usize, y: usize) -> bool {
        x < self.width && y < self.height && self.inside[y * self.width + x] != 0
    }

    /// The mask for a picture that is shown at another size (nearest).
    fn scaled(&self, width: usize, height: usize) -> Self {
        let source = |at: usize, to: usize, from: usize| (2 * at + 1) * from / (2 * to);
        let row = |y: usize| {
            (0..width).map(move |x| self.at(source(x, width, self.width), source(y, height, self.height)))
        };
        Self { width, height, inside: (0..height).flat_map(row).map(u8::from).collect() }
    }

    fn is_edge(&self, x: usize, y: usize) -> bool {
        let beyond = |x: Option<usize>, y: Option<usize>| !x.zip(y).is_some_and(|(x, y)| self.at(x, y));
        beyond(x.checked_sub(1), Some(y))
            || beyond(Some(x + 1), Some(y))
            || beyond(Some(x), y.checked_sub(1))
            || beyond(Some(x), Some(y + 1))
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
        let mask = self.mask.as_ref().map(|mask| mask.scaled(to.0, to.1));
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
                canvas.blend(x as i64, y as i64, color, alpha);
            }
        }
    }
}
