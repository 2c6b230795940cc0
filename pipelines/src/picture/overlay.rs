//! Labels drawn over a picture: dense label maps with contours and a legend, boxes with names.
//! It draws what it is given; classes, thresholds and label conventions are the caller's.

use anyhow::Result;

use super::sheet::{INK, PAPER};
use super::{Canvas, Palette, Rgb, TextSize, text_width};

/// A dense label map, one class index a pixel; [`LabelMap::IGNORE`] is not labelled.
#[derive(Debug, Clone, Copy)]
pub struct LabelMap<'a> {
    width: usize,
    height: usize,
    classes: &'a [u16],
}

impl<'a> LabelMap<'a> {
    /// A pixel without a class: the picture shows through.
    pub const IGNORE: u16 = u16::MAX;

    /// A map of `classes`, `[height, width]`.
    ///
    /// # Errors
    /// If there are not `width · height` values.
    pub fn new(width: usize, height: usize, classes: &'a [u16]) -> Result<Self> {
        anyhow::ensure!(
            width.checked_mul(height) == Some(classes.len()),
            "a {height}x{width} label map has {} values",
            classes.len()
        );
        Ok(Self { width, height, classes })
    }

    fn at(&self, x: usize, y: usize) -> u16 {
        self.classes[y * self.width + x]
    }

    /// The class at a place given as a fraction of a `width` × `height` picture (nearest).
    fn sample(&self, x: usize, y: usize, width: usize, height: usize) -> u16 {
        self.at(x * self.width / width, y * self.height / height)
    }
}

/// How strongly a class covers the picture in [`labels`].
pub const DEFAULT_ALPHA: f32 = 0.62;

/// `picture` with each pixel tinted by its class and a contour where the class changes. The label
/// map is stretched to the picture if their sizes differ.
pub fn labels(picture: &Canvas, map: &LabelMap<'_>, palette: &Palette, alpha: f32) -> Canvas {
    let (width, height) = (picture.width(), picture.height());
    let mut result = picture.clone();
    if map.classes.is_empty() {
        return result;
    }
    for y in 0..height {
        for x in 0..width {
            let class = map.sample(x, y, width, height);
            let right = map.sample((x + 1).min(width - 1), y, width, height);
            let below = map.sample(x, (y + 1).min(height - 1), width, height);
            if class != LabelMap::IGNORE {
                result.blend(x as i64, y as i64, palette.color(class.into()), alpha);
            }
            if class != right || class != below {
                result.blend(x as i64, y as i64, [255; 3], 0.75);
            }
        }
    }
    result
}

/// A box to draw: x, y, width, height in pixels of the picture, and what to write on it.
#[derive(Debug, Clone, PartialEq)]
pub struct BoxMark {
    /// x, y, width, height.
    pub bbox: [f64; 4],
    /// Category name, perhaps with a score.
    pub caption: String,
    /// Class index, for the colour.
    pub class: usize,
}

/// `picture` with boxes and their captions. Boxes that are not finite are left out.
pub fn boxes(picture: &Canvas, marks: &[BoxMark], palette: &Palette) -> Canvas {
    let mut result = picture.clone();
    let size = TextSize::Small;
    let stroke = (picture.width().max(picture.height()) / 320).clamp(2, 6);
    for mark in marks.iter().filter(|mark| mark.bbox.iter().all(|v| v.is_finite())) {
        let [x, y, width, height] = mark.bbox;
        let color = palette.color(mark.class);
        let (left, top) = (x.floor() as i64, y.floor() as i64);
        let side = |from: f64, length: f64| ((from + length).ceil() - from.floor()).max(1.0) as usize;
        result.outline(left, top, side(x, width), side(y, height), stroke, color);
        let plate = (text_width(&mark.caption, size) + 6, size.line_height() + 2);
        // The name sits on the box; where there is no room above, inside it.
        let plate_top = if top >= plate.1 as i64 { top - plate.1 as i64 } else { top };
        let plate_left = left.clamp(0, (picture.width().saturating_sub(plate.0)) as i64);
        result.fill(plate_left, plate_top, plate.0, plate.1, color);
        result.text(plate_left + 3, plate_top.saturating_add(1), &mark.caption, size, readable_on(color));
    }
    result
}

/// `picture` with the key of `entries` (class number and name) below it.
pub fn with_legend(picture: &Canvas, entries: &[(usize, String)], palette: &Palette) -> Canvas {
    const GAP: usize = 6;
    let key = legend(entries, palette, picture.width(), PAPER, INK);
    let mut result = Canvas::new(picture.width(), picture.height() + key.height() + GAP, PAPER);
    result.paste(0, 0, picture);
    result.paste(0, (picture.height() + GAP) as i64, &key);
    result
}

/// A key of classes (number and name): coloured squares with names, in lines no wider than `width`.
pub fn legend(entries: &[(usize, String)], palette: &Palette, width: usize, paper: Rgb, ink: Rgb) -> Canvas {
    let size = TextSize::Small;
    let line = size.line_height() + 8;
    let mut places = Vec::with_capacity(entries.len());
    let (mut x, mut y) = (0, 0);
    for (_, name) in entries {
        let needed = size.line_height() + 6 + text_width(name, size) + 20;
        if x > 0 && x + needed > width {
            (x, y) = (0, y + line);
        }
        places.push((x as i64, y as i64));
        x += needed;
    }
    let mut result = Canvas::new(width, if entries.is_empty() { 0 } else { y + line }, paper);
    for ((class, name), (x, y)) in entries.iter().zip(places) {
        let side = size.line_height() - 2;
        result.fill(x, y + 1, side, side, palette.color(*class));
        result.text(x + side as i64 + 8, y, name, size, ink);
    }
    result
}

/// Black or white, whichever reads better on `color` (relative luminance, Rec. 709 weights).
fn readable_on(color: Rgb) -> Rgb {
    let [r, g, b] = color.map(f32::from);
    if 0.2126 * r + 0.7152 * g + 0.0722 * b > 140.0 { [0; 3] } else { [255; 3] }
}
