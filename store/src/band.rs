//! Which cells of which levels a request wants, and where they lie in the chunks of a row. Pure arithmetic.

use crate::array::{ArraySpec, LevelArrays, StoreArrays};
use crate::fetch::LevelRead;
use crate::plane::Request;
use crate::{Compression, DType, Error, NumberFormat, Projected, Result};
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

/// The arrays of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Payload,
    /// Scales and offsets.
    Affine,
}

/// One level of a request.
#[derive(Debug)]
pub(crate) struct RequestedLevel<'a> {
    /// Number of the level in the store.
    pub(crate) number: usize,
    pub(crate) arrays: &'a LevelArrays,
    pub(crate) read: LevelRead<'a>,
    /// Its scales and offsets, of a quantised level.
    pub(crate) read_affine: Option<LevelRead<'a>>,
    /// Rows of cells that are wanted.
    pub(crate) cells: Range<u32>,
}

impl<'a> RequestedLevel<'a> {
    /// Fills `resolved` with the levels of a request, in its order. [`Error::Invalid`] for a level or bucket
    /// that the store does not have, or a band that is empty or leaves the map.
    pub(crate) fn resolve(
        of_store: &'a StoreArrays,
        request: &Request<'_>,
        dtype: Option<DType>,
        projected: Projected,
        resolved: &mut Vec<Self>,
    ) -> Result<()> {
        let Request { bucket, levels, band, .. } = *request;
        let level = |number: &usize| {
            of_store.level(bucket, *number).ok_or_else(|| {
                Error::invalid(format!("the store has no bucket {bucket} or no level of {levels:?}"))
            })
        };
        let mut coarsest = 1;
        for number in levels {
            coarsest = level(number)?.stride.max(coarsest);
        }
        for number in levels {
            let arrays = level(number)?;
            let encoding = arrays.encoding;
            let read = LevelRead {
                payload_bytes: payload_bytes(&arrays.payload),
                cell_bytes: arrays.payload.channels as usize * arrays.payload.element.bytes(),
                numbers: arrays.coefficients as usize,
                projection: of_store.projection(*number).filter(|_| projected == Projected::Channels),
                format: encoding.format,
                compression: encoding.compression,
                byte_axis: arrays.payload.byte_axis(),
                dtype: dtype.unwrap_or(encoding.value_dtype()),
            };
            let read_affine = arrays.affine.as_ref().map(|array| LevelRead {
                payload_bytes: payload_bytes(array),
                cell_bytes: array.channels as usize * array.element.bytes(),
                numbers: array.channels as usize,
                projection: None,
                format: NumberFormat::F32,
                compression: Compression::None,
                byte_axis: 1,
                dtype: DType::F32,
            });
            let cells = match band {
                None => 0..arrays.payload.cells.height,
                Some(band) => cells(band, coarsest, arrays)?,
            };
            resolved.push(Self { number: *number, arrays, read, read_affine, cells });
        }
        Ok(())
    }

    /// The level's array of a kind; `None` if it has none.
    pub(crate) fn array(&self, part: Part) -> Option<(&'a ArraySpec, &LevelRead<'a>)> {
        match part {
            Part::Payload => Some((&self.arrays.payload, &self.read)),
            Part::Affine => self.arrays.affine.as_ref().zip(self.read_affine.as_ref()),
        }
    }

    /// The bands of a row of that array that are wanted: all of its scales and offsets.
    pub(crate) fn bands_of(&self, part: Part) -> Range<u32> {
        match (part, &self.arrays.affine) {
            (Part::Affine, Some(affine)) => 0..affine.geometry.bands,
            _ => self.bands(),
        }
    }

    /// The wanted bytes of such a band's payload, and how many bytes they become.
    pub(crate) fn window_of(&self, part: Part, band: u32) -> (Range<usize>, usize) {
        match (part, &self.read_affine) {
            (Part::Affine, Some(read)) => (0..read.payload_bytes, read.payload_bytes),
            _ => self.window(band),
        }
    }

    /// Scales and offsets of a row; none of a level that is not quantised.
    pub(crate) fn affine_values(&self) -> usize {
        if self.read_affine.is_some() { 2 * self.read.numbers } else { 0 }
    }

    /// The level's name.
    pub(crate) fn name(&self) -> &'a str {
        &self.arrays.name
    }

    /// `[n, h, w, c]` of the level in a batch of `rows` rows.
    pub(crate) fn shape(&self, rows: usize) -> [usize; 4] {
        let side = |side: u32| usize::try_from(side).unwrap_or(usize::MAX);
        let height = self.cells.end - self.cells.start;
        [rows, side(height), side(self.arrays.payload.cells.width), self.read.channels()]
    }

    /// The bands that hold the wanted rows of cells.
    fn bands(&self) -> Range<u32> {
        let rows = self.arrays.payload.geometry.band_rows;
        self.cells.start / rows..self.cells.end.div_ceil(rows)
    }

    /// The wanted bytes of a band's payload, and how many bytes of the batch they become.
    fn window(&self, band: u32) -> (Range<usize>, usize) {
        let payload = &self.arrays.payload;
        let geometry = payload.geometry;
        let first = band * geometry.band_rows;
        let from = self.cells.start.max(first) - first;
        let to = self.cells.end.min(first + geometry.band_rows) - first;
        // Within a chunk's payload, whose size is a usize.
        let row_bytes = usize::try_from(geometry.row_bytes).unwrap_or(usize::MAX);
        let window = from as usize * row_bytes..to as usize * row_bytes;
        let cells = (to - from) as usize * payload.cells.width as usize;
        (window, cells * self.read.channels() * self.read.dtype.bytes())
    }
}

/// Bytes of a chunk's payload. What does not fit memory is refused when it is asked for.
fn payload_bytes(array: &ArraySpec) -> usize {
    usize::try_from(array.geometry.payload_bytes()).unwrap_or(usize::MAX)
}

/// The cells of a level that a band of the level of stride `coarsest` touches.
fn cells(band: RowBand, coarsest: u32, arrays: &LevelArrays) -> Result<Range<u32>> {
    let LevelArrays { payload: array, stride, .. } = arrays;
    let scaled = |cells: u32| u64::from(cells) * u64::from(coarsest);
    let start = scaled(band.start) / u64::from((*stride).max(1));
    let end = scaled(band.end).div_ceil(u64::from((*stride).max(1)));
    match (u32::try_from(start), u32::try_from(end)) {
        (Ok(start), Ok(end)) if start < end && end <= array.cells.height => Ok(start..end),
        _ => Err(Error::invalid(format!(
            "row band {}..{} is {start}..{end} of the {} rows of {}",
            band.start, band.end, array.cells.height, array.path
        ))),
    }
}
