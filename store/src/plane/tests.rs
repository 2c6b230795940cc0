//! Shards are written, then read in every way that the read plane has, and compared with what was
//! written; then they are damaged.

mod compressed;
mod pages;
mod quantised;

use super::*;
use crate::array::{ArraySpec, LevelArrays};
use crate::layout::Layout;
use crate::zarr::{array_document, document_bytes};
use crate::{
    Bucket, DType, ElementType, Encodings, FsStorage, LevelSpec, NumberFormat, PagePolicy, ShardWriter, Size,
    Staged, Storage,
};
use proptest::prelude::*;
use std::fs;
use std::path::PathBuf;

const VERIFY: PlaneOptions =
    PlaneOptions { verify: true, dtype: None, projected: Projected::Channels, batch_bytes: 1 << 40 };

/// Arrays with all their shards on disk; row `empty` of the bucket has no features.
struct Shards {
    folder: tempfile::TempDir,
    arrays: StoreArrays,
    levels: usize,
    rows: u64,
    empty: u64,
}

fn level(name: &str, stride: u32, channels: u32) -> LevelSpec {
    LevelSpec { name: name.into(), stride, channels, tap: "x".into(), norm: "none".into() }
}

/// Three levels: chunks that are aligned and several a row, chunks of one row, and tiny ones.
fn large() -> Shards {
    let levels = [level("p2", 4, 512), level("p3", 8, 128), level("p5", 32, 3)];
    Shards::write(Size::new(512, 352), 5, 2, &levels, "bf16,p5=f32", 3)
}

/// One level of each quantised encoding, beside a plain one: chunks longer than a block of reading, cells
/// longer than one, scales and offsets in two chunks, and odd numbers of channels.
fn quantised() -> Shards {
    let levels = [level("p2", 4, 513), level("p3", 8, 128), level("p5", 32, 35), level("p6", 64, 530_001)];
    Shards::write(Size::new(256, 96), 5, 2, &levels, "p2=int8,p3=f16,p5=e4m3fn,p6=int4", 3)
}

fn small(rows: u64, unit_rows: u64) -> Shards {
    let levels = [level("p3", 8, 2), level("p4", 16, 3)];
    Shards::write(Size::new(64, 32), rows, unit_rows, &levels, "p3=f32,p4=f16", u64::MAX)
}

impl Shards {
    fn write(
        size: Size,
        rows: u64,
        unit_rows: u64,
        levels: &[LevelSpec],
        encodings: &str,
        empty: u64,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let (split, view) = ("val".into(), "base".into());
        let bucket = Bucket { split, view, size, rows: RowId(100)..RowId(100 + rows), unit_rows };
        let encodings = Encodings::parse(encodings, levels).unwrap();
        let arrays = StoreArrays::new(&[bucket], levels, &encodings).unwrap();
        let shards = Self { folder, arrays, levels: levels.len(), rows, empty };
        for l in 0..levels.len() {
            let arrays = shards.arrays.level(0, l).unwrap();
            for array in arrays.iter() {
                shards.write_array(&storage, l, array);
            }
        }
        shards
    }

    fn write_array(&self, storage: &Arc<dyn Storage>, level: usize, array: &ArraySpec) {
        for k in 0..array.shards() {
            let target = self.folder.path().join(array.shard_path(k));
            let mut writer = ShardWriter::new(Staged::create(storage, &target).unwrap(), array, k).unwrap();
            for row in k * array.unit_rows..k * array.unit_rows + array.shard_rows(k) {
                if row == self.empty {
                    writer.append_empty().unwrap();
                } else if array.path.ends_with(".affine") {
                    let affine =
                        self.affine(level, row).iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
                    writer.append_payload(&affine).unwrap();
                } else {
                    writer.append_payload(&self.payload(level, row)).unwrap();
                }
            }
            writer.finish().unwrap().publish().unwrap();
        }
        let document = self.folder.path().join(array.document_path());
        fs::write(document, document_bytes(&array_document(array))).unwrap();
    }

    fn path(&self, level: usize, shard: u64) -> PathBuf {
        self.folder.path().join(self.arrays.level(0, level).unwrap().payload.shard_path(shard))
    }

