//! COCO's results json, read and written: what pycocotools' `loadRes` and the evaluation servers take. Reading parses
//! entry by entry, without a tree of values, and trusts nothing.

use super::detection::Detection;
use super::ground_truth::GroundTruth;
use super::list::Each;
use crate::mask::{Rle, Segmentation};
use crate::{Error, Result};
use featcache_store::Size;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize as Derive, Serialize};
use serde_json::value::RawValue;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

#[derive(Derive)]
#[serde(expecting = "a detection object")]
struct Entry<'a> {
    image_id: i64,
    category_id: i64,
    score: f64,
    bbox: Option<Rectangle>,
    #[serde(borrow)]
    segmentation: Option<&'a RawValue>,
}

/// Four numbers, or none: `loadRes` takes an empty list for no box.
struct Rectangle(Option<[f64; 4]>);

impl<'de> Deserialize<'de> for Rectangle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sides;
        impl<'de> Visitor<'de> for Sides {
            type Value = Rectangle;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a bbox of x, y, width, height")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sides: A) -> Result<Rectangle, A::Error> {
                let mut bbox = [0.0; 4];
                for (count, side) in bbox.iter_mut().enumerate() {
                    match sides.next_element::<f64>()? {
                        Some(value) => *side = value,
                        None if count == 0 => return Ok(Rectangle(None)),
                        None => return Err(A::Error::invalid_length(count, &self)),
                    }
                }
                match sides.next_element::<f64>()? {
                    None => Ok(Rectangle(Some(bbox))),
                    Some(_) => Err(A::Error::invalid_length(5, &self)),
                }
            }
        }
        deserializer.deserialize_seq(Sides)
    }
}

/// Reads a results file for the pictures and categories of `truth`. Polygons are filled at their picture's size.
///
/// # Errors
/// [`Error::Io`]; [`Error::Invalid`] naming the file and the first entry that is no detection, of an unknown picture
/// or category, with a score or side that is no finite number, or with a mask that does not fit its picture.
pub fn read(path: &Path, truth: &GroundTruth) -> Result<Vec<Detection>> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    parse(&bytes, truth).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))
}

/// The same from the bytes of a file.
///
/// # Errors
/// [`Error::Invalid`] as for [`read`], without a path.
pub fn parse(bytes: &[u8], truth: &GroundTruth) -> Result<Vec<Detection>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut detections = Vec::new();
    let entries = Each::new(|_, entry: Entry<'_>| {
        detections.push(detection(&entry, truth)?);
        Ok::<_, String>(())
    });
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let whole = entries.deserialize(&mut json).and_then(|()| json.end());
    whole.map_err(|error| Error::invalid(format!("not COCO results: {error}")))?;
    Ok(detections)
}

fn detection(entry: &Entry<'_>, truth: &GroundTruth) -> Result<Detection, String> {
    let [picture, _] = truth.place(entry.image_id, entry.category_id)?;
    let size = truth.pictures()[picture as usize].size;
    let mask = entry.segmentation.map(|text| mask(text.get(), size)).transpose();
    let detection = Detection {
        image_id: entry.image_id,
        category_id: entry.category_id,
        score: entry.score,
        bbox: entry.bbox.as_ref().and_then(|rectangle| rectangle.0),
        mask: mask.map_err(|error| format!("mask in image {}: {error}", entry.image_id))?,
    };
    detection.fault().map_or(Ok(detection), Err)
}

fn mask(text: &str, size: Option<Size>) -> Result<Rle> {
    let size =
        size.ok_or_else(|| Error::invalid("its image has no size in the ground truth, needed for masks"))?;
    Segmentation::parse(text)?.rle(size)
}

/// An entry as it is written.
#[derive(Serialize)]
struct Row<'a> {
    image_id: i64,
    category_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bbox: Option<&'a [f64; 4]>,
    score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    segmentation: Option<Counts>,
}

#[derive(Serialize)]
struct Counts {
    /// Height and width.
    size: [u32; 2],
    counts: String,
}

/// What of a detection is written. pycocotools takes the areas of entries that have both from their boxes
/// ([`MaskArea::OfBox`](super::MaskArea::OfBox)), so that masks are better written without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// Boxes and masks.
    Both,
    /// Boxes alone.
    Boxes,
    /// Masks alone.
    Masks,
}

/// Writes a results file, one entry a line, numbers so that reading gives the same again.
///
/// # Errors
/// [`Error::Io`]; [`Error::Invalid`] naming a detection without what is written of it or with numbers that are not
/// finite.
pub fn write(path: &Path, detections: &[Detection], parts: Parts) -> Result<()> {
    let mut out = BufWriter::new(File::create(path).map_err(Error::io(path))?);
    for (number, detection) in detections.iter().enumerate() {
        let bbox = detection.bbox.as_ref().filter(|_| parts != Parts::Masks);
        let mask = detection.mask.as_ref().filter(|_| parts != Parts::Boxes);
        let nothing = bbox.is_none() && mask.is_none();
        let fault = detection.fault().or_else(|| nothing.then(|| "neither bbox nor segmentation".into()));
        if let Some(fault) = fault {
            return Err(Error::invalid(format!("{}: detection {number}: {fault}", path.display())));
        }
        let counts =
            |mask: &Rle| Counts { size: [mask.size().height, mask.size().width], counts: mask.encode() };
        let row = Row {
            image_id: detection.image_id,
            category_id: detection.category_id,
            bbox,
            score: detection.score,
            segmentation: mask.map(counts),
        };
        out.write_all(if number == 0 { b"[\n" } else { b",\n" }).map_err(Error::io(path))?;
        serde_json::to_writer(&mut out, &row).map_err(|error| Error::io(path)(error.into()))?;
    }
    out.write_all(if detections.is_empty() { b"[]\n" } else { b"\n]\n" }).map_err(Error::io(path))?;
    out.into_inner().map_err(|error| Error::io(path)(error.into_error()))?;
    Ok(())
}
