//! What a detector found, in the coordinates of the original picture: from boxes and mask probabilities
//! of a row's padded input back to where the picture has them. Must not know scores' meaning or truths.

use crate::detector::Detections;
use crate::mask::Rle;
use crate::mask::paste::{PasteConvention, paste};
use crate::metric::coco::Detection;
use crate::{Error, Result};
use featcache_store::{Size, ViewGeometry};

/// One object found in a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// x, y, width, height in pixels of the original picture, within it.
    pub bbox: [f64; 4],
    /// Class: the rank of its category in the store's list.
    pub class: usize,
    /// Confidence, 0 to 1.
    pub score: f64,
    /// Mask at the original size; `None` from a detector without masks.
    pub mask: Option<Rle>,
}

/// From a row's input to its original picture.
#[derive(Debug, Clone, Copy)]
pub struct WayBack {
    /// The row's view.
    pub geometry: ViewGeometry,
    /// Whether that mirrors.
    pub hflip: bool,
    /// Size of the original picture.
    pub source: Size,
    /// How masks are pasted.
    pub paste: PasteConvention,
}

impl WayBack {
    /// The detections of one row, best first as they come. Boxes are scaled by the two ratios of sizes and
    /// cut to the picture, masks pasted at the picture's own size.
    ///
    /// # Errors
    /// Detections whose lists are of different lengths, or a box that is not finite.
    pub fn found(&self, detections: &Detections) -> Result<Vec<Found>> {
        let Detections { boxes, scores, classes, masks, mask_side } = detections;
        let count = boxes.len();
        let fits = |length: usize| length == count;
        if !fits(scores.len()) || !fits(classes.len()) || !(masks.is_empty() || fits(masks.len())) {
            let (scores, classes, masks) = (scores.len(), classes.len(), masks.len());
            let text = format!("{count} boxes with {scores} scores, {classes} classes and {masks} masks");
            return Err(Error::invalid(text));
        }
        let mut all = Vec::with_capacity(count);
        for i in 0..count {
            let [x0, y0, x1, y1] = boxes[i].map(f64::from);
            let [x, y, w, h] = self.geometry.box_to_source([x0, y0, x1 - x0, y1 - y0]);
            let (width, height) = (f64::from(self.source.width), f64::from(self.source.height));
            let [left, right] = [x, x + w].map(|v| v.clamp(0.0, width));
            let [top, bottom] = [y, y + h].map(|v| v.clamp(0.0, height));
            let bounds = [left, top, right, bottom].map(|v| v as f32);
            let mask = masks.get(i).map(|mask| self.mask(mask, *mask_side, bounds)).transpose()?;
            all.push(Found {
                bbox: [left, top, right - left, bottom - top],
                class: classes[i],
                score: f64::from(scores[i]),
                mask,
            });
        }
        Ok(all)
    }

    fn mask(&self, probabilities: &[f32], side: usize, bounds: [f32; 4]) -> Result<Rle> {
        if !self.hflip {
            return paste(probabilities, side, bounds, self.source, self.paste);
        }
        let mirrored: Vec<f32> =
            probabilities.chunks(side.max(1)).flat_map(|row| row.iter().rev().copied()).collect();
        paste(&mirrored, side, bounds, self.source, self.paste)
    }
}

impl Found {
    /// As COCO's results have it; `categories` are the ids by class.
    ///
    /// # Errors
    /// A class without a category.
    pub fn detection(self, image_id: i64, categories: &[i64]) -> Result<Detection> {
        let Self { bbox, class, score, mask } = self;
        let Some(&category_id) = categories.get(class) else {
            let count = categories.len();
            return Err(Error::invalid(format!("class {class} found, expected below {count}")));
        };
        Ok(Detection { image_id, category_id, score, bbox: Some(bbox), mask })
    }
}
