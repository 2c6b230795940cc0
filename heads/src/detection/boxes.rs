//! Boxes `[x1, y1, x2, y2]`: sides, area, overlap, clipping, and the way to tensors and back. Must not
//! know scores or classes.
//!
//! A box is degenerate when a side is not positive or a coordinate is not a number. It has no area and
//! overlaps nothing; no function here panics on it.

use crate::{Error, Result};
use featcache_store::Size;
use tch::{Device, Kind, Tensor};

/// Width times height in square pixels, 0 for a degenerate box.
pub fn area(bounds: [f32; 4]) -> f32 {
    let [x1, y1, x2, y2] = bounds;
    // `max` prefers the number, so that a NaN side counts as 0; ∞ · 0 is the one NaN left.
    let area = (x2 - x1).max(0.0) * (y2 - y1).max(0.0);
    if area.is_nan() { 0.0 } else { area }
}

/// Are all coordinates finite and both sides at least `minimum` pixels, and positive?
pub fn has_sides(bounds: [f32; 4], minimum: f32) -> bool {
    let [x1, y1, x2, y2] = bounds;
    let long = |side: f32| side > 0.0 && side >= minimum;
    bounds.iter().all(|value| value.is_finite()) && long(x2 - x1) && long(y2 - y1)
}

/// Shared area in square pixels.
pub fn intersection(a: [f32; 4], b: [f32; 4]) -> f32 {
    area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])])
}

/// Intersection over union, in `[0, 1]`; 0 where one box is degenerate. Arithmetic and rounding of
/// `torchvision.ops.box_iou`.
pub fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    // Degenerate boxes are caught by their area: the larger of a NaN and a number would hide the NaN.
    ratio_of(a, b, |shared, area_a, area_b| shared / (area_a + area_b - shared))
}

/// Intersection over the area of `a` (mmdetection's `iof`), in `[0, 1]`; 0 where one is degenerate.
pub fn intersection_over_first(a: [f32; 4], b: [f32; 4]) -> f32 {
    ratio_of(a, b, |shared, area_a, _| shared / area_a)
}

fn ratio_of(a: [f32; 4], b: [f32; 4], ratio: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let (area_a, area_b) = (area(a), area(b));
    if !(area_a > 0.0 && area_b > 0.0) {
        return 0.0;
    }
    let ratio = ratio(intersection(a, b), area_a, area_b);
    if ratio.is_finite() { ratio } else { 0.0 }
}

/// Generalised IoU, in `[-1, 1]` (Rezatofighi et al. 2019, eq. 3): the IoU less the share of the
/// smallest enclosing box that neither covers. Two degenerate boxes with nothing between them have 0.
pub fn giou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let (area_a, area_b, shared) = (area(a), area(b), intersection(a, b));
    let shared = if area_a > 0.0 && area_b > 0.0 { shared } else { 0.0 };
    let enclosing = area([a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])]);
    let union = area_a + area_b - shared;
    let empty = (enclosing - union) / enclosing;
    let empty = if empty.is_finite() { empty } else { 0.0 };
    iou(a, b) - empty
}

/// The IoU of every row with every column, row-major `rows × columns`.
pub fn iou_matrix(rows: &[[f32; 4]], columns: &[[f32; 4]]) -> Vec<f32> {
    rows.iter().flat_map(|&a| columns.iter().map(move |&b| iou(a, b))).collect()
}

/// The generalised IoU of every row with every column, row-major `rows × columns`.
pub fn giou_matrix(rows: &[[f32; 4]], columns: &[[f32; 4]]) -> Vec<f32> {
    rows.iter().flat_map(|&a| columns.iter().map(move |&b| giou(a, b))).collect()
}

/// The part of a box inside a picture of `size`; a coordinate that is not a number becomes 0, so that
/// what comes out is finite.
pub fn clip(bounds: [f32; 4], size: Size) -> [f32; 4] {
    let (width, height) = (size.width as f32, size.height as f32);
    let [x1, y1, x2, y2] = bounds;
    let within = |value: f32, limit: f32| value.max(0.0).min(limit);
    [within(x1, width), within(y1, height), within(x2, width), within(y2, height)]
}

/// Boxes as a tensor `[n, 4]` of binary32.
pub fn to_tensor(boxes: &[[f32; 4]], device: Device) -> Result<Tensor> {
    let tensor = Tensor::f_from_slice(boxes.as_flattened())?.f_reshape([boxes.len() as i64, 4])?;
    Ok(tensor.f_to_device(device)?)
}

/// A tensor `[n, 4]` as boxes, from any device.
pub fn from_tensor(tensor: &Tensor) -> Result<Vec<[f32; 4]>> {
    let size = tensor.size();
    let &[_, 4] = size.as_slice() else {
        return Err(Error::invalid(format!("boxes are {size:?}, expected [n, 4]")));
    };
    let flat = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
    let flat = Vec::<f32>::try_from(&flat.f_contiguous()?.f_view([-1])?)?;
    Ok(flat.as_chunks::<4>().0.to_vec())
}

/// Generalised IoU of box i with box i, `[n, 4]` and `[n, 4]` to `[n]`, with gradients to both
/// (mmdetection's `bbox_overlaps(mode="giou", is_aligned=True)`): union and enclosing area count as at
/// least `minimum` square pixels, 1e-7 in its GIoU loss, which keeps degenerate boxes finite.
pub fn giou_tensor(a: &Tensor, b: &Tensor, minimum: f64) -> Result<Tensor> {
    if a.size() != b.size() || a.size().get(1) != Some(&4) {
        return Err(Error::invalid(format!("boxes are {:?} and {:?}, expected [n, 4]", a.size(), b.size())));
    }
    let corners = |boxes: &Tensor| -> Result<[Tensor; 2]> {
        Ok([boxes.f_narrow(1, 0, 2)?, boxes.f_narrow(1, 2, 2)?]) // [n, 2] each
    };
    let product =
        |sides: &Tensor| -> Result<Tensor> { Ok(sides.f_select(1, 0)?.f_mul(&sides.f_select(1, 1)?)?) };
    let ([a1, a2], [b1, b2]) = (corners(a)?, corners(b)?);
    let shared = product(&a2.f_minimum(&b2)?.f_sub(&a1.f_maximum(&b1)?)?.f_clamp_min(0.0)?)?; // [n]
    let union = product(&a2.f_sub(&a1)?)?.f_add(&product(&b2.f_sub(&b1)?)?)?.f_sub(&shared)?;
    let enclosing = product(&a2.f_maximum(&b2)?.f_sub(&a1.f_minimum(&b1)?)?.f_clamp_min(0.0)?)?;
    let (union, enclosing) = (union.f_clamp_min(minimum)?, enclosing.f_clamp_min(minimum)?);
    let empty = enclosing.f_sub(&union)?.f_div(&enclosing)?;
    Ok(shared.f_div(&union)?.f_sub(&empty)?)
}
