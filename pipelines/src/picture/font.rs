//! Text on a canvas, in one bundled typeface (Noto Sans Mono, already rasterised), so that pictures
//! look the same on every machine. Characters it lacks are drawn as `?`; it must not lay out pages.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::{Canvas, Rgb};

/// How large, and how heavy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextSize {
    /// Captions: lines of 16 pixels.
    Small,
    /// Column titles: bold, lines of 16 pixels.
    Strong,
    /// Page titles: bold, lines of 24 pixels.
    Title,
}

impl TextSize {
    /// Height of a line in pixels.
    pub fn line_height(self) -> usize {
        self.raster().1.val()
    }

    fn raster(self) -> (FontWeight, RasterHeight) {
        match self {
            Self::Small => (FontWeight::Regular, RasterHeight::Size16),
            Self::Strong => (FontWeight::Bold, RasterHeight::Size16),
            Self::Title => (FontWeight::Bold, RasterHeight::Size24),
        }
    }
}

/// Width of `text` in pixels.
pub fn text_width(text: &str, size: TextSize) -> usize {
    let (weight, height) = size.raster();
    text.chars().count().saturating_mul(get_raster_width(weight, height))
}

impl Canvas {
    /// Writes one line of text with its top left corner at `x`, `y`.
    pub fn text(&mut self, x: i64, y: i64, text: &str, size: TextSize, color: Rgb) {
        let (weight, height) = size.raster();
        let advance = get_raster_width(weight, height) as i64;
        let mut left = x;
        for character in text.chars() {
            if left >= self.width() as i64 {
                return;
            }
            let glyph = get_raster(character, weight, height).or_else(|| get_raster('?', weight, height));
            for (row, pixels) in glyph.iter().flat_map(|glyph| glyph.rows().enumerate()) {
                for (column, &ink) in pixels.iter().enumerate() {
                    let x = left.saturating_add(column as i64);
                    self.blend(x, y.saturating_add(row as i64), color, f32::from(ink) / 255.0);
                }
            }
            left = left.saturating_add(advance);
        }
    }

    /// As [`Canvas::text`], cut with `..` where it would be wider than `width` pixels.
    pub fn text_within(&mut self, x: i64, y: i64, width: usize, text: &str, size: TextSize, color: Rgb) {
        let room = width / text_width("m", size).max(1);
        if text.chars().count() <= room {
            return self.text(x, y, text, size, color);
        }
        let cut: String = text.chars().take(room.saturating_sub(2)).chain("..".chars().take(room)).collect();
        self.text(x, y, &cut, size, color);
    }
}
