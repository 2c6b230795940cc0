//! Every page policy reads the same bytes, and what is wrong once is read again.

use super::*;

#[test]
fn every_policy_gives_the_same_bytes() {
    let mut batch = Batch::new();
    for (shards, levels) in [(large(), &[0, 1, 2][..]), (quantised(), &[0, 1, 2, 3])] {
        for pages in PagePolicy::ALL {
            for threads in [1, 4] {
                let mut plane = shards.plane_with(threads, 64, pages);
                for verify in [true, false] {
                    let options = PlaneOptions { verify, ..VERIFY };
                    for rows in [&[0u64][..], &[4, 1, 2, 0], &[2, 2]] {
                        shards.read(&mut plane, rows, levels, None, options, &mut batch).unwrap();
                        shards.check(&batch, rows, levels, None, None);
                    }
                    let (band, dtype) = (Some(RowBand { start: 1, end: 3 }), Some(DType::F32));
                    let options = PlaneOptions { dtype, ..options };
                    shards.read(&mut plane, &[4, 0], levels, band, options, &mut batch).unwrap();
                    shards.check(&batch, &[4, 0], levels, band, dtype);
                }
            }
        }
    }
}

#[test]
fn every_policy_finds_flipped_bits_and_early_ends() {
    let mut batch = Batch::new();
    for (shards, level) in [(large(), 0), (small(2, 2), 0)] {
        let path = shards.path(level, 0);
        let good = fs::read(&path).unwrap();
        for pages in PagePolicy::ALL {
            for at in [0, 4096, good.len() / 3] {
                let mut bytes = good.clone();
                bytes[at % (good.len() / 2)] ^= 0x10;
                fs::write(&path, bytes).unwrap();
                let mut plane = shards.plane_with(2, 9, pages);
                let read = shards.read(&mut plane, &[0, 1], &[level], None, VERIFY, &mut batch);
                let error = read.unwrap_err().to_string();
                assert!(error.contains("the checksum crc32c"), "{pages} byte {at}: {error}");
                assert_eq!((batch.level_count(), plane.mended()), (0, 0));
            }
            fs::write(&path, &good).unwrap();
            let mut plane = shards.plane_with(1, 9, pages);
            shards.read(&mut plane, &[0, 1], &[level], None, VERIFY, &mut batch).unwrap();
            for length in [good.len() / 4, good.len() / 5 / 4096 * 4096, 1, 0] {
                fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length as u64).unwrap();
                for verify in [true, false] {
                    let options = PlaneOptions { verify, ..VERIFY };
                    let read = shards.read(&mut plane, &[0, 1], &[level], None, options, &mut batch);
                    let error = read.unwrap_err().to_string();
                    assert!(error.contains("the file ends at byte"), "{pages} {verify}: {error}");
                }
            }
            fs::write(&path, &good).unwrap();
        }
    }
}

/// What came wrong from the page cache is right on the disk.
#[test]
fn what_is_wrong_once_is_read_again() {
    let mut batch = Batch::new();
    for (shards, levels) in [(large(), &[0, 1, 2][..]), (quantised(), &[0, 1, 2, 3])] {
        for pages in PagePolicy::ALL {
            let mut plane = shards.plane_with(1, 64, pages);
            for (spoilt, mended) in [(1, 1), (4, 5), (0, 5)] {
                plane.scratch.resize_with(4, Mutex::default);
                plane.scratch.iter().take(1).for_each(|scratch| lock(scratch).spoilt = spoilt);
                shards.read(&mut plane, &[4, 1, 0], levels, None, VERIFY, &mut batch).unwrap();
                shards.check(&batch, &[4, 1, 0], levels, None, None);
                if pages.fills_the_cache() {
                    assert_eq!(plane.mended(), mended);
                }
            }
        }
    }
}

#[test]
fn a_batch_beyond_its_budget_is_refused_before_there_is_memory_for_it() {
    let shards = small(2, 2);
    let mut batch = Batch::new();
    // 8x4 cells of 2 channels in f32, 4x2 of 3 in f16; two rows.
    let needed = 2 * (8 * 4 * 2 * 4 + 4 * 2 * 3 * 2);
    for (batch_bytes, fits) in [(needed, true), (needed - 1, false), (0, false)] {
        let options = PlaneOptions { batch_bytes, ..VERIFY };
        let mut fresh = Batch::new();
        let into = if fits { &mut batch } else { &mut fresh };
        let read = shards.read(&mut shards.plane(1, 9), &[0, 1], &[0, 1], None, options, into);
        assert_eq!(read.is_ok(), fits, "{batch_bytes}: {read:?}");
        if let Err(error) = read {
            let text = error.to_string();
            assert!(text.contains(&format!("passes the budget of {batch_bytes} bytes")), "{text}");
            assert!(fresh.capacity_bytes() <= 4096, "{}", fresh.capacity_bytes());
        }
    }
}
