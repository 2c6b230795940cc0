//! The loss: logits resized to the target, cross-entropy with ignored pixels. Must not know heads.

use crate::conv::resize;
use crate::labels::IGNORE;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::{Reduction, Tensor};

/// What the sum of the pixels' losses is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Average {
    /// The labelled pixels: torch's mean, mmsegmentation's `avg_non_ignore=True`.
    Labelled,
    /// All pixels, ignored and padded ones too: mmsegmentation's default.
    All,
}

/// Cross-entropy of logits `[n, k, h, w]`, resized bilinearly (`align_corners=False`) to the target
/// `[n, H, W]` (int64; [`IGNORE`] does not count). A batch without labelled pixels has loss 0.
pub fn cross_entropy(logits: &Tensor, target: &Tensor, average: Average) -> Result<Tensor> {
    let &[_, height, width] = target.size().as_slice() else {
        return Err(Error::invalid(format!("target is {:?}, expected [n, h, w]", target.size())));
    };
    let logits = resize(logits, height, width)?; // [n, k, H, W]
    let ignore = i64::from(IGNORE);
    let sum = logits.f_cross_entropy_loss(target, None::<&Tensor>, Reduction::Sum, ignore, 0.0)?;
    let count = match average {
        Average::Labelled => target.f_ne(ignore)?.f_sum(tch::Kind::Float)?.f_clamp_min(1.0)?,
        Average::All => Tensor::from(target.numel() as f32).f_to_device(target.device())?,
    };
    Ok(sum.f_div(&count)?)
}
