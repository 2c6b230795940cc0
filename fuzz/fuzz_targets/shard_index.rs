//! The index at the end of a shard, with a checksum that fits: chunks lie inside the payload, in order,
//! without overlap, or the shard is refused.

#![no_main]

use featcache_fuzz::damaged;
use featcache_store::{ArraySpec, Compression, DType, ShardIndex, Size};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    let &[rows, side, shard, edits @ ..] = &data else { return };
    let compression = if shard & 64 == 0 { Compression::None } else { Compression::Zstd };
    let (rows, side) = (u64::from(rows % 8) + 1, 64 * u32::from(side % 16 + 1));
    let array =
        ArraySpec::new("a".into(), 2 * rows - 1, rows, Size::new(side, side), 96, DType::Bf16).unwrap();
    let array = array.compressed(compression).unwrap();
    let (bands, bytes) = (u64::from(array.geometry.bands), array.geometry.chunk_bytes());
    let mut sound = Vec::new();
    let mut start = 0;
    for _ in 0..rows * bands {
        start = array.geometry.next_offset(start);
        sound.extend([start, bytes].into_iter().flat_map(u64::to_le_bytes));
        start += bytes;
    }
    let mut index = damaged(&sound, edits);
    index.extend(crc32c::crc32c(&index).to_le_bytes());
    let number = u64::from(*shard % 3);
    let Ok(index) = ShardIndex::parse(&index, start, &array, number, Path::new("c")) else { return };
    let mut end = 0;
    for (row, band, chunk) in index.chunks() {
        assert!(row < array.shard_rows(number) && band < array.geometry.bands);
        assert!(chunk.start >= end && chunk.start < chunk.end && chunk.end <= start);
        assert_eq!(index.chunk(row, band), Some(chunk.clone()));
        end = chunk.end;
    }
});
