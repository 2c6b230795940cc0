//! How a level's elements are held on disk, and which encoding each level of a store has. Encoding is not
//! identity: the same recipe can be held in several. Holds no file layout: see `array` and `shard`.
//!
//! An encoding turns a block into the bytes of its payload array, `[n, h, w, c]` of
//! [`Encoding::payload_dtype`]. Whatever else an encoding keeps on disk is a further array of the level,
//! listed by [`crate::array::level_arrays`].

use crate::conversion::{all_finite, convert};
use crate::{Block, DType, Error, LevelSpec, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Encoding of levels that nobody named one for: what a bf16 backbone computes, in half of f32's bytes.
pub const DEFAULT_ENCODING: Encoding = Encoding::Bf16;

/// How a level's elements are held on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// bfloat16: 8 bits of exponent, 7 of mantissa.
    Bf16,
    /// IEEE 754 binary16; values beyond ±65504 become infinities.
    F16,
    /// IEEE 754 binary32: lossless for every backbone.
    F32,
}

impl Encoding {
    /// All encodings, in the order that messages list them.
    pub const ALL: [Self; 3] = [Self::Bf16, Self::F16, Self::F32];

    /// Element type of the payload array.
    pub fn payload_dtype(self) -> DType {
        match self {
            Self::Bf16 => DType::Bf16,
            Self::F16 => DType::F16,
            Self::F32 => DType::F32,
        }
    }

    /// Element type of the values that the encoding stands for: what a reader hands out unless asked for
    /// another.
    pub fn value_dtype(self) -> DType {
        self.payload_dtype()
    }

    /// Appends the payload of `block` to `payload`: rounded to nearest, ties to even; NaN and infinities
    /// stay. [`Error::Invalid`] if the block's bytes do not fit its shape.
    pub fn encode(self, block: &Block, payload: &mut Vec<u8>) -> Result<()> {
        let elements = checked_elements(block)?;
        let start = payload.len();
        payload.resize(start + elements * self.payload_dtype().bytes(), 0);
        if let Some(target) = payload.get_mut(start..) {
            convert(&block.bytes, block.dtype, target, self.payload_dtype());
        }
        Ok(())
    }

    /// The payload of `block`: the block's own bytes where nothing needs converting.
    /// [`Error::Invalid`] if the block's bytes do not fit its shape.
    pub fn payload(self, block: &Block) -> Result<Cow<'_, [u8]>> {
        checked_elements(block)?;
        if block.dtype == self.payload_dtype() {
            return Ok(Cow::Borrowed(&block.bytes));
        }
        let mut payload = Vec::new();
        self.encode(block, &mut payload)?;
        Ok(Cow::Owned(payload))
    }

    /// Makes `payload` that of `block`, in the memory that it has. [`Error::Invalid`] if the block's bytes
    /// do not fit its shape.
    pub(crate) fn encode_over(self, block: &Block, payload: &mut Vec<u8>) -> Result<()> {
        payload.resize(checked_elements(block)? * self.payload_dtype().bytes(), 0);
        convert(&block.bytes, block.dtype, payload, self.payload_dtype());
        Ok(())
    }

    /// Whether all elements of a payload are numbers: neither NaN nor infinite.
    pub(crate) fn is_finite(self, payload: &[u8]) -> bool {
        all_finite(payload, self.payload_dtype())
    }

    /// Decodes a run of payload bytes into `target`, elements of `dtype`.
    /// [`Error::Invalid`] if the two do not hold the same whole number of elements.
    pub fn decode(self, payload: &[u8], target: &mut [u8], dtype: DType) -> Result<()> {
        let from = self.payload_dtype();
        if !payload.len().is_multiple_of(from.bytes())
            || payload.len() / from.bytes() * dtype.bytes() != target.len()
        {
            return Err(Error::invalid(format!(
                "{} bytes of {self} do not decode to {} bytes of {dtype}",
                payload.len(),
                target.len()
            )));
        }
        convert(payload, from, target, dtype);
        Ok(())
    }
}

/// Elements of a block whose bytes fit its shape.
fn checked_elements(block: &Block) -> Result<usize> {
    let [h, w, c] = block.shape;
    h.checked_mul(w)
        .and_then(|n| n.checked_mul(c))
        .filter(|n| n.checked_mul(block.dtype.bytes()) == Some(block.bytes.len()))
        .ok_or_else(|| {
            Error::invalid(format!(
                "block of shape {h}x{w}x{c} in {}: {} bytes do not fit it",
                block.dtype,
                block.bytes.len()
            ))
        })
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        })
    }
}

impl FromStr for Encoding {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.to_string() == text).ok_or_else(|| {
            let known = Self::ALL.map(|encoding| encoding.to_string()).join(", ");
            Error::invalid(format!("encoding {text:?} is unknown: expected one of {known}"))
        })
    }
}

