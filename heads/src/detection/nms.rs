//! Greedy non-maximum suppression, plain and by class. Must not change scores ([`soft_nms`](super::soft_nms)
//! does).

use super::boxes;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The boxes that no better kept box overlaps by more than `threshold` (IoU): indices by descending
/// score, ties by index, at most `limit` of them. Equal to `torchvision.ops.nms`. A box whose score is
/// NaN is never kept; a degenerate box overlaps nothing, so it is.
///
/// Cost: kept boxes × boxes in the worst case, and it ends once `limit` are kept.
pub fn nms(bounds: &[[f32; 4]], scores: &[f32], threshold: f64, limit: usize) -> Vec<usize> {
    let classes = vec![0; bounds.len()];
    batched_nms(bounds, scores, &classes, threshold, limit)
}

/// [`nms`] among boxes of equal class, in one list by descending score, ties by index. Equal to
/// `torchvision.ops.batched_nms` of many boxes: classes are kept apart by comparing only equals and not,
/// as it and mmcv do with few boxes, by shifting them, which rounds coordinates.
///
/// What has no partner in the three slices is left out.
pub fn batched_nms(
    bounds: &[[f32; 4]],
    scores: &[f32],
    classes: &[usize],
    threshold: f64,
    limit: usize,
) -> Vec<usize> {
    let count = bounds.len().min(scores.len()).min(classes.len());
    let mut kept_of_class: BTreeMap<usize, Kept> = BTreeMap::new();
    let mut kept = Vec::new();
    for index in by_score(&scores[..count]) {
        if kept.len() >= limit {
            break;
        }
        let rivals = kept_of_class.entry(classes[index]).or_default();
        if !rivals.suppress(bounds[index], threshold) {
            rivals.push(bounds[index]);
            kept.push(index);
        }
    }
    kept
}

/// Indices by descending score, ties by index, without those whose score is NaN.
pub fn by_score(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).filter(|&index| !scores[index].is_nan()).collect();
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap_or(Ordering::Equal));
    order
}

/// Boxes compared at once: one cache line of each coordinate.
const LANES: usize = 16;

/// The kept boxes of a class in blocks of [`LANES`], coordinate by coordinate, so that a candidate is
/// compared with a block in vector instructions. Unused lanes hold a box that overlaps nothing.
#[derive(Debug, Default)]
struct Kept {
    blocks: Vec<[[f32; LANES]; 5]>,
    count: usize,
}

impl Kept {
    fn push(&mut self, bounds: [f32; 4]) {
        let lane = self.count % LANES;
        if lane == 0 {
            // Reversed sides: x1 = y1 = +∞, x2 = y2 = −∞, and no area.
            let empty = [[f32::INFINITY; LANES], [f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]];
            self.blocks.push([empty[0], empty[1], empty[2], empty[2], [0.0; LANES]]);
        }
        if let Some(block) = self.blocks.last_mut() {
            let area = boxes::area(bounds);
            // What is degenerate stays an empty lane: a NaN would hide behind `max` and `min`.
            if area > 0.0 {
                let values = [bounds[0], bounds[1], bounds[2], bounds[3], area];
                block.iter_mut().zip(values).for_each(|(lanes, value)| lanes[lane] = value);
            }
        }
        self.count += 1;
    }

    /// Does a kept box overlap this one by more than the threshold? The IoU is torchvision's, in its
    /// binary32 arithmetic and its binary64 comparison.
    fn suppress(&self, bounds: [f32; 4], threshold: f64) -> bool {
        let area = boxes::area(bounds);
        if area <= 0.0 {
            return false;
        }
        // The largest binary32 not above the threshold gives the same answer for every binary32 IoU.
        let mut limit = threshold as f32;
        if f64::from(limit) > threshold {
            limit = limit.next_down();
        }
        self.blocks.iter().any(|[x1, y1, x2, y2, areas]| {
            let mut over = 0;
            for lane in 0..LANES {
                let w = (bounds[2].min(x2[lane]) - bounds[0].max(x1[lane])).max(0.0);
                let h = (bounds[3].min(y2[lane]) - bounds[1].max(y1[lane])).max(0.0);
                let shared = w * h;
                // A NaN (of infinite boxes) compares false.
                over |= u32::from(shared / (areas[lane] + area - shared) > limit);
            }
            over != 0
        })
    }
}
