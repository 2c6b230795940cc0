//! What the byte side of the store needs to know of one Zarr array: where it lies, its shape and how it
//! is cut. Derived from plan, recipe and encodings; nothing here reads a file.

use crate::chunk::ChunkGeometry;
use crate::{
    Bucket, Compression, DType, ElementType, Encoding, Encodings, Error, LevelSpec, Projection, Projections,
    Result, Size, layout,
};
use std::sync::Arc;

/// Inner chunks of a shard at most: what its index may claim.
pub(crate) const MAX_SHARD_CHUNKS: u64 = u32::MAX as u64;

/// One array `[n, h, w, c]` of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArraySpec {
    /// Folder relative to the store, `/`-separated: `features/<split>/<view>/<HxW>/<level>` of a payload.
    pub path: String,
    /// Rows of the bucket, n.
    pub rows: u64,
    /// Rows of a shard, R: a unit's.
    pub unit_rows: u64,
    /// Height and width in cells.
    pub cells: Size,
    /// Elements of a cell: the level's channels, or the bytes that they are packed into.
    pub channels: u32,
    /// Element type on disk.
    pub element: ElementType,
    /// How a sample is cut into chunks.
    pub geometry: ChunkGeometry,
    /// What the array's document says of its meaning, by name.
    pub attributes: Vec<(&'static str, String)>,
}

impl ArraySpec {
    /// An array from its shape; [`Error::Invalid`] if it can be none.
    pub fn new(
        path: String,
        rows: u64,
        unit_rows: u64,
        cells: Size,
        channels: u32,
        element: impl Into<ElementType>,
    ) -> Result<Self> {
        let element = element.into();
        let geometry = ChunkGeometry::new(cells.height, cells.width, channels, element)?;
        if rows == 0 || unit_rows == 0 || unit_rows > rows {
            return Err(Error::invalid(format!("array {path}: shards of {unit_rows} rows for {rows} rows")));
        }
        if unit_rows.checked_mul(u64::from(geometry.bands)).is_none_or(|chunks| chunks > MAX_SHARD_CHUNKS) {
            return Err(Error::invalid(format!(
                "array {path}: too many chunks in a shard of {unit_rows} rows"
            )));
        }
        Ok(Self { path, rows, unit_rows, cells, channels, element, geometry, attributes: Vec::new() })
    }

    /// The same array, its chunks compressed; [`Error::Invalid`] if they are too large for that.
    pub fn compressed(self, compression: Compression) -> Result<Self> {
        Ok(Self { geometry: self.geometry.compressed(compression)?, ..self })
    }

    /// Number of shards: one for each unit of the bucket.
    pub fn shards(&self) -> u64 {
        self.rows.div_ceil(self.unit_rows)
    }

    /// Rows of the bucket that lie in shard `k`; fewer than `unit_rows` in the last one.
    pub fn shard_rows(&self, k: u64) -> u64 {
        self.rows.saturating_sub(k.saturating_mul(self.unit_rows)).min(self.unit_rows)
    }

    /// Bytes of an element that are an axis of their own in the array's document, so that Zarr can take them
    /// apart: those of compressed floats. 1 if there is no such axis.
    pub fn byte_axis(&self) -> usize {
        byte_axis(self.element, self.geometry.compression)
    }

    /// Path of shard `k` relative to the store.
    pub fn shard_path(&self, k: u64) -> String {
        let last = if self.byte_axis() > 1 { ".0" } else { "" };
        format!("{}/c.{k}.0.0.0{last}", self.path)
    }

    /// Path of the array's metadata document relative to the store.
    pub fn document_path(&self) -> String {
        format!("{}/zarr.json", self.path)
    }
}

/// The arrays of one level of a bucket. See decisions 0009 and 0012.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelArrays {
    /// Its elements, or their codes: `[n, h, w, c]`, with fewer channels where codes are packed.
    pub payload: ArraySpec,
    /// Scale and offset of every channel of every row, `[n, 2, 1, c]` in f32, where the encoding has them.
    pub affine: Option<ArraySpec>,
    /// How it is held.
    pub encoding: Encoding,
    /// The level's name.
    pub name: String,
    /// Pixels a cell.
    pub stride: u32,
    /// The level's channels.
    pub channels: u32,
    /// Numbers that a cell is held as: its coefficients, or its channels.
    pub coefficients: u32,
}

impl LevelArrays {
    /// [`Error::Invalid`] if no array can have this shape.
    pub fn new(bucket: &Bucket, level: &LevelSpec, encoding: Encoding) -> Result<Self> {
        let (rows, unit_rows) = (bucket.row_count(), bucket.unit_rows);
        let (name, channels, cells) = (level.name.clone(), level.channels, level.cells(bucket.size));
        let path = layout::array_folder(bucket, &name);
        encoding.check(level)?;
        let coefficients = encoding.coefficients(channels);
        let width = encoding.format.payload_channels(coefficients);
        let mut payload = ArraySpec::new(path, rows, unit_rows, cells, width, encoding.payload_element())?;
        payload = payload.compressed(encoding.compression)?;
        payload.attributes = attributes(level, encoding, payload.byte_axis() > 1);
        let affine = encoding.is_quantised().then(|| {
            let path = layout::array_folder(bucket, &layout::affine_name(&name));
            ArraySpec::new(path, rows, unit_rows, Size::new(2, 1), coefficients, DType::F32)
        });
        let (affine, stride) = (affine.transpose()?, level.stride);
        Ok(Self { payload, affine, encoding, name, stride, channels, coefficients })
    }

