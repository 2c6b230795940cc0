//! Quantised levels in the read plane: decoded with the scales of their rows, which are checked before.

use super::*;

#[test]
fn quantised_levels_are_decoded_with_the_scales_of_their_rows() {
    let shards = quantised();
    let mut batch = Batch::new();
    let all = [0, 1, 2, 3];
    for (threads, files) in [(1, 64), (3, 2), (1, 1)] {
        let mut plane = shards.plane(threads, files);
        for rows in [&[0u64][..], &[4, 1, 2], &[2, 2, 0]] {
            for dtype in [None, Some(DType::F32), Some(DType::F16)] {
                let options = PlaneOptions { verify: threads > 1, dtype, ..VERIFY };
                shards.read(&mut plane, rows, &[0, 2, 1], None, options, &mut batch).unwrap();
                shards.check(&batch, rows, &[0, 2, 1], None, dtype);
            }
        }
        for (start, end) in [(0, 1), (1, 3), (3, 4)] {
            let band = Some(RowBand { start, end });
            shards.read(&mut plane, &[1, 4], &all, band, VERIFY, &mut batch).unwrap();
            shards.check(&batch, &[1, 4], &all, band, None);
        }
        assert!(plane.shards.open_files() <= files);
    }
    let mut plane = shards.plane(1, 9);
    let error = shards.read(&mut plane, &[1, 3], &[0], None, VERIFY, &mut batch).unwrap_err().to_string();
    assert!(error.contains("row 3 (key k3), level p2: no features"), "{error}");
}

#[test]
fn damaged_scales_are_found_before_anything_is_decoded_with_them() {
    let shards = quantised();
    let array = shards.arrays.level(0, 0).unwrap().affine.as_ref().unwrap();
    let path = shards.folder.path().join(array.shard_path(0));
    let good = fs::read(&path).unwrap();
    let chunk = array.geometry.chunk_bytes() as usize;
    let mut batch = Batch::new();
    let mut read = |bytes: &[u8], options: PlaneOptions| {
        fs::write(&path, bytes).unwrap();
        let read = shards.read(&mut shards.plane(1, 9), &[0, 1], &[0], None, options, &mut batch);
        assert_eq!(batch.level_count(), if read.is_ok() { 1 } else { 0 });
        read.map_err(|error| error.to_string())
    };
    for at in [0, 7, chunk - 1, chunk, 2 * chunk - 5] {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        let error = read(&bytes, VERIFY).unwrap_err();
        let row = at / chunk;
        assert!(
            error.contains(&format!("row {row} (key k{row}), level p2, band 0: the checksum")),
            "{error}"
        );
        assert!(error.contains("p2.affine/c.0.0.0.0"), "{error}");
    }
    // No number, under a checksum that is right.
    for (bits, place, what) in [
        (f32::NAN, 5, "scale of channel 5: expected a number from 0, found NaN"),
        (-1.0, 0, "scale of channel 0: expected a number from 0, found -1"),
        (f32::INFINITY, 513 + 7, "offset of channel 7: expected a number, found inf"),
    ] {
        let mut bytes = good.clone();
        bytes[chunk + 4 * place..][..4].copy_from_slice(&bits.to_le_bytes());
        let checksum = crate::checksum::crc32c(&bytes[chunk..2 * chunk - 4]);
        bytes[2 * chunk - 4..2 * chunk].copy_from_slice(&checksum);
        for verify in [true, false] {
            let error = read(&bytes, PlaneOptions { verify, ..VERIFY }).unwrap_err();
            assert!(error.contains(&format!("row 1 (key k1), level p2: {what}")), "{error}");
        }
    }
    read(&good, VERIFY).unwrap();
    // Of another shape: as the index tells, and as the document tells.
    let error = read(&good[..good.len() - 16], VERIFY).unwrap_err();
    assert!(error.contains("shard index"), "{error}");
    fs::write(&path, &good).unwrap();
    let document = shards.folder.path().join(array.document_path());
    let text = fs::read_to_string(&document).unwrap().replace("513", "512");
    fs::write(&document, text).unwrap();
    let error = shards.read(&mut shards.plane(1, 9), &[0], &[0], None, VERIFY, &mut batch).unwrap_err();
    assert!(error.to_string().contains("expected 513, found 512"), "{error}");
}
