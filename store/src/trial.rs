//! An encoding tried on rows of a level: what it loses, and how fast it comes back. Writes no file.

use crate::array::byte_axis;
use crate::compression::{Packer, Unpacker};
use crate::level_encoder::LevelEncoder;
use crate::loss::LevelLossSum;
use crate::{Block, Compression, Encoding, Error, LevelLoss, Projection, Result, RowId};
use serde::Serialize;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of values that rates are measured on: more than caches hold, as a batch is. Tests do not look at rates.
const RATE_BYTES: usize = if cfg!(test) { 1 << 12 } else { 96 << 20 };

/// Passes over them, of which the fastest counts: on a busy machine the others say what else it does.
const RATE_PASSES: usize = 9;

/// Memory that rates are measured in, for one trial after another.
#[derive(Debug, Default)]
pub struct RateMemory {
    held: Vec<u8>,
    decoded: Vec<u8>,
    copied: Vec<u8>,
}

/// An encoding and the sums over the rows that it was tried on; its memory is used again from row to row.
#[derive(Debug)]
pub struct Trial {
    encoding: Encoding,
    encoder: LevelEncoder,
    /// Of a compressed encoding.
    zstd: Option<Zstd>,
    /// The last row's payload, as it is held, and its length before compression.
    held: Vec<u8>,
    payload_bytes: usize,
    /// Values of the last row.
    values: usize,
    /// Bytes of all rows before compression and after.
    plain_bytes: u64,
    held_bytes: u64,
    losses: LevelLossSum,
    encoded_in: Duration,
    encoded_bytes: u64,
}

#[derive(Debug)]
struct Zstd {
    packer: Packer,
    unpacker: Unpacker,
    payload: Vec<u8>,
}

/// What came out, over all rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrialReport {
    /// What is lost.
    pub loss: LevelLoss,
    /// Bytes held over bytes before compression; 1 where there is none.
    pub compressed_to: f64,
    /// Bytes of the source's values encoded a second on one thread, in 10⁹; what is lost is not measured
    /// meanwhile.
    pub encode_gb_per_s: f64,
    /// Bytes of values decoded a second on one thread, in 10⁹, from memory to memory.
    pub decode_gb_per_s: f64,
    /// That rate over the rate at which as many bytes are copied in between.
    pub decode_over_memcpy: f64,
}

impl Trial {
    /// An encoding that was not tried yet, of a level of so many channels, with its basis if it has one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the basis is missing, too much, or of another shape.
    pub fn new(encoding: Encoding, projection: Option<Arc<Projection>>, channels: usize) -> Result<Self> {
        let zstd = match encoding.compression {
            Compression::None => None,
            Compression::Zstd => {
                let packer = Packer::new().map_err(broken)?;
                Some(Zstd { packer, unpacker: Unpacker::default(), payload: Vec::new() })
            }
        };
        Ok(Self {
            encoding,
            encoder: LevelEncoder::new(encoding, projection, channels)?,
            zstd,
            held: Vec::new(),
            payload_bytes: 0,
            values: 0,
            plain_bytes: 0,
            held_bytes: 0,
            losses: LevelLossSum::default(),
            encoded_in: Duration::ZERO,
            encoded_bytes: 0,
        })
    }

    /// Encodes and decodes a row; rows come in order.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the block's bytes do not fit its shape or the encoding cannot hold its values.
    pub fn add(&mut self, row: RowId, block: &Block) -> Result<()> {
        let begin = Instant::now();
        if let Err(what) = self.encoder.encode(block)? {
            return Err(Error::invalid(format!("features of row {row} in {}: {what}", self.encoding)));
        }
        let payload = self.encoder.payload().unwrap_or(&block.bytes);
        let affine = self.encoder.affine().unwrap_or_default();
        self.held.clear();
        self.held_bytes += match &mut self.zstd {
            Some(Zstd { packer, .. }) => {
                let element = byte_axis(self.encoding.payload_element(), Compression::Zstd);
                self.held.extend_from_slice(packer.pack(payload, element).map_err(broken)?);
                // Scales and offsets are not compressed.
                (self.held.len() + affine.len()) as u64
            }
            None => {
                self.held.extend_from_slice(payload);
                (payload.len() + affine.len()) as u64
            }
        };
        self.encoded_in += begin.elapsed();
        self.encoded_bytes += block.bytes.len() as u64;
        self.payload_bytes = payload.len();
        self.values = block.shape.iter().product();
        self.plain_bytes += (payload.len() + affine.len()) as u64;
        self.losses.add(row.0, self.encoder.loss(block));
        Ok(())
    }

    /// The sums as means, and rates measured on copies of the last row; `name` makes split, view and key of a
    /// row's number.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no row was added.
    pub fn report(
        mut self,
        memory: &mut RateMemory,
        name: impl FnOnce(u64) -> [String; 3],
    ) -> Result<TrialReport> {
        let [decode, copy] = self.rates(memory)?;
        let loss = self.losses.finish(name).ok_or_else(|| Error::invalid("no row to try an encoding on"))?;
        Ok(TrialReport {
            loss,
            compressed_to: self.held_bytes as f64 / self.plain_bytes.max(1) as f64,
            encode_gb_per_s: self.encoded_bytes as f64 / 1e9 / self.encoded_in.as_secs_f64().max(1e-9),
            decode_gb_per_s: decode,
            decode_over_memcpy: decode / copy,
        })
    }

