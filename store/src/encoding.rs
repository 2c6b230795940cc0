//! How a level's elements are held on disk, and which encoding each level of a store has. Encoding is not
//! identity: the same recipe can be held in several. Holds no file layout: see `array` and `shard`.
//!
//! An encoding turns a block into the bytes of its payload array and, if it is a quantised one, into those of
//! the array beside it that holds every channel's scale and offset: see [`crate::array::LevelArrays`].

use crate::conversion::{all_finite, convert};
use crate::quantised::{Affine, Code, NOT_FINITE, Quantiser};
use crate::{Block, DType, ElementType, Error, LevelSpec, Result};
use serde::{Deserialize, Serialize};
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
    /// 256 codes from the least to the greatest value of every channel of a row.
    Int8,
    /// 16 codes, outliers clipped.
    Int4,
    /// OCP E4M3 (finite values and NaN), scaled to the channel's greatest distance from its mean.
    E4m3fn,
}

impl Encoding {
    /// All encodings, in the order that messages list them.
    pub const ALL: [Self; 6] = [Self::Bf16, Self::F16, Self::F32, Self::Int8, Self::Int4, Self::E4m3fn];

    /// The codes of a quantised encoding; the element type of one whose values are held as they are.
    pub(crate) fn code(self) -> std::result::Result<Code, DType> {
        match self {
            Self::Bf16 => Err(DType::Bf16),
            Self::F16 => Err(DType::F16),
            Self::F32 => Err(DType::F32),
            Self::Int8 => Ok(Code::Int8),
            Self::Int4 => Ok(Code::Int4),
            Self::E4m3fn => Ok(Code::E4m3fn),
        }
    }

    /// Whether elements are codes, with scales and offsets in an array of their own.
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

    /// Elements of a cell of the payload array, for a level of so many channels.
    pub fn payload_channels(self, channels: u32) -> u32 {
        if self == Self::Int4 { channels.div_ceil(2) } else { channels }
    }

    /// Element type of the values that the encoding stands for: what a reader hands out unless asked for
    /// another.
    pub fn value_dtype(self) -> DType {
        self.code().err().unwrap_or(DType::Bf16)
    }

    /// The decoding of a quantised level's arrays, `payload` and `affine`, as a line of NumPy; `None` where
    /// the payload is the values.
    pub fn formula(self, channels: u32) -> Option<String> {
        self.code().ok().map(|code| code.formula(channels))
    }

    /// Bytes that a map `[h, w, c]` takes, scales and offsets included, checksums and gaps not.
    pub fn sample_bytes(self, shape: [usize; 3]) -> u64 {
        let [h, w, c] = shape.map(|side| side as u64);
        match self {
            Self::Int4 => h * w * c.div_ceil(2) + 8 * c,
            Self::Int8 | Self::E4m3fn => h * w * c + 8 * c,
            Self::Bf16 | Self::F16 | Self::F32 => h * w * c * self.value_dtype().bytes() as u64,
        }
    }

    /// What a store of this encoding would hand out of `block`, as elements of `dtype`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the block's bytes do not fit its shape or the encoding cannot hold its values.
    pub fn round_trip(self, block: &Block, dtype: DType) -> Result<Vec<u8>> {
        let mut encoder = Encoder::new(self);
        if let Err(what) = encoder.encode(block)? {
            return Err(Error::invalid(format!("features {what}")));
        }
        let elements = block.shape.iter().product::<usize>();
        let mut affine = vec![0.0; if self.is_quantised() { 2 * block.shape[2] } else { 0 }];
        Affine::read(encoder.affine().unwrap_or_default(), &mut affine).map_err(Error::invalid)?;
        let mut target = vec![0; elements * dtype.bytes()];
        self.decode(encoder.payload(block), &affine, &mut target, dtype);
        Ok(target)
    }

    /// Decodes a run of payload bytes, whole cells where the level is quantised, into `target`, elements of
    /// `dtype`. `affine` are the scales of all channels and then the offsets.
    pub(crate) fn decode(self, payload: &[u8], affine: &[f32], target: &mut [u8], dtype: DType) {
        match self.code() {
            Ok(code) => code.decode(payload, Affine::new(affine), target, dtype),
            Err(from) => convert(payload, from, target, dtype),
        }
    }
}

