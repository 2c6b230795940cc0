//! Chunks that are compressed: one zstd frame (RFC 8878) a chunk, in contexts and memory that are used again.
//! Bytes of floats are taken apart before, first bytes first: those with the exponents repeat, the others hardly
//! do. Knows nothing else of what the bytes mean; checksums are the shard's.

use crate::instruction_set::{InstructionSet, Loop};
use std::fmt;
use zstd::bulk::{Compressor, Decompressor};

/// Level of zstd: see `docs/benchmarks.md` for what the others gain. Part of the format, as every array's
/// document names it.
pub(crate) const ZSTD_LEVEL: i32 = 1;

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
    planes: Vec<u8>,
    packed: Vec<u8>,
}

impl Packer {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { context: Compressor::new(ZSTD_LEVEL)?, planes: Vec::new(), packed: Vec::new() })
    }

    /// The frame of elements of so many bytes each: of all their first bytes, then of all their second ones.
    pub(crate) fn pack(&mut self, elements: &[u8], element_bytes: usize) -> std::io::Result<&[u8]> {
        let bytes = match element_bytes {
            0 | 1 => elements,
            _ => {
                self.planes.clear();
                for plane in 0..element_bytes {
                    self.planes.extend(elements.iter().skip(plane).step_by(element_bytes));
                }
                self.planes.as_slice()
            }
        };
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
    planes: Vec<u8>,
}

impl Unpacker {
    /// Fills `target` with elements of so many bytes each from their frame; what is wrong if the frame does not
    /// hold exactly as many. Takes no memory of the frame's choosing.
    pub(crate) fn unpack(
        &mut self,
        frame: &[u8],
        target: &mut [u8],
        element_bytes: usize,
    ) -> Result<(), String> {
        if element_bytes <= 1 {
            return decompress(&mut self.context, frame, target);
        }
        if self.planes.len() < target.len() {
            self.planes.resize(target.len(), 0);
        }
        let planes = self.planes.get_mut(..target.len()).unwrap_or_default();
        decompress(&mut self.context, frame, planes)?;
        let elements = target.len() / element_bytes;
        match element_bytes {
            2 => InstructionSet::best().run(Join::<2> { planes: split(planes, elements), target }),
            4 => InstructionSet::best().run(Join::<4> { planes: split(planes, elements), target }),
            _ => return Err(format!("elements of {element_bytes} bytes")),
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.planes.capacity()
    }
}

fn decompress(context: &mut Decompressor<'static>, frame: &[u8], target: &mut [u8]) -> Result<(), String> {
    let expected = target.len();
    match context.decompress_to_buffer(frame, target) {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => Err(format!("zstd frame: expected {expected} bytes, found {found}")),
        Err(error) => Err(format!("zstd frame: expected {expected} bytes: {error}")),
    }
}

/// The planes, of `elements` bytes each.
fn split<const N: usize>(bytes: &[u8], elements: usize) -> [&[u8]; N] {
    std::array::from_fn(|plane| bytes.get(plane * elements..(plane + 1) * elements).unwrap_or_default())
}

/// Puts the bytes of elements together again.
struct Join<'a, const N: usize> {
    planes: [&'a [u8]; N],
    target: &'a mut [u8],
}

impl Loop for Join<'_, 2> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let [first, second] = self.planes;
        let elements = self.target.as_chunks_mut::<2>().0.iter_mut().zip(first).zip(second);
        elements.for_each(|((element, first), second)| *element = [*first, *second]);
    }
}

impl Loop for Join<'_, 4> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let [a, b, c, d] = self.planes;
        let elements = self.target.as_chunks_mut::<4>().0.iter_mut().zip(a).zip(b).zip(c).zip(d);
        elements.for_each(|((((element, a), b), c), d)| *element = [*a, *b, *c, *d]);
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
        let frame = packer.pack(&bytes, 1).unwrap().to_vec();
        for length in [0, 1, 99_999, 100_001, 200_000] {
            let error = unpacker.unpack(&frame, &mut vec![0; length], 1).unwrap_err();
            assert!(error.contains(&format!("expected {length} bytes")), "{error}");
        }
        for frame in [&frame[..frame.len() - 1], b"", b"no frame at all", &[&frame[..], b"x"].concat()] {
            assert!(unpacker.unpack(frame, &mut vec![0; 100_000], 4).is_err());
        }
        // The context is as good as new after every failure.
        let mut target = vec![0; 100_000];
        unpacker.unpack(&frame, &mut target, 2).unwrap();
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
            for element_bytes in [1, 2, 4] {
                for bytes in [&bytes[..], &noise] {
                    let bytes = &bytes[..bytes.len() / element_bytes * element_bytes];
                    let frame = packer.pack(bytes, element_bytes).unwrap().to_vec();
                    prop_assert!(frame.len() as u64 <= Compression::Zstd.most_bytes(bytes.len() as u64));
                    let mut target = vec![1; bytes.len()];
                    unpacker.unpack(&frame, &mut target, element_bytes).unwrap();
                    prop_assert_eq!(&target, bytes);
                }
            }
        }
    }
}
