//! Cascade Mask R-CNN (Cai & Vasconcelos 2019): every stage learns from the regions of the one before it,
//! moved to where that one says; box and mask head of a stage from the same regions.

use crate::detector::pooling::Maps;
use crate::detector::roi_heads::RoiHeads;
use crate::detector::truths::Truths;
use crate::losses::Losses;
use crate::seed::Seed;
use crate::{Phase, Result};

/// `s{i}.loss_cls`, `s{i}.loss_bbox` and `s{i}.loss_mask` of every stage.
pub(super) fn losses(
    heads: &RoiHeads,
    maps: Maps<'_>,
    proposals: &[Vec<[f32; 4]>],
    pictures: &[Truths<'_>],
    phase: Phase,
    seed: Seed,
    losses: &mut Losses,
) -> Result<()> {
    let mut proposals = proposals.to_vec();
    for (i, stage) in heads.stages.iter().enumerate() {
        let regions = stage.rule.sample(&proposals, pictures, seed.derive(i as u64));
        let ([classes, boxes], output) = stage.box_losses(&heads.pooler, maps, &regions, phase)?;
        let masks = stage.mask_loss(&[], &heads.pooler, maps, &regions, pictures, phase)?;
        let parts = [("loss_cls", classes), ("loss_bbox", boxes), ("loss_mask", masks)];
        losses.parts.extend(parts.map(|(name, value)| (format!("s{i}.{name}"), value)));
        if i + 1 < heads.stages.len() {
            proposals = stage.refined_proposals(&regions, output.as_ref(), pictures)?;
        }
    }
    Ok(())
}
