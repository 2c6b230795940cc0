//! How a level is held on disk: perhaps as fewer numbers, in some form, perhaps compressed. Encoding is not
//! identity: the same recipe can be held in several. Holds no file layout: see `array` and `shard`.

use crate::encoder::{Encoder, decode};
use crate::projection::{Projected, Projection, Strip};
use crate::quantised::Affine;
use crate::{Block, Compression, DType, ElementType, Error, LevelSpec, NumberFormat, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

/// Encoding of levels that nobody named one for: what a bf16 backbone computes, in half of f32's bytes.
pub const DEFAULT_ENCODING: Encoding = Encoding::of(NumberFormat::Bf16);

/// What a projection's name starts with.
const PROJECTION: &str = "pca";
/// The name of the compression.
const ZSTD: &str = "zstd";

/// How a level is held on disk, in text `[pcaK+]FORMAT[+zstd]`; behind a projection the format may be left
/// out if it is `bf16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Encoding {
    /// A cell is held as this many coefficients in a basis of the store, not as its channels.
    pub projection: Option<NonZeroU32>,
    /// How channels or coefficients are held.
    pub format: NumberFormat,
    /// Whether chunks are compressed on top.
    pub compression: Compression,
}

impl Encoding {
    /// Channels in this format, nothing else.
    pub const fn of(format: NumberFormat) -> Self {
        Self { projection: None, format, compression: Compression::None }
    }

    /// Whether numbers are codes, with scales and offsets in an array of their own.
    pub fn is_quantised(self) -> bool {
        self.format.is_quantised()
    }

    /// Numbers that a cell is held as, of a level of so many channels: its coefficients or its channels.
    pub fn coefficients(self, channels: u32) -> u32 {
        self.projection.map_or(channels, NonZeroU32::get)
    }

    /// Element type of the payload array.
    pub fn payload_element(self) -> ElementType {
        self.format.payload_element()
    }

    /// Element type of the values that the encoding stands for: what a reader hands out unless asked for
    /// another.
    pub fn value_dtype(self) -> DType {
        self.format.value_dtype()
    }

    /// Bytes that a map `[h, w, c]` takes, scales and offsets included, checksums, gaps and the level's basis
    /// not; of a compressed level what it takes before that.
    pub fn sample_bytes(self, shape: [usize; 3]) -> u64 {
        let [h, w, c] = shape.map(|side| u32::try_from(side).unwrap_or(u32::MAX));
        let numbers = self.coefficients(c);
        let cell = u64::from(self.format.payload_channels(numbers)) * self.payload_element().bytes() as u64;
        let affine = if self.is_quantised() { 8 * u64::from(numbers) } else { 0 };
        u64::from(h) * u64::from(w) * cell + affine
    }

    /// What a store of this encoding, and of this basis if it has one, would hand out of `block`, as elements
    /// of `dtype`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the block's bytes do not fit its shape, the encoding cannot hold its values, or the
    /// basis is not of this encoding and these channels.
    pub fn round_trip(
        self,
        block: &Block,
        projection: Option<&Arc<Projection>>,
        projected: Projected,
        dtype: DType,
    ) -> Result<Vec<u8>> {
        let [h, w, c] = block.shape;
        let mut encoder = Encoder::new(self, projection.map(Arc::clone), c)?;
        if let Err(what) = encoder.encode(block)? {
            return Err(Error::invalid(format!("features {what}")));
        }
        let projection = projection.filter(|_| projected == Projected::Channels);
        let numbers = self.projection.map_or(c, |k| k.get() as usize);
        let mut affine = vec![0.0; if self.is_quantised() { 2 * numbers } else { 0 }];
        Affine::read(encoder.affine().unwrap_or_default(), &mut affine).map_err(Error::invalid)?;
        let values = if projection.is_some() { c } else { numbers };
        let mut target = vec![0; h * w * values * dtype.bytes()];
        let mut strip = Strip::default();
        let projection = projection.map(Arc::as_ref);
        decode(
            self.format,
            projection,
            encoder.payload().unwrap_or(&block.bytes),
            &affine,
            &mut target,
            dtype,
            &mut strip,
        );
        Ok(target)
    }

    /// Refuses more coefficients than a level has channels.
    pub(crate) fn check(self, level: &LevelSpec) -> Result<()> {
        match self.projection {
            Some(k) if k.get() > level.channels => Err(Error::invalid(format!(
                "encoding {self} of level {}: expected at most its {} channels as coefficients",
                level.name, level.channels
            ))),
            _ => Ok(()),
        }
    }
}

impl From<NumberFormat> for Encoding {
    fn from(format: NumberFormat) -> Self {
        Self::of(format)
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(k) = self.projection {
            write!(f, "{PROJECTION}{k}+")?;
        }
        f.write_str(self.format.name())?;
        match self.compression {
            Compression::None => Ok(()),
            Compression::Zstd => write!(f, "+{ZSTD}"),
        }
    }
}

impl FromStr for Encoding {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = |what: &str| {
            let known = NumberFormat::ALL.map(NumberFormat::name).join(", ");
            Error::invalid(format!(
                "encoding {text:?}: {what}: expected [pcaK+]FORMAT[+zstd] with K from 1 and as FORMAT one of {known}"
            ))
        };
        let (text, compression) = match text.strip_suffix(ZSTD).and_then(|rest| rest.strip_suffix('+')) {
            Some(rest) => (rest, Compression::Zstd),
            None => (text, Compression::None),
        };
        let Some(behind) = text.strip_prefix(PROJECTION) else {
            let format = NumberFormat::named(text).ok_or_else(|| unknown(&format!("{text:?} is unknown")))?;
            return Ok(Self { projection: None, format, compression });
        };
        let (k, format) = behind.split_once('+').unwrap_or((behind, NumberFormat::Bf16.name()));
        // Only the one spelling: no sign, no leading zeros.
        let projection = k.parse::<NonZeroU32>().ok().filter(|number| number.to_string() == k);
        let projection = projection.ok_or_else(|| unknown(&format!("{k:?} is no number of coefficients")))?;
        let format = NumberFormat::named(format).ok_or_else(|| unknown(&format!("{format:?} is unknown")))?;
        Ok(Self { projection: Some(projection), format, compression })
    }
}

impl Serialize for Encoding {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Encoding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
