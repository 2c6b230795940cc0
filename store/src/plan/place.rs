//! Where a row's features lie, and which sizes of pictures have a place at all. Does not know other rows.

use crate::{Preprocess, Size, ViewSpec};

/// Longest side of a padded input, in pixels.
pub const MAX_INPUT_SIDE: u32 = 32_768;

/// Pixels of the largest padded input. A picture that would become larger is a failed row.
pub const MAX_INPUT_PIXELS: u64 = 1 << 26;

/// Where a row's features lie and what sizes lead there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Padded input size: the bucket.
    pub bucket: Size,
    /// Row of the bucket's arrays.
    pub row: u64,
    /// Size of the original picture.
    pub source: Size,
    /// Size after resizing, before padding.
    pub valid: Size,
}

impl Place {
    /// A picture's place in a view, except for its row, or why it cannot have one.
    pub(super) fn new(preprocess: &Preprocess, view: &ViewSpec, source: Size) -> Result<Self, String> {
        if source.area() == 0 {
            return Err(format!("the picture is empty: {source}"));
        }
        let valid = view.valid_size(preprocess.resize.apply(source));
        let place = Self { bucket: valid.padded(preprocess.pad_divisor), row: 0, source, valid };
        place.check(preprocess.pad_divisor).map(|()| place)
    }

    /// Whether its sizes fit each other and the limits; if not, how.
    pub(super) fn check(&self, divisor: u32) -> Result<(), String> {
        let Self { bucket, source, valid, .. } = self;
        if source.area() == 0 || valid.area() == 0 || valid.padded(divisor) != *bucket {
            return Err(format!("sizes {source}, {valid} and {bucket} do not fit padding to {divisor}"));
        }
        if bucket.height.max(bucket.width) > MAX_INPUT_SIDE || bucket.area() > MAX_INPUT_PIXELS {
            return Err(format!(
                "padded input of {bucket}: expected sides up to {MAX_INPUT_SIDE} and up to {MAX_INPUT_PIXELS} pixels"
            ));
        }
        Ok(())
    }
}
