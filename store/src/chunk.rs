//! How one sample of a level is cut into the inner chunks of a shard. Pure arithmetic: sizes come from a
//! store that nobody vouches for, so every product is checked.

use crate::{Compression, ElementType, Error, Result};

/// Largest payload of an inner chunk, unless a single row of cells is larger.
pub const MAX_CHUNK_BYTES: u64 = 4 << 20;
/// Payloads of at least this many bytes start at multiples of [`CHUNK_ALIGNMENT`] in their shard.
pub const ALIGNED_CHUNK_BYTES: u64 = 256 << 10;
/// What large chunks are aligned to: the page and sector size that direct I/O wants.
pub const CHUNK_ALIGNMENT: u64 = 4096;
/// crc32c (little-endian) after each payload.
pub const CHECKSUM_BYTES: u64 = 4;
/// Largest payload of one sample of one level: what cannot be a real feature map is refused early.
pub(crate) const MAX_SAMPLE_BYTES: u64 = 1 << 40;
/// The same of compressed levels, whose size no file vouches for: the map of 512 channels in bf16 at stride 4 of
/// the largest picture.
pub(crate) const MAX_COMPRESSED_SAMPLE_BYTES: u64 = 1 << 32;
/// Largest payload of a compressed chunk: it is in memory as a whole, beside its frame.
pub(crate) const MAX_COMPRESSED_CHUNK_BYTES: u64 = 1 << 28;

/// The inner chunks of one sample `[h, w, c]`: bands of whole rows of cells, top to bottom, all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkGeometry {
    /// Rows of cells in a band; divides the height.
    pub band_rows: u32,
    /// Bands of a sample.
    pub bands: u32,
    /// Bytes of one row of cells, `w · c · itemsize`.
    pub row_bytes: u64,
    /// What is done to a chunk's payload.
    pub compression: Compression,
}

impl ChunkGeometry {
    /// The largest band that divides `height` and holds at most [`MAX_CHUNK_BYTES`]; one row of cells if
    /// even that is larger.
    ///
    /// [`Error::Invalid`] if a side is zero or a sample would pass 1 TiB.
    pub fn new(height: u32, width: u32, channels: u32, element: impl Into<ElementType>) -> Result<Self> {
        let element = element.into();
        let sizes = [u64::from(width), u64::from(channels), element.bytes() as u64];
        let row_bytes = sizes.into_iter().try_fold(1u64, u64::checked_mul);
        let row_bytes = row_bytes
            .filter(|bytes| *bytes > 0 && height > 0)
            .filter(|bytes| bytes.checked_mul(u64::from(height)).is_some_and(|all| all <= MAX_SAMPLE_BYTES))
            .ok_or_else(|| {
                Error::invalid(format!("{height}x{width}x{channels} cells of {element} are no feature map"))
            })?;
        let fits =
            |rows: &u32| height.is_multiple_of(*rows) && u64::from(*rows) * row_bytes <= MAX_CHUNK_BYTES;
        let most = u32::try_from(MAX_CHUNK_BYTES / row_bytes).unwrap_or(u32::MAX).min(height);
        let band_rows = (1..=most).rev().find(fits).unwrap_or(1);
        Ok(Self { band_rows, bands: height / band_rows, row_bytes, compression: Compression::None })
    }

    /// The same chunks, compressed.
    ///
    /// [`Error::Invalid`] if they are too large for that.
    pub fn compressed(self, compression: Compression) -> Result<Self> {
        let [chunk, sample] = [self.payload_bytes(), self.sample_bytes()];
        let fits = chunk <= MAX_COMPRESSED_CHUNK_BYTES && sample <= MAX_COMPRESSED_SAMPLE_BYTES;
        if compression != Compression::None && !fits {
            return Err(Error::invalid(format!(
                "a sample of {sample} bytes in chunks of {chunk}: expected at most {MAX_COMPRESSED_SAMPLE_BYTES} \
                 in {MAX_COMPRESSED_CHUNK_BYTES} where they are compressed"
            )));
        }
        Ok(Self { compression, ..self })
    }

    /// Bytes of a chunk's payload.
    pub fn payload_bytes(&self) -> u64 {
        u64::from(self.band_rows) * self.row_bytes
    }

    /// Bytes of an encoded chunk, payload and checksum: what a compressed one has at most.
    pub fn chunk_bytes(&self) -> u64 {
        self.compression.most_bytes(self.payload_bytes()) + CHECKSUM_BYTES
    }

