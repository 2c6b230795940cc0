//! From the neck's maps to the regions that heads see. Must not know what heads make of them.

use crate::Result;
use crate::detection::level_map::LevelMap;
use crate::detection::pooling_bag::{BinRule, Sampling};
use crate::detection::roi_align::{Roi, RoiAlign};
use crate::recipe::detector::{DetectorRecipe, Style};
use tch::Tensor;

/// RoIAlign for boxes and for masks over the levels that regions are pooled from.
#[derive(Debug)]
pub(super) struct Pooler {
    boxes: RoiAlign,
    masks: RoiAlign,
    scales: Vec<f32>,
    levels: LevelMap,
}

/// What regions are pooled from: the neck's maps and, with a semantic branch, its embedding.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maps<'a> {
    /// `[n, c, h_i, w_i]`, finest first; those beyond the backbone's levels serve proposals alone.
    pub(super) levels: &'a [Tensor],
    /// Embedding `[n, c, h, w]` and its scale, cells a pixel.
    pub(super) semantic: Option<(&'a Tensor, f32)>,
}

impl Pooler {
    /// Pools from the levels whose strides are given.
    pub(super) fn new(recipe: &DetectorRecipe, strides: &[u32]) -> Self {
        let head = &recipe.head;
        let align = |side: u32| {
            let sampling = match u16::try_from(head.roi_sampling) {
                Ok(0) | Err(_) => Sampling::Adaptive,
                Ok(samples) => Sampling::Fixed(samples),
            };
            let side = u16::try_from(side).unwrap_or(u16::MAX);
            RoiAlign { rule: BinRule { side, sampling, aligned: head.roi_aligned } }
        };
        let finest = strides.first().copied().unwrap_or(4) as f32;
        // Published detectors start at stride 4; another start shifts the rule with it.
        let levels = match recipe.style {
            Style::Mmdet => LevelMap::Finest(56.0 / 4.0 * finest),
            Style::Torchvision => {
                LevelMap::Canonical { side: 224.0, level: 4.0, first: finest.log2().floor() }
            }
        };
        let scales = strides.iter().map(|&stride| 1.0 / stride as f32).collect();
        Self { boxes: align(head.boxes.side), masks: align(head.masks.side), scales, levels }
    }

    /// `[rois, c, side, side]` for box heads.
    pub(super) fn boxes(&self, maps: Maps<'_>, rois: &[Roi]) -> Result<Tensor> {
        let pooled = self.levels(self.boxes, maps, rois)?;
        let Some((embedding, scale)) = maps.semantic else { return Ok(pooled) };
        // Pooled at the masks' side and averaged down, as in HTC.
        let side = i64::from(self.boxes.rule.side);
        let semantic = self.masks.pool(embedding, scale, rois)?;
        let semantic = match self.masks.rule.side == self.boxes.rule.side {
            true => semantic,
            false => semantic.f_adaptive_avg_pool2d([side, side])?,
        };
        Ok(pooled.f_add(&semantic)?)
    }

    /// `[rois, c, side, side]` for mask heads.
    pub(super) fn masks(&self, maps: Maps<'_>, rois: &[Roi]) -> Result<Tensor> {
        let pooled = self.levels(self.masks, maps, rois)?;
        match maps.semantic {
            Some((embedding, scale)) => Ok(pooled.f_add(&self.masks.pool(embedding, scale, rois)?)?),
            None => Ok(pooled),
        }
    }

    /// A region of zeros as [`masks`](Self::masks) gives them.
    pub(super) fn empty(&self, maps: Maps<'_>, side: u32) -> Result<Tensor> {
        let map = &maps.levels[0];
        let side = i64::from(side);
        Ok(Tensor::f_zeros([1, map.size()[1], side, side], (map.kind(), map.device()))?)
    }

    fn levels(&self, align: RoiAlign, maps: Maps<'_>, rois: &[Roi]) -> Result<Tensor> {
        let levels = &maps.levels[..self.scales.len().min(maps.levels.len())];
        align.pool_levels(levels, &self.scales, self.levels, rois)
    }
}
