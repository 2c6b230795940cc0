//! A label map's file: the bytes that travel, and what its pixels say before they do. Must not know what a
//! value means.

use crate::image::{self, ExifRule, ImageError, Limits};
use crate::{Error, Result};
use featcache_store::Size;
use std::io::{Cursor, ErrorKind};
use std::path::Path;

/// Which of the 256 values occur.
pub(super) type Values = [bool; 256];

/// A label map of at most 8 bits a pixel, all of its pixels decoded once.
pub(super) struct LabelMap {
    /// The file, unchanged.
    pub(super) png: Vec<u8>,
    /// Height and width.
    pub(super) size: Size,
    /// Values that occur.
    pub(super) values: Values,
}

impl LabelMap {
    /// Reads the file at `path`; `None` if there is none. The inner error is to be recorded with the sample.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Dataset`] for a file that is no label map of `expected`: the dataset is not in
    /// this layout.
    pub(super) fn read(path: &Path, expected: &str) -> Result<Option<std::result::Result<Self, ImageError>>> {
        // Limits are the pictures'.
        let limits = Limits::default();
        let png = match image::read_file(path, &limits) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
            read => match read? {
                Ok(png) => png,
                Err(error) => return Ok(Some(Err(error))),
            },
        };
        // A label map has no orientation.
        let size = match image::probe(&png, ExifRule::Ignore, &limits) {
            Ok(size) => size,
            Err(error) => return Ok(Some(Err(error))),
        };
        refuse_other_encodings(path, &png, expected)?;
        Ok(Some(match values(&png) {
            Ok(values) => Ok(Self { png, size, values }),
            Err(error) => Err(ImageError::Corrupt { what: error.to_string() }),
        }))
    }
}

/// One sample a pixel, of at most 8 bits.
fn refuse_other_encodings(path: &Path, bytes: &[u8], expected: &str) -> Result<()> {
    let header = png::Decoder::new(Cursor::new(bytes))
        .read_header_info()
        .map(|info| (info.color_type, info.bit_depth));
    let found = match header {
        Ok((png::ColorType::Grayscale | png::ColorType::Indexed, depth))
            if depth != png::BitDepth::Sixteen =>
        {
            return Ok(());
        }
        Ok((png::ColorType::Rgb | png::ColorType::Rgba, _)) => "an RGB label map".to_owned(),
        Ok((color, depth)) => format!("a label map of {color:?} with {} bits", depth as u8),
        Err(_) => "not a PNG".to_owned(),
    };
    Err(Error::dataset(path, format!("{found}: expected {expected}")))
}

/// Which values a label map of at most 8 bits holds.
fn values(bytes: &[u8]) -> std::result::Result<Values, png::DecodingError> {
    let mut used = [false; 256];
    let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info()?;
    let size = reader.output_buffer_size().ok_or(png::DecodingError::LimitsExceeded)?;
    let mut packed = vec![0; size];
    let frame = reader.next_frame(&mut packed)?;
    let depth = frame.bit_depth as usize;
    for row in packed.chunks(frame.line_size.max(1)) {
        for x in 0..frame.width as usize {
            let bit = x * depth;
            let Some(byte) = row.get(bit / 8) else { continue };
            used[usize::from(byte >> (8 - depth - bit % 8)) & ((1 << depth) - 1)] = true;
        }
    }
    Ok(used)
}
