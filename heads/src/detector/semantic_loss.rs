//! What the semantic branch learns from stuff maps. Must not know stages.

use crate::detector::truths::Truths;
use crate::labels::IGNORE;
use crate::{Error, Result};
use tch::{Reduction, Tensor};

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
