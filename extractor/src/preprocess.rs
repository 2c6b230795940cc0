//! From a file's bytes to the network's input: decode, turn, resize, mirror ([`Preparation::prepare`],
//! on any thread, no torch), then stack, normalise and pad ([`collate`], on the thread of the device).
//!
//! A sample's input depends on nothing but its own bytes, the recipe and its view: never on the samples
//! that it is stacked with.

use crate::image::{self, ExifRule, ImageError, Limits, Picture};
use crate::resample::{self, Resampler};
use crate::{Error, Result};
use featcache_store::{Preprocess, Size, ViewSpec};
use std::borrow::Cow;
use tch::{Device, Kind, Tensor};

/// The only decoder: its name in recipes.
pub const DECODER: &str = "libjpeg-turbo+png";

/// A recipe's preprocessing, its names understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preparation {
    exif: ExifRule,
    resampler: Resampler,
    limits: Limits,
}

/// Sizes of one row as planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Size of the decoded picture, orientation applied if the recipe applies it.
    pub source: Size,
    /// Size after resizing, before padding.
    pub valid: Size,
}

/// One sample, ready to be stacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Height and width of `rgb`.
    pub valid: Size,
    /// `[height, width, 3]`, row-major, RGB, 8 bits.
    pub rgb: Vec<u8>,
}

impl Preparation {
    /// Understands the names in a recipe.
    ///
    /// # Errors
    /// [`Error::Unknown`] where the recipe names a decoder or resampler that does not exist.
    pub fn of(preprocess: &Preprocess, limits: Limits) -> Result<Self> {
        if preprocess.decoder != DECODER {
            return Err(Error::Unknown {
                kind: "decoder",
                name: preprocess.decoder.clone(),
                expected: DECODER.into(),
            });
        }
        Ok(Self { exif: ExifRule::of(preprocess), resampler: preprocess.resampler.parse()?, limits })
    }

    /// Bytes that [`Self::prepare`] holds at its peak, the file's left out; 0 where the header already is refused.
    pub(crate) fn bytes(&self, bytes: &[u8], planned: Planned) -> u64 {
        let resizing = match planned.source == planned.valid {
            true => 0,
            false => resample::resize_bytes(planned.source, planned.valid, self.resampler),
        };
        image::decoding_bytes(bytes, self.exif).map_or(0, |decoding| decoding.max(resizing))
    }

    /// Decodes, turns, resizes and mirrors one sample, in this order.
    ///
    /// # Errors
    /// [`ImageError`], to be recorded with the row: the file cannot be decoded, or its picture has
    /// another size than the plan was made for.
    pub fn prepare(&self, bytes: &[u8], view: &ViewSpec, planned: Planned) -> Result<Input, ImageError> {
        let picture = image::decode_oriented(bytes, self.exif, &self.limits)?;
        if picture.size != planned.source {
            return Err(ImageError::SizeChanged { planned: planned.source, found: picture.size });
        }
        let mut rgb = match resample::resize(&picture, planned.valid, self.resampler, &self.limits)? {
            Cow::Owned(resized) => resized.rgb,
            Cow::Borrowed(_) => picture.rgb,
        };
        if view.hflip {
            mirror(&mut rgb, planned.valid.width);
        }
        Ok(Input { valid: planned.valid, rgb })
    }
}

/// Mirrors left-right, in place.
fn mirror(rgb: &mut [u8], width: u32) {
    for row in rgb.chunks_exact_mut(3 * width as usize) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}

/// Stacks inputs of one bucket: `[n, 3, height, width]` f32, contiguous, on `device`.
///
/// `((rgb / 255) - mean) / std` in binary32, one rounding a step and in this order on every device
/// (torchvision's `to_tensor` and `Normalize`); zeros right and below each picture, put there after
/// normalisation.
///
/// # Errors
/// [`Error::Invalid`] where an input is larger than the bucket or not of the size that it states;
/// [`Error::Torch`] where libtorch refuses, such as for want of memory.
pub fn collate(inputs: &[Input], bucket: Size, preprocess: &Preprocess, device: Device) -> Result<Tensor> {
    let failed = || Error::torch("collate");
    let bytes = stack(inputs, bucket)?;
    let [n, h, w] = [inputs.len() as i64, bucket.height.into(), bucket.width.into()];
    let stacked = Tensor::f_from_slice(&bytes)
        .and_then(|t| t.f_view([n, h, w, 3])) // [n, h, w, 3] u8
        .and_then(|t| t.f_to_device(device))
        .and_then(|t| t.f_permute([0, 3, 1, 2])) // [n, 3, h, w] u8, a view
        .map_err(failed())?;
    let mut batch = Tensor::f_empty([n, 3, h, w], (Kind::Float, device)).map_err(failed())?;
    batch.f_copy_(&stacked).map_err(failed())?;
    // The divisor is a tensor on the device: CUDA multiplies by the reciprocal of a plain number, which
    // rounds differently.
    let channels = |values: [f64; 3]| {
        Tensor::f_from_slice(&values.map(|v| v as f32))
            .and_then(|t| t.f_view([1, 3, 1, 1])) // [1, 3, 1, 1]
            .and_then(|t| t.f_to_device(device))
            .map_err(failed())
    };
    let _ = batch.f_div_(&channels([255.0; 3])?).map_err(failed())?;
    let _ = batch.f_sub_(&channels(preprocess.mean)?).map_err(failed())?;
    let _ = batch.f_div_(&channels(preprocess.std)?).map_err(failed())?;
    for (i, input) in inputs.iter().enumerate() {
        let one = batch.f_select(0, i as i64).map_err(failed())?; // [3, h, w]
        for (dim, valid, full) in [(1, i64::from(input.valid.height), h), (2, input.valid.width.into(), w)] {
            if valid < full {
                let _ = one
                    .f_narrow(dim, valid, full - valid)
                    .and_then(|mut padding| padding.f_zero_())
                    .map_err(failed())?;
            }
        }
    }
    Ok(batch)
}

/// The inputs' bytes as `[n, bucket height, bucket width, 3]`, zeros where there is no picture.
fn stack(inputs: &[Input], bucket: Size) -> Result<Vec<u8>> {
    let (h, w) = (bucket.height as usize, bucket.width as usize);
    let mut bytes = vec![0; inputs.len() * h * w * 3];
    for (input, slot) in inputs.iter().zip(bytes.chunks_exact_mut((h * w * 3).max(1))) {
        let valid = input.valid;
        let row = valid.width as usize * 3;
        if valid.height > bucket.height
            || valid.width > bucket.width
            || row == 0
            || input.rgb.len() != row * valid.height as usize
        {
            return Err(Error::invalid(format!(
                "collate: input of {valid} with {} bytes in a bucket of {bucket}",
                input.rgb.len()
            )));
        }
        for (from, to) in input.rgb.chunks_exact(row).zip(slot.chunks_exact_mut(w * 3)) {
            to[..row].copy_from_slice(from);
        }
    }
    Ok(bytes)
}

impl From<Picture> for Input {
    fn from(picture: Picture) -> Self {
        Self { valid: picture.size, rgb: picture.rgb }
    }
}
