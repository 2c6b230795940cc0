//! From a mask head's probabilities to the mask in its picture: interpolated over its box and cut at one
//! half. Only lines and columns are interpolated; a pixel is computed where the mask's edge is near, and
//! runs are written in between. Must not know heads or classes.

use super::Rle;
use super::rle::RunWriter;
use crate::{Error, Result};
use featcache_store::Size;

/// Probability from which on a pixel is inside.
pub const THRESHOLD: f32 = 0.5;

/// Farthest edge of a box that is told from farther ones.
const FARTHEST: f32 = 1e12;

/// Where exactly the probabilities lie in their box: the two differ by up to a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PasteConvention {
    /// mmdetection's and detectron2's `_do_paste_mask`: sampled at the middle of each pixel (`grid_sample`,
    /// `align_corners=False`, zeros around), inside from [`THRESHOLD`] on.
    #[default]
    MmDetection,
    /// torchvision's `paste_masks_in_image`: a border of zeros, the box widened for it and cut to whole
    /// pixels, resized (`interpolate`, `align_corners=False`); inside above [`THRESHOLD`], as torchvision's
    /// reference evaluation has it.
    Torchvision,
}

/// The mask in a picture of size `picture` of `side · side` row-major probabilities over the box `bounds`
/// (x1, y1, x2, y2 in the picture's pixels). A box without extent, or outside of the picture, gives an
/// empty mask; so do probabilities that are not numbers, where they are.
///
/// # Errors
/// Another number of probabilities, a box that is not finite, or a size that no mask can have.
pub fn paste(
    probabilities: &[f32],
    side: usize,
    bounds: [f32; 4],
    picture: Size,
    convention: PasteConvention,
) -> Result<Rle> {
    if side == 0 || side.checked_mul(side) != Some(probabilities.len()) {
        return Err(Error::invalid(format!(
            "{} probabilities, expected {side} x {side}",
            probabilities.len()
        )));
    }
    if bounds.iter().any(|edge| !edge.is_finite()) {
        return Err(Error::invalid(format!("mask box {bounds:?} is not finite")));
    }
    let mut writer = RunWriter::new(picture)?;
    let [x1, y1, x2, y2] = bounds;
    if x2 <= x1 || y2 <= y1 {
        return Ok(writer.finish());
    }
    let axis = match convention {
        PasteConvention::MmDetection => sampled,
        PasteConvention::Torchvision => resized,
    };
    let bar = match convention {
        PasteConvention::MmDetection => THRESHOLD,
        PasteConvention::Torchvision => THRESHOLD.next_up(),
    };
    let columns = axis(x1, x2, side, picture.width);
    let lines = axis(y1, y2, side, picture.height);
    // Lines between the same two rows of probabilities.
    let stripes: Vec<_> = lines.taps.chunk_by(|a, b| a.low == b.low).collect();
    let above = lines.first;
    let below = picture.height - above - lines.taps.len() as u32;
    let padded = padded(probabilities, side); // [side + 2 columns, side + 2 rows]
    let mut column = vec![0.0; side + 2];
    writer.push(false, columns.first * picture.height);
    for tap in &columns.taps {
        let (left, right) = padded[tap.low * (side + 2)..].split_at(side + 2);
        for ((value, left), right) in column.iter_mut().zip(left).zip(right) {
            *value = (1.0 - tap.high) * left + tap.high * right;
        }
        writer.push(false, above);
        for stripe in &stripes {
            let low = stripe[0].low;
            let (upper, lower) = (column[low], column[low + 1]);
            if upper >= bar && lower >= bar {
                writer.push(true, stripe.len() as u32);
            } else if upper < bar && lower < bar {
                writer.push(false, stripe.len() as u32);
            } else {
                for line in *stripe {
                    writer.push((1.0 - line.high) * upper + line.high * lower >= bar, 1);
                }
            }
        }
        writer.push(false, below);
    }
    Ok(writer.finish())
}

/// The pixels of one axis that the probabilities reach, from `first` on.
struct Axis {
    first: u32,
    taps: Vec<Tap>,
}

/// Between which two of the `side + 2` padded probabilities a pixel lies: `low` and the next.
struct Tap {
    low: usize,
    /// Weight of the next; the rest is that of `low`.
    high: f32,
}

/// Column-major copy with a border of zeros.
fn padded(probabilities: &[f32], side: usize) -> Vec<f32> {
    let mut padded = vec![0.0; (side + 2) * (side + 2)];
    for (y, row) in probabilities.chunks_exact(side).enumerate() {
        for (x, &value) in row.iter().enumerate() {
            padded[(x + 1) * (side + 2) + y + 1] = value;
        }
    }
    padded
}

/// Pixels of `0..length` at their middles, as `grid_sample` computes them in binary32.
fn sampled(start: f32, end: f32, side: usize, length: u32) -> Axis {
    // One pixel further on both sides than the box: beyond, less than half of a probability is left.
    let first = (start.floor() - 1.0).clamp(0.0, length as f32) as u32;
    let last = (end.ceil() + 1.0).clamp(0.0, length as f32) as u32;
    let tap = |pixel: u32| {
        let grid = (pixel as f32 + 0.5 - start) / (end - start) * 2.0 - 1.0;
        let at = (grid + 1.0) * (side as f32 / 2.0) - 0.5;
        let low = at.floor();
        // -1 is the border before the first probability, and padded place 0.
        (-1.0..side as f32).contains(&low).then_some(Tap { low: (low + 1.0) as usize, high: at - low })
    };
    let first = (first..last).find(|&pixel| tap(pixel).is_some()).unwrap_or(last);
    Axis { first, taps: (first..last).map_while(tap).collect() }
}

/// Pixels of `0..length` as torchvision's `expand_boxes` and `interpolate` compute them in binary32.
fn resized(start: f32, end: f32, side: usize, length: u32) -> Axis {
    let half = (end - start) * 0.5 * ((side + 2) as f64 / side as f64) as f32;
    let middle = (end + start) * 0.5;
    // Cut towards 0, as torch converts; so far out nothing of the box's shape is left in a picture.
    let whole = |edge: f32| edge.clamp(-FARTHEST, FARTHEST) as i64;
    let (start, end) = (whole(middle - half), whole(middle + half));
    let extent = (end - start + 1).max(1);
    let scale = (side + 2) as f32 / extent as f32;
    let first = start.clamp(0, i64::from(length));
    let last = (end + 1).clamp(first, i64::from(length));
    let tap = |pixel: i64| {
        let at = (scale * ((pixel - start) as f32 + 0.5) - 0.5).max(0.0);
        let low = at as usize;
        // After the last place nothing follows; it is 0, as is its neighbour's weighted sum.
        if low > side { Tap { low: side, high: 1.0 } } else { Tap { low, high: at - low as f32 } }
    };
    Axis { first: first as u32, taps: (first..last).map(tap).collect() }
}
