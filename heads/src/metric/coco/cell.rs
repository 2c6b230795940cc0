//! One category in one picture, measured: areas, crowds and overlaps of what meets there, for boxes or for masks.
//! Does not decide who takes whom.

use super::detection::Detection;
use super::ground_truth::GroundTruth;
use super::grouping::{self, Cell};
use super::options::{IouType, MaskArea};
use super::overlap::{Overlaps, box_iou};
use crate::mask::rle::iou_matrix;
use crate::mask::{Rle, polygon};
use crate::{Error, Result};
use featcache_store::Size;
use std::borrow::Cow;

/// What an evaluation is of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) truth: &'a GroundTruth,
    pub(super) detections: &'a [Detection],
    pub(super) iou: IouType,
    pub(super) mask_area: MaskArea,
}

/// A cell's measures; reused from cell to cell.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    /// Of the detections with the objects.
    pub(super) overlaps: Overlaps,
    /// Which objects are crowds.
    pub(super) crowd: Vec<bool>,
    /// Areas of the objects, as the data set states them.
    pub(super) truth_areas: Vec<f64>,
    /// Areas of the detections.
    pub(super) found_areas: Vec<f64>,
}

impl Context<'_> {
    /// Measures a cell.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the object or detection whose mask is missing or unusable.
    pub(super) fn shapes(&self, cell: &Cell<'_>, shapes: &mut Shapes) -> Result<()> {
        let objects = || cell.truth.iter().map(|object| &self.truth.objects()[object.index as usize]);
        let found = || cell.found.iter().map(|found| &self.detections[found.index as usize]);
        shapes.crowd.clear();
        shapes.crowd.extend(objects().map(|object| object.crowd));
        shapes.truth_areas.clear();
        shapes.truth_areas.extend(objects().map(|object| object.area));
        shapes.found_areas.clear();
        shapes.found_areas.extend(found().map(|detection| self.area(detection)));
        match self.iou {
            IouType::Bbox => {
                let pairs = found().flat_map(|detection| {
                    let bbox = rectangle(detection);
                    objects().map(move |object| box_iou(bbox, object.bbox, object.crowd))
                });
                shapes.overlaps.fill([cell.found.len(), cell.truth.len()], pairs);
            }
            IouType::Segm => {
                let values = self.mask_overlaps(cell, &shapes.crowd)?;
                shapes.overlaps.fill([cell.found.len(), cell.truth.len()], values);
            }
        }
        Ok(())
    }

    /// Area that decides the range an unmatched detection falls in.
    fn area(&self, detection: &Detection) -> f64 {
        let of_box = self.iou == IouType::Bbox || self.mask_area == MaskArea::OfBox;
        match (&detection.mask, detection.bbox) {
            (Some(mask), None) => mask.area() as f64,
            (Some(mask), Some(_)) if !of_box => mask.area() as f64,
            (_, bbox) => bbox.map_or(0.0, |[_, _, width, height]| width * height),
        }
    }

    /// Overlaps of masks; nothing is unpacked where only one side is there.
    fn mask_overlaps(&self, cell: &Cell<'_>, crowd: &[bool]) -> Result<Vec<f64>> {
        if cell.truth.is_empty() || cell.found.is_empty() {
            return Ok(Vec::new());
        }
        let picture = self.truth.pictures()[cell.picture as usize];
        let Some(size) = picture.size else {
            let what = format!("image {} has no size in the ground truth, needed for masks", picture.id);
            return Err(Error::invalid(what));
        };
        let truth = cell.truth.iter().map(|object| self.truth.mask(object.index as usize));
        let truth = truth.collect::<Result<Vec<_>>>()?;
        let found = cell.found.iter().map(|found| self.found_mask(found.index as usize, size));
        let found = found.collect::<Result<Vec<_>>>()?;
        iou_matrix(
            &found.iter().map(|mask| &**mask).collect::<Vec<_>>(),
            &truth.iter().collect::<Vec<_>>(),
            crowd,
        )
    }

    fn found_mask(&self, index: usize, size: Size) -> Result<Cow<'_, Rle>> {
        let detection = &self.detections[index];
        let mask = match &detection.mask {
            // Of its picture's size, or it would not be in a group.
            Some(mask) => Ok(Cow::Borrowed(mask)),
            None => {
                // What pycocotools' `loadRes` makes of a box.
                let [x, y, width, height] = rectangle(detection);
                let (right, bottom) = (x + width, y + height);
                polygon::polygon(size, &[x, y, x, bottom, right, bottom, right, y]).map(Cow::Owned)
            }
        };
        mask.map_err(|error| Error::invalid(format!("{}: {error}", grouping::name(detection, index))))
    }
}

/// Box of a detection, of its mask if it has none of its own.
fn rectangle(detection: &Detection) -> [f64; 4] {
    detection.bbox.or_else(|| detection.mask.as_ref().map(Rle::bbox)).unwrap_or_default()
}