    /// Bytes decoded and bytes copied a second, in 10⁹.
    fn rates(&mut self, memory: &mut RateMemory) -> Result<[f64; 2]> {
        let decoded = (self.values * self.encoding.value_dtype().bytes()).max(1);
        let copies = (RATE_BYTES / decoded).max(1);
        let RateMemory { held: source, decoded: target, copied } = memory;
        source.clear();
        (0..copies).for_each(|_| source.extend_from_slice(&self.held));
        target.resize(copies * decoded, 0);
        copied.resize(copies * decoded, 0);
        let mut least = [Duration::MAX; 2];
        for _ in 0..RATE_PASSES {
            let begin = Instant::now();
            let held = source.chunks(self.held.len().max(1));
            for (held, target) in held.zip(black_box(&mut *target).chunks_mut(decoded)) {
                self.decode(held, target)?;
            }
            let between = Instant::now();
            black_box(&mut *copied).copy_from_slice(target);
            let times = [between - begin, between.elapsed()];
            least.iter_mut().zip(times).for_each(|(least, time)| *least = time.min(*least));
        }
        Ok(least.map(|time| (copies * decoded) as f64 / 1e9 / time.as_secs_f64().max(1e-9)))
    }

    /// From what is held of the last row to its values.
    fn decode(&mut self, held: &[u8], target: &mut [u8]) -> Result<()> {
        let payload = match &mut self.zstd {
            Some(Zstd { unpacker, payload, .. }) => {
                payload.resize(self.payload_bytes, 0);
                let element = byte_axis(self.encoding.payload_element(), Compression::Zstd);
                unpacker.unpack(held, payload, element).map_err(Error::invalid)?;
                payload.as_slice()
            }
            None => held,
        };
        self.encoder.decoder().decode(payload, target, self.encoding.value_dtype());
        Ok(())
    }
}

fn broken(error: std::io::Error) -> Error {
    Error::invalid(format!("zstd: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversion::to_f32;
    use crate::{DType, Projected};
    use std::num::NonZeroU32;

    fn block(values: &[f32]) -> Block {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Block { shape: [values.len() / 2, 1, 2], dtype: DType::F32, bytes }
    }

    #[test]
    fn losses_are_those_of_the_round_trip() {
        let rows = [[1.5f32, -2.0, 0.3, 1e-3, 7.0, 0.1], [0.0; 6], [2.0, 1.0, -4.0, 3.0, 0.7, 0.9]];
        // A basis of the one direction (0.6, 0.8).
        let basis = Arc::new(Projection::new(vec![0.6, 0.8], vec![0.0; 2]).unwrap());
        for encoding in ["f32", "bf16", "int8", "int4", "e4m3fn", "int8+zstd", "pca1+int8", "pca1+f32+zstd"] {
            let encoding: Encoding = encoding.parse().unwrap();
            let basis = encoding.projection.map(|k| {
                assert_eq!(k, NonZeroU32::MIN);
                Arc::clone(&basis)
            });
            let mut trial = Trial::new(encoding, basis.clone(), 2).unwrap();
            let (mut squares, mut worst) = (0.0, (-1.0, 0));
            for (number, values) in (0u64..).zip(&rows) {
                let block = block(values);
                trial.add(RowId(number), &block).unwrap();
                let mut decoded = vec![0.0; 6];
                let bytes =
                    encoding.round_trip(&block, basis.as_ref(), Projected::Channels, DType::F32).unwrap();
                to_f32(&bytes, DType::F32, &mut decoded);
                let gone: f64 = values.iter().zip(&decoded).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                let all: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
                let relative = if gone > 0.0 { gone / all } else { 0.0 };
                squares += relative;
                if relative > worst.0 {
                    worst = (relative, number);
                }
            }
            let name = |row| ["train".into(), "base".into(), format!("k{row}")];
            let TrialReport { loss, compressed_to, decode_gb_per_s, decode_over_memcpy, .. } =
                trial.report(&mut RateMemory::default(), name).unwrap();
            assert_eq!((loss.rows, loss.worst.row, &loss.worst.key), (3, worst.1, &format!("k{}", worst.1)));
            let expected = (squares / 3.0).sqrt();
            assert!(
                (loss.relative_l2 - expected).abs() <= 1e-5 * expected,
                "{encoding}: {loss:?} {expected}"
            );
            assert!((0.5..=1.0).contains(&loss.cosine), "{encoding}: {loss:?}");
            assert_eq!(compressed_to == 1.0, encoding.compression == Compression::None);
            if encoding.to_string() == "f32" {
                assert_eq!((loss.relative_l2, loss.cosine), (0.0, 1.0));
            }
            assert!(decode_gb_per_s > 0.0 && decode_over_memcpy > 0.0, "{encoding}");
        }
    }

    #[test]
    fn what_is_decoded_for_the_rate_is_the_row() {
        let values = [1.5f32, -2.0, 0.3, 1e-3, 7.0, 0.1];
        for encoding in ["bf16+zstd", "f32+zstd", "int8+zstd", "int4"] {
            let encoding: Encoding = encoding.parse().unwrap();
            let mut trial = Trial::new(encoding, None, 2).unwrap();
            trial.add(RowId(0), &block(&values)).unwrap();
            let mut memory = RateMemory::default();
            trial.rates(&mut memory).unwrap();
            let dtype = encoding.value_dtype();
            let expected = encoding.round_trip(&block(&values), None, Projected::Channels, dtype).unwrap();
            assert_eq!(memory.decoded.get(..expected.len()), Some(expected.as_slice()), "{encoding}");
        }
    }

    #[test]
    fn what_cannot_be_held_is_named() {
        let mut trial = Trial::new("int8".parse().unwrap(), None, 2).unwrap();
        let error = trial.add(RowId(7), &block(&[f32::NAN, 1.0])).unwrap_err().to_string();
        assert!(Trial::new("pca1+int8".parse().unwrap(), None, 2).is_err(), "without its basis");
        assert!(error.contains("row 7") && error.contains("not finite"), "{error}");
        assert!(trial.report(&mut RateMemory::default(), |_| Default::default()).is_err(), "no row");
    }
}