/// Turns the blocks of one level into what its arrays hold, in memory that is used again.
#[derive(Debug)]
pub(crate) struct Encoder {
    encoding: Encoding,
    /// Of values that are held as they are, in another type than the block's.
    converted: Vec<u8>,
    quantiser: Option<Quantiser>,
}

impl Encoder {
    pub(crate) fn new(encoding: Encoding) -> Self {
        let quantiser = encoding.is_quantised().then(Quantiser::default);
        Self { encoding, converted: Vec::new(), quantiser }
    }

    /// Encodes a block: rounded to nearest, ties to even. Says why its row can have no features if an
    /// encoded element would not be a number.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the block's bytes do not fit its shape.
    pub(crate) fn encode(&mut self, block: &Block) -> Result<std::result::Result<(), &'static str>> {
        let elements = checked_elements(block)?;
        match (self.encoding.code(), &mut self.quantiser) {
            (Ok(code), Some(quantiser)) => return Ok(quantiser.quantise(code, block)),
            (Err(dtype), _) if dtype != block.dtype => {
                self.converted.resize(elements * dtype.bytes(), 0);
                convert(&block.bytes, block.dtype, &mut self.converted, dtype);
            }
            _ => {}
        }
        let finite = all_finite(self.payload(block), self.encoding.value_dtype());
        Ok(if finite { Ok(()) } else { Err(NOT_FINITE) })
    }

    /// The payload of the block that was encoded last: its own bytes where nothing needs converting.
    pub(crate) fn payload<'a>(&'a self, block: &'a Block) -> &'a [u8] {
        match &self.quantiser {
            Some(quantiser) => quantiser.payload(),
            None if block.dtype == self.encoding.value_dtype() => &block.bytes,
            None => &self.converted,
        }
    }

    /// Its scales and offsets.
    pub(crate) fn affine(&self) -> Option<&[u8]> {
        self.quantiser.as_ref().map(Quantiser::affine)
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
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::E4m3fn => "e4m3fn",
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
        assert_eq!(text("int8,p3=e4m3fn,p4=int4"), "p2=int8,p3=e4m3fn,p4=int4");
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
        let huge = Block { shape: [usize::MAX, 2, 3], dtype: DType::F32, bytes: vec![] };
        for encoding in Encoding::ALL {
            for block in [&block, &huge] {
                let error = Encoder::new(encoding).encode(block).unwrap_err();
                assert!(matches!(error, Error::Invalid { .. }), "{encoding}: {error}");
            }
        }
    }

    #[test]
    fn round_trips_give_what_a_store_would() {
        let values = [1.5f32, -2.0, 0.0, 1e-3];
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let block = Block { shape: [2, 1, 2], dtype: DType::F32, bytes };
        let trip = |encoding: Encoding| {
            let bytes = encoding.round_trip(&block, DType::F32).unwrap();
            let values: Vec<f32> = bytes.as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
            values
        };
        assert_eq!(trip(Encoding::F32), values);
        assert_eq!(trip(Encoding::Bf16), [1.5, -2.0, 0.0, half::bf16::from_f32(1e-3).to_f32()]);
        // Two values a channel: the ends of its range, which have codes of their own.
        for encoding in [Encoding::Int8, Encoding::Int4] {
            for (found, value) in trip(encoding).iter().zip(values) {
                assert!((found - value).abs() < 1e-5, "{encoding}: {found} for {value}");
            }
        }
        let nan = Block { bytes: f32::NAN.to_le_bytes().repeat(4), ..block };
        for encoding in Encoding::ALL {
            let error = encoding.round_trip(&nan, DType::F32).unwrap_err().to_string();
            assert!(error.contains("not finite"), "{encoding}: {error}");
        }
    }

    #[test]
    fn sizes_are_those_of_the_arrays() {
        use crate::{Bucket, LevelArrays, RowId, Size};
        let bucket = Bucket {
            split: "val".into(),
            view: "base".into(),
            size: Size::new(32, 48),
            rows: RowId(0)..RowId(3),
            unit_rows: 3,
        };
        for encoding in Encoding::ALL {
            for channels in [1, 8, 33] {
                let level = LevelSpec { channels, ..levels().remove(0) };
                let arrays = LevelArrays::new(&bucket, &level, encoding).unwrap();
                let bytes: u64 = arrays.iter().map(|array| array.geometry.sample_bytes()).sum();
                assert_eq!(encoding.sample_bytes(level.shape(bucket.size)), bytes, "{encoding} {channels}");
            }
        }
    }
}
