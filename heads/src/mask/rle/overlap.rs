//! Masks together: union, intersection and intersection over union, on the runs alone. Must not match
//! detections with truths.

use super::{Rle, RunWriter};
use crate::{Error, Result};

impl Rle {
    /// Union of masks of one size, or their intersection (`rleMerge`).
    ///
    /// # Errors
    /// No masks, or masks of different sizes.
    pub fn merge(masks: &[&Self], intersect: bool) -> Result<Self> {
        let (first, others) =
            masks.split_first().ok_or_else(|| Error::invalid("no masks to merge, expected at least one"))?;
        let mut merged = (*first).clone();
        for other in others {
            same_size(&merged, other)?;
            let mut writer = RunWriter::new(merged.size)?;
            walk(&merged, other, |a, b, count| {
                writer.push(if intersect { a && b } else { a || b }, count);
            });
            merged = writer.finish();
        }
        Ok(merged)
    }

    /// Intersection over union of a detection with a truth (`rleIou`); with a crowd, the share of the
    /// detection that lies in it. As in pycocotools, -1 for masks of different sizes that might
    /// overlap: less than any threshold.
    pub fn iou(detection: &Self, truth: &Self, crowd: bool) -> f64 {
        Measured::new(detection).iou(&Measured::new(truth), crowd)
    }
}

/// Intersection over union of each detection with each truth, row-major `[detections, truths]`; truth
/// `j` is a crowd where `crowd[j]`. Boxes and areas are measured once.
///
/// # Errors
/// Masks of different sizes, or a `crowd` of another length than `truths`.
pub fn iou_matrix(detections: &[&Rle], truths: &[&Rle], crowd: &[bool]) -> Result<Vec<f64>> {
    if crowd.len() != truths.len() {
        return Err(Error::invalid(format!("{} truths, {} crowd flags", truths.len(), crowd.len())));
    }
    let masks = || detections.iter().chain(truths);
    if let Some(first) = masks().next() {
        masks().try_for_each(|mask| same_size(first, mask))?;
    }
    let truths: Vec<_> = truths.iter().map(|mask| Measured::new(mask)).collect();
    let mut matrix = Vec::with_capacity(detections.len() * truths.len());
    for detection in detections {
        let detection = Measured::new(detection);
        matrix.extend(truths.iter().zip(crowd).map(|(truth, &crowd)| detection.iou(truth, crowd)));
    }
    Ok(matrix)
}

/// A mask with what overlaps ask for again and again.
struct Measured<'a> {
    mask: &'a Rle,
    /// Left, top, right, bottom; all 0 without pixels.
    edges: [u32; 4],
    area: u64,
}

impl<'a> Measured<'a> {
    fn new(mask: &'a Rle) -> Self {
        Self { mask, edges: mask.edges().unwrap_or_default(), area: mask.area() }
    }

    fn iou(&self, truth: &Self, crowd: bool) -> f64 {
        let ([l, t, r, b], [left, top, right, bottom]) = (self.edges, truth.edges);
        // Most pairs of a picture do not even have boxes that touch.
        if r.min(right) <= l.max(left) || b.min(bottom) <= t.max(top) {
            return 0.0;
        }
        if self.mask.size != truth.mask.size {
            return -1.0;
        }
        let mut both = 0;
        walk(self.mask, truth.mask, |a, b, count| both += if a && b { u64::from(count) } else { 0 });
        let whole = if crowd { self.area } else { self.area + truth.area - both };
        // Masks that pass the boxes' test have pixels, so that the denominator is not 0.
        both as f64 / whole as f64
    }
}

/// Calls `visit` for each stretch in which neither mask changes sides, in order.
fn walk(a: &Rle, b: &Rle, mut visit: impl FnMut(bool, bool, u32)) {
    // The side changes with each count that is taken, and the first is to be outside.
    let mut stretches = [a, b].map(|mask| (true, 0, mask.counts.iter()));
    loop {
        for (inside, left, counts) in &mut stretches {
            while *left == 0 {
                let Some(&count) = counts.next() else { return };
                (*inside, *left) = (!*inside, count);
            }
        }
        let [(a, left_a, _), (b, left_b, _)] = &mut stretches;
        let count = (*left_a).min(*left_b);
        visit(*a, *b, count);
        *left_a -= count;
        *left_b -= count;
    }
}

fn same_size(a: &Rle, b: &Rle) -> Result<()> {
    if a.size != b.size {
        return Err(Error::invalid(format!("masks of different sizes, {} and {}", a.size, b.size)));
    }
    Ok(())
}
