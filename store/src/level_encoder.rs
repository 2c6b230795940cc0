//! The encoder of a level with its decoder, which together tell what is lost. Memory is used again from row to row.

use crate::encoder::{Encoder, decode};
use crate::loss::LossMeter;
use crate::projection::Strip;
use crate::quantised::Affine;
use crate::{Block, DType, Encoding, Error, Loss, Projection, Result};
use std::sync::Arc;

/// Encodes the blocks of a level, one after the other.
#[derive(Debug)]
pub(crate) struct LevelEncoder {
    encoder: Encoder,
    decoder: LevelDecoder,
    meter: LossMeter,
}

/// Decodes what the encoder made of its last block.
#[derive(Debug)]
pub(crate) struct LevelDecoder {
    encoding: Encoding,
    projection: Option<Arc<Projection>>,
    /// Scales and offsets of the last block.
    affine: Vec<f32>,
    strip: Strip,
}

impl LevelEncoder {
    /// As [`Encoder::new`].
    pub(crate) fn new(
        encoding: Encoding,
        projection: Option<Arc<Projection>>,
        channels: usize,
    ) -> Result<Self> {
        let encoder = Encoder::new(encoding, projection.clone(), channels)?;
        let decoder = LevelDecoder { encoding, projection, affine: Vec::new(), strip: Strip::default() };
        Ok(Self { encoder, decoder, meter: LossMeter::default() })
    }

    /// As [`Encoder::encode`].
    pub(crate) fn encode(&mut self, block: &Block) -> Result<std::result::Result<(), &'static str>> {
        if let Err(what) = self.encoder.encode(block)? {
            return Ok(Err(what));
        }
        let affine = self.encoder.affine().unwrap_or_default();
        self.decoder.affine.resize(affine.len() / size_of::<f32>(), 0.0);
        Affine::read(affine, &mut self.decoder.affine).map_err(Error::invalid)?;
        Ok(Ok(()))
    }

    /// The payload of the last block; `None` where that is the block's own bytes.
    pub(crate) fn payload(&self) -> Option<&[u8]> {
        self.encoder.payload()
    }

    /// Its scales and offsets.
    pub(crate) fn affine(&self) -> Option<&[u8]> {
        self.encoder.affine()
    }

    /// What decodes it.
    pub(crate) fn decoder(&mut self) -> &mut LevelDecoder {
        &mut self.decoder
    }

    /// What the last block, which this is, has lost: its values as the level's formula gives them, in binary32,
    /// against those that it came with.
    pub(crate) fn loss(&mut self, block: &Block) -> Loss {
        let Self { encoder, decoder, meter } = self;
        let payload = encoder.payload().unwrap_or(&block.bytes);
        let [h, w, c] = block.shape;
        let cell_bytes = payload.len() / (h * w).max(1);
        meter.measure(block, |cell, target| {
            let cells = target.len() / (c * size_of::<f32>()).max(1);
            let payload = payload.get(cell * cell_bytes..(cell + cells) * cell_bytes).unwrap_or_default();
            decoder.decode(payload, target, DType::F32);
        })
    }
}

impl LevelDecoder {
    /// As many whole cells as payload and target both hold, in channels.
    pub(crate) fn decode(&mut self, payload: &[u8], target: &mut [u8], dtype: DType) {
        let Self { encoding, projection, affine, strip } = self;
        decode(encoding.format, projection.as_deref(), payload, affine, target, dtype, strip);
    }
}
