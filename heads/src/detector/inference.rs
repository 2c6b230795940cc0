//! From proposals to detections: boxes moved stage by stage, classes by the mean logits of all stages,
//! boxes by the last one, masks by the mean of all. Must not train.

use crate::detection::boxes::{clip, from_tensor, has_sides};
use crate::detection::nms::batched_nms;
use crate::detection::roi_align::{Roi, rois};
use crate::detection::soft_nms;
use crate::detector::pooling::Maps;
use crate::detector::roi_heads::RoiHeads;
use crate::detector::stage::mask_probabilities;
use crate::recipe::detector::{SoftNmsKind, Style};
use crate::{Error, Phase, Result};
use featcache_store::Size;
use tch::{Device, Kind, Tensor};

/// Shortest side of a detection in torchvision's style, in pixels.
const MIN_SIDE: f32 = 1e-2;

/// What a detector finds in one picture, by descending score.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Detections {
    /// `x1, y1, x2, y2` in pixels of the padded input, inside the picture.
    pub boxes: Vec<[f32; 4]>,
    /// Score of each.
    pub scores: Vec<f32>,
    /// Class of each.
    pub classes: Vec<usize>,
    /// Mask of each over its box: `mask_side²` probabilities, row-major.
    pub masks: Vec<Vec<f32>>,
    /// Rows and columns of a mask.
    pub mask_side: usize,
}

/// Detections of every picture of a batch.
///
/// # Errors
/// Scores or deltas that are not numbers.
pub(super) fn detect(
    heads: &RoiHeads,
    maps: Maps<'_>,
    proposals: &[Vec<[f32; 4]>],
    valid: &[Size],
) -> Result<Vec<Detections>> {
    let mut regions = rois(proposals.iter().map(Vec::as_slice));
    let nothing = || Detections { mask_side: heads.mask_side, ..Detections::default() };
    let mut detections: Vec<Detections> = valid.iter().map(|_| nothing()).collect();
    let Some((last, others)) = heads.stages.split_last().filter(|_| !regions.is_empty()) else {
        return Ok(detections);
    };
    let mut logits = Vec::with_capacity(heads.stages.len());
    for (index, stage) in others.iter().enumerate() {
        let output = stage.box_forward(&heads.pooler, maps, &regions, Phase::Eval)?;
        if output.deltas.f_isnan()?.f_any()?.f_int64_value(&[])? != 0 {
            return Err(Error::invalid(format!("box deltas of stage {index} are not numbers")));
        }
        regions = stage.refine(&regions, |_| None, &output, valid)?;
        logits.push(output.logits);
    }
    let output = last.box_forward(&heads.pooler, maps, &regions, Phase::Eval)?;
    logits.push(output.logits);
    let scores =
        Tensor::f_stack(&logits, 0)?.f_mean_dim(0, false, Kind::Float)?.f_softmax(-1, Kind::Float)?;
    let scores = Vec::<f32>::try_from(&scores.f_to_device(Device::Cpu)?.f_contiguous()?.f_view([-1])?)?;
    let deltas = from_tensor(&output.deltas.f_reshape([-1, 4])?)?;
    // Compared in binary32, as torch compares a tensor with a number.
    let threshold = heads.inference.score as f32;
    for (picture, found) in detections.iter_mut().enumerate() {
        let mut candidates = Candidates::default();
        let rows = regions.iter().enumerate().filter(|(_, roi)| roi.picture == picture);
        for (row, roi) in rows {
            let scores = &scores[row * (heads.classes + 1)..(row + 1) * (heads.classes + 1)];
            if scores.iter().any(|score| score.is_nan()) {
                let text = format!("class scores of picture {picture} of the batch are not numbers");
                return Err(Error::invalid(text));
            }
            for (class, &score) in scores[..heads.classes].iter().enumerate() {
                // The score first: few pass, and only their boxes are decoded.
                if score <= threshold {
                    continue;
                }
                let row = if heads.class_agnostic { row } else { row * heads.classes + class };
                let bounds = last.coder.decode(&[roi.bounds], &[deltas[row]])?[0];
                if bounds.iter().any(|value| value.is_nan()) {
                    let text = format!("box deltas of picture {picture} of the batch are not numbers");
                    return Err(Error::invalid(text));
                }
                candidates.push(heads, clip(bounds, valid[picture]), score, class);
            }
        }
        candidates.pick(heads, found);
    }
    add_masks(heads, maps, &mut detections)?;
    Ok(detections)
}

/// Boxes of one picture before suppression.
#[derive(Debug, Default)]
struct Candidates {
    boxes: Vec<[f32; 4]>,
    scores: Vec<f32>,
    classes: Vec<usize>,
}

impl Candidates {
    fn push(&mut self, heads: &RoiHeads, bounds: [f32; 4], score: f32, class: usize) {
        let min_side = match heads.style {
            Style::Mmdet => 0.0,
            Style::Torchvision => MIN_SIDE,
        };
        if has_sides(bounds, min_side) {
            self.boxes.push(bounds);
            self.scores.push(score);
            self.classes.push(class);
        }
    }

    /// What suppression leaves.
    fn pick(&self, heads: &RoiHeads, found: &mut Detections) {
        let options = heads.inference;
        let limit = options.max as usize;
        let picked: Vec<(usize, f32)> = match options.soft_nms {
            None => batched_nms(&self.boxes, &self.scores, &self.classes, options.nms, limit)
                .into_iter()
                .map(|index| (index, self.scores[index]))
                .collect(),
            Some(soft) => {
                let decay = match soft.kind {
                    SoftNmsKind::Linear => soft_nms::Decay::Linear(options.nms as f32),
                    SoftNmsKind::Gaussian => soft_nms::Decay::Gaussian(soft.sigma as f32),
                };
                let rule = soft_nms::SoftNms { decay, min_score: soft.min_score as f32 };
                rule.pick(&self.boxes, &self.scores, &self.classes, limit)
            }
        };
        for (index, score) in picked {
            found.boxes.push(self.boxes[index]);
            found.scores.push(score);
            found.classes.push(self.classes[index]);
        }
    }
}

/// The masks of all detections, pooled at their boxes.
fn add_masks(heads: &RoiHeads, maps: Maps<'_>, detections: &mut [Detections]) -> Result<()> {
    let regions: Vec<Roi> = rois(detections.iter().map(|found| found.boxes.as_slice()));
    if regions.is_empty() {
        return Ok(());
    }
    let classes: Vec<i64> =
        detections.iter().flat_map(|found| &found.classes).map(|&class| class as i64).collect();
    let pooled = heads.pooler.masks(maps, &regions)?;
    let masks = mask_probabilities(&heads.stages, &pooled, &classes)?; // [detections, side, side]
    let masks = Vec::<f32>::try_from(&masks.f_to_device(Device::Cpu)?.f_contiguous()?.f_view([-1])?)?;
    if masks.iter().any(|share| share.is_nan()) {
        return Err(Error::invalid("mask probabilities of the batch are not numbers"));
    }
    let mut masks = masks.chunks_exact(heads.mask_side.pow(2).max(1)).map(<[f32]>::to_vec);
    for found in detections {
        found.masks = masks.by_ref().take(found.boxes.len()).collect();
    }
    Ok(())
}
