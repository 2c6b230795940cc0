//! Element types of arrays on disk: those that features cross the store's border in, and the bytes that
//! quantised levels are held in. Knows nothing of what the bytes mean.

use crate::DType;

/// Element type of an array on disk, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// Values as they are.
    Float(DType),
    /// Two's complement numbers of eight bits.
    Int8,
    /// Bytes whose meaning the array's formula tells.
    Uint8,
}

impl ElementType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Float(dtype) => dtype.bytes(),
            Self::Int8 | Self::Uint8 => 1,
        }
    }

    /// Name in Zarr v3 metadata.
    pub fn zarr_name(self) -> &'static str {
        match self {
            Self::Float(dtype) => dtype.zarr_name(),
            Self::Int8 => "int8",
            Self::Uint8 => "uint8",
        }
    }
}

impl From<DType> for ElementType {
    fn from(dtype: DType) -> Self {
        Self::Float(dtype)
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Float(dtype) => dtype.fmt(f),
            Self::Int8 | Self::Uint8 => f.write_str(self.zarr_name()),
        }
    }
}
