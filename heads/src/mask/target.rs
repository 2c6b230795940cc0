//! What a mask head learns: the share of each of `side · side` bins of a box that lies inside a mask, by
//! RoIAlign of the bitmap, equal to `torchvision.ops.roi_align` bit by bit where the mask's edge passes.
//! Bins that lie wholly inside or outside are not sampled, and never more of the bitmap is made than one
//! column of bins. Must not know tensors, or which mask belongs to which box.

use super::Rle;
use super::rle::Columns;
use crate::{Error, Result};

/// Farthest that a box may reach from the picture's corner, in pixels.
const MAX_COORDINATE: f32 = 1_048_576.0;
/// Most bins to a side.
const MAX_SIDE: usize = 1024;
/// Most samples to a bin, along one axis.
const MAX_SAMPLING: usize = 64;

/// How a mask's target is sampled; the default is mmdetection's `BitmapMasks.crop_and_resize`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TargetOptions {
    /// Bins along each axis.
    pub side: usize,
    /// Samples of a bin along each axis; 0: as many as it takes to have at least one a pixel.
    pub sampling: usize,
    /// Pixel centres lie at .5 (mmdetection), not at whole numbers, and boxes below one pixel stay so.
    pub aligned: bool,
    /// Bins become 1 from this share on and 0 below; `None` keeps the shares.
    pub threshold: Option<f32>,
}

impl Default for TargetOptions {
    fn default() -> Self {
        Self { side: 28, sampling: 0, aligned: true, threshold: Some(0.5) }
    }
}

impl TargetOptions {
    /// torchvision's `project_masks_on_boxes`: not aligned, shares kept.
    pub fn torchvision(side: usize) -> Self {
        Self { side, sampling: 0, aligned: false, threshold: None }
    }
}

/// The target of the box `bounds` (x1, y1, x2, y2 in the mask's pixels): `side · side` shares, row-major.
///
/// # Errors
/// A side or sampling out of range, or a box that is not finite or reaches farther than 2^20 pixels.
pub fn target(mask: &Rle, bounds: [f32; 4], options: &TargetOptions) -> Result<Vec<f32>> {
    let &TargetOptions { side, sampling, threshold, .. } = options;
    if !(1..=MAX_SIDE).contains(&side) || sampling > MAX_SAMPLING {
        return Err(Error::invalid(format!(
            "mask target of side {side} with {sampling} samples, expected 1 to {MAX_SIDE} and at most {MAX_SAMPLING}"
        )));
    }
    if bounds.iter().any(|edge| edge.is_nan() || edge.abs() > MAX_COORDINATE) {
        return Err(Error::invalid(format!(
            "mask target's box {bounds:?}, expected coordinates of at most {MAX_COORDINATE}"
        )));
    }
    let [x1, y1, x2, y2] = bounds;
    let across = bins(x1, x2, mask.size().width, options);
    let down = bins(y1, y2, mask.size().height, options);
    let count = (across.samples * down.samples).max(1) as f32;
    let columns = Columns::new(mask);
    let mut shares = vec![0.0; side * side];
    let mut window = Window::default();
    for (x, across) in across.bins.iter().enumerate() {
        window.read(&columns, across.span(), down.span());
        for (y, down) in down.bins.iter().enumerate() {
            shares[y * side + x] = match window.covered(across, down) {
                Some(false) => 0.0,
                Some(true) if across.whole && down.whole => 1.0,
                _ => window.sum(across, down) / count,
            };
        }
    }
    if let Some(threshold) = threshold {
        shares.iter_mut().for_each(|share| *share = if *share >= threshold { 1.0 } else { 0.0 });
    }
    Ok(shares)
}

/// The samples of all bins along one axis.
struct Bins {
    bins: Vec<Bin>,
    /// Samples to a bin, those outside of the picture included.
    samples: usize,
}

/// The samples of one bin along one axis.
struct Bin {
    /// Those that the picture reaches.
    taps: Vec<Tap>,
    /// There are samples, and the picture reaches all.
    whole: bool,
}

/// Between which two pixels a sample lies, and their weights.
#[derive(Clone, Copy)]
struct Tap {
    low: usize,
    high: usize,
    low_weight: f32,
    high_weight: f32,
}

