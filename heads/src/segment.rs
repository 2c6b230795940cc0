//! From logits to classes of every pixel of the original picture: mmsegmentation's `whole` inference.
//! Must not know models.

use crate::conv::resize;
use crate::{Error, Result};
use featcache_store::Size;
use tch::{Kind, Tensor};

/// Bytes of resized logits held at a time, by default.
pub const DEFAULT_SEGMENT_BYTES: u64 = 256 << 20;

/// A predicted class for every pixel of the original picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    /// Height and width of the original picture.
    pub size: Size,
    /// Class numbers, row-major.
    pub classes: Vec<u16>,
}

/// The sizes that lead from a map back to its picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSizes {
    /// What the backbone saw, padding included.
    pub padded: Size,
    /// The part of it, from the top left, that was picture.
    pub valid: Size,
    /// The picture before resizing.
    pub original: Size,
}

/// The label map of one picture's logits `[1, k, h, w]`. They are resized to the padded input, cut to
/// the valid part and resized to the original size, each bilinear with `align_corners=False`; the
/// largest wins, the first of equals. Classes are resized as many at a time as `bytes` hold (at least
/// one), which changes nothing else: a large picture with many classes needs gigabytes at once.
pub fn label_map(logits: &Tensor, sizes: SegmentSizes, bytes: u64) -> Result<LabelMap> {
    let _guard = tch::no_grad_guard();
    let SegmentSizes { padded, valid, original } = sizes;
    if valid.height > padded.height || valid.width > padded.width {
        return Err(Error::invalid(format!("valid size {valid} passes the padded size {padded}")));
    }
    let side = i64::from;
    let (_, count, _, _) = logits.size4()?;
    let step = (bytes / 4 / padded.area().max(original.area()).max(1)).clamp(1, count.unsigned_abs().max(1));
    let mut best: Option<(Tensor, Tensor)> = None;
    for first in (0..count).step_by(step as usize) {
        let part = logits.f_narrow(1, first, (step as i64).min(count - first))?;
        let part = resize(&part, side(padded.height), side(padded.width))?;
        let part = part.f_narrow(2, 0, side(valid.height))?.f_narrow(3, 0, side(valid.width))?;
        let part = resize(&part, side(original.height), side(original.width))?; // [1, step, h, w]
        let (value, class) = part.f_max_dim(1, false)?; // [1, h, w]
        let class = class.f_add_scalar(first)?;
        best = Some(match best {
            None => (value, class),
            Some((best, classes)) => {
                let better = value.f_gt_tensor(&best)?;
                (value.f_where_self(&better, &best)?, class.f_where_self(&better, &classes)?)
            }
        });
    }
    let (_, classes) = best.ok_or_else(|| Error::invalid("logits without classes"))?;
    let mut numbers = vec![0i32; classes.numel()];
    classes.f_to_kind(Kind::Int)?.f_copy_data(&mut numbers, classes.numel())?;
    Ok(LabelMap { size: original, classes: numbers.into_iter().map(|class| class as u16).collect() })
}
