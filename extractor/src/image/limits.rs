//! How much a picture may cost before it is refused: pure numbers, checked before anything is allocated.

use super::ImageError;
use featcache_store::Size;

/// Largest file that is decoded, in bytes.
pub const DEFAULT_FILE_BYTES: u64 = 256 << 20;
/// Largest picture that is decoded, in pixels: where Pillow raises `DecompressionBombError`
/// (`2 · MAX_IMAGE_PIXELS`).
pub const DEFAULT_PIXELS: u64 = 178_956_970;
/// Most memory that decoding one picture may take, and then resizing it, in bytes. Extraction's decoders
/// share this much: see [`crate::budget`].
pub const DEFAULT_DECODED_BYTES: u64 = 1792 << 20;
/// Most scans of a JPEG. Encoders write about ten.
pub const DEFAULT_SCANS: u32 = 500;
/// Most pixels times scans of a JPEG: every scan walks all coefficients, so this bounds time.
pub const DEFAULT_SCAN_PIXELS: u64 = 1 << 30;

/// Limits of one picture, from its file to the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Pixels of the picture.
    pub pixels: u64,
    /// Bytes of pixels and coefficients held while decoding, and of pixels and weights while resizing.
    pub decoded_bytes: u64,
    /// Scans of a JPEG of more than one.
    pub scans: u32,
    /// Pixels times scans of a JPEG of more than one scan.
    pub scan_pixels: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: DEFAULT_FILE_BYTES,
            pixels: DEFAULT_PIXELS,
            decoded_bytes: DEFAULT_DECODED_BYTES,
            scans: DEFAULT_SCANS,
            scan_pixels: DEFAULT_SCAN_PIXELS,
        }
    }
}

impl Limits {
    /// Refuses a file that is too large to be looked at.
    pub(super) fn check_file(&self, bytes: u64) -> Result<(), ImageError> {
        at_most("file bytes", bytes, self.file_bytes)
    }

    /// Refuses a picture of no or too many pixels.
    pub(super) fn check_size(&self, size: Size) -> Result<(), ImageError> {
        if size.height == 0 || size.width == 0 {
            return Err(ImageError::corrupt(format!("size {size}, expected at least 1x1")));
        }
        at_most("pixels", pixels(size), self.pixels)
    }

    /// Refuses a picture whose decoding takes `bytes_per_pixel` and so too much memory.
    pub(super) fn check_decoded(&self, size: Size, bytes_per_pixel: u64) -> Result<(), ImageError> {
        self.check_size(size)?;
        at_most("decoded bytes", pixels(size).saturating_mul(bytes_per_pixel), self.decoded_bytes)
    }

    /// Refuses a resize that holds this many bytes.
    pub(crate) fn check_resize(&self, bytes: u64) -> Result<(), ImageError> {
        at_most("bytes to resize", bytes, self.decoded_bytes)
    }

    /// Refuses a JPEG whose scans would take too long.
    pub(super) fn check_scans(&self, size: Size, scans: u32) -> Result<(), ImageError> {
        at_most("scans", scans.into(), self.scans.into())?;
        at_most("pixels times scans", pixels(size).saturating_mul(scans.into()), self.scan_pixels)
    }
}

fn pixels(size: Size) -> u64 {
    u64::from(size.height) * u64::from(size.width)
}

fn at_most(what: &'static str, found: u64, limit: u64) -> Result<(), ImageError> {
    if found > limit {
        return Err(ImageError::TooLarge { what, found, limit });
    }
    Ok(())
}
