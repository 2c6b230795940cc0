//! Which cells of which levels a request wants, and where they lie in the chunks of a row. Pure arithmetic.

use crate::array::{ArraySpec, StoreArrays};
use crate::fetch::LevelRead;
use crate::{DType, Error, Result};
use std::ops::Range;

/// Rows of cells `start..end` of the coarsest level asked for; of every finer level the cells above the
/// same pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowBand {
    /// First row.
    pub start: u32,
    /// Row behind the last one.
    pub end: u32,
}

/// One level of a request.
#[derive(Debug)]
pub(crate) struct RequestedLevel<'a> {
    /// Number of the level in the store.
    pub(crate) number: usize,
    pub(crate) array: &'a ArraySpec,
    pub(crate) read: LevelRead,
    /// Rows of cells that are wanted.
    pub(crate) cells: Range<u32>,
}

impl<'a> RequestedLevel<'a> {
    /// The levels of a request, in its order. [`Error::Invalid`] for a level or bucket that the store does
    /// not have, or a band that is empty or leaves the map.
    pub(crate) fn resolve(
        arrays: &'a StoreArrays,
        bucket: usize,
        levels: &[usize],
        band: Option<RowBand>,
        dtype: Option<DType>,
    ) -> Result<Vec<Self>> {
        let unknown =
            || Error::invalid(format!("the store has no bucket {bucket} or no level of {levels:?}"));
        let found = levels.iter().map(|level| arrays.level(bucket, *level).ok_or_else(unknown));
        let found = found.collect::<Result<Vec<_>>>()?;
        let coarsest = found.iter().map(|(_, stride, _)| *stride).max().unwrap_or(1);
        let resolve =
            |(number, (array, stride, encoding)): (&usize, (&'a ArraySpec, u32, crate::Encoding))| {
                let read = LevelRead {
                    payload_bytes: usize::try_from(array.geometry.payload_bytes()).unwrap_or(usize::MAX),
                    encoding,
                    dtype: dtype.unwrap_or(encoding.value_dtype()),
                };
                let cells = match band {
                    None => 0..array.cells.height,
                    Some(band) => cells(band, coarsest, stride, array)?,
                };
                Ok(Self { number: *number, array, read, cells })
            };
        levels.iter().zip(found).map(resolve).collect()
    }

    /// The level's name.
    pub(crate) fn name(&self) -> &'a str {
        self.array.path.rsplit('/').next().unwrap_or_default()
    }

    /// `[n, h, w, c]` of the level in a batch of `rows` rows.
    pub(crate) fn shape(&self, rows: usize) -> [usize; 4] {
        let side = |side: u32| usize::try_from(side).unwrap_or(usize::MAX);
        let height = self.cells.end - self.cells.start;
        [rows, side(height), side(self.array.cells.width), side(self.array.channels)]
    }

    /// The bands that hold the wanted rows of cells.
    pub(crate) fn bands(&self) -> Range<u32> {
        let rows = self.array.geometry.band_rows;
        self.cells.start / rows..self.cells.end.div_ceil(rows)
    }

    /// The wanted bytes of a band's payload, and how many bytes of the batch they become.
    pub(crate) fn window(&self, band: u32) -> (Range<usize>, usize) {
        let geometry = self.array.geometry;
        let first = band * geometry.band_rows;
        let from = self.cells.start.max(first) - first;
        let to = self.cells.end.min(first + geometry.band_rows) - first;
        // Within a chunk's payload, whose size is a usize.
        let row_bytes = usize::try_from(geometry.row_bytes).unwrap_or(usize::MAX);
        let window = from as usize * row_bytes..to as usize * row_bytes;
        let elements = window.len() / self.array.dtype.bytes();
        (window, elements * self.read.dtype.bytes())
    }
}

/// The cells of a level of stride `stride` that a band of the level of stride `coarsest` touches.
fn cells(band: RowBand, coarsest: u32, stride: u32, array: &ArraySpec) -> Result<Range<u32>> {
    let scaled = |cells: u32| u64::from(cells) * u64::from(coarsest);
    let start = scaled(band.start) / u64::from(stride.max(1));
    let end = scaled(band.end).div_ceil(u64::from(stride.max(1)));
    match (u32::try_from(start), u32::try_from(end)) {
        (Ok(start), Ok(end)) if start < end && end <= array.cells.height => Ok(start..end),
        _ => Err(Error::invalid(format!(
            "row band {}..{} is {start}..{end} of the {} rows of {}",
            band.start, band.end, array.cells.height, array.path
        ))),
    }
}
