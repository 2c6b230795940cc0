//! Writes one shard of an array: chunk after chunk as samples come, the index last. Memory does not grow
//! with the payload. Does not decide when the shard becomes visible: it hands the staged file back.
//!
//! Layout (Zarr v3 `sharding_indexed`, index at the end): samples in row order, bands top to bottom, each
//! chunk its payload or the payload's zstd frame, and the crc32c of that; zeros up to the next alignment where
//! chunks are aligned;
//! then for all `R · bands` chunks offset and length (u64 little-endian, both 2^64-1 where there is no
//! chunk), then the index's crc32c.

use crate::array::ArraySpec;
use crate::checksum::{CHECKSUM, crc32c};
use crate::compression::Packer;
use crate::{Compression, Error, Result, Staged};

/// Offset and length of an index entry without a chunk.
pub(crate) const EMPTY: u64 = u64::MAX;
/// Bytes of an index entry.
pub(crate) const ENTRY_BYTES: u64 = 16;
/// Zeros before an aligned chunk: always fewer.
const GAP: [u8; 4096] = [0; 4096];
const _: () = assert!(GAP.len() as u64 >= crate::chunk::CHUNK_ALIGNMENT);
/// Small chunks are gathered into writes of this size.
const WRITE_BYTES: usize = 1 << 20;

/// A shard on its way to disk. Dropped without [`finish`](Self::finish) it was never there.
#[derive(Debug)]
pub struct ShardWriter {
    staged: Staged,
    array: ArraySpec,
    /// Rows that this shard must get.
    rows: u64,
    appended: u64,
    /// Of a compressed array.
    packer: Option<Packer>,
    /// Encoded index entries of the rows so far.
    index: Vec<u8>,
    /// Bytes not yet handed to the file.
    pending: Vec<u8>,
    /// File length once `pending` is written.
    end: u64,
    /// A write has failed: nobody knows what the file holds.
    poisoned: bool,
}

impl ShardWriter {
    /// Starts shard `k` of `array` in `staged`, which must be empty.
    pub fn new(staged: Staged, array: &ArraySpec, k: u64) -> Result<Self> {
        let rows = array.shard_rows(k);
        if rows == 0 || staged.bytes() != 0 {
            return Err(Error::invalid(format!("array {} has no shard {k} to start here", array.path)));
        }
        let packer = match array.geometry.compression {
            Compression::None => None,
            Compression::Zstd => Some(Packer::new().map_err(Error::io(staged.target()))?),
        };
        Ok(Self {
            staged,
            array: array.clone(),
            rows,
            appended: 0,
            packer,
            index: Vec::new(),
            pending: Vec::new(),
            end: 0,
            poisoned: false,
        })
    }

    /// Bytes of the shard so far, its index left out.
    pub(crate) fn bytes(&self) -> u64 {
        self.end
    }

    /// Appends the next row from its encoded payload, `h · w · c` elements of the array's type.
    pub fn append_payload(&mut self, payload: &[u8]) -> Result<()> {
        let geometry = self.array.geometry;
        if payload.len() as u64 != geometry.sample_bytes() {
            return Err(Error::invalid(format!(
                "array {}: expected {} bytes a row, found {}",
                self.array.path,
                geometry.sample_bytes(),
                payload.len()
            )));
        }
        self.begin_row()?;
        // A band of a payload that is in memory fits usize.
        let band_bytes = usize::try_from(geometry.payload_bytes()).unwrap_or(usize::MAX);
        // Aside, so that its frame can be pushed. After an error nothing more is.
        let mut packer = self.packer.take();
        let element_bytes = self.array.byte_axis();
        for band in payload.chunks(band_bytes) {
            let chunk = match &mut packer {
                None => band,
                Some(packer) => packer.pack(band, element_bytes).map_err(Error::io(self.staged.target()))?,
            };
            let offset = geometry.next_offset(self.end);
            let gap = usize::try_from(offset - self.end).unwrap_or(0);
            self.push(GAP.get(..gap).unwrap_or(&GAP))?;
            self.push(chunk)?;
            self.push(&crc32c(chunk))?;
            self.index.extend(offset.to_le_bytes());
            self.index.extend(((chunk.len() + CHECKSUM) as u64).to_le_bytes());
        }
        self.packer = packer;
        self.poisoned = false;
        Ok(())
    }

    /// Appends the next row as one that has no features.
    pub fn append_empty(&mut self) -> Result<()> {
        self.begin_row()?;
        self.index_empty_rows(1);
        self.poisoned = false;
        Ok(())
    }

    /// Writes the index and hands the complete file back, to be made durable and visible.
    /// [`Error::Invalid`] if rows are missing or a write has failed before.
    pub fn finish(mut self) -> Result<Staged> {
        if self.poisoned || self.appended != self.rows {
            return Err(Error::invalid(format!(
                "array {}: {} of {} rows of the shard were written",
                self.array.path, self.appended, self.rows
            )));
        }
        self.index_empty_rows(self.array.unit_rows - self.rows);
        let checksum = crc32c(&self.index);
        let index = std::mem::take(&mut self.index);
        self.push(&index)?;
        self.push(&checksum)?;
        self.flush()?;
        Ok(self.staged)
    }

    /// Counts a row in; until the caller has written it whole, the shard is poisoned.
    fn begin_row(&mut self) -> Result<()> {
        if self.poisoned || self.appended == self.rows {
            return Err(Error::invalid(format!(
                "array {}: no row can follow the {} of the shard",
                self.array.path, self.appended
            )));
        }
        self.poisoned = true;
        self.appended += 1;
        Ok(())
    }

    fn index_empty_rows(&mut self, rows: u64) {
        let entries = rows * u64::from(self.array.geometry.bands);
        let bytes = usize::try_from(entries * ENTRY_BYTES).unwrap_or(usize::MAX);
        self.index.resize(self.index.len().saturating_add(bytes), 0xff);
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.pending.len() + bytes.len() > WRITE_BYTES {
            self.flush()?;
        }
        // Large payloads are not worth a copy.
        if bytes.len() * 4 >= WRITE_BYTES {
            self.flush()?;
            self.staged.append(bytes)?;
        } else {
            self.pending.extend_from_slice(bytes);
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            self.staged.append(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }
}
