//! A block of bytes with a shape and an element type: the only form in which features cross into the
//! store and out of it.

use serde::{Deserialize, Serialize};

/// Element type of feature bytes, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of binary32.
    Bf16,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Name in Zarr v3 metadata.
    pub fn zarr_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

/// One level of one row: `[h, w, c]`, row-major, little-endian.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// Element type of `bytes`.
    pub dtype: DType,
    /// `h · w · c · dtype.bytes()` bytes.
    pub bytes: Vec<u8>,
}
