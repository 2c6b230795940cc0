//! Feature levels as colours: three principal components of a level, one basis for all pictures, so
//! that the same colour means the same feature everywhere. Plain slices in, canvas out; no tensors.

mod basis;

use anyhow::Result;

use super::{Canvas, Rgb};

/// Cells × channels that a basis is fitted on; more are subsampled evenly.
const FIT_VALUES: usize = 3 << 20;
/// Share of cells below and above the colour range: a few odd cells must not take all contrast.
const CLIP: f64 = 0.01;
/// Colour of cells without finite features.
const HOLE: Rgb = [60, 60, 66];

/// One level of one picture, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct LevelMap<'a> {
    height: usize,
    width: usize,
    row_cells: usize,
    channels: usize,
    values: &'a [f32],
}

impl<'a> LevelMap<'a> {
    /// A map of `values`, `[height, width, channels]`.
    ///
    /// # Errors
    /// If `channels` is 0 or the number of values is another.
    pub fn new(height: usize, width: usize, channels: usize, values: &'a [f32]) -> Result<Self> {
        let expected = height.checked_mul(width).and_then(|cells| cells.checked_mul(channels));
        anyhow::ensure!(
            channels > 0 && expected == Some(values.len()),
            "a level of shape [{height}, {width}, {channels}] has {} values",
            values.len()
        );
        Ok(Self { height, width, row_cells: width, channels, values })
    }

    /// The top left `height` × `width` cells: the part that is not padding.
    pub fn cropped(self, height: usize, width: usize) -> Self {
        Self { height: height.min(self.height), width: width.min(self.width), ..self }
    }

    /// The cells in row order, `[channels]` each.
    fn cells(self) -> impl Iterator<Item = &'a [f32]> {
        (0..self.height).flat_map(move |y| {
            (0..self.width).map(move |x| {
                let at = (y * self.row_cells + x) * self.channels;
                &self.values[at..at + self.channels]
            })
        })
    }
}

/// Three directions in feature space and the range of each that fills a colour channel.
#[derive(Debug, Clone, PartialEq)]
pub struct PcaBasis {
    mean: Vec<f32>,
    /// Orthonormal, by falling variance; of each, the largest entry is positive.
    axes: Vec<Vec<f32>>,
    /// Lower and upper end of each axis' colour range.
    ranges: Vec<(f32, f32)>,
}

impl PcaBasis {
    /// The basis shared by `maps`, which are one level of several pictures. Cells that lie far from
    /// the mean count less (their distance is capped at three times the median), so that a few cells
    /// of extreme norm, which large backbones have, do not become the first component.
    ///
    /// # Errors
    /// If there is no map, or the numbers of channels differ.
    pub fn fit(maps: &[LevelMap<'_>]) -> Result<Self> {
        let Some(channels) = maps.first().map(|map| map.channels) else {
            anyhow::bail!("a basis needs at least one feature map");
        };
        if let Some(other) = maps.iter().find(|map| map.channels != channels) {
            anyhow::bail!("feature maps of {channels} and {} channels have no common basis", other.channels);
        }
        let all: Vec<&[f32]> = maps
            .iter()
            .flat_map(|map| map.cells())
            .filter(|cell| cell.iter().all(|v| v.is_finite()))
            .collect();
        let step = all.len().saturating_mul(channels).div_ceil(FIT_VALUES).max(1);
        let cells: Vec<&[f32]> = all.into_iter().step_by(step).collect();

        let mean = mean_of(&cells, channels);
        let mut centered: Vec<f32> =
            cells.iter().flat_map(|cell| cell.iter().zip(&mean).map(|(value, mean)| value - mean)).collect();
        let projections_of = |axes: &[Vec<f32>], rows: &[f32]| -> Vec<Vec<f32>> {
            axes.iter().map(|axis| rows.chunks_exact(channels).map(|row| dot(row, axis)).collect()).collect()
        };
        let unweighted = centered.clone();
        cap_distances(&mut centered, channels);
        let axes = basis::principal_axes(&centered, channels, 3);
        let ranges = projections_of(&axes, &unweighted).into_iter().map(range).collect();
        Ok(Self { mean, axes, ranges })
    }

    /// The directions, `[channels]` each, orthonormal, by falling variance; three, or fewer where the
    /// level has fewer channels.
    pub fn axes(&self) -> &[Vec<f32>] {
        &self.axes
    }

    /// A picture of one cell a pixel. Scale it up to lay it beside the image.
    ///
    /// # Errors
    /// If the map has another number of channels than the basis.
    pub fn render(&self, map: LevelMap<'_>) -> Result<Canvas> {
        anyhow::ensure!(
            map.channels == self.mean.len(),
            "the basis has {} channels, the feature map {}",
            self.mean.len(),
            map.channels
        );
        let mut rgb = Vec::with_capacity(map.height * map.width * 3);
        let mut centered = vec![0f32; map.channels];
        for cell in map.cells() {
            if !cell.iter().all(|value| value.is_finite()) {
                rgb.extend(HOLE);
                continue;
            }
            for (centered, (value, mean)) in centered.iter_mut().zip(cell.iter().zip(&self.mean)) {
                *centered = value - mean;
            }
            for component in 0..3 {
                let shade = self.axes.get(component).zip(self.ranges.get(component)).map_or(
                    0.5,
                    |(axis, &(low, high))| {
                        if high > low {
                            ((dot(&centered, axis) - low) / (high - low)).clamp(0.0, 1.0)
                        } else {
                            0.5
                        }
                    },
                );
                rgb.push((shade * 255.0).round() as u8);
            }
        }
        Canvas::from_rgb(map.width, map.height, rgb)
    }
}

fn mean_of(cells: &[&[f32]], channels: usize) -> Vec<f32> {
    let mut sum = vec![0f64; channels];
    for cell in cells {
        for (sum, value) in sum.iter_mut().zip(*cell) {
            *sum += f64::from(*value);
        }
    }
    sum.iter().map(|sum| (sum / cells.len().max(1) as f64) as f32).collect()
}

/// Shortens rows (`[n, channels]`) that are longer than three times the median; directions stay.
fn cap_distances(rows: &mut [f32], channels: usize) {
    let mut lengths: Vec<f32> = rows.chunks_exact(channels).map(|row| dot(row, row).sqrt()).collect();
    let Some(middle) = lengths.len().checked_sub(1).map(|last| last / 2) else { return };
    let cap = 3.0 * *lengths.select_nth_unstable_by(middle, f32::total_cmp).1;
    for row in rows.chunks_exact_mut(channels) {
        let length = dot(row, row).sqrt();
        if length > cap && cap > 0.0 {
            row.iter_mut().for_each(|value| *value *= cap / length);
        }
    }
}

/// The range between the clipping percentiles.
fn range(mut values: Vec<f32>) -> (f32, f32) {
    let Some(last) = values.len().checked_sub(1) else { return (0.0, 0.0) };
    let low = (last as f64 * CLIP).round() as usize;
    values.sort_unstable_by(f32::total_cmp);
    (values[low], values[last - low])
}

/// Dot product in eight running sums, a shape that compilers turn into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest
}
