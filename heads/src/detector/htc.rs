//! Hybrid task cascade (Chen et al. 2019): a cascade in which the mask head of a stage learns from the
//! regions that its box head moved, sampled anew (interleaved), and sees the features of the mask heads
//! before it (mask information flow); with a semantic branch, all heads see its embedding.

use crate::detector::pooling::Maps;
use crate::detector::roi_heads::RoiHeads;
use crate::detector::truths::Truths;
use crate::labels::IGNORE;
use crate::losses::Losses;
use crate::seed::Seed;
use crate::{Error, Phase, Result};
use tch::{Reduction, Tensor};

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
        let seed = seed.derive(i as u64);
        let regions = stage.rule.sample(&proposals, pictures, seed);
        let ([classes, boxes], output) = stage.box_losses(&heads.pooler, maps, &regions, phase)?;
        proposals = stage.refined_proposals(&regions, output.as_ref(), pictures)?;
        let regions = stage.rule.sample(&proposals, pictures, seed.named("masks"));
        let masks = stage.mask_loss(&heads.stages[..i], &heads.pooler, maps, &regions, pictures, phase)?;
        let parts = [("loss_cls", classes), ("loss_bbox", boxes), ("loss_mask", masks)];
        losses.parts.extend(parts.map(|(name, value)| (format!("s{i}.{name}"), value)));
    }
    Ok(())
}

/// `loss_semantic_seg`: mean cross-entropy of logits `[n, classes, h, w]` over the labelled cells, times
/// `weight`; 0 where nothing is labelled. A map's label at a cell is the one at the cell's first pixel
/// (nearest, as mmdetection's `SegRescale` by OpenCV); pictures without a map and padding do not count.
pub(super) fn semantic_loss(logits: &Tensor, pictures: &[Truths<'_>], weight: f64) -> Result<Tensor> {
    let (_, classes, height, width) = logits.size4()?;
    let mut labels = Vec::with_capacity(pictures.len() * (height * width) as usize);
    for (picture, truths) in pictures.iter().enumerate() {
        let Some(map) = truths.semantic else {
            labels.resize(labels.len() + (height * width) as usize, i64::from(IGNORE));
            continue;
        };
        let (rows, columns) = (u64::from(map.size.height), u64::from(map.size.width));
        for y in 0..height as u64 {
            for x in 0..width as u64 {
                let (row, column) = (y * rows / height as u64, x * columns / width as u64);
                let label = i64::from(map.classes[(row * columns + column) as usize]);
                if label >= classes {
                    let text = format!("stuff map of picture {picture} of the batch has class {label}");
                    return Err(Error::invalid(format!("{text}, expected below {classes}")));
                }
                labels.push(label.max(i64::from(IGNORE)));
            }
        }
    }
    let labelled = labels.iter().filter(|&&label| label >= 0).count().max(1);
    let shape = [pictures.len() as i64, height, width];
    let labels = Tensor::f_from_slice(&labels)?.f_view(shape)?.f_to_device(logits.device())?;
    let ignore = i64::from(IGNORE);
    let sum = logits.f_cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Sum, ignore, 0.0)?;
    Ok(sum.f_mul_scalar(weight / labelled as f64)?)
}
