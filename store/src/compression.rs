//! Chunks that are compressed: one zstd frame (RFC 8878) a chunk, in contexts and memory that are used again.
//! Knows nothing of what the bytes mean; checksums are the shard's.

use std::fmt;
use zstd::bulk::{Compressor, Decompressor};

/// Level of zstd: see `docs/benchmarks.md` for what the others gain. Part of the format, as every array's
/// document names it.
pub(crate) const ZSTD_LEVEL: i32 = 3;

/// What is done to the bytes of a chunk last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Nothing.
    None,
    /// One frame of zstd.
    Zstd,
}

impl Compression {
    /// Most bytes that a chunk of so many is held in. Saturates.
    pub(crate) fn most_bytes(self, bytes: u64) -> u64 {
        match self {
            Self::None => bytes,
            // ZSTD_COMPRESSBOUND of zstd.h, for any length.
            Self::Zstd => {
                bytes.saturating_add(bytes >> 8).saturating_add(((128 << 10) - bytes.min(128 << 10)) >> 11)
            }
        }
    }
}

/// Compresses chunk after chunk.
pub(crate) struct Packer {
    context: Compressor<'static>,
    packed: Vec<u8>,
}

impl Packer {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { context: Compressor::new(ZSTD_LEVEL)?, packed: Vec::new() })
    }

    /// The frame of these bytes.
    pub(crate) fn pack(&mut self, bytes: &[u8]) -> std::io::Result<&[u8]> {
        let most = Compression::Zstd.most_bytes(bytes.len() as u64);
        self.packed.clear();
        self.packed.reserve(usize::try_from(most).unwrap_or(usize::MAX));
        self.context.compress_to_buffer(bytes, &mut self.packed)?;
        Ok(&self.packed)
    }
}

/// Decompresses chunk after chunk.
#[derive(Default)]
pub(crate) struct Unpacker {
    context: Decompressor<'static>,
}

impl Unpacker {
    /// Fills `target` from a frame; what is wrong if the frame does not hold exactly as many bytes. Takes no
    /// memory of the frame's choosing.
    pub(crate) fn unpack(&mut self, frame: &[u8], target: &mut [u8]) -> Result<(), String> {
        let expected = target.len();
        match self.context.decompress_to_buffer(frame, target) {
            Ok(found) if found == expected => Ok(()),
            Ok(found) => Err(format!("zstd frame: expected {expected} bytes, found {found}")),
            Err(error) => Err(format!("zstd frame: expected {expected} bytes: {error}")),
        }
    }
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer").field("capacity", &self.packed.capacity()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacker").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_of_another_length_or_none_at_all_are_refused() {
        let (mut packer, mut unpacker) = (Packer::new().unwrap(), Unpacker::default());
        let bytes = vec![7; 100_000];
        let frame = packer.pack(&bytes).unwrap().to_vec();
        for length in [0, 1, 99_999, 100_001, 200_000] {
            let error = unpacker.unpack(&frame, &mut vec![0; length]).unwrap_err();
            assert!(error.contains(&format!("expected {length} bytes")), "{error}");
        }
        for frame in [&frame[..frame.len() - 1], b"", b"no frame at all", &[&frame[..], b"x"].concat()] {
            assert!(unpacker.unpack(frame, &mut vec![0; 100_000]).is_err());
        }
        // The context is as good as new after every failure.
        let mut target = vec![0; 100_000];
        unpacker.unpack(&frame, &mut target).unwrap();
        assert_eq!(target, bytes);
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back_and_keeps_the_bound(
            length in 0usize..300_000, period in 1usize..300, seed: u64,
        ) {
            let mut noise = vec![0; period];
            blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
            let bytes: Vec<u8> = noise.iter().cycle().take(length).copied().collect();
            let (mut packer, mut unpacker) = (Packer::new().unwrap(), Unpacker::default());
            for bytes in [&bytes[..], &noise] {
                let frame = packer.pack(bytes).unwrap().to_vec();
                prop_assert!(frame.len() as u64 <= Compression::Zstd.most_bytes(bytes.len() as u64));
                let mut target = vec![1; bytes.len()];
                unpacker.unpack(&frame, &mut target).unwrap();
                prop_assert_eq!(&target, bytes);
            }
        }
    }
}