    /// Small finite numbers of the level's own type, different everywhere; or codes.
    fn payload(&self, level: usize, row: u64) -> Vec<u8> {
        let LevelArrays { payload: array, encoding, .. } = self.arrays.level(0, level).unwrap();
        let elements = array.geometry.sample_bytes() as usize / array.element.bytes();
        let number = |i: usize| (i * 7 + level * 31 + row as usize * 1009) % 4093;
        let ElementType::Float(dtype) = array.element else {
            // Without the NaN of E4M3.
            return (0..elements).map(|i| (number(i) % 126) as u8 | (i as u8 & 0x80)).collect();
        };
        assert_eq!(encoding.value_dtype(), dtype);
        let value = |i: usize| number(i) as f32 / 64.0 - 20.0;
        let values: Vec<u8> = (0..elements).flat_map(|i| value(i).to_le_bytes()).collect();
        let mut payload = vec![0; elements * dtype.bytes()];
        crate::conversion::convert(&values, DType::F32, &mut payload, dtype);
        payload
    }

    /// Scales and offsets, different in every row and channel; none of a plain level.
    fn affine(&self, level: usize, row: u64) -> Vec<f32> {
        let arrays = self.arrays.level(0, level).unwrap();
        let of_row = arrays.affine.as_ref().map_or(0, |array| 2 * array.channels as usize);
        (0..of_row).map(|i| (i * 3 + level + row as usize * 17) as f32 / 256.0).collect()
    }

    /// What a read of these rows of cells must give.
    fn expected(&self, level: usize, row: u64, cells: Range<u32>, dtype: Option<DType>) -> Vec<u8> {
        let LevelArrays { payload: array, encoding, channels, .. } = self.arrays.level(0, level).unwrap();
        let row_bytes = array.geometry.row_bytes as usize;
        let payload = self.payload(level, row);
        let wanted = &payload[cells.start as usize * row_bytes..cells.end as usize * row_bytes];
        let dtype = dtype.unwrap_or(encoding.value_dtype());
        let values = cells.len() * (array.cells.width * channels) as usize;
        let mut out = vec![0; values * dtype.bytes()];
        encoding.format.decode(wanted, &self.affine(level, row), &mut out, dtype);
        out
    }

    fn plane(&self, threads: usize, files: usize) -> ReadPlane {
        self.plane_with(threads, files, PagePolicy::Buffered)
    }

    fn plane_with(&self, threads: usize, files: usize, pages: PagePolicy) -> ReadPlane {
        let layout = Layout::new(self.folder.path());
        ReadPlane::new(ShardCache::new(layout, files, 1 << 20, pages), threads)
    }

    fn read(
        &self,
        plane: &mut ReadPlane,
        rows: &[u64],
        levels: &[usize],
        band: Option<RowBand>,
        options: PlaneOptions,
        batch: &mut Batch,
    ) -> Result<()> {
        let ids: Vec<RowId> = rows.iter().map(|row| RowId(100 + row)).collect();
        let request = Request { bucket: 0, levels, ids: &ids, rows, band };
        let name = |i: usize| format!("row {} (key k{})", rows[i], rows[i]);
        plane.read(&self.arrays, &request, options, batch, &name).map_err(|failure| failure.error)
    }

    fn check(
        &self,
        batch: &Batch,
        rows: &[u64],
        levels: &[usize],
        band: Option<RowBand>,
        dtype: Option<DType>,
    ) {
        let coarsest = levels.iter().map(|l| self.arrays.level(0, *l).unwrap().stride).max().unwrap();
        assert_eq!(batch.level_count(), levels.len());
        for (i, l) in levels.iter().enumerate() {
            let LevelArrays { payload: array, stride, encoding, .. } = self.arrays.level(0, *l).unwrap();
            let cells = band.map_or(0..array.cells.height, |band| {
                band.start * coarsest / stride..band.end * coarsest / stride
            });
            let found = batch.level(i);
            let [n, h, w, c] = found.shape;
            assert_eq!((n, h), (rows.len(), cells.len()));
            assert_eq!(found.bytes.len(), n * h * w * c * found.dtype.bytes());
            assert_eq!(found.dtype, dtype.unwrap_or(encoding.value_dtype()));
            for (row, bytes) in rows.iter().zip(found.bytes.chunks(found.bytes.len() / n)) {
                assert!(bytes == self.expected(*l, *row, cells.clone(), dtype), "level {l} row {row}");
            }
        }
    }
}

