//! Levels whose chunks are zstd frames: read in every way, then damaged under checksums that are right.

use super::*;
use crate::checksum::crc32c;
use crate::compression::Packer;
use crate::shard::ENTRY_BYTES;
use crate::shard_index::ShardIndex;

/// Values as they are and codes, in chunks larger than a block of reading and in tiny ones.
fn compressed() -> Shards {
    let levels = [level("p2", 4, 512), level("p3", 8, 128), level("p4", 16, 33), level("p5", 32, 3)];
    let encodings = "p2=bf16+zstd,p3=int8+zstd,p4=int4+zstd,p5=f32+zstd";
    Shards::write(Size::new(512, 352), 5, 2, &levels, encodings, 3)
}

#[test]
fn every_read_gives_what_was_written() {
    let shards = compressed();
    let all = [0usize, 1, 2, 3];
    let mut batch = Batch::new();
    for (threads, files) in [(1, 64), (2, 64), (4, 2)] {
        let mut plane = shards.plane(threads, files);
        for rows in [&[0u64][..], &[4, 1, 2], &[2, 2, 0]] {
            for dtype in [None, Some(DType::F32), Some(DType::Bf16), Some(DType::F16)] {
                for verify in [true, false] {
                    let options = PlaneOptions { verify, dtype, ..VERIFY };
                    shards.read(&mut plane, rows, &all, None, options, &mut batch).unwrap();
                    shards.check(&batch, rows, &all, None, dtype);
                }
            }
        }
        for (start, end) in [(0, 1), (3, 4), (5, 11), (15, 16)] {
            let band = Some(RowBand { start, end });
            shards.read(&mut plane, &[1, 4], &all, band, VERIFY, &mut batch).unwrap();
            shards.check(&batch, &[1, 4], &all, band, None);
        }
    }
    let file_bytes = fs::metadata(shards.path(0, 0)).unwrap().len();
    let payload = shards.arrays.level(0, 0).unwrap().payload.geometry.sample_bytes();
    assert!(file_bytes < payload, "two rows in {file_bytes} bytes, one of which has {payload}");
}

#[test]
fn bands_that_are_not_wanted_are_not_read() {
    let shards = compressed();
    let path = shards.path(0, 0);
    let array = &shards.arrays.level(0, 0).unwrap().payload;
    let mut bytes = fs::read(&path).unwrap();
    let start = bytes.len() - ShardIndex::bytes(array) as usize;
    let index = ShardIndex::parse(&bytes[start..], start as u64, array, 0, &path).unwrap();
    let bands = array.geometry.bands;
    assert!(bands > 2);
    // All but the first band of a row are gone.
    for band in 1..bands {
        let chunk = index.chunk(1, band).unwrap();
        bytes[chunk.start as usize..chunk.end as usize].fill(0xa5);
    }
    fs::write(&path, &bytes).unwrap();
    let mut batch = Batch::new();
    let mut read = |start: u32, end: u32| {
        let band = Some(RowBand { start, end });
        shards.read(&mut shards.plane(1, 9), &[1], &[0], band, VERIFY, &mut batch)
    };
    read(0, array.geometry.band_rows).unwrap();
    let error = read(0, array.geometry.band_rows + 1).unwrap_err().to_string();
    assert!(error.contains("row 1 (key k1), level p2, band 1: the checksum"), "{error}");
}

/// Puts another frame in the place of a row's only chunk, with its checksum and a place in the index.
fn replace_frame(good: &[u8], array: &ArraySpec, row: usize, frame: &[u8]) -> Vec<u8> {
    let start = good.len() - ShardIndex::bytes(array) as usize;
    let mut bytes = good[..start].to_vec();
    let mut index = good[start..good.len() - 4].to_vec();
    // Behind all others, so that none overlaps: the row must be the last with features.
    let at = bytes.len() as u64;
    bytes.extend_from_slice(frame);
    bytes.extend(crc32c(frame));
    let entry = &mut index[row * ENTRY_BYTES as usize..][..ENTRY_BYTES as usize];
    entry[..8].copy_from_slice(&at.to_le_bytes());
    entry[8..].copy_from_slice(&(frame.len() as u64 + 4).to_le_bytes());
    bytes.extend_from_slice(&index);
    bytes.extend(crc32c(&index));
    bytes
}

