//! The forms in which single numbers are held: floats as they are, or codes of fewer bits. Knows neither
//! files nor the values of a level.

use crate::conversion::convert;
use crate::quantised::{Affine, Code};
use crate::{DType, ElementType};
use std::fmt;

/// The form in which the numbers of a level are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NumberFormat {
    /// bfloat16: 8 bits of exponent, 7 of mantissa.
    Bf16,
    /// IEEE 754 binary16; values beyond ±65504 become infinities.
    F16,
    /// IEEE 754 binary32: lossless for every backbone.
    F32,
    /// 256 codes from the least to the greatest value of every channel of a row.
    Int8,
    /// 16 codes, outliers clipped.
    Int4,
    /// OCP E4M3 (finite values and NaN), scaled to the channel's greatest distance from its mean.
    E4m3fn,
}

impl NumberFormat {
    /// All formats, in the order that messages list them.
    pub const ALL: [Self; 6] = [Self::Bf16, Self::F16, Self::F32, Self::Int8, Self::Int4, Self::E4m3fn];

    /// The codes of a quantised format; the element type of one whose values are held as they are.
    pub(crate) fn code(self) -> Result<Code, DType> {
        match self {
            Self::Bf16 => Err(DType::Bf16),
            Self::F16 => Err(DType::F16),
            Self::F32 => Err(DType::F32),
            Self::Int8 => Ok(Code::Int8),
            Self::Int4 => Ok(Code::Int4),
            Self::E4m3fn => Ok(Code::E4m3fn),
        }
    }

    /// Whether numbers are codes, with scales and offsets in an array of their own.
    pub fn is_quantised(self) -> bool {
        self.code().is_ok()
    }

    /// Element type of the payload array.
    pub fn payload_element(self) -> ElementType {
        match self.code() {
            Err(dtype) => dtype.into(),
            Ok(Code::Int8) => ElementType::Int8,
            Ok(Code::Int4 | Code::E4m3fn) => ElementType::Uint8,
        }
    }

    /// Elements of a cell of the payload array that holds so many numbers.
    pub fn payload_channels(self, numbers: u32) -> u32 {
        if self == Self::Int4 { numbers.div_ceil(2) } else { numbers }
    }

    /// Element type of the values that the numbers stand for: what a reader hands out unless asked for
    /// another.
    pub fn value_dtype(self) -> DType {
        self.code().err().unwrap_or(DType::Bf16)
    }

    /// The decoding of a payload array of so many numbers a cell, `payload`, and of `affine` where they are
    /// codes, as a line of NumPy that gives binary32.
    pub(crate) fn formula(self, numbers: u32) -> String {
        match self.code() {
            Ok(code) => code.formula(numbers),
            Err(_) => "payload.astype('float32')".to_owned(),
        }
    }

    /// Decodes a run of payload bytes, whole cells where they are codes, into `target`, elements of `dtype`.
    /// `affine` are the scales of all numbers of a cell and then the offsets.
    pub(crate) fn decode(self, payload: &[u8], affine: &[f32], target: &mut [u8], dtype: DType) {
        match self.code() {
            Ok(code) => code.decode(payload, Affine::new(affine), target, dtype),
            Err(from) => convert(payload, from, target, dtype),
        }
    }

    /// Its name in encodings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::E4m3fn => "e4m3fn",
        }
    }

    /// The format of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

impl fmt::Display for NumberFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