    /// Whether a chunk can have so many bytes.
    pub(crate) fn can_have(&self, bytes: u64) -> bool {
        match self.compression {
            Compression::None => bytes == self.chunk_bytes(),
            Compression::Zstd => (CHECKSUM_BYTES + 1..=self.chunk_bytes()).contains(&bytes),
        }
    }

    /// Bytes of a sample's payload.
    pub fn sample_bytes(&self) -> u64 {
        u64::from(self.bands) * self.payload_bytes()
    }

    /// What offsets of chunks in a shard are multiples of: compressed ones lie without gaps.
    pub fn alignment(&self) -> u64 {
        let is_aligned = self.compression == Compression::None && self.payload_bytes() >= ALIGNED_CHUNK_BYTES;
        if is_aligned { CHUNK_ALIGNMENT } else { 1 }
    }

    /// Where a chunk starts that follows one ending at `end`.
    pub fn next_offset(&self, end: u64) -> u64 {
        end.next_multiple_of(self.alignment())
    }

    /// Upper bound of a shard's bytes with `rows` samples, index and alignment included. Saturates.
    pub fn shard_bytes(&self, rows: u64) -> u64 {
        let chunk = self.next_offset(self.chunk_bytes()).saturating_add(16);
        rows.saturating_mul(u64::from(self.bands)).saturating_mul(chunk).saturating_add(CHECKSUM_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use proptest::prelude::*;

    #[test]
    fn bands_of_the_levels_of_a_large_backbone() {
        // SwinV2-G at 800x1344: p2 is 200x336x512 in bf16, 344064 bytes a row, 12 rows would be 4.1 MB.
        let p2 = ChunkGeometry::new(200, 336, 512, DType::Bf16).unwrap();
        assert_eq!((p2.band_rows, p2.bands, p2.alignment()), (10, 20, 4096));
        let p5 = ChunkGeometry::new(25, 42, 4096, DType::Bf16).unwrap();
        assert_eq!((p5.band_rows, p5.bands), (5, 5));
        let pooled = ChunkGeometry::new(1, 1, 1536, DType::F32).unwrap();
        assert_eq!((pooled.band_rows, pooled.alignment(), pooled.next_offset(6148)), (1, 1, 6148));
        let wide = ChunkGeometry::new(6, 1 << 20, 64, DType::F32).unwrap();
        assert_eq!((wide.band_rows, wide.bands), (1, 6));
    }

    #[test]
    fn refuses_what_is_no_map() {
        for (h, w, c) in
            [(0, 1, 1), (1, 0, 1), (1, 1, 0), (u32::MAX, u32::MAX, u32::MAX), (1 << 20, 1 << 20, 1)]
        {
            assert!(ChunkGeometry::new(h, w, c, DType::F32).is_err(), "{h} {w} {c}");
        }
    }

    #[test]
    fn compressed_chunks_are_bounded_in_memory() {
        let g = |h, w, c| ChunkGeometry::new(h, w, c, DType::Bf16).unwrap().compressed(Compression::Zstd);
        let small = g(200, 336, 512).unwrap();
        assert_eq!((small.alignment(), small.next_offset(17)), (1, 17));
        assert!(small.can_have(5) && small.can_have(small.chunk_bytes()));
        assert!(!small.can_have(4) && !small.can_have(small.chunk_bytes() + 1));
        for (h, w, c) in [(1, 1 << 18, 1 << 10), (1 << 13, 1 << 10, 1 << 9)] {
            let error = g(h, w, c).unwrap_err().to_string();
            assert!(error.contains("where they are compressed"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn bands_divide_and_are_the_largest(h in 1u32..300, w in 1u32..400, c in 1u32..600) {
            let g = ChunkGeometry::new(h, w, c, DType::Bf16).unwrap();
            prop_assert_eq!(g.band_rows * g.bands, h);
            prop_assert_eq!(g.sample_bytes(), u64::from(h) * u64::from(w) * u64::from(c) * 2);
            prop_assert!(g.band_rows == 1 || g.payload_bytes() <= MAX_CHUNK_BYTES);
            for larger in g.band_rows + 1..=h {
                prop_assert!(h % larger != 0 || u64::from(larger) * g.row_bytes > MAX_CHUNK_BYTES);
            }
        }
    }
}