#[test]
fn frames_that_hold_something_else_are_corruptions_with_their_place() {
    let shards = compressed();
    // One chunk a row; rows 0 and 1 are in the first shard.
    let (path, array) = (shards.path(3, 0), &shards.arrays.level(0, 3).unwrap().payload);
    let good = fs::read(&path).unwrap();
    let payload = array.geometry.payload_bytes() as usize;
    let mut packer = Packer::new().unwrap();
    let mut frame = |bytes: &[u8]| packer.pack(bytes, 4).unwrap().to_vec();
    let whole = frame(&shards.payload(3, 1));
    let mut batch = Batch::new();
    let mut read = |frame: &[u8], verify: bool| {
        fs::write(&path, replace_frame(&good, array, 1, frame)).unwrap();
        let options = PlaneOptions { verify, ..VERIFY };
        let read = shards.read(&mut shards.plane(1, 9), &[0, 1], &[3], None, options, &mut batch);
        assert_eq!(batch.level_count(), if read.is_ok() { 1 } else { 0 });
        read.map_err(|error| error.to_string())
    };
    read(&whole, true).unwrap();
    for (name, bad) in [
        ("fewer bytes", frame(&vec![1; payload - 4])),
        ("more bytes", frame(&vec![1; payload + 4])),
        ("a bomb", frame(&vec![0; 1 << 24])),
        ("nothing", frame(&[])),
        ("a cut frame", whole[..whole.len() - 1].to_vec()),
        ("a frame and more", [&whole[..], b"x"].concat()),
        ("no frame", vec![0xa5; 40]),
    ] {
        for verify in [true, false] {
            let error = read(&bad, verify).unwrap_err();
            assert!(
                error.contains("row 1 (key k1), level p5, band 0: zstd frame: expected"),
                "{name}: {error}"
            );
            assert!(error.contains("p5/c.0.0.0.0"), "{name}: {error}");
        }
    }
    // More than a chunk of this array can take is refused before any memory is taken for it.
    let most = array.geometry.chunk_bytes() as usize;
    let error = read(&vec![0; most], true).unwrap_err();
    assert!(error.contains("shard index: row 1 of the shard, band 0: expected at most"), "{error}");
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let shards = compressed();
    let path = shards.path(3, 0);
    let good = fs::read(&path).unwrap();
    let mut batch = Batch::new();
    for bit in (0..good.len() * 8).step_by(13) {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, bytes).unwrap();
        let mut read = |verify| {
            let options = PlaneOptions { verify, ..VERIFY };
            shards.read(&mut shards.plane(1, 9), &[0, 1], &[3], None, options, &mut batch)
        };
        assert!(matches!(read(true), Err(Error::Corrupt { .. })), "bit {bit}");
        // Unchecked, anything may come out, but nothing may break.
        let _unchecked = read(false);
    }
}

#[test]
fn memory_does_not_grow() {
    let shards = compressed();
    let mut plane = shards.plane(2, 64);
    let mut batch = Batch::new();
    let mut memory = Vec::new();
    for round in 0..6 {
        let rows = [round % 3, 4, (round + 1) % 3];
        shards.read(&mut plane, &rows, &[0, 1, 2, 3], None, VERIFY, &mut batch).unwrap();
        memory.push(plane.scratch.iter().map(|scratch| lock(scratch).capacity()).sum::<usize>());
    }
    let most = shards.arrays.level(0, 0).unwrap().payload.geometry.chunk_bytes() as usize;
    assert!(memory[5] <= 2 * (3 * most + (512 << 10)), "{memory:?}");
    assert!(memory[2..].iter().all(|bytes| *bytes <= 2 * (3 * most + (512 << 10))), "{memory:?}");
}