    /// All of them, the payload first: the order in which records name their shards.
    pub fn iter(&self) -> impl Iterator<Item = &ArraySpec> {
        std::iter::once(&self.payload).chain(&self.affine)
    }
}

/// What a payload array says of its meaning: nothing where its elements are the level's.
fn attributes(level: &LevelSpec, encoding: Encoding, are_bytes: bool) -> Vec<(&'static str, String)> {
    let mut formula = encoding.format.formula(encoding.coefficients(level.channels));
    let mut attributes = Vec::new();
    if are_bytes {
        let values = format!("payload.view('{}')[..., 0]", encoding.value_dtype().zarr_name());
        formula = if encoding.projection.is_some() { formula.replace("payload", &values) } else { values };
    }
    if encoding.is_quantised() {
        attributes.push(("affine", layout::affine_name(&level.name)));
    }
    if encoding.projection.is_some() {
        attributes.push(("basis", layout::basis(&level.name)));
        attributes.push(("mean", layout::mean(&level.name)));
        formula = format!("({formula}) @ basis + mean");
    }
    if !attributes.is_empty() || are_bytes {
        attributes.push(("encoding", encoding.to_string()));
        attributes.push(("formula", formula));
    }
    attributes
}

/// The arrays of a store: every level of every bucket.
#[derive(Debug, Clone)]
pub struct StoreArrays {
    /// Bucket, level.
    arrays: Vec<Vec<LevelArrays>>,
    /// By level, of those that are held as coefficients.
    projections: Vec<Option<Arc<Projection>>>,
}

impl StoreArrays {
    /// The arrays of these buckets and levels. [`Error::Invalid`] if a level has no encoding or no array
    /// can have its shape.
    pub fn new(buckets: &[Bucket], levels: &[LevelSpec], encodings: &Encodings) -> Result<Self> {
        let arrays = buckets.iter().map(|bucket| bucket_arrays(bucket, levels, encodings));
        Ok(Self { arrays: arrays.collect::<Result<_>>()?, projections: Vec::new() })
    }

    /// The same arrays with the bases of their levels, without which coefficients are all that can be read.
    pub fn with_projections(self, levels: &[LevelSpec], projections: &Projections) -> Self {
        let of_level = |level: &LevelSpec| projections.of(&level.name).map(Arc::clone);
        Self { projections: levels.iter().map(of_level).collect(), ..self }
    }

    /// The projection of a level (by number).
    pub(crate) fn projection(&self, level: usize) -> Option<&Projection> {
        self.projections.get(level)?.as_deref()
    }

    /// Arrays of a level (by number) of a bucket (by number).
    pub fn level(&self, bucket: usize, level: usize) -> Option<&LevelArrays> {
        self.arrays.get(bucket)?.get(level)
    }
}

/// The arrays of a bucket by level, in the recipe's order.
pub(crate) fn bucket_arrays(
    bucket: &Bucket,
    levels: &[LevelSpec],
    encodings: &Encodings,
) -> Result<Vec<LevelArrays>> {
    let of_level = |level: &LevelSpec| {
        let encoding = encodings.of(&level.name).ok_or_else(|| {
            Error::invalid(format!("level {}: expected an encoding, found none", level.name))
        })?;
        LevelArrays::new(bucket, level, encoding)
    };
    levels.iter().map(of_level).collect()
}

/// As [`ArraySpec::byte_axis`] of an array of such elements.
pub(crate) fn byte_axis(element: ElementType, compression: Compression) -> usize {
    match (element, compression) {
        (ElementType::Float(dtype), Compression::Zstd) => dtype.bytes(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NumberFormat, RowId};

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
        let array = LevelArrays::new(&bucket, &level(8), NumberFormat::Bf16.into()).unwrap().payload;
        assert_eq!(array.cells, Size::new(8, 12));
        assert_eq!(array.shard_path(2), "features/val2017/base/64x96/p3/c.2.0.0.0");
        assert_eq!(array.shards(), bucket.unit_count());
        assert_eq!([0, 1, 2, 3, u64::MAX].map(|k| array.shard_rows(k)), [4, 4, 2, 0, 0]);
    }

    #[test]
    fn quantised_levels_have_scales_and_offsets_beside_their_payload() {
        let odd = LevelSpec { channels: 33, ..level(8) };
        for (format, channels, element) in [
            (NumberFormat::Int8, 33, ElementType::Int8),
            (NumberFormat::Int4, 17, ElementType::Uint8),
            (NumberFormat::E4m3fn, 33, ElementType::Uint8),
        ] {
            let arrays = LevelArrays::new(&bucket(10, 4), &odd, format.into()).unwrap();
            let LevelArrays { payload, affine, .. } = &arrays;
            assert_eq!((payload.channels, payload.element), (channels, element));
            let affine = affine.as_ref().unwrap();
            assert_eq!(affine.shard_path(1), "features/val2017/base/64x96/p3.affine/c.1.0.0.0");
            assert_eq!((affine.cells, affine.channels, affine.rows), (Size::new(2, 1), 33, 10));
            assert_eq!((affine.geometry.bands, affine.geometry.sample_bytes()), (1, 2 * 33 * 4));
            assert_eq!(arrays.iter().count(), 2);
        }
    }

    #[test]
    fn refuses_impossible_arrays() {
        for (rows, unit_rows, stride) in [(0, 1, 8), (4, 0, 8), (4, 4, 128), (1 << 50, 1 << 50, 8)] {
            let array = LevelArrays::new(&bucket(rows, unit_rows), &level(stride), NumberFormat::F32.into());
            assert!(matches!(array, Err(Error::Invalid { .. })), "{rows} {unit_rows} {stride}");
        }
    }
}
