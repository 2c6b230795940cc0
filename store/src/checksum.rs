//! CRC-32C (Castagnoli; RFC 3720, appendix B.4): what Zarr calls `crc32c`. Folded over carry-less
//! multiplications, it keeps up with memory; the processor's own instruction is half as fast.

use crc_fast::{CrcAlgorithm, Digest};

/// Bytes of a checksum.
pub(crate) const CHECKSUM: usize = 4;

/// The checksum of `bytes`, in the order in which a file holds it.
pub(crate) fn crc32c(bytes: &[u8]) -> [u8; 4] {
    crc_fast::crc32_iscsi(bytes).to_le_bytes()
}

/// What is wrong where a file holds one checksum and its bytes have another; both as the file holds them.
pub(crate) fn differs(expected: [u8; 4], found: [u8; 4]) -> String {
    let [expected, found] = [expected, found].map(u32::from_le_bytes);
    format!("the checksum crc32c: expected {expected:08x}, found {found:08x}")
}

/// The checksum of bytes that come in blocks.
pub(crate) struct Crc32c(Digest);

impl Crc32c {
    pub(crate) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    pub(crate) fn update(&mut self, block: &[u8]) {
        self.0.update(block);
    }

    /// Of all blocks so far, in the order in which a file holds it.
    pub(crate) fn finish(&self) -> [u8; 4] {
        // The upper half of what a 32-bit algorithm returns is zero.
        let [a, b, c, d, ..] = self.0.finalize().to_le_bytes();
        [a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 3720, appendix B.4.
    #[test]
    fn the_standards_vectors() {
        let ascending: Vec<u8> = (0..32).collect();
        for (bytes, expected) in [
            (&[][..], [0, 0, 0, 0]),
            (&[0; 32], [0xaa, 0x36, 0x91, 0x8a]),
            (&[0xff; 32], [0x43, 0xab, 0xa8, 0x62]),
            (&ascending, [0x4e, 0x79, 0xdd, 0x46]),
        ] {
            assert_eq!(crc32c(bytes), expected);
        }
    }

    #[test]
    fn blocks_of_any_length_give_the_checksum_of_the_whole() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| ((i * 7919) >> 5) as u8).collect();
        for block in [1, 3, 63, 64, 1000, 4096, 65_536, 100_000] {
            let mut sum = Crc32c::new();
            bytes.chunks(block).for_each(|block| sum.update(block));
            assert_eq!(sum.finish(), crc32c(&bytes), "blocks of {block}");
        }
    }
}
