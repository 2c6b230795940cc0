//! Levels held in fewer bits than their values have: every element is a small code, and every row and
//! channel has a scale and an offset, so that value = number(code) · scale + offset. Knows bytes and
//! channels; files and layouts are others'.
//!
//! The arithmetic is that of binary32, each operation rounded on its own, whatever the batch holds in the
//! end: what NumPy makes of the arrays is equal to the last bit. Granularity and clipping are measured in
//! `docs/benchmarks.md`.

use crate::DType;

mod affine;
mod coding;
mod decode;
mod e4m3fn;
mod quantise;

pub(crate) use affine::Affine;
pub(crate) use decode::Element;
pub(crate) use quantise::{NOT_FINITE, Quantiser, TOO_LARGE};

/// What the codes of a quantised level are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// -128 to 127, two's complement.
    Int8,
    /// 0 to 15; an even channel in the low half of a byte, the channel after it in the high half.
    Int4,
    /// OCP 8-bit floating point E4M3: a sign, 4 bits of exponent (bias 7), 3 of mantissa, no infinities, up
    /// to 448.
    E4m3fn,
}

impl Code {
    /// Bytes that a cell of so many channels takes.
    pub(crate) fn cell_bytes(self, channels: usize) -> usize {
        match self {
            Self::Int8 | Self::E4m3fn => channels,
            Self::Int4 => channels.div_ceil(2),
        }
    }

    /// The decoding of a payload array of so many channels, as a line of NumPy.
    pub(crate) fn formula(self, channels: u32) -> String {
        let numbers = match self {
            Self::Int8 => "payload".to_owned(),
            Self::Int4 => format!(
                "numpy.stack([payload & 15, payload >> 4], -1).reshape(*payload.shape[:3], -1)[..., :{channels}]"
            ),
            Self::E4m3fn => "payload.view('float8_e4m3fn')".to_owned(),
        };
        format!("{numbers}.astype('float32') * affine[:, 0:1] + affine[:, 1:2]")
    }

    /// Least and greatest number of a code.
    fn range(self) -> [f32; 2] {
        match self {
            Self::Int8 => [-128.0, 127.0],
            Self::Int4 => [0.0, 15.0],
            Self::E4m3fn => [-e4m3fn::MAX, e4m3fn::MAX],
        }
    }

    /// Decodes whole cells into `target`, elements of `dtype`: as many as both hold.
    pub(crate) fn decode(self, payload: &[u8], affine: Affine<'_>, target: &mut [u8], dtype: DType) {
        decode::decode(crate::instruction_set::InstructionSet::best(), self, payload, affine, target, dtype);
    }
}

#[cfg(test)]
mod tests;
