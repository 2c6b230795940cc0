//! Stages one after the other, every one learning from the regions of the one before it, moved to where
//! that one says (Cascade R-CNN, Cai & Vasconcelos 2019). Mask R-CNN (He et al. 2017) is the cascade of one
//! stage. In the hybrid task cascade (Chen et al. 2019) the mask head of a stage learns from the regions
//! that its box head moved, sampled anew (interleaved), and sees the features of the mask heads before it
//! (mask information flow). Must not know what a stage's losses are made of.

use crate::detector::pooling::Maps;
use crate::detector::roi_heads::RoiHeads;
use crate::detector::truths::Truths;
use crate::losses::Losses;
use crate::recipe::detector::DetectorKind;
use crate::seed::Seed;
use crate::{Phase, Result};

/// `loss_cls`, `loss_bbox` and `loss_mask` of every stage; of numbered stages with `s{number}.` in front.
pub(super) fn losses(
    heads: &RoiHeads,
    maps: Maps<'_>,
    proposals: &[Vec<[f32; 4]>],
    pictures: &[Truths<'_>],
    phase: Phase,
    seed: Seed,
    losses: &mut Losses,
) -> Result<()> {
    let interleaved = heads.kind == DetectorKind::Htc;
    let mut proposals = proposals.to_vec();
    for (i, stage) in heads.stages.iter().enumerate() {
        let (prefix, seed) = match stage.number {
            Some(number) => (format!("s{number}."), seed.derive(number as u64)),
            None => (String::new(), seed),
        };
        let mut regions = stage.rule.sample(&proposals, pictures, seed);
        let ([classes, boxes], output) = stage.box_losses(&heads.pooler, maps, &regions, phase)?;
        if interleaved || i + 1 < heads.stages.len() {
            proposals = stage.refined_proposals(&regions, output.as_ref(), pictures)?;
        }
        let mut before = &heads.stages[..0];
        if interleaved {
            regions = stage.rule.sample(&proposals, pictures, seed.named("masks"));
            before = &heads.stages[..i];
        }
        let masks = stage.mask_loss(before, &heads.pooler, maps, &regions, pictures, phase)?;
        let parts = [("loss_cls", classes), ("loss_bbox", boxes), ("loss_mask", masks)];
        losses.parts.extend(parts.map(|(name, value)| (format!("{prefix}{name}"), value)));
    }
    Ok(())
}
