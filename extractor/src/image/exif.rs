//! EXIF orientation: finding it where Pillow finds it, and turning a picture by it.
//!
//! Nothing else of EXIF is read. What cannot be read is orientation 1: a broken tag must not cost a
//! picture. (Not looked for, although Pillow does: `Raw profile type exif` texts and compressed XMP
//! texts of PNG, which would mean inflating texts that nobody vouches for.)

use super::Picture;
use featcache_store::{Preprocess, Size};

/// Whether a recipe applies the EXIF orientation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExifRule {
    /// Pixels as stored: Pillow's `Image.open`.
    Ignore,
    /// Pixels as meant: `PIL.ImageOps.exif_transpose`.
    Apply,
}

impl ExifRule {
    /// The rule of a recipe.
    pub fn of(preprocess: &Preprocess) -> Self {
        if preprocess.exif_transpose { Self::Apply } else { Self::Ignore }
    }
}

/// EXIF orientation, 1 to 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orientation(u8);

impl Default for Orientation {
    fn default() -> Self {
        Self(1)
    }
}

impl Orientation {
    /// The orientation of this number; any number that has no meaning is 1.
    pub fn new(number: u32) -> Self {
        match number {
            2..=8 => Self(number as u8),
            _ => Self(1),
        }
    }

    /// Size after turning.
    pub fn apply_size(self, size: Size) -> Size {
        if self.0 >= 5 { Size::new(size.width, size.height) } else { size }
    }

    /// The picture turned and mirrored so that it stands as meant.
    pub fn apply(self, picture: Picture) -> Picture {
        if self.0 == 1 {
            return picture;
        }
        let (h, w) = (picture.size.height as usize, picture.size.width as usize);
        let size = self.apply_size(picture.size);
        let (height, width) = (size.height as usize, size.width as usize);
        let source = picture.rgb.as_chunks::<3>().0;
        let mut rgb = vec![0; picture.rgb.len()];
        let pixels = rgb.as_chunks_mut::<3>().0;
        // In tiles, so that columns that become rows stay in the cache.
        for top in (0..height).step_by(TILE) {
            for left in (0..width).step_by(TILE) {
                for y in top..height.min(top + TILE) {
                    for x in left..width.min(left + TILE) {
                        let (row, column) = match self.0 {
                            2 => (y, w - 1 - x),
                            3 => (h - 1 - y, w - 1 - x),
                            4 => (h - 1 - y, x),
                            5 => (x, y),
                            6 => (h - 1 - x, y),
                            7 => (h - 1 - x, w - 1 - y),
                            _ => (x, w - 1 - y),
                        };
                        pixels[y * width + x] = source[row * w + column];
                    }
                }
            }
        }
        Picture { size, rgb }
    }
}

/// Side of the squares that are turned at once.
const TILE: usize = 32;

/// Orientation from an EXIF block (a TIFF header and its first directory) or, where it has no such tag,
/// from an XMP packet. As Pillow, a block that is there and is not EXIF ends the search.
pub(super) fn orientation(exif: &[u8], xmp: &[u8]) -> Orientation {
    let mut block = exif;
    while let Some(rest) = block.strip_prefix(b"Exif\0\0") {
        block = rest;
    }
    let found = match from_tiff(block) {
        Directory::Tag(number) => Some(number),
        Directory::NoTag => from_xmp(xmp),
        Directory::NotExif if block.is_empty() => from_xmp(xmp),
        Directory::NotExif => None,
    };
    found.map_or_else(Orientation::default, Orientation::new)
}

enum Directory {
    Tag(u32),
    NoTag,
    NotExif,
}

const ORIENTATION_TAG: u16 = 0x0112;

fn from_tiff(block: &[u8]) -> Directory {
    let big = match block.get(..4) {
        Some(b"MM\x00\x2a" | b"MM\x2a\x00") => true,
        Some(b"II\x2a\x00" | b"II\x00\x2a") => false,
        _ => return Directory::NotExif,
    };
    let u16_at = |at: usize| -> Option<u16> {
        let bytes: [u8; 2] = block.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    let u32_at = |at: usize| -> Option<u32> {
        let bytes: [u8; 4] = block.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    // The last entry of a tag wins, as in Pillow's dictionary.
    let mut found = Directory::NoTag;
    let Some(directory) = u32_at(4).map(|offset| offset as usize) else { return found };
    let Some(entries) = u16_at(directory) else { return found };
    for entry in 0..usize::from(entries) {
        let at = directory + 2 + 12 * entry;
        let (Some(tag), Some(kind), Some(count), Some(inline)) =
            (u16_at(at), u16_at(at + 2), u32_at(at + 4), u32_at(at + 8))
        else {
            break;
        };
        if tag != ORIENTATION_TAG || count == 0 {
            continue;
        }
        // A value of up to four bytes stands in the entry itself, a longer one at the offset it gives.
        let value = match kind {
            3 | 8 if count <= 2 => u16_at(at + 8).map(u32::from),
            3 | 8 => u16_at(inline as usize).map(u32::from),
            4 | 9 if count == 1 => Some(inline),
            4 | 9 => u32_at(inline as usize),
            _ => None,
        };
        if let Some(value) = value {
            found = Directory::Tag(value);
        }
    }
    found
}

/// The first match of Pillow's `tiff:Orientation(="|>)([0-9])`.
fn from_xmp(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    let mut rest = xmp;
    while let Some(at) = rest.windows(NAME.len()).position(|window| window == NAME) {
        rest = &rest[at + NAME.len()..];
        match rest {
            [b'=', b'"', digit @ b'0'..=b'9', ..] | [b'>', digit @ b'0'..=b'9', ..] => {
                return Some(u32::from(digit - b'0'));
            }
            _ => {}
        }
    }
    None
}
