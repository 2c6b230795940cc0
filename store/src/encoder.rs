//! From blocks to the bytes of a level's arrays and back: projection, number format, in this order. Memory is
//! used again from row to row. Compression is the shard's: it is of chunks, and these are rows.

use crate::conversion::{all_finite, convert};
use crate::projection::{Projection, Strip};
use crate::quantised::{NOT_FINITE, Quantiser};
use crate::{Block, DType, Encoding, Error, NumberFormat, Result};
use std::sync::Arc;

/// Turns the blocks of one level into what its arrays hold.
#[derive(Debug)]
pub(crate) struct Encoder {
    encoding: Encoding,
    projection: Option<Arc<Projection>>,
    /// Of a projected level.
    coefficients: Block,
    strip: Strip,
    /// Of values that are held as they are, in another type than the block's.
    converted: Vec<u8>,
    /// The last block was of another type than its payload.
    converts: bool,
    quantiser: Option<Quantiser>,
}

impl Encoder {
    /// Of a level of so many channels. [`Error::Invalid`] if a projection is missing, too much, or of
    /// another shape than encoding and channels say.
    pub(crate) fn new(
        encoding: Encoding,
        projection: Option<Arc<Projection>>,
        channels: usize,
    ) -> Result<Self> {
        let expected = encoding.projection.map(|k| (k.get() as usize, channels));
        let found = projection.as_ref().map(|p| (p.coefficients(), p.channels()));
        if expected != found {
            let shown = |shape: Option<(usize, usize)>| match shape {
                Some((k, c)) => format!("a basis of {k}x{c}"),
                None => "none".to_owned(),
            };
            return Err(Error::invalid(format!(
                "projection of {channels} channels in {encoding}: expected {}, found {}",
                shown(expected),
                shown(found)
            )));
        }
        let quantiser = encoding.is_quantised().then(Quantiser::default);
        let coefficients = Block { shape: [0; 3], dtype: DType::F32, bytes: Vec::new() };
        let (strip, converted) = Default::default();
        Ok(Self { encoding, projection, coefficients, strip, converted, converts: false, quantiser })
    }

    /// Encodes a block: rounded to nearest, ties to even. Says why its row can have no features if an
    /// encoded element would not be a number.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the block's bytes do not fit its shape.
    pub(crate) fn encode(&mut self, block: &Block) -> Result<std::result::Result<(), &'static str>> {
        check_bytes(block)?;
        if let Some(projection) = &self.projection
            && let Err(what) = projection.project(block, &mut self.coefficients, &mut self.strip)?
        {
            return Ok(Err(what));
        }
        let block = if self.projection.is_some() { &self.coefficients } else { block };
        if let (Ok(code), Some(quantiser)) = (self.encoding.format.code(), &mut self.quantiser) {
            return Ok(quantiser.quantise(code, block));
        }
        let dtype = self.encoding.value_dtype();
        self.converts = dtype != block.dtype;
        if self.converts {
            self.converted.resize(block.bytes.len() / block.dtype.bytes() * dtype.bytes(), 0);
            convert(&block.bytes, block.dtype, &mut self.converted, dtype);
        }
        let finite = all_finite(self.payload().unwrap_or(&block.bytes), dtype);
        Ok(if finite { Ok(()) } else { Err(NOT_FINITE) })
    }

    /// The payload of the block that was encoded last; `None` where that is the block's own bytes.
    pub(crate) fn payload(&self) -> Option<&[u8]> {
        match &self.quantiser {
            Some(quantiser) => Some(quantiser.payload()),
            None if self.converts => Some(&self.converted),
            None => self.projection.as_ref().map(|_| self.coefficients.bytes.as_slice()),
        }
    }

    /// Its scales and offsets.
    pub(crate) fn affine(&self) -> Option<&[u8]> {
        self.quantiser.as_ref().map(Quantiser::affine)
    }
}

/// Decodes whole cells of a payload, as many as payload and target both hold, to channels where a projection
/// is given and to the numbers that are held where none is. `strip` is memory that is used again.
pub(crate) fn decode(
    format: NumberFormat,
    projection: Option<&Projection>,
    payload: &[u8],
    affine: &[f32],
    target: &mut [u8],
    dtype: DType,
    strip: &mut Strip,
) {
    match projection {
        Some(projection) => projection.reconstruct(format, payload, affine, target, dtype, strip),
        None => format.decode(payload, affine, target, dtype),
    }
}

/// Refuses a block whose bytes do not fit its shape.
fn check_bytes(block: &Block) -> Result<()> {
    let [h, w, c] = block.shape;
    h.checked_mul(w)
        .and_then(|n| n.checked_mul(c))
        .filter(|n| n.checked_mul(block.dtype.bytes()) == Some(block.bytes.len()))
        .map(|_| ())
        .ok_or_else(|| {
            Error::invalid(format!(
                "block of shape {h}x{w}x{c} in {}: {} bytes do not fit it",
                block.dtype,
                block.bytes.len()
            ))
        })
}
