//! A mask as run lengths in COCO's order: down the columns, the first run outside. Counts, boxes and
//! overlaps equal pycocotools' to the last digit, and no bitmap is made for them. Must not know where a
//! mask comes from.

mod columns;
mod overlap;
mod text;

pub(crate) use columns::{Columns, RunWriter};
pub use overlap::iou_matrix;

use crate::{Error, Result};
use featcache_store::Size;

/// Longest side of a mask, in pixels: the area of the largest, and one more column, fit 32 bits.
pub const MAX_SIDE: u32 = 65_535;

/// A mask of one size. A value that exists is valid: its counts cover its pixels exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rle {
    size: Size,
    /// Lengths of the runs, by turns outside and inside, column by column.
    counts: Vec<u32>,
}

impl Rle {
    /// A mask from its run lengths, the first outside. Runs of no pixels are kept as they are.
    ///
    /// # Errors
    /// A side of 0 or over [`MAX_SIDE`], or counts that cover more or fewer pixels than there are.
    pub fn new(size: Size, counts: Vec<u32>) -> Result<Self> {
        check(size)?;
        // At most 2^64 / 2^32 counts fit memory, so that the sum cannot overflow.
        let covered: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        if covered != size.area() {
            return Err(Error::invalid(format!(
                "counts of a {size} mask cover {covered} pixels, expected {}",
                size.area()
            )));
        }
        Ok(Self { size, counts })
    }

    /// A mask without pixels inside.
    ///
    /// # Errors
    /// As [`Rle::new`].
    pub fn empty(size: Size) -> Result<Self> {
        Ok(RunWriter::new(size)?.finish())
    }

    /// Height and width.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The run lengths, by turns outside and inside.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Pixels inside (`rleArea`).
    pub fn area(&self) -> u64 {
        self.counts.iter().skip(1).step_by(2).map(|&count| u64::from(count)).sum()
    }

    /// Smallest box around the pixels inside as left, top, width and height (`rleToBbox`); zeros where
    /// there are none.
    pub fn bbox(&self) -> [f64; 4] {
        let [left, top, right, bottom] = self.edges().unwrap_or_default().map(f64::from);
        [left, top, right - left, bottom - top]
    }

    /// Smallest box around the pixels inside as x1, y1, x2, y2 of its edges; `None` where there are none.
    pub fn bounds(&self) -> Option<[f32; 4]> {
        // Sides have at most 16 bits, which a float holds exactly.
        self.edges().map(|edges| edges.map(|edge| edge as f32))
    }

    /// Left, top, right and bottom edge.
    fn edges(&self) -> Option<[u32; 4]> {
        let height = self.size.height;
        let mut edges: Option<[u32; 4]> = None;
        let mut at = 0;
        for (inside, count) in self.runs() {
            let (first, last) = (at, at + (count - 1));
            at += count;
            if !inside {
                continue;
            }
            let (left, right) = (first / height, last / height);
            // A run that goes over a column's end touches the first and the last line.
            let (top, bottom) = if left < right { (0, height - 1) } else { (first % height, last % height) };
            edges = Some(match edges {
                None => [left, top, right + 1, bottom + 1],
                Some([l, t, r, b]) => [l.min(left), t.min(top), r.max(right + 1), b.max(bottom + 1)],
            });
        }
        edges
    }

    /// The runs that have pixels: whether they are inside, and how many.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (bool, u32)> {
        let sides = [false, true].into_iter().cycle();
        sides.zip(self.counts.iter().copied()).filter(|&(_, count)| count > 0)
    }

    /// From a row-major bitmap; what is not 0 is inside.
    ///
    /// # Errors
    /// As [`Rle::new`], and a bitmap that has another number of pixels.
    pub fn from_bitmap(size: Size, bitmap: &[u8]) -> Result<Self> {
        let mut writer = RunWriter::new(size)?;
        if bitmap.len() as u64 != size.area() {
            return Err(Error::invalid(format!(
                "bitmap of a {size} mask has {} pixels, expected {}",
                bitmap.len(),
                size.area()
            )));
        }
        let width = size.width as usize;
        let columns = (0..width).flat_map(|x| bitmap[x..].iter().step_by(width));
        let (mut inside, mut run) = (false, 0);
        for &value in columns {
            if (value != 0) != inside {
                writer.push(inside, run);
                (inside, run) = (!inside, 0);
            }
            run += 1;
        }
        writer.push(inside, run);
        Ok(writer.finish())
    }

    /// The pixels of the smallest box around those inside: left, top, width and height, and its row-major
    /// bitmap of `height · width` bytes, 1 inside and 0 outside. Zeros and nothing where none are.
    pub fn cropped(&self) -> ([u32; 4], Vec<u8>) {
        let [left, top, right, bottom] = self.edges().unwrap_or_default();
        let (width, height) = ((right - left) as usize, (bottom - top) as usize);
        let mut bitmap = vec![0; width * height];
        let columns = Columns::new(self);
        for x in 0..width {
            let mut line = 0;
            for (inside, count) in columns.runs(left as usize + x) {
                let end = line + count;
                if inside {
                    for y in line.max(top)..end.min(bottom) {
                        bitmap[(y - top) as usize * width + x] = 1;
                    }
                }
                line = end;
            }
        }
        ([left, top, right - left, bottom - top], bitmap)
    }

    /// A row-major bitmap of `height · width` bytes: 1 inside, 0 outside (`rleDecode`).
    pub fn to_bitmap(&self) -> Vec<u8> {
        let (height, width) = (self.size.height as usize, self.size.width as usize);
        let mut bitmap = vec![0; height * width];
        let mut at = 0;
        for (inside, count) in self.runs() {
            let end = at + count as usize;
            if inside {
                for pixel in at..end {
                    bitmap[pixel % height * width + pixel / height] = 1;
                }
            }
            at = end;
        }
        bitmap
    }
}

/// Refuses sizes without pixels, and those whose pixels a count could not number.
fn check(size: Size) -> Result<()> {
    let range = 1..=MAX_SIDE;
    if !range.contains(&size.height) || !range.contains(&size.width) {
        return Err(Error::invalid(format!("mask size {size}, expected sides of 1 to {MAX_SIDE}")));
    }
    Ok(())
}