impl Bins {
    /// First pixel read and one past the last; empty where the picture reaches none.
    fn span(&self) -> (usize, usize) {
        let spans = || self.bins.iter().map(Bin::span).filter(|span| span.0 < span.1);
        (spans().map(|span| span.0).min().unwrap_or(0), spans().map(|span| span.1).max().unwrap_or(0))
    }
}

impl Bin {
    /// As [`Bins::span`], of this bin.
    fn span(&self) -> (usize, usize) {
        match (self.taps.first(), self.taps.last()) {
            // Those of a box turned inside out run backwards.
            (Some(first), Some(last)) => (first.low.min(last.low), first.high.max(last.high) + 1),
            _ => (0, 0),
        }
    }
}

/// The bins from `start` to `end` on an axis of `length` pixels, in binary32 and in the order of
/// torchvision's `roi_align_kernel.cpp` and `roi_align_common.h`.
fn bins(start: f32, end: f32, length: u32, options: &TargetOptions) -> Bins {
    let &TargetOptions { side, sampling, aligned, .. } = options;
    let offset = if aligned { 0.5 } else { 0.0 };
    let (start, end) = (start - offset, end - offset);
    let extent = if aligned { end - start } else { (end - start).max(1.0) };
    let bin = extent / side as f32;
    // A box turned inside out has no samples when they are counted by its extent.
    let samples = if sampling > 0 { sampling } else { bin.ceil() as usize };
    let tap = |at: f32| {
        if !(-1.0..=length as f32).contains(&at) {
            return None;
        }
        let at = at.max(0.0);
        let (low, last) = (at as usize, length as usize - 1);
        if low >= last {
            return Some(Tap { low: last, high: last, low_weight: 1.0, high_weight: 0.0 });
        }
        let high_weight = at - low as f32;
        // The reference subtracts in binary64 before it rounds.
        let low_weight = (1.0 - f64::from(high_weight)) as f32;
        Some(Tap { low, high: low + 1, low_weight, high_weight })
    };
    let bins = (0..side).map(|p| {
        let sample = |i| start + p as f32 * bin + (i as f32 + 0.5) * bin / samples as f32;
        let taps: Vec<_> = (0..samples).filter_map(|i| tap(sample(i))).collect();
        let whole = samples > 0 && taps.len() == samples;
        Bin { taps, whole }
    });
    Bins { bins: bins.collect(), samples }
}

/// A window of the bitmap, column-major: 1 inside, 0 outside.
#[derive(Default)]
struct Window {
    pixels: Vec<u8>,
    left: usize,
    top: usize,
    height: usize,
}

impl Window {
    /// Reads the columns and lines of two spans.
    fn read(&mut self, columns: &Columns<'_>, across: (usize, usize), down: (usize, usize)) {
        (self.left, self.top, self.height) = (across.0, down.0, down.1 - down.0);
        self.pixels.clear();
        self.pixels.reserve((across.1 - across.0) * self.height);
        for x in across.0..across.1 {
            let mut line = 0;
            for (inside, count) in columns.runs(x) {
                let end = line + count as usize;
                let seen = end.min(down.1).saturating_sub(line.max(down.0));
                self.pixels.resize(self.pixels.len() + seen, u8::from(inside));
                line = end;
            }
        }
    }

    /// Whether all pixels of two bins are inside, or all outside; `None` if there are both.
    fn covered(&self, across: &Bin, down: &Bin) -> Option<bool> {
        let ((left, right), (top, bottom)) = (across.span(), down.span());
        if left == right || top == bottom {
            return Some(false);
        }
        let column = |x| &self.pixels[self.place(x, top)..self.place(x, bottom)];
        let first = column(left)[0];
        (left..right).all(|x| column(x).iter().all(|&pixel| pixel == first)).then_some(first == 1)
    }

    /// Sum of the samples in the reference's order; every rounding is part of the result.
    fn sum(&self, across: &Bin, down: &Bin) -> f32 {
        let mut sum = 0.0;
        for y in &down.taps {
            for x in &across.taps {
                let value = |x, y| f32::from(self.pixels[self.place(x, y)]);
                sum += y.low_weight * x.low_weight * value(x.low, y.low)
                    + y.low_weight * x.high_weight * value(x.high, y.low)
                    + y.high_weight * x.low_weight * value(x.low, y.high)
                    + y.high_weight * x.high_weight * value(x.high, y.high);
            }
        }
        sum
    }

    fn place(&self, x: usize, y: usize) -> usize {
        (x - self.left) * self.height + (y - self.top)
    }
}