/// The encoding of every level of a store: level name → encoding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Encodings {
    levels: BTreeMap<String, Encoding>,
}

impl Encodings {
    /// All levels alike.
    pub fn uniform(levels: &[LevelSpec], encoding: Encoding) -> Self {
        Self { levels: levels.iter().map(|level| (level.name.clone(), encoding)).collect() }
    }

    /// Parses `p2=bf16,p3=f32`, or `f16` for all levels, or both: `f16,p2=bf16`. Levels that are not named
    /// get the encoding that stands alone, else [`DEFAULT_ENCODING`]. Empty text is all defaults.
    ///
    /// [`Error::Invalid`] for a level that is not in `levels`, a level or default given twice, or an
    /// unknown encoding.
    pub fn parse(text: &str, levels: &[LevelSpec]) -> Result<Self> {
        let mut rest = None;
        let mut named = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let before = match part.split_once('=') {
                None => rest.replace(part.parse()?),
                Some((level, encoding)) => {
                    let level = level.trim();
                    if !levels.iter().any(|spec| spec.name == level) {
                        let known: Vec<_> = levels.iter().map(|spec| spec.name.as_str()).collect();
                        return Err(Error::invalid(format!(
                            "encoding of level {level:?}: expected one of {}",
                            known.join(", ")
                        )));
                    }
                    named.insert(level.to_owned(), encoding.trim().parse()?)
                }
            };
            if before.is_some() {
                return Err(Error::invalid(format!("encodings {text:?}: {part:?} is given twice")));
            }
        }
        let mut all = Self::uniform(levels, rest.unwrap_or(DEFAULT_ENCODING));
        all.levels.append(&mut named);
        Ok(all)
    }

    /// The encoding of a level; `None` if the store has no such level.
    pub fn of(&self, level: &str) -> Option<Encoding> {
        self.levels.get(level).copied()
    }

    /// Level names and encodings, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Encoding)> {
        self.levels.iter().map(|(name, encoding)| (name.as_str(), *encoding))
    }
}

/// What [`Encodings::parse`] reads: `p2=bf16,p3=f32`.
impl fmt::Display for Encodings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (level, encoding)) in self.iter().enumerate() {
            write!(f, "{}{level}={encoding}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels() -> Vec<LevelSpec> {
        let level = |name: &str| LevelSpec {
            name: name.into(),
            stride: 4,
            channels: 8,
            tap: "stage0".into(),
            norm: "none".into(),
        };
        ["p2", "p3", "p4"].map(level).to_vec()
    }

    #[test]
    fn parses_named_levels_and_a_default() {
        let levels = levels();
        let text = |text: &str| Encodings::parse(text, &levels).unwrap().to_string();
        assert_eq!(text(""), "p2=bf16,p3=bf16,p4=bf16");
        assert_eq!(text("p3=f32"), "p2=bf16,p3=f32,p4=bf16");
        assert_eq!(text("f16, p3=f32"), "p2=f16,p3=f32,p4=f16");
        let parsed = Encodings::parse("f16,p3=f32", &levels).unwrap();
        assert_eq!(Encodings::parse(&parsed.to_string(), &levels).unwrap(), parsed);
        assert_eq!(serde_json::to_string(&parsed).unwrap(), r#"{"p2":"f16","p3":"f32","p4":"f16"}"#);
        assert_eq!(parsed.of("p9"), None);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for (text, part) in
            [("p7=bf16", "p7"), ("p2=int9", "int9"), ("p2=f32,p2=f16", "twice"), ("f32,f16", "twice")]
        {
            let error = Encodings::parse(text, &levels()).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn blocks_must_fit_their_shape() {
        let block = Block { shape: [2, 2, 3], dtype: DType::F32, bytes: vec![0; 47] };
        assert!(matches!(Encoding::Bf16.encode(&block, &mut Vec::new()), Err(Error::Invalid { .. })));
        let huge = Block { shape: [usize::MAX, 2, 3], dtype: DType::F32, bytes: vec![] };
        assert!(matches!(Encoding::Bf16.payload(&huge), Err(Error::Invalid { .. })));
        assert!(Encoding::Bf16.decode(&[0; 3], &mut [0; 2], DType::Bf16).is_err());
    }

    #[test]
    fn encodes_and_decodes() {
        let values = [1.5f32, -2.0, 0.0, 1e-3];
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let block = Block { shape: [1, 2, 2], dtype: DType::F32, bytes };
        let mut payload = vec![9];
        Encoding::Bf16.encode(&block, &mut payload).unwrap();
        assert_eq!(payload.len(), 1 + 8);
        let mut back = [0; 16];
        Encoding::Bf16.decode(&payload[1..], &mut back, DType::F32).unwrap();
        assert_eq!(back[..4], 1.5f32.to_le_bytes());
        assert!(matches!(Encoding::F32.payload(&block).unwrap(), Cow::Borrowed(_)));
    }
}
