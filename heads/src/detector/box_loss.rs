//! Regression losses of boxes, as sums over the boxes divided by a given number. Must not choose boxes.

use crate::Result;
use crate::detection::boxes::giou_tensor;
use crate::detection::delta::DeltaCoder;
use crate::recipe::detector::{BoxLoss, BoxLossKind};
use tch::{Kind, Reduction, Tensor};

/// Areas count as at least this many square pixels in GIoU: mmdetection's `GIoULoss`.
const GIOU_MINIMUM: f64 = 1e-6;

/// Loss of deltas `[n, 4]` against encoded targets `[n, 4]`; GIoU, which compares boxes, counts as L1 here.
pub(super) fn delta_loss(found: &Tensor, target: &Tensor, loss: BoxLoss, divisor: f64) -> Result<Tensor> {
    let sum = match loss.kind {
        BoxLossKind::SmoothL1 => found.f_smooth_l1_loss(target, Reduction::Sum, loss.beta)?,
        BoxLossKind::L1 | BoxLossKind::Giou => found.f_l1_loss(target, Reduction::Sum)?,
    };
    Ok(sum.f_mul_scalar(loss.weight / divisor)?)
}

/// Loss of the deltas `[n, 4]` of `boxes` `[n, 4]` against the truths `[n, 4]` that they are to become.
pub(super) fn box_loss(
    found: &Tensor,
    boxes: &Tensor,
    truths: &Tensor,
    coder: &DeltaCoder,
    loss: BoxLoss,
    divisor: f64,
) -> Result<Tensor> {
    match loss.kind {
        BoxLossKind::L1 | BoxLossKind::SmoothL1 => {
            delta_loss(found, &coder.encode_tensor(boxes, truths)?, loss, divisor)
        }
        BoxLossKind::Giou => {
            let decoded = coder.decode_tensor(boxes, found)?; // [n, 4]
            let apart = giou_tensor(&decoded, truths, GIOU_MINIMUM)?.f_neg()?.f_add_scalar(1.0)?; // [n]
            Ok(apart.f_sum(Kind::Float)?.f_mul_scalar(loss.weight / divisor)?)
        }
    }
}

/// A scalar 0 with a gradient of zeros for everything that `tensor` came from: the loss of no boxes.
pub(super) fn nothing_of(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_sum(Kind::Float)?.f_mul_scalar(0.0)?)
}
