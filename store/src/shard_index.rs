//! The index at the end of a shard, read with every check: a file from anywhere must not be able to make
//! a reader panic, read outside the file, allocate without bound or mix samples up.

use crate::array::ArraySpec;
use crate::checksum::{CHECKSUM, crc32c, differs};
use crate::chunk::CHECKSUM_BYTES;
use crate::shard::{EMPTY, ENTRY_BYTES};
use crate::{Compression, Error, Result};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where the chunks of one shard lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardIndex {
    /// For each row and band, in order; [`EMPTY`] where the row has no features.
    offsets: Vec<u64>,
    /// Their bytes, checksum included, where they are compressed; else all have the array's and none is here.
    lengths: Vec<u32>,
    chunk_bytes: u64,
    bands: usize,
    /// Where the index starts: the end of the payload.
    start: u64,
}

impl ShardIndex {
    /// Bytes of an index and its checksum.
    pub fn bytes(array: &ArraySpec) -> u64 {
        // `ArraySpec::new` has bounded the number of chunks.
        array.unit_rows * u64::from(array.geometry.bands) * ENTRY_BYTES + CHECKSUM_BYTES
    }

    /// Reads the index of shard `k` of `array` from `file`, `file_bytes` long; `path` is for messages.
    ///
    /// [`Error::Corrupt`] if the file is too short, the checksum does not fit, a chunk has a length that the
    /// array's cannot have, is not aligned, overlaps its predecessor or leaves the payload, a row has only
    /// some of its bands, or a row has a chunk that the array does not have.
    pub fn read(file: &File, file_bytes: u64, array: &ArraySpec, k: u64, path: &Path) -> Result<Self> {
        let bytes = Self::bytes(array);
        let Some(start) = file_bytes.checked_sub(bytes) else {
            return Err(Error::corrupt(
                path,
                format!("expected an index of {bytes} bytes, found a file of {file_bytes}"),
            ));
        };
        let bytes = usize::try_from(bytes).map_err(|_| Error::corrupt(path, "index too large"))?;
        let mut index = vec![0; bytes];
        file.read_exact_at(&mut index, start).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::corrupt(path, "ends inside its index"),
            _ => Error::io(path)(e),
        })?;
        Self::parse(&index, start, array, k, path)
    }

    /// As [`read`](Self::read), from the index's bytes, which start at `start` in the file.
    pub fn parse(index: &[u8], start: u64, array: &ArraySpec, k: u64, path: &Path) -> Result<Self> {
        let (entries, stored) = index
            .split_last_chunk::<CHECKSUM>()
            .filter(|_| index.len() as u64 == Self::bytes(array))
            .ok_or_else(|| {
                let (expected, found) = (Self::bytes(array), index.len());
                Error::corrupt(path, format!("shard index: expected {expected} bytes, found {found}"))
            })?;
        let computed = crc32c(entries);
        if *stored != computed {
            return Err(Error::corrupt(path, format!("shard index: {}", differs(*stored, computed))));
        }

        let bands = array.geometry.bands as usize;
        let present_rows = usize::try_from(array.shard_rows(k)).unwrap_or(usize::MAX);
        let geometry = array.geometry;
        let chunks = entries.len() / size_of::<[u64; 2]>();
        let mut offsets = Vec::with_capacity(chunks);
        let is_compressed = geometry.compression != Compression::None;
        let mut lengths = Vec::with_capacity(if is_compressed { chunks } else { 0 });
        let mut end = 0;
        for (i, entry) in entries.as_chunks::<8>().0.as_chunks::<2>().0.iter().enumerate() {
            let (row, band) = (i / bands, i % bands);
            let bad = |what: &str| {
                Error::corrupt(path, format!("shard index: row {row} of the shard, band {band}: {what}"))
            };
            let [offset, bytes] = entry.map(u64::from_le_bytes);
            let empty = offset == EMPTY && bytes == EMPTY;
            if band > 0 && empty != (offsets.last() == Some(&EMPTY)) {
                return Err(bad("the row has only some of its bands"));
            }
            if !empty {
                if row >= present_rows {
                    return Err(bad("a chunk beyond the array's rows"));
                }
                if !geometry.can_have(bytes) {
                    let most = if is_compressed { "at most " } else { "" };
                    return Err(bad(&format!(
                        "expected {most}{} bytes, found {bytes}",
                        geometry.chunk_bytes()
                    )));
                }
                if !offset.is_multiple_of(geometry.alignment()) || offset < end {
                    return Err(bad(&format!("offset {offset} is not aligned or overlaps")));
                }
                end = offset
                    .checked_add(bytes)
                    .filter(|end| *end <= start)
                    .ok_or_else(|| bad(&format!("offset {offset} is outside the payload")))?;
            }
            offsets.push(offset);
            if is_compressed {
                // `ChunkGeometry::compressed` has bounded the lengths of those that exist.
                lengths.push(u32::try_from(bytes).unwrap_or(u32::MAX));
            }
        }
        Ok(Self { offsets, lengths, chunk_bytes: geometry.chunk_bytes(), bands, start })
    }

    /// Bytes of the file that a band of a row of the shard lies in, its checksum included; `None` if the row
    /// has no features or does not exist.
    pub fn chunk(&self, row: u64, band: u32) -> Option<Range<u64>> {
        let band = usize::try_from(band).ok().filter(|band| *band < self.bands)?;
        self.place(usize::try_from(row).ok()?.checked_mul(self.bands)?.checked_add(band)?)
    }

    /// Chunks that exist, in file order: row of the shard, band, bytes of the file.
    pub fn chunks(&self) -> impl Iterator<Item = (u64, u32, Range<u64>)> {
        let name = |i: usize| ((i / self.bands) as u64, u32::try_from(i % self.bands).unwrap_or(u32::MAX));
        let present = (0..self.offsets.len()).filter_map(|i| Some((i, self.place(i)?)));
        present.map(move |(i, place)| (name(i).0, name(i).1, place))
    }

    fn place(&self, i: usize) -> Option<Range<u64>> {
        let offset = self.offsets.get(i).copied().filter(|offset| *offset != EMPTY)?;
        let bytes = self.lengths.get(i).map_or(self.chunk_bytes, |length| u64::from(*length));
        Some(offset..offset + bytes)
    }

    /// Where the index starts in the file.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Bytes that this index takes in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.offsets.capacity() * size_of::<u64>() + self.lengths.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, FsStorage, ShardWriter, Size, Staged, Storage};
    use std::sync::Arc;

    fn shard(array: &ArraySpec, k: u64, empty: &[u64], path: &Path) -> Vec<u8> {
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let mut writer = ShardWriter::new(Staged::create(&storage, path).unwrap(), array, k).unwrap();
        for row in 0..array.shard_rows(k) {
            if empty.contains(&row) {
                writer.append_empty().unwrap();
            } else {
                let bytes = array.geometry.sample_bytes() as usize;
                writer.append_payload(&vec![row as u8 + 1; bytes]).unwrap();
            }
        }
        writer.finish().unwrap().publish().unwrap();
        std::fs::read(path).unwrap()
    }

    fn array(cells: Size, channels: u32) -> ArraySpec {
        ArraySpec::new("a".into(), 7, 4, cells, channels, DType::Bf16).unwrap()
    }

    #[test]
    fn a_shard_is_read_back_chunk_by_chunk() {
        let folder = tempfile::tempdir().unwrap();
        for (cells, channels) in [(Size::new(2, 3), 5), (Size::new(13, 640), 600)] {
            let array = array(cells, channels);
            let path = folder.path().join(format!("s{channels}"));
            // The last shard has three rows of four; its second has no features.
            let bytes = shard(&array, 1, &[1], &path);
            let file = File::open(&path).unwrap();
            let index = ShardIndex::read(&file, bytes.len() as u64, &array, 1, &path).unwrap();
            let g = array.geometry;
            assert_eq!(index.chunks().count(), 2 * g.bands as usize);
            assert_eq!((index.chunk(1, 0), index.chunk(3, 0), index.chunk(0, g.bands)), (None, None, None));
            let mut end = 0;
            for (row, band, chunk) in index.chunks() {
                assert_eq!(index.chunk(row, band), Some(chunk.clone()));
                let offset = chunk.start;
                assert_eq!(chunk.end, offset + g.chunk_bytes());
                assert_eq!(offset, g.next_offset(end));
                assert_eq!(offset % g.alignment(), 0);
                let (payload, crc) = bytes[offset as usize..][..g.chunk_bytes() as usize]
                    .split_last_chunk::<4>()
                    .map(|(p, c)| (p, *c))
                    .unwrap();
                assert!(payload.iter().all(|byte| *byte == row as u8 + 1));
                assert_eq!(crc, crc32c(payload));
                end = offset + g.chunk_bytes();
            }
            assert_eq!(end, index.start());
            assert_eq!(g.alignment() > 1, channels == 600);
            assert!(bytes.len() as u64 <= g.shard_bytes(array.unit_rows));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_length_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let array = array(Size::new(4, 3), 2);
        let bytes = shard(&array, 0, &[2], &path);
        let start = bytes.len() - ShardIndex::bytes(&array) as usize;
        let parse = |index: &[u8], start: usize| ShardIndex::parse(index, start as u64, &array, 0, &path);
        assert!(parse(&bytes[start..], start).is_ok());
        for bit in 0..(bytes.len() - start) * 8 {
            let mut index = bytes[start..].to_vec();
            index[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(parse(&index, start), Err(Error::Corrupt { .. })), "bit {bit}");
        }
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let file = File::open(&path).unwrap();
            for claimed in [length, bytes.len()] {
                let read = ShardIndex::read(&file, claimed as u64, &array, 0, &path);
                assert!(matches!(read, Err(Error::Corrupt { .. })), "length {length}");
            }
        }
    }

    /// Entries with a correct checksum, but wrong: what only a hostile or broken writer makes.
    #[test]
    fn wrong_entries_with_a_right_checksum_are_refused() {
        let array = array(Size::new(2, 2), 2); // 16 bytes a sample, 20 a chunk
        let good: Vec<[u64; 2]> = vec![[0, 20], [20, 20], [EMPTY, EMPTY], [40, 20]];
        let parse = |entries: &[[u64; 2]], k| {
            let mut bytes: Vec<u8> = entries.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
            bytes.extend(crc32c(&bytes));
            ShardIndex::parse(&bytes, 60, &array, k, Path::new("s"))
        };
        assert!(parse(&good, 0).is_ok());
        // Shard 1 has three rows: the fourth must be empty.
        assert!(parse(&good, 1).unwrap_err().to_string().contains("beyond"));
        for (i, entry, message) in [
            (1, [19, 20], "overlaps"),
            (1, [40, 20], "overlaps"),
            (3, [41, 20], "outside"),
            (3, [u64::MAX - 5, 20], "outside"),
            (0, [0, 21], "expected 20 bytes"),
            (0, [0, u64::MAX], "expected 20 bytes"),
            (0, [u64::MAX, 20], "outside"),
        ] {
            let mut bad = good.clone();
            bad[i] = entry;
            let error = parse(&bad, 0).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(parse(&good[..3], 0).is_err());
        // Compressed chunks have lengths of their own, within bounds.
        let array = array.clone().compressed(Compression::Zstd).unwrap();
        let most = array.geometry.chunk_bytes();
        let parse = |entries: &[[u64; 2]]| {
            let mut bytes: Vec<u8> = entries.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
            bytes.extend(crc32c(&bytes));
            ShardIndex::parse(&bytes, 1000, &array, 0, Path::new("s"))
        };
        let good = [[0, 20], [20, most], [EMPTY, EMPTY], [110, 5]];
        let index = parse(&good).unwrap();
        assert_eq!(
            [0, 1, 2, 3].map(|row| index.chunk(row, 0)),
            [Some(0..20), Some(20..20 + most), None, Some(110..115)]
        );
        for (i, entry, message) in [
            (1, [20, most + 1], "expected at most"),
            (1, [20, 4], "expected at most"),
            (1, [20, 0], "expected at most"),
            (1, [20, u64::MAX], "expected at most"),
            (1, [19, 20], "overlaps"),
            (3, [996, 5], "outside"),
        ] {
            let mut bad = good;
            bad[i] = entry;
            let error = parse(&bad).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let banded = ArraySpec::new("a".into(), 2, 2, Size::new(2, 1 << 10), 1 << 12, DType::Bf16).unwrap();
        assert_eq!(banded.geometry.bands, 4 / 2);
        let entries = [[0, banded.geometry.chunk_bytes()], [EMPTY, EMPTY], [EMPTY; 2], [EMPTY; 2]];
        let mut bytes: Vec<u8> = entries.iter().flatten().flat_map(|v: &u64| v.to_le_bytes()).collect();
        bytes.extend(crc32c(&bytes));
        let error = ShardIndex::parse(&bytes, 1 << 30, &banded, 0, Path::new("s")).unwrap_err().to_string();
        assert!(error.contains("some of its bands"), "{error}");
    }

    #[test]
    fn a_writer_takes_exactly_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let array = array(Size::new(2, 2), 2);
        let new = || {
            let staged = Staged::create(&storage, &folder.path().join("s")).unwrap();
            ShardWriter::new(staged, &array, 1)
        };
        let mut writer = new().unwrap();
        assert!(writer.append_payload(&[0; 15]).is_err());
        for _ in 0..2 {
            writer.append_payload(&[0; 16]).unwrap();
        }
        assert!(writer.finish().is_err(), "a row is missing");
        let mut writer = new().unwrap();
        for _ in 0..3 {
            writer.append_empty().unwrap();
        }
        assert!(writer.append_empty().is_err(), "the last shard has three rows");
        assert!(
            ShardWriter::new(Staged::create(&storage, &folder.path().join("t")).unwrap(), &array, 2).is_err()
        );
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
