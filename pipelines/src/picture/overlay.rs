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

/// `picture` with boxes and their captions, the last in front: no outline crosses a caption, and a caption
/// keeps clear of those in front of it where there is room. Boxes that are not finite are left out.
pub fn boxes(picture: &Canvas, marks: &[BoxMark], palette: &Palette) -> Canvas {
    let mut result = picture.clone();
    let stroke = (picture.width().max(picture.height()) / 320).clamp(2, 6);
    let marks: Vec<&BoxMark> = marks.iter().filter(|mark| mark.bbox.iter().all(|v| v.is_finite())).collect();
    for mark in &marks {
        let Outline { left, top, width, height } = Outline::of(mark);
        result.outline(left, top, width, height, stroke, palette.color(mark.class));
    }
    let mut plates: Vec<Outline> = Vec::with_capacity(marks.len());
    for mark in marks.iter().rev() {
        plates.push(plate(mark, picture, &plates));
    }
    for (mark, plate) in marks.iter().zip(plates.iter().rev()) {
        let color = palette.color(mark.class);
        result.fill(plate.left, plate.top, plate.width, plate.height, color);
        let (left, top) = (plate.left.saturating_add(3), plate.top.saturating_add(1));
        result.text(left, top, &mark.caption, TextSize::Small, readable_on(color));
    }
    result
}

/// A rectangle in whole pixels.
#[derive(Debug, Clone, Copy)]
struct Outline {
    left: i64,
    top: i64,
    width: usize,
    height: usize,
}

impl Outline {
    /// The pixels that a box touches.
    fn of(mark: &BoxMark) -> Self {
        let [x, y, width, height] = mark.bbox;
        let side = |from: f64, length: f64| ((from + length).ceil() - from.floor()).max(1.0) as usize;
        Self { left: x.floor() as i64, top: y.floor() as i64, width: side(x, width), height: side(y, height) }
    }

    fn overlaps(&self, other: &Self) -> bool {
        let apart = |a: i64, length: usize, b: i64| a.saturating_add_unsigned(length as u64) <= b;
        !(apart(self.left, self.width, other.left)
            || apart(other.left, other.width, self.left)
            || apart(self.top, self.height, other.top)
            || apart(other.top, other.height, self.top))
    }
}

/// Where the caption of a box lies: on its upper edge, below that edge, under its lower edge or above that
/// one, the first place inside the picture and free of `taken`; where there is none, the first inside.
fn plate(mark: &BoxMark, picture: &Canvas, taken: &[Outline]) -> Outline {
    let size = TextSize::Small;
    let bounds = Outline::of(mark);
    let (width, height) = (text_width(&mark.caption, size) + 6, size.line_height() + 2);
    let left = bounds.left.clamp(0, picture.width().saturating_sub(width) as i64);
    let bottom = bounds.top.saturating_add_unsigned(bounds.height as u64);
    let above = |edge: i64| edge.saturating_sub_unsigned(height as u64);
    let lowest = above(picture.height() as i64);
    let places = [above(bounds.top), bounds.top, bottom, above(bottom)].map(|top| Outline {
        left,
        top,
        width,
        height,
    });
    let inside = |place: &&Outline| (0..=lowest).contains(&place.top);
    let free = places.iter().filter(inside).find(|place| !taken.iter().any(|other| place.overlaps(other)));
    let [_, default, ..] = &places;
    *free.or_else(|| places.iter().find(inside)).unwrap_or(default)
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
