//! An RGB picture in memory and the few ways to draw on it. Whatever lies outside is clipped:
//! no coordinate, size or text can panic. It must not know what it is a picture of.

use std::path::Path;

use anyhow::{Context, Result};

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// An 8-bit RGB picture, rows from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    /// A picture of one colour. Either side may be 0.
    pub fn new(width: usize, height: usize, color: Rgb) -> Self {
        Self { width, height, rgb: color.repeat(width.saturating_mul(height)) }
    }

    /// A picture from its bytes, `[height, width, 3]`.
    ///
    /// # Errors
    /// If there are not `width · height · 3` bytes.
    pub fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        anyhow::ensure!(
            expected == Some(rgb.len()),
            "a {height}x{width} picture has {expected:?} bytes, found {}",
            rgb.len()
        );
        Ok(Self { width, height, rgb })
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The colour at column `x`, row `y`, if that is inside.
    pub fn get(&self, x: usize, y: usize) -> Option<Rgb> {
        let at = self.offset(x as i64, y as i64)?;
        self.rgb.get(at..at + 3)?.try_into().ok()
    }

    /// Mixes `color` into the pixel: `alpha` 0 leaves it, 1 replaces it. Outside nothing happens.
    pub fn blend(&mut self, x: i64, y: i64, color: Rgb, alpha: f32) {
        let Some(at) = self.offset(x, y) else { return };
        let alpha = alpha.clamp(0.0, 1.0);
        for (old, new) in self.rgb[at..at + 3].iter_mut().zip(color) {
            *old = (f32::from(*old) + (f32::from(new) - f32::from(*old)) * alpha).round() as u8;
        }
    }

    /// Fills the part of a rectangle that is inside.
    pub fn fill(&mut self, x: i64, y: i64, width: usize, height: usize, color: Rgb) {
        let clip = |from: i64, length: usize, limit: usize| {
            let end = from.saturating_add_unsigned(length as u64).clamp(0, limit as i64);
            from.clamp(0, limit as i64) as usize..end as usize
        };
        let columns = clip(x, width, self.width);
        for row in clip(y, height, self.height) {
            let row = &mut self.rgb[row * self.width * 3..(row + 1) * self.width * 3];
            for pixel in row[columns.start * 3..columns.end * 3].chunks_exact_mut(3) {
                pixel.copy_from_slice(&color);
            }
        }
    }

    /// Outlines a rectangle, `stroke` pixels inwards.
    pub fn outline(&mut self, x: i64, y: i64, width: usize, height: usize, stroke: usize, color: Rgb) {
        let stroke_y = stroke.min(height);
        let stroke_x = stroke.min(width);
        self.fill(x, y, width, stroke_y, color);
        self.fill(x, y.saturating_add_unsigned((height - stroke_y) as u64), width, stroke_y, color);
        self.fill(x, y, stroke_x, height, color);
        self.fill(x.saturating_add_unsigned((width - stroke_x) as u64), y, stroke_x, height, color);
    }

    /// Copies `other` with its top left corner at `x`, `y`, as far as it fits.
    pub fn paste(&mut self, x: i64, y: i64, other: &Canvas) {
        for (row, pixels) in other.rgb.chunks_exact((other.width * 3).max(1)).enumerate() {
            for (column, pixel) in pixels.chunks_exact(3).enumerate() {
                let place = self
                    .offset(x.saturating_add_unsigned(column as u64), y.saturating_add_unsigned(row as u64));
                if let Some(at) = place {
                    self.rgb[at..at + 3].copy_from_slice(pixel);
                }
            }
        }
    }

    /// The top left part, at most `width` × `height`: what remains of a padded picture.
    pub fn cropped(&self, width: usize, height: usize) -> Self {
        let mut part = Self::new(width.min(self.width), height.min(self.height), [0; 3]);
        part.paste(0, 0, self);
        part
    }

    /// Mirrored left-right.
    pub fn mirrored(&self) -> Self {
        let mut mirrored = self.clone();
        for row in mirrored.rgb.chunks_exact_mut((3 * self.width).max(1)) {
            row.as_chunks_mut::<3>().0.reverse();
        }
        mirrored
    }

    /// Resized: means of the covered area when shrinking, bilinear between pixel centres when
    /// growing. For looking at; the pixels that a model sees are resized elsewhere.
    pub fn scaled(&self, width: usize, height: usize) -> Self {
        let mut result = Self::new(width, height, [0; 3]);
        if self.width == 0 || self.height == 0 || width == 0 || height == 0 {
            return result;
        }
        let columns = taps(self.width, width);
        let rows = taps(self.height, height);
        for (y, row) in rows.iter().enumerate() {
            for (x, column) in columns.iter().enumerate() {
                let mut sum = [0f32; 3];
                for &(from_y, weight_y) in row {
                    for &(from_x, weight_x) in column {
                        let at = (from_y * self.width + from_x) * 3;
                        for (sum, value) in sum.iter_mut().zip(&self.rgb[at..at + 3]) {
                            *sum += f32::from(*value) * weight_x * weight_y;
                        }
                    }
                }
                let at = (y * width + x) * 3;
                result.rgb[at..at + 3].copy_from_slice(&sum.map(|v| v.round() as u8));
            }
        }
        result
    }

    /// The largest picture of the same aspect ratio that fits into `width` × `height`, at least
    /// one pixel each way.
    pub fn fitted(&self, width: usize, height: usize) -> Self {
        let scale = (width as f64 / self.width.max(1) as f64).min(height as f64 / self.height.max(1) as f64);
        let side = |length: usize| ((length as f64 * scale).round() as usize).max(1);
        self.scaled(side(self.width), side(self.height))
    }

    /// The picture as the bytes of a JPEG file with halved chroma; `quality` from 1 to 100.
    ///
    /// # Errors
    /// If a side is 0 or too large for the format.
    pub fn jpeg(&self, quality: i32) -> Result<Vec<u8>> {
        let image = turbojpeg::Image {
            pixels: self.rgb(),
            width: self.width,
            pitch: self.width * 3,
            height: self.height,
            format: turbojpeg::PixelFormat::RGB,
        };
        Ok(turbojpeg::compress(image, quality, turbojpeg::Subsamp::Sub2x2)?.to_vec())
    }

    /// The picture as the bytes of a PNG file.
    ///
    /// # Errors
    /// If a side is 0 or does not fit PNG.
    pub fn png(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder =
            png::Encoder::new(&mut bytes, u32::try_from(self.width)?, u32::try_from(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb)?;
        writer.finish()?;
        Ok(bytes)
    }

    /// Writes the picture as PNG.
    ///
    /// # Errors
    /// As [`Canvas::png`], or if the file cannot be written.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        let bytes = self.png().with_context(|| format!("failed to encode {}", path.display()))?;
        std::fs::write(path, bytes).with_context(|| format!("failed to write {}", path.display()))
    }

    fn offset(&self, x: i64, y: i64) -> Option<usize> {
        let x = usize::try_from(x).ok().filter(|&x| x < self.width)?;
        let y = usize::try_from(y).ok().filter(|&y| y < self.height)?;
        Some((y * self.width + x) * 3)
    }
}

/// For each of `to` cells the source cells it is made of and their weights (sum 1).
fn taps(from: usize, to: usize) -> Vec<Vec<(usize, f32)>> {
    let ratio = from as f64 / to as f64;
    // A triangle of at least one source cell: bilinear when growing, a weighted area mean when not.
    let support = ratio.max(1.0);
    (0..to)
        .map(|cell| {
            let center = (cell as f64 + 0.5) * ratio;
            let first = (center - support).floor().max(0.0) as usize;
            let last = ((center + support).ceil() as usize).min(from);
            let weight = |i: usize| (1.0 - ((i as f64 + 0.5 - center) / support).abs()).max(0.0);
            let sum: f64 = (first..last).map(weight).sum();
            (first..last).filter(|&i| weight(i) > 0.0).map(|i| (i, (weight(i) / sum) as f32)).collect()
        })
        .collect()
}
