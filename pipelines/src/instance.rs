//! Objects as pictures show them: from truths and detections of the metric to what is drawn, and the
//! picture that they are drawn on. Must not score.

use crate::picture::Canvas;
use crate::picture::instances::{Bitmap, Instance};
use crate::picture::overlay::BoxMark;
use anyhow::{Context, Result};
use featcache_extractor::dataset::read_source;
use featcache_extractor::image::{self, ExifRule, Limits};
use featcache_heads::mask::{Rle, Segmentation};
use featcache_heads::metric::coco::{Detection, Object};
use featcache_store::{Category, SampleRow, Size, Store};
use std::path::Path;

/// What lies under objects where there is no picture.
const BLANK: [u8; 3] = [40, 43, 50];

/// A mask as it is drawn.
///
/// # Errors
/// None that a mask of run lengths can have.
pub fn bitmap(mask: &Rle) -> Result<Bitmap> {
    let (bounds, inside) = mask.cropped();
    Bitmap::new(bounds.map(|side| side as usize), inside)
}

/// Rank and name of a category: colour and caption.
fn class(categories: &[Category], id: i64) -> (usize, &str) {
    let found = categories.iter().enumerate().find(|(_, category)| category.id == id);
    found.map_or((0, "?"), |(rank, category)| (rank, &category.name))
}

/// A detection with name and score.
///
/// # Errors
/// As [`bitmap`].
pub fn of_detection(detection: &Detection, categories: &[Category]) -> Result<Instance> {
    let (class, name) = class(categories, detection.category_id);
    let mask = detection.mask.as_ref();
    let bbox = detection.bbox.or_else(|| mask.map(Rle::bbox)).unwrap_or_default();
    let caption = format!("{name} {:.2}", detection.score);
    Ok(Instance { mark: BoxMark { bbox, caption, class }, mask: mask.map(bitmap).transpose()? })
}

/// A true object with its name, in a picture of this size. One whose segmentation cannot be read is drawn
/// without a mask.
///
/// # Errors
/// As [`bitmap`].
pub fn of_object(object: &Object, size: Option<Size>, categories: &[Category]) -> Result<Instance> {
    let (class, name) = class(categories, object.category_id);
    let caption = if object.crowd { format!("{name} (crowd)") } else { name.to_owned() };
    let shape = object.segmentation.as_deref().and_then(|text| Segmentation::parse(text).ok());
    let mask = shape.zip(size).and_then(|(shape, size)| shape.rle(size).ok());
    let mask = mask.as_ref().map(bitmap).transpose()?;
    Ok(Instance { mark: BoxMark { bbox: object.bbox, caption, class }, mask })
}

/// The original picture of a row below `root`, turned as the features' recipe says; without `root` a
/// blank one of its size.
///
/// # Errors
/// The file is not there, no picture, or of another size than the store knows.
pub fn canvas(store: &Store, row: &SampleRow, root: Option<&Path>) -> Result<Canvas> {
    let size = row.source_size.with_context(|| format!("sample {} has no size in the store", row.key))?;
    let (width, height) = (size.width as usize, size.height as usize);
    let Some(root) = root else { return Ok(Canvas::new(width, height, BLANK)) };
    let limits = Limits::default();
    let named = || root.join(&row.source).display().to_string();
    let bytes = read_source(root, &row.source, &limits)?.with_context(named)?;
    let rule = ExifRule::of(&store.recipe().preprocess);
    let picture = image::decode_oriented(&bytes, rule, &limits).with_context(named)?;
    let found = picture.size;
    anyhow::ensure!(found == size, "{}: is {found}, the store's row is of {size}", named());
    Canvas::from_rgb(width, height, picture.rgb)
}