#[test]
fn every_thread_count_order_and_file_limit_gives_the_same_bytes() {
    let shards = large();
    let mut batch = Batch::new();
    for (threads, files) in [(1, 64), (2, 64), (4, 2), (1, 1)] {
        let mut plane = shards.plane(threads, files);
        for rows in [&[0u64][..], &[4, 1, 2], &[2, 2, 0], &[0, 1, 2, 4]] {
            for levels in [&[0usize, 1, 2][..], &[2, 0], &[1]] {
                for verify in [true, false] {
                    let options = PlaneOptions { verify, ..VERIFY };
                    shards.read(&mut plane, rows, levels, None, options, &mut batch).unwrap();
                    shards.check(&batch, rows, levels, None, None);
                    assert!(plane.shards.open_files() <= files);
                }
            }
        }
    }
}

#[test]
fn every_band_and_every_type() {
    let shards = large();
    let mut plane = shards.plane(2, 64);
    let mut batch = Batch::new();
    // The coarsest level has 16 rows of cells, the finest 128 in bands of 8.
    for (start, end) in [(0, 1), (0, 16), (3, 4), (5, 11), (15, 16)] {
        let band = Some(RowBand { start, end });
        for dtype in [None, Some(DType::F32), Some(DType::Bf16), Some(DType::F16)] {
            for verify in [true, false] {
                let options = PlaneOptions { verify, dtype, ..VERIFY };
                shards.read(&mut plane, &[1, 4], &[0, 1, 2], band, options, &mut batch).unwrap();
                shards.check(&batch, &[1, 4], &[0, 1, 2], band, dtype);
            }
        }
    }
    for (start, end) in [(0, 17), (3, 3), (4, 2), (16, 17), (u32::MAX - 1, u32::MAX)] {
        let band = Some(RowBand { start, end });
        let error = shards.read(&mut plane, &[1], &[0, 2], band, VERIFY, &mut batch).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert_eq!((batch.level_count(), batch.level(0).bytes.len()), (0, 0), "a failed read shows nothing");
    }
    // Rows of the middle level alone: two rows of the array are in one band or in two.
    for start in 0..63 {
        let band = Some(RowBand { start, end: start + 2 });
        shards.read(&mut plane, &[2], &[1], band, VERIFY, &mut batch).unwrap();
        shards.check(&batch, &[2], &[1], band, None);
    }
}

#[test]
fn memory_does_not_grow() {
    let shards = large();
    let mut plane = shards.plane(2, 64);
    let mut batch = Batch::new();
    shards.read(&mut plane, &[0, 1, 2, 4], &[0, 1, 2], None, VERIFY, &mut batch).unwrap();
    let (capacity, pointer) = (batch.capacity_bytes(), batch.level(0).bytes.as_ptr());
    for i in 0..20 {
        let rows = [i % 3, 4, (i + 1) % 3];
        shards.read(&mut plane, &rows, &[0, 1, 2], None, VERIFY, &mut batch).unwrap();
        assert_eq!((batch.capacity_bytes(), batch.level(0).bytes.as_ptr()), (capacity, pointer));
        assert!(pointer.addr().is_multiple_of(64) && batch.level(2).bytes.as_ptr().addr().is_multiple_of(64));
    }
}

#[test]
fn rows_without_features_and_rows_that_do_not_exist_are_errors() {
    let shards = large();
    let mut plane = shards.plane(1, 64);
    let mut batch = Batch::new();
    let error = shards.read(&mut plane, &[1, 3], &[1], None, VERIFY, &mut batch).unwrap_err().to_string();
    assert!(error.contains("row 3 (key k3), level p3: no features"), "{error}");
    assert!(matches!(
        shards.read(&mut plane, &[5], &[1], None, VERIFY, &mut batch),
        Err(Error::Invalid { .. })
    ));
    assert!(matches!(
        shards.read(&mut plane, &[0], &[3], None, VERIFY, &mut batch),
        Err(Error::Invalid { .. })
    ));
    shards.read(&mut plane, &[], &[0], None, VERIFY, &mut batch).unwrap();
    assert_eq!(batch.level(0).shape[0], 0);
    assert_eq!((shards.empty, shards.rows, shards.levels), (3, 5, 3));
}

