//! The segmentation of a COCO annotation: polygons, or run lengths as a list or as a string, and where
//! it goes in a row's input. Must not know annotations' other fields.

use super::Rle;
use super::polygon;
use super::rle::{Columns, RunWriter};
use crate::labels::nearest;
use crate::{Error, Result};
use featcache_store::Size;
use serde::Deserialize;
use serde_json::value::RawValue;

/// What an annotation says of an object's shape, in pixels of its picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Segmentation {
    /// One or more polygons, each x0, y0, x1, y1, …; each passed [`polygon::check`].
    Polygons(Vec<Vec<f64>>),
    /// Run lengths, as COCO has them of crowds.
    Rle(Rle),
}

/// COCO's object of run lengths; other fields of it are ignored.
#[derive(Deserialize)]
struct RleText<'a> {
    /// Height and width.
    size: [u32; 2],
    #[serde(borrow)]
    counts: &'a RawValue,
}

impl Segmentation {
    /// Reads the JSON text of an annotation's `segmentation`.
    ///
    /// # Errors
    /// Text that is none of the three forms; no polygons, or one of fewer than three points, of half a
    /// point, or with a coordinate that is no usable number; run lengths that do not fit their size.
    pub fn parse(text: &str) -> Result<Self> {
        let json = |what| move |error| Error::invalid(format!("segmentation is no {what}: {error}"));
        if text.trim_start().starts_with('[') {
            let rings: Vec<Vec<&RawValue>> = serde_json::from_str(text).map_err(json("list of polygons"))?;
            if rings.is_empty() {
                return Err(Error::invalid("segmentation has no polygons, expected at least one"));
            }
            let rings = rings.iter().enumerate().map(|(i, numbers)| {
                ring(numbers).map_err(|error| Error::invalid(format!("segmentation part {i}: {error}")))
            });
            return rings.collect::<Result<_>>().map(Self::Polygons);
        }
        let rle: RleText<'_> = serde_json::from_str(text).map_err(json("list of polygons or run lengths"))?;
        let size = Size::new(rle.size[0], rle.size[1]);
        let counts = rle.counts.get();
        if counts.starts_with('"') {
            let counts: String = serde_json::from_str(counts).map_err(json("string of counts"))?;
            return Rle::decode(size, &counts).map(Self::Rle);
        }
        let counts = serde_json::from_str(counts).map_err(json("list or string of counts"))?;
        Rle::new(size, counts).map(Self::Rle)
    }

    /// The mask in the coordinates of its picture, of size `source` (pycocotools' `annToRLE`).
    ///
    /// # Errors
    /// Run lengths of another size, or as [`polygon::polygon`].
    pub fn rle(&self, source: Size) -> Result<Rle> {
        match self {
            Self::Polygons(rings) => polygon::polygons(source, rings),
            Self::Rle(rle) => same_size(rle, source).map(|()| rle.clone()),
        }
    }

    /// The mask in the coordinates of a row's input: resized from `source` to `valid`, mirrored within
    /// it if the row's view is, and padded right and bottom.
    ///
    /// Polygons are scaled, mirrored as `valid.width - x`, and only then filled, so that nothing is lost
    /// when a picture is enlarged (mmdetection's `PolygonMasks`). Run lengths, crowds' or not, are resized
    /// to the nearest as OpenCV's `INTER_NEAREST` (mmdetection's `BitmapMasks.rescale`), with the rule of
    /// [`crate::labels::Target::place`]: a thin part may vanish when a picture shrinks, but no pixel gets
    /// inside that was not annotated so, and masks of neighbours do not overlap.
    ///
    /// # Errors
    /// Sizes of no mask, a valid size over the padded one, run lengths of another size than `source`, or
    /// as [`polygon::polygon`].
    pub fn place(&self, source: Size, valid: Size, hflip: bool, padded: Size) -> Result<Rle> {
        if valid.height > padded.height || valid.width > padded.width {
            return Err(Error::invalid(format!("valid size {valid} passes the padded size {padded}")));
        }
        if source.area() == 0 || valid.area() == 0 {
            return Err(Error::invalid(format!(
                "a mask of {source} placed at {valid}, expected sides above 0"
            )));
        }
        let rings = match self {
            Self::Polygons(rings) => rings,
            Self::Rle(rle) => {
                same_size(rle, source)?;
                return place(rle, valid, hflip, padded);
            }
        };
        let width = f64::from(valid.width);
        let across = width / f64::from(source.width);
        let down = f64::from(valid.height) / f64::from(source.height);
        let column = |x: f64| if hflip { width - x * across } else { x * across };
        let moved = |ring: &Vec<f64>| {
            ring.chunks_exact(2).flat_map(|point| [column(point[0]), point[1] * down]).collect()
        };
        polygon::polygons(padded, &rings.iter().map(moved).collect::<Vec<_>>())
    }
}

/// A polygon from the texts of its numbers. Not serde_json's own numbers: those may be one rounding off,
/// and the fine grid's ties would fall elsewhere than in pycocotools.
fn ring(numbers: &[&RawValue]) -> Result<Vec<f64>> {
    let number = |text: &&RawValue| {
        let text = text.get();
        text.parse().map_err(|_| Error::invalid(format!("polygon has {text:.40}, expected a number")))
    };
    let ring = numbers.iter().map(number).collect::<Result<Vec<f64>>>()?;
    polygon::check(&ring).map(|()| ring)
}

/// Run lengths resized to the nearest, mirrored and padded; no bitmap is made.
fn place(rle: &Rle, valid: Size, hflip: bool, padded: Size) -> Result<Rle> {
    let mut writer = RunWriter::new(padded)?;
    let source = rle.size();
    let lines = nearest(source.height, valid.height);
    // For each source line, and for the end, the first output line that takes it or a later one.
    let firsts: Vec<u32> =
        (0..=source.height as usize).map(|line| lines.partition_point(|&from| from < line) as u32).collect();
    let mut taken = nearest(source.width, valid.width);
    if hflip {
        taken.reverse();
    }
    let columns = Columns::new(rle);
    for x in taken {
        let mut line = 0;
        for (inside, count) in columns.runs(x) {
            let end = line + count as usize;
            writer.push(inside, firsts[end] - firsts[line]);
            line = end;
        }
        writer.push(false, padded.height - valid.height);
    }
    Ok(writer.finish())
}

fn same_size(rle: &Rle, source: Size) -> Result<()> {
    if rle.size() != source {
        return Err(Error::invalid(format!("mask is {}, its picture is {source}", rle.size())));
    }
    Ok(())
}
