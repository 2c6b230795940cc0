//! RoIAlign as a sparse matrix: for every bin of every region the cells that it averages, with their
//! weights. Pure arithmetic; must not know torch.
//!
//! A bin's value is the mean of bilinear samples on a grid inside it (He et al. 2017, §3). The weight of
//! a cell in a sample is a factor of its row times one of its column, and so is the mean of a grid of
//! samples. Hence a bin is the outer product of a short list of rows and one of columns, in which a
//! cell that several samples share appears once.

/// Samples along each side of a bin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// As many as the bin has cells along that side, rounded up (a sampling ratio of 0 or -1).
    Adaptive,
    /// So many (torchvision's detectors: 2).
    Fixed(u16),
}

/// Beyond so many samples along one side a bin is empty: it is a million times as long as a cell, so that
/// what the map adds to its mean is nothing, and binary32 cannot tell its samples apart.
const MOST_SAMPLES: f32 = (1 << 20) as f32;

/// Where regions are cut into bins and bins into samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BinRule {
    /// Bins along each side.
    pub side: u16,
    /// Samples along each side of a bin.
    pub sampling: Sampling,
    /// Cells have their centres at half-integers, as pixels have (mmcv's default, Detectron2). If not,
    /// a region is shifted by half a cell and is at least one cell wide and high (torchvision's
    /// detectors).
    pub aligned: bool,
}

/// The cells of bins, bin after bin: what torch calls an embedding bag.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct PoolingBag {
    /// Row of the table `[n · h · w, c]` of each entry.
    pub cells: Vec<i64>,
    /// Weight of each entry.
    pub weights: Vec<f32>,
    /// First entry of each bin.
    pub offsets: Vec<i64>,
}

/// A list of (row or column, weight) for each bin along one axis.
#[derive(Debug, Default)]
struct Axis {
    entries: Vec<(usize, f32)>,
    ends: Vec<usize>,
}

impl PoolingBag {
    /// Adds the `side²` bins of one region, row by row. `bounds` are in pixels, `scale` is cells a
    /// pixel, `map` is (rows, columns), and cells are counted from `first`.
    ///
    /// Samples more than one cell outside the map count as 0 in the mean. A region with a coordinate
    /// that is not finite, or a million times the size of a cell, has empty bins.
    pub fn push(&mut self, rule: BinRule, bounds: [f32; 4], scale: f32, map: [usize; 2], first: i64) {
        let [x1, y1, x2, y2] = bounds;
        let rows = Axis::new(rule, [y1, y2], scale, map[0]);
        let columns = Axis::new(rule, [x1, x2], scale, map[1]);
        for bin in 0..rule.side {
            for other in 0..rule.side {
                self.offsets.push(self.cells.len() as i64);
                for &(row, row_weight) in rows.bin(bin) {
                    let start = first + (row * map[1]) as i64;
                    for &(column, weight) in columns.bin(other) {
                        self.cells.push(start + column as i64);
                        self.weights.push(row_weight * weight);
                    }
                }
            }
        }
    }
}

impl Axis {
    /// The arithmetic is that of torchvision's kernel in binary32, so that both round, drop and count
    /// samples alike.
    fn new(rule: BinRule, [start, end]: [f32; 2], scale: f32, cells: usize) -> Self {
        let shift = if rule.aligned { 0.5 } else { 0.0 };
        let (start, end) = (start * scale - shift, end * scale - shift);
        let length = if rule.aligned { end - start } else { (end - start).max(1.0) };
        let bin = length / f32::from(rule.side);
        let samples = match rule.sampling {
            Sampling::Fixed(samples) if samples > 0 => f32::from(samples),
            Sampling::Fixed(_) | Sampling::Adaptive => bin.ceil(),
        };
        let mut axis = Self::default();
        for index in 0..rule.side {
            // Not a number, infinite or, adaptively, reversed: no samples.
            if start.is_finite() && length.is_finite() && (1.0..=MOST_SAMPLES).contains(&samples) && cells > 0
            {
                axis.push_bin(start + f32::from(index) * bin, bin, samples, cells);
            }
            axis.ends.push(axis.entries.len());
        }
        axis
    }

    fn push_bin(&mut self, start: f32, bin: f32, samples: f32, cells: usize) {
        let begin = self.entries.len();
        let limit = cells as f32;
        // Of a huge region only the samples near the map are visited; `margin` makes up for rounding.
        let step = bin / samples;
        let (mut low, mut high) = (0.0, samples);
        if samples > 2.0 * limit + 64.0 && step > 0.0 {
            let margin = 2.0 + samples * f32::EPSILON * 8.0;
            low = (((-1.0 - start) / step).floor() - margin).clamp(0.0, samples);
            high = (((limit - start) / step).ceil() + margin).clamp(low, samples);
        }
        for sample in low as u32..high as u32 {
            let place = start + (sample as f32 + 0.5) * bin / samples;
            if !(-1.0..=limit).contains(&place) {
                continue;
            }
            let place = place.max(0.0);
            let cell = place as usize;
            if cell + 1 >= cells {
                self.add(begin, cells - 1, 1.0 / samples);
            } else {
                let share = place - cell as f32;
                self.add(begin, cell, (1.0 - share) / samples);
                self.add(begin, cell + 1, share / samples);
            }
        }
    }

    /// Adds to an entry of this bin if it is one of the last two, where it is if samples ascend; a
    /// cell that is listed twice is as right.
    fn add(&mut self, begin: usize, cell: usize, weight: f32) {
        if weight == 0.0 {
            return;
        }
        let known = self.entries[begin..].iter_mut().rev().take(2).find(|(other, _)| *other == cell);
        match known {
            Some((_, sum)) => *sum += weight,
            None => self.entries.push((cell, weight)),
        }
    }

    fn bin(&self, index: u16) -> &[(usize, f32)] {
        let index = usize::from(index);
        let begin = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.entries[begin..self.ends[index]]
    }
}