#[test]
fn a_flipped_bit_anywhere_is_found_by_the_read_that_touches_it() {
    let shards = small(2, 2);
    let path = shards.path(0, 0);
    let good = fs::read(&path).unwrap();
    let mut batch = Batch::new();
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, bytes).unwrap();
        let error =
            shards.read(&mut shards.plane(1, 9), &[0, 1], &[0], None, VERIFY, &mut batch).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "bit {bit}: {error}");
        assert!(error.to_string().contains("c.0.0.0.0"), "{error}");
        let chunk = shards.arrays.level(0, 0).unwrap().payload.geometry.chunk_bytes() as usize;
        if bit / 8 < 2 * chunk {
            let row = bit / 8 / chunk;
            let expected =
                format!("row {row} (key k{row}), level p3, band 0: the checksum crc32c: expected ");
            assert!(error.to_string().contains(&expected), "{error}");
            // The stored word is what the file holds, whether the flip hit it or the payload.
            let bytes = fs::read(&path).unwrap();
            let stored = bytes[(row + 1) * chunk - 4..(row + 1) * chunk].try_into().unwrap();
            let computed = crate::checksum::crc32c(&bytes[row * chunk..(row + 1) * chunk - 4]);
            let words = [stored, computed].map(u32::from_le_bytes);
            let expected = format!("expected {:08x}, found {:08x}", words[0], words[1]);
            assert!(error.to_string().contains(&expected), "{error}");
        }
    }
}

#[test]
fn a_bit_of_a_large_chunk_is_found_with_and_without_conversion() {
    let shards = large();
    let path = shards.path(0, 0);
    let good = fs::read(&path).unwrap();
    let mut batch = Batch::new();
    let chunk = shards.arrays.level(0, 0).unwrap().payload.geometry.chunk_bytes() as usize;
    for at in [0, 1 << 18, chunk - 5, chunk - 1, good.len() / 3] {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        for (threads, dtype) in [(1, None), (4, None), (1, Some(DType::F32))] {
            let options = PlaneOptions { dtype, ..VERIFY };
            let mut plane = shards.plane(threads, 9);
            let error = shards.read(&mut plane, &[0, 1], &[0], None, options, &mut batch).unwrap_err();
            assert!(error.to_string().contains("level p2"), "byte {at}: {error}");
            assert_eq!(batch.rows(), []);
            // By name only: unchecked reads hand out what is there.
            let unchecked = PlaneOptions { verify: false, ..options };
            shards.read(&mut plane, &[0, 1], &[0], None, unchecked, &mut batch).unwrap();
        }
    }
}

#[test]
fn files_that_end_early_vanish_or_shrink_while_open() {
    let shards = small(2, 2);
    let path = shards.path(0, 0);
    let good = fs::read(&path).unwrap();
    let mut batch = Batch::new();
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        for verify in [true, false] {
            let options = PlaneOptions { verify, ..VERIFY };
            let error = shards.read(&mut shards.plane(1, 9), &[0, 1], &[0], None, options, &mut batch);
            assert!(matches!(error, Err(Error::Corrupt { .. })), "length {length}");
        }
    }
    fs::write(&path, &good).unwrap();
    let mut plane = shards.plane(1, 9);
    shards.read(&mut plane, &[0, 1], &[0], None, VERIFY, &mut batch).unwrap();
    let chunk = shards.arrays.level(0, 0).unwrap().payload.geometry.chunk_bytes() as usize;
    for length in (0..2 * chunk).rev() {
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(length as u64).unwrap();
        let error = shards.read(&mut plane, &[0, 1], &[0], None, VERIFY, &mut batch).unwrap_err().to_string();
        let row = length / chunk;
        assert!(error.contains(&format!("row {row} (key k{row})")), "{length}: {error}");
        assert!(error.contains(&format!("the file ends at byte {length}")), "{length}: {error}");
    }
    fs::remove_file(&path).unwrap();
    let error = shards.read(&mut shards.plane(1, 9), &[0], &[0], None, VERIFY, &mut batch).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn an_array_with_another_document_is_refused() {
    let shards = small(2, 2);
    let array = &shards.arrays.level(0, 0).unwrap().payload;
    let path = shards.folder.path().join(array.document_path());
    let mut document = array_document(array);
    document["data_type"] = "uint8".into();
    fs::write(&path, document_bytes(&document)).unwrap();
    let mut batch = Batch::new();
    let error = shards.read(&mut shards.plane(1, 9), &[0], &[0], None, VERIFY, &mut batch).unwrap_err();
    assert!(error.to_string().contains("field data_type: expected float32, found uint8"), "{error}");
    fs::write(&path, "{").unwrap();
    let error = shards.read(&mut shards.plane(1, 9), &[0], &[0], None, VERIFY, &mut batch).unwrap_err();
    assert!(error.to_string().contains("not JSON"), "{error}");
}

