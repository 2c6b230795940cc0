//! Mask R-CNN (He et al. 2017): one stage; its mask head learns from the regions of its box head.

use crate::detector::pooling::Maps;
use crate::detector::roi_heads::RoiHeads;
use crate::detector::truths::Truths;
use crate::losses::Losses;
use crate::seed::Seed;
use crate::{Phase, Result};

/// `loss_cls`, `loss_bbox` and `loss_mask`.
pub(super) fn losses(
    heads: &RoiHeads,
    maps: Maps<'_>,
    proposals: &[Vec<[f32; 4]>],
    pictures: &[Truths<'_>],
    phase: Phase,
    seed: Seed,
    losses: &mut Losses,
) -> Result<()> {
    for stage in &heads.stages {
        let regions = stage.rule.sample(proposals, pictures, seed);
        let ([classes, boxes], _) = stage.box_losses(&heads.pooler, maps, &regions, phase)?;
        let masks = stage.mask_loss(&[], &heads.pooler, maps, &regions, pictures, phase)?;
        let parts = [("loss_cls", classes), ("loss_bbox", boxes), ("loss_mask", masks)];
        losses.parts.extend(parts.map(|(name, value)| (name.to_owned(), value)));
    }
    Ok(())
}
