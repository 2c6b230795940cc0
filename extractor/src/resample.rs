//! Resizing with Pillow's arithmetic, bit for bit: `Image.resize` of 8-bit RGB up to Pillow 12.
//!
//! Source of every formula: Pillow's `src/libImaging/Resample.c`. Support grows with the reduction
//! (antialiasing), coefficients are fixed-point with 22 fractional bits, and the horizontal pass comes
//! first and rounds to 8 bits. Pillow 13 swaps the passes for some shapes; the order is therefore part
//! of the resampler's name and of every recipe, and never follows the Pillow of the day.

mod kernel;

use crate::image::{ImageError, Limits, Picture};
use crate::{Error, Result};
use featcache_store::Size;
use std::borrow::Cow;
use std::str::FromStr;

/// A resampling filter with its pass order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resampler {
    /// `pillow-bilinear-hv`: triangle filter, support 1.
    Bilinear,
    /// `pillow-bicubic-hv`: Keys' cubic with a = -0.5, support 2.
    Bicubic,
}

impl Resampler {
    /// Name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bilinear => "pillow-bilinear-hv",
            Self::Bicubic => "pillow-bicubic-hv",
        }
    }

    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// Keys' parameter, as in Pillow.
const A: f64 = -0.5;

impl FromStr for Resampler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Bilinear, Self::Bicubic].into_iter().find(|r| r.name() == name).ok_or_else(|| Error::Unknown {
            kind: "resampler",
            name: name.into(),
            expected: format!("{} or {}", Self::Bilinear.name(), Self::Bicubic.name()),
        })
    }
}

/// Fractional bits of a coefficient: 8 bits are the sample's, 2 are left for overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// The picture at `size`; borrowed where it has that size already, as Pillow copies it.
///
/// # Errors
/// [`ImageError::NoPixels`] where `size` or the picture has none, [`ImageError::TooLarge`] where resizing
/// would take more memory than `limits` allow: [`resize_bytes`].
pub fn resize<'a>(
    picture: &'a Picture,
    size: Size,
    resampler: Resampler,
    limits: &Limits,
) -> Result<Cow<'a, Picture>, ImageError> {
    let from = picture.size;
    if [from.height, from.width, size.height, size.width].contains(&0) {
        return Err(ImageError::NoPixels { from, to: size });
    }
    if from == size {
        return Ok(Cow::Borrowed(picture));
    }
    limits.check_resize(resize_bytes(from, size, resampler))?;
    let mut rows = Cow::Borrowed(&picture.rgb);
    if from.width != size.width {
        let columns = Windows::new(from.width, size.width, resampler);
        // All rows are needed: the whole height is scaled, so the windows reach from edge to edge.
        let mut out = vec![0; from.height as usize * size.width as usize * 3];
        kernel::horizontal(&rows, from.width as usize, &columns, &mut out);
        rows = Cow::Owned(out);
    }
    if from.height != size.height {
        let lines = Windows::new(from.height, size.height, resampler);
        let mut out = vec![0; size.height as usize * size.width as usize * 3];
        kernel::vertical(&rows, size.width as usize * 3, &lines, &mut out);
        rows = Cow::Owned(out);
    }
    Ok(Cow::Owned(Picture { size, rgb: rows.into_owned() }))
}

/// Bytes that [`resize`] holds, the picture itself included. Rows are scaled first, as Pillow does it, so what
/// lies between the passes has the old height and the new width: of a tall picture, that can be thousands
/// of times what goes in and comes out.
pub fn resize_bytes(from: Size, to: Size, resampler: Resampler) -> u64 {
    let pixels = |height: u32, width: u32| 3u64.saturating_mul(u64::from(height) * u64::from(width));
    let mut bytes = pixels(from.height, from.width);
    if from.width != to.width {
        let lanes = u64::from(from.width) * kernel::LANES_BYTES;
        let weights = Windows::bytes(from.width, to.width, resampler).saturating_add(lanes);
        bytes = bytes.saturating_add(pixels(from.height, to.width)).saturating_add(weights);
    }
    if from.height != to.height {
        let weights = Windows::bytes(from.height, to.height, resampler);
        bytes = bytes.saturating_add(pixels(to.height, to.width)).saturating_add(weights);
    }
    bytes
}

/// For each output position, the input positions that it is made from, with their fixed-point weights.
struct Windows {
    /// Longest window.
    taps: usize,
    /// First input position of each window.
    starts: Vec<usize>,
    /// `taps` weights a window; those behind its end are zero.
    weights: Vec<i32>,
}

impl Windows {
    /// At most what [`Self::new`] holds: each window is one tap longer than twice its support, or two where
    /// both its ends are cut.
    fn bytes(input: u32, output: u32, resampler: Resampler) -> u64 {
        let scale = (f64::from(input) / f64::from(output)).max(1.0);
        let taps = ((2.0 * resampler.support() * scale).ceil() as u64 + 2).min(u64::from(input));
        u64::from(output).saturating_mul(4 * taps + 8).saturating_add(8 * taps)
    }

    /// `precompute_coeffs` and `normalize_coeffs_8bpc` for the whole input.
    fn new(input: u32, output: u32, resampler: Resampler) -> Self {
        let scale = f64::from(input) / f64::from(output);
        let filter_scale = scale.max(1.0);
        let support = resampler.support() * filter_scale;
        let step = 1.0 / filter_scale;
        let bounds = |position: u32| {
            let center = (f64::from(position) + 0.5) * scale;
            // The casts truncate and saturate at zero, like C's after its clamp.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(input as usize);
            (center, start, end)
        };
        let taps = (0..output).map(bounds).map(|(_, start, end)| end - start).max().unwrap_or(0);
        let mut starts = Vec::with_capacity(output as usize);
        let mut weights = vec![0; taps * output as usize];
        let mut exact = vec![0.0; taps];
        for (position, fixed) in (0..output).zip(weights.chunks_mut(taps.max(1))) {
            let (center, start, end) = bounds(position);
            let exact = &mut exact[..end - start];
            let mut sum = 0.0;
            for (offset, weight) in exact.iter_mut().enumerate() {
                *weight = resampler.weight(((offset + start) as f64 - center + 0.5) * step);
                sum += *weight;
            }
            for (weight, fixed) in exact.iter().zip(fixed) {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                let scaled = weight * f64::from(1u32 << PRECISION_BITS);
                *fixed = if weight < 0.0 { (scaled - 0.5) as i32 } else { (scaled + 0.5) as i32 };
            }
            starts.push(start);
        }
        Self { taps, starts, weights }
    }
}
