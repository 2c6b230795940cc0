//! Which scale and offset every channel of a row gets: such that the codes cover its values, or a share of
//! them. Looks at no value itself.

use super::{Affine, Code};

/// From here on, bf16 rounds to infinity.
const BEYOND_BF16: f32 = f32::from_bits(0x7f7f_8000);

/// Of every channel, what its elements are.
#[derive(Debug, Default)]
pub(super) struct Extent {
    pub(super) least: Vec<f32>,
    pub(super) greatest: Vec<f32>,
    /// In f64, so that it is finite where all elements are.
    pub(super) sum: Vec<f64>,
}

/// Of every channel, how its elements become codes.
#[derive(Debug, Default, Clone)]
pub(super) struct Coding {
    pub(super) scale: Vec<f32>,
    pub(super) offset: Vec<f32>,
    /// Zero where the scale is.
    pub(super) inverse: Vec<f32>,
}

impl Coding {
    /// Such that the codes reach from each channel's least to its greatest value.
    #[expect(clippy::cast_possible_truncation, reason = "a mean lies between numbers that f32 holds")]
    pub(super) fn cover(&mut self, extent: &Extent, code: Code, cells: usize) {
        let [first, last] = code.range();
        let channels = extent.least.iter().zip(&extent.greatest).zip(&extent.sum);
        let choose = |((&least, &greatest), sum): ((&f32, &f32), &f64)| {
            let (scale, offset) = match code {
                // In two quotients, whose difference cannot overflow.
                Code::Int8 | Code::Int4 => {
                    let scale = greatest / (last - first) - least / (last - first);
                    (scale, least - first * scale)
                }
                // Precision is relative here, so what most values are near to becomes zero.
                Code::E4m3fn => {
                    let mean = (sum / cells as f64) as f32;
                    ((greatest / last - mean / last).max(mean / last - least / last), mean)
                }
            };
            // What is as narrow as that is one value.
            if scale < f32::MIN_POSITIVE { (0.0, least / 2.0 + greatest / 2.0) } else { (scale, offset) }
        };
        self.fill(channels.map(choose));
    }

    /// A share of what int4 covers, about its middle.
    pub(super) fn narrow(&mut self, whole: &Self, share: f32) {
        let narrower = |(scale, offset): (&f32, &f32)| {
            let narrow = scale * share;
            match narrow < f32::MIN_POSITIVE {
                true => (*scale, *offset),
                false => (narrow, offset + (scale - narrow) * 7.5),
            }
        };
        self.fill(whole.scale.iter().zip(&whole.offset).map(narrower));
    }

    fn fill(&mut self, channels: impl Iterator<Item = (f32, f32)>) {
        for values in [&mut self.scale, &mut self.offset, &mut self.inverse] {
            values.clear();
        }
        for (scale, offset) in channels {
            self.scale.push(scale);
            self.offset.push(offset);
            self.inverse.push(if scale == 0.0 { 0.0 } else { 1.0 / scale });
        }
    }

    /// Whether all codes have values that bf16 holds.
    pub(super) fn is_bounded(&self, code: Code) -> bool {
        let within = |number: f32, scale: f32, offset: f32| (number * scale + offset).abs() < BEYOND_BF16;
        let bounded =
            |(scale, offset): (&f32, &f32)| code.range().iter().all(|n| within(*n, *scale, *offset));
        self.scale.iter().zip(&self.offset).all(bounded)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = [f32; 3]> {
        let channels = self.scale.iter().zip(&self.offset).zip(&self.inverse);
        channels.map(|((scale, offset), inverse)| [*scale, *offset, *inverse])
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = [&mut f32; 3]> {
        let channels = self.scale.iter_mut().zip(&mut self.offset).zip(&mut self.inverse);
        channels.map(|((scale, offset), inverse)| [scale, offset, inverse])
    }

    pub(super) fn affine(&self) -> Affine<'_> {
        Affine { scale: &self.scale, offset: &self.offset }
    }
}
