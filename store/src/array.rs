//! What the byte side of the store needs to know of one Zarr array: where it lies, its shape and how it
//! is cut. Derived from plan, recipe and encodings; nothing here reads a file.

use crate::chunk::ChunkGeometry;
use crate::{Bucket, DType, Encoding, Encodings, Error, LevelSpec, Result, Size, layout};

/// Inner chunks of a shard at most: what its index may claim.
pub(crate) const MAX_SHARD_CHUNKS: u64 = u32::MAX as u64;

/// One array `[n, h, w, c]` of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArraySpec {
    /// Folder relative to the store, `/`-separated: `features/<split>/<view>/<HxW>/<level>`.
    pub path: String,
    /// Rows of the bucket, n.
    pub rows: u64,
    /// Rows of a shard, R: a unit's.
    pub unit_rows: u64,
    /// Height and width in cells.
    pub cells: Size,
    /// Channels.
    pub channels: u32,
    /// Element type on disk.
    pub dtype: DType,
    /// How a sample is cut into chunks.
    pub geometry: ChunkGeometry,
}

impl ArraySpec {
    /// An array from its shape; [`Error::Invalid`] if it can be none.
    pub fn new(
        path: String,
        rows: u64,
        unit_rows: u64,
        cells: Size,
        channels: u32,
        dtype: DType,
    ) -> Result<Self> {
        let geometry = ChunkGeometry::new(cells.height, cells.width, channels, dtype)?;
        if rows == 0 || unit_rows == 0 || unit_rows > rows {
            return Err(Error::invalid(format!("array {path}: shards of {unit_rows} rows for {rows} rows")));
        }
        if unit_rows.checked_mul(u64::from(geometry.bands)).is_none_or(|chunks| chunks > MAX_SHARD_CHUNKS) {
            return Err(Error::invalid(format!(
                "array {path}: too many chunks in a shard of {unit_rows} rows"
            )));
        }
        Ok(Self { path, rows, unit_rows, cells, channels, dtype, geometry })
    }

    /// Number of shards: one for each unit of the bucket.
    pub fn shards(&self) -> u64 {
        self.rows.div_ceil(self.unit_rows)
    }

    /// Rows of the bucket that lie in shard `k`; fewer than `unit_rows` in the last one.
    pub fn shard_rows(&self, k: u64) -> u64 {
        self.rows.saturating_sub(k.saturating_mul(self.unit_rows)).min(self.unit_rows)
    }

    /// Path of shard `k` relative to the store.
    pub fn shard_path(&self, k: u64) -> String {
        format!("{}/c.{k}.0.0.0", self.path)
    }

    /// Path of the array's metadata document relative to the store.
    pub fn document_path(&self) -> String {
        format!("{}/zarr.json", self.path)
    }
}

/// All arrays of one level of a bucket, its payload array first. An encoding that keeps more than a
/// payload adds its arrays here.
///
/// [`Error::Invalid`] if no array can have this shape.
pub fn level_arrays(bucket: &Bucket, level: &LevelSpec, encoding: Encoding) -> Result<Vec<ArraySpec>> {
    let cells = level.cells(bucket.size);
    let path = layout::array_folder(bucket, &level.name);
    let (rows, dtype) = (bucket.row_count(), encoding.payload_dtype());
    Ok(vec![ArraySpec::new(path, rows, bucket.unit_rows, cells, level.channels, dtype)?])
}

/// The payload arrays of a store: every level of every bucket.
#[derive(Debug, Clone)]
pub struct StoreArrays {
    levels: Vec<(LevelSpec, Encoding)>,
    /// Bucket, level.
    arrays: Vec<Vec<ArraySpec>>,
}

impl StoreArrays {
    /// The arrays of these buckets and levels. [`Error::Invalid`] if a level has no encoding or no array
    /// can have its shape.
    pub fn new(buckets: &[Bucket], levels: &[LevelSpec], encodings: &Encodings) -> Result<Self> {
        let missing = |level: &LevelSpec| Error::invalid(format!("level {} has no encoding", level.name));
        let levels = levels
            .iter()
            .map(|level| Ok((level.clone(), encodings.of(&level.name).ok_or_else(|| missing(level))?)))
            .collect::<Result<Vec<_>>>()?;
        let payload = |bucket: &Bucket| {
            let arrays = levels.iter().map(|(level, encoding)| level_arrays(bucket, level, *encoding));
            arrays.map(|arrays| arrays?.into_iter().next().ok_or_else(no_payload)).collect::<Result<Vec<_>>>()
        };
        let arrays = buckets.iter().map(payload).collect::<Result<Vec<_>>>()?;
        Ok(Self { levels, arrays })
    }

    /// Array, stride and encoding of a level (by number) of a bucket (by number).
    pub fn level(&self, bucket: usize, level: usize) -> Option<(&ArraySpec, u32, Encoding)> {
        let (spec, encoding) = self.levels.get(level)?;
        Some((self.arrays.get(bucket)?.get(level)?, spec.stride, *encoding))
    }
}

fn no_payload() -> Error {
    Error::invalid("an encoding without a payload array")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RowId;

    fn level(stride: u32) -> LevelSpec {
        LevelSpec { name: "p3".into(), stride, channels: 16, tap: "stage1".into(), norm: "none".into() }
    }

    fn bucket(rows: u64, unit_rows: u64) -> Bucket {
        let (split, view) = ("val2017".into(), "base".into());
        Bucket { split, view, size: Size::new(64, 96), rows: RowId(5)..RowId(5 + rows), unit_rows }
    }

    #[test]
    fn shards_cover_the_rows() {
        let bucket = bucket(10, 4);
        let array = level_arrays(&bucket, &level(8), Encoding::Bf16).unwrap().remove(0);
        assert_eq!(array.cells, Size::new(8, 12));
        assert_eq!(array.shard_path(2), "features/val2017/base/64x96/p3/c.2.0.0.0");
        assert_eq!(array.shards(), bucket.unit_count());
        assert_eq!([0, 1, 2, 3, u64::MAX].map(|k| array.shard_rows(k)), [4, 4, 2, 0, 0]);
    }

    #[test]
    fn refuses_impossible_arrays() {
        for (rows, unit_rows, stride) in [(0, 1, 8), (4, 0, 8), (4, 4, 128), (1 << 50, 1 << 50, 8)] {
            let array = level_arrays(&bucket(rows, unit_rows), &level(stride), Encoding::F32);
            assert!(matches!(array, Err(Error::Invalid { .. })), "{rows} {unit_rows} {stride}");
        }
    }
}
