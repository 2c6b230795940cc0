//! A row on its way to its unit: encoded on whatever thread, appended in order by the one that owns the unit.
//! Writes nothing.

use crate::level_encoder::LevelEncoder;
use crate::loss::is_lossy;
use crate::plan::kept_reason;
use crate::{
    Block, Bucket, Encoding, Encodings, Error, LevelSpec, Loss, Projection, Projections, Result, RowOutcome,
};
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// A row as its unit's shards and record will hold it.
#[derive(Debug)]
pub struct EncodedRow {
    /// One a level, in the recipe's order; or why there are none.
    pub(crate) levels: std::result::Result<Vec<EncodedLevel>, String>,
    /// BLAKE3 of the source file, lowercase hex, if it could be read.
    pub(crate) source_blake3: Option<String>,
}

/// What the arrays of a level hold of a row, and what it has lost by that.
#[derive(Debug)]
pub(crate) struct EncodedLevel {
    bytes: EncodedBytes,
    pub(crate) loss: Option<Loss>,
}

#[derive(Debug)]
enum EncodedBytes {
    /// The block's own bytes are the payload.
    Given(Block),
    /// In an encoder's memory, which goes back to the others when the row is written.
    Made(Box<LevelEncoder>),
    /// As another store holds them.
    Copied { payload: Vec<u8>, affine: Option<Vec<u8>> },
}

impl EncodedLevel {
    /// What another store of the same encoding holds.
    pub(crate) fn copied(payload: Vec<u8>, affine: Option<Vec<u8>>, loss: Option<Loss>) -> Self {
        Self { bytes: EncodedBytes::Copied { payload, affine }, loss }
    }

    pub(crate) fn payload(&self) -> &[u8] {
        match &self.bytes {
            EncodedBytes::Given(block) => &block.bytes,
            EncodedBytes::Made(made) => made.payload().unwrap_or_default(),
            EncodedBytes::Copied { payload, .. } => payload,
        }
    }

    /// Scales and offsets, of a quantised level.
    pub(crate) fn affine(&self) -> Option<&[u8]> {
        match &self.bytes {
            EncodedBytes::Given(_) => None,
            EncodedBytes::Made(made) => made.affine(),
            EncodedBytes::Copied { affine, .. } => affine.as_deref(),
        }
    }
}

/// The encoders of a store's levels: as many as rows are on their way at a time, used again and again.
#[derive(Debug)]
pub(crate) struct Encoders {
    levels: Vec<LevelEncoders>,
}

#[derive(Debug)]
struct LevelEncoders {
    spec: LevelSpec,
    encoding: Encoding,
    projection: Option<Arc<Projection>>,
    idle: Mutex<Vec<LevelEncoder>>,
}

impl Encoders {
    /// Encoders of these levels. [`Error::Invalid`] if one has no encoding, or not the projection that its
    /// encoding needs.
    pub(crate) fn new(
        levels: &[LevelSpec],
        encodings: &Encodings,
        projections: &Projections,
    ) -> Result<Self> {
        let of_level = |spec: &LevelSpec| {
            let encoding = encodings.of(&spec.name).ok_or_else(|| {
                Error::invalid(format!("level {}: expected an encoding, found none", spec.name))
            })?;
            let projection = projections.of(&spec.name).map(Arc::clone);
            let level = LevelEncoders { spec: spec.clone(), encoding, projection, idle: Mutex::default() };
            level.give_back(level.take()?);
            Ok(level)
        };
        Ok(Self { levels: levels.iter().map(of_level).collect::<Result<_>>()? })
    }

    /// The basis of level number `level`, if it has one.
    pub(crate) fn projection(&self, level: usize) -> Option<&Arc<Projection>> {
        self.levels.get(level)?.projection.as_ref()
    }

    /// Encodes a row of `bucket`, its levels in parallel.
    ///
    /// # Errors
    /// [`Error::Invalid`] for blocks that are not of the levels and the bucket.
    pub(crate) fn encode(&self, bucket: &Bucket, outcome: RowOutcome) -> Result<EncodedRow> {
        let (blocks, source_blake3) = match outcome {
            RowOutcome::Features { blocks, source_blake3 } => (blocks, Some(source_blake3)),
            RowOutcome::Failed { reason, source_blake3 } => {
                return Ok(EncodedRow { levels: Err(kept_reason(&reason)), source_blake3 });
            }
        };
        if blocks.len() != self.levels.len() {
            return Err(Error::invalid(format!(
                "row of {} blocks: expected one for each of {} levels",
                blocks.len(),
                self.levels.len()
            )));
        }
        let encode = |(level, block)| self.encode_level(level, bucket, block);
        let levels: Vec<_> = blocks.into_par_iter().enumerate().map(encode).collect();
        // The first level's failure is the row's, whichever was found first.
        let levels: Result<std::result::Result<_, _>> = levels.into_iter().collect();
        Ok(EncodedRow { levels: levels?, source_blake3 })
    }

    /// Encodes the block of level number `level`; why its row can have no features, if so.
    pub(crate) fn encode_level(
        &self,
        level: usize,
        bucket: &Bucket,
        block: Block,
    ) -> Result<std::result::Result<EncodedLevel, String>> {
        let level = self.levels.get(level).ok_or_else(|| Error::invalid(format!("level number {level}")))?;
        let LevelEncoders { spec, encoding, .. } = level;
        let shape = spec.shape(bucket.size);
        if block.shape != shape {
            return Err(Error::invalid(format!(
                "level {}: expected a block of shape {shape:?}, found {:?}",
                spec.name, block.shape
            )));
        }
        let mut made = level.take()?;
        if let Err(what) = made.encode(&block)? {
            level.give_back(made);
            return Ok(Err(format!("features of {} {what}", spec.name)));
        }
        let loss = is_lossy(*encoding, block.dtype).then(|| made.loss(&block));
        let bytes = match made.payload() {
            Some(_) => EncodedBytes::Made(Box::new(made)),
            None => {
                level.give_back(made);
                EncodedBytes::Given(block)
            }
        };
        Ok(Ok(EncodedLevel { bytes, loss }))
    }

    /// Takes back the encoders of a row that is written.
    pub(crate) fn give_back(&self, row: Vec<EncodedLevel>) {
        for (level, encoded) in self.levels.iter().zip(row) {
            if let EncodedBytes::Made(made) = encoded.bytes {
                level.give_back(*made);
            }
        }
    }
}

impl LevelEncoders {
    fn take(&self) -> Result<LevelEncoder> {
        if let Some(idle) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(idle);
        }
        LevelEncoder::new(self.encoding, self.projection.clone(), self.spec.channels as usize)
    }

    fn give_back(&self, made: LevelEncoder) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(made);
    }
}