/// A spec may claim anything: nothing is allocated for it before a file of that size is there.
#[test]
fn a_spec_larger_than_its_files_allocates_nothing() {
    let shards = small(2, 2);
    let claimed = LevelSpec { channels: 1 << 20, ..level("p3", 8, 2) };
    let (split, view) = ("val".into(), "base".into());
    let size = Size::new(64 << 9, 32 << 9);
    let bucket = Bucket { split, view, size, rows: RowId(0)..RowId(2), unit_rows: 2 };
    let encodings = Encodings::uniform(std::slice::from_ref(&claimed), NumberFormat::F32);
    assert!(
        StoreArrays::new(std::slice::from_ref(&bucket), std::slice::from_ref(&claimed), &encodings).is_err()
    );
    let claimed = LevelSpec { channels: 1 << 12, ..claimed };
    let arrays = StoreArrays::new(&[bucket], &[claimed], &encodings).unwrap();
    let array = &arrays.level(0, 0).unwrap().payload;
    let folder = shards.folder.path().join(&array.path);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("zarr.json"), document_bytes(&array_document(array))).unwrap();
    // The shard of the honest array, and one whose index has the right size and holds nothing.
    let honest = fs::read(shards.path(0, 0)).unwrap();
    let mut empty = vec![0xff; usize::try_from(crate::ShardIndex::bytes(array)).unwrap() - 4];
    empty.extend(crate::checksum::crc32c(&empty));
    for (shard, what) in [(honest, "index"), (empty, "no features")] {
        fs::write(folder.join("c.0.0.0.0"), shard).unwrap();
        let mut batch = Batch::new();
        let request = Request { bucket: 0, levels: &[0], ids: &[RowId(0)], rows: &[0], band: None };
        let error = shards
            .plane(1, 9)
            .read(&arrays, &request, VERIFY, &mut batch, &|_| String::new())
            .unwrap_err()
            .error;
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(batch.capacity_bytes(), 0);
    }
}

#[test]
fn the_ranges_are_what_is_read() {
    let shards = large();
    let mut plane = shards.plane(1, 64);
    let request = Request { bucket: 0, levels: &[0, 1], ids: &[], rows: &[4, 0, 1], band: None };
    let ranges = plane.ranges(&shards.arrays, &request).unwrap();
    // Rows 0 and 1 are one shard and one range, row 4 is another; for each level.
    assert_eq!(ranges.len(), 4);
    let payload: u64 =
        (0..2).map(|l| 3 * shards.arrays.level(0, l).unwrap().payload.geometry.sample_bytes()).sum();
    let bytes: u64 = ranges.iter().map(|range| range.bytes.end - range.bytes.start).sum();
    assert!((payload..payload + payload / 50).contains(&bytes), "{payload} {bytes}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_shape_any_request(
        rows in 1u64..9, unit_rows in 1u64..9, height in 1u32..5, width in 1u32..4,
        picks in proptest::collection::vec(0u64..9, 1..12), start in 0u32..4, length in 1u32..4,
        threads in 1usize..4, files in 1usize..4,
    ) {
        let levels = [level("p3", 8, 2), level("p4", 16, 3)];
        let size = Size::new(height * 16, width * 16);
        let shards = Shards::write(size, rows, unit_rows.min(rows), &levels, "p3=bf16,p4=f16", u64::MAX);
        let picks: Vec<u64> = picks.into_iter().map(|pick| pick % rows).collect();
        let start = start % height;
        let band = RowBand { start, end: (start + length).min(height) };
        let mut batch = Batch::new();
        let mut plane = shards.plane(threads, files);
        for (band, dtype) in [(None, None), (Some(band), Some(DType::F32))] {
            let options = PlaneOptions { dtype, ..VERIFY };
            shards.read(&mut plane, &picks, &[0, 1], band, options, &mut batch).unwrap();
            shards.check(&batch, &picks, &[0, 1], band, dtype);
        }
    }
}
