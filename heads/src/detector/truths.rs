//! What a picture teaches a detector: its objects, checked, without the degenerate ones. Must not know
//! anchors or stages.

use crate::detection::boxes::has_sides;
use crate::labels::Target;
use crate::mask::Rle;
use crate::objects::Objects;
use crate::{Error, Result};
use featcache_store::Size;

/// The objects of one picture that can be learned.
#[derive(Debug)]
pub(super) struct Truths<'a> {
    /// Size of the picture in its padded input.
    pub(super) valid: Size,
    /// Boxes of positive sides.
    pub(super) boxes: Vec<[f32; 4]>,
    /// Class of each.
    pub(super) classes: Vec<usize>,
    /// Mask of each, where it has one.
    pub(super) masks: Vec<Option<&'a Rle>>,
    /// Regions of crowds.
    pub(super) crowd: Vec<[f32; 4]>,
    /// Stuff map.
    pub(super) semantic: Option<&'a Target>,
}

impl<'a> Truths<'a> {
    /// The objects of the batch's picture number `picture`.
    ///
    /// # Errors
    /// Lists of different lengths, a class that the detector does not have.
    pub(super) fn new(objects: &'a Objects, classes: usize, picture: usize) -> Result<Self> {
        let Objects { valid, boxes, classes: found, masks, crowd, semantic } = objects;
        if boxes.len() != found.len() || boxes.len() != masks.len() {
            let (a, b, c) = (boxes.len(), found.len(), masks.len());
            let text = format!("picture {picture} of the batch has {a} boxes, {b} classes and {c} masks");
            return Err(Error::invalid(text));
        }
        if let Some(class) = found.iter().find(|&&class| class >= classes) {
            let text = format!("picture {picture} of the batch has class {class}, expected below {classes}");
            return Err(Error::invalid(text));
        }
        let mut truths = Self {
            valid: *valid,
            boxes: Vec::with_capacity(boxes.len()),
            classes: Vec::with_capacity(boxes.len()),
            masks: Vec::with_capacity(boxes.len()),
            crowd: crowd.clone(),
            semantic: semantic.as_ref(),
        };
        for ((&bounds, &class), mask) in boxes.iter().zip(found).zip(masks) {
            if has_sides(bounds, 0.0) {
                truths.boxes.push(bounds);
                truths.classes.push(class);
                truths.masks.push(mask.as_ref());
            }
        }
        Ok(truths)
    }
}
