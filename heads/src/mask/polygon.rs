//! Polygons to run lengths, pixel for pixel as pycocotools does (`rleFrPoly`, `maskApi.c`). There every
//! edge is walked on a grid 5 times finer, and kept is where the walk passes the middle of a column of
//! pixels; here only those places are computed, with the same arithmetic, so that neither time nor
//! memory grows with the length of an edge. Must not know annotations; what is to be scaled is scaled
//! before.

use super::Rle;
use super::rle::RunWriter;
use crate::{Error, Result};
use featcache_store::Size;

/// Largest coordinate of a polygon, either side of 0, in pixels: far outside of every picture, and far
/// inside of what the reference's 32-bit grid holds.
pub const MAX_COORDINATE: f64 = 1e8;

/// Steps of the fine grid to a pixel.
const SCALE: f64 = 5.0;

/// Most places where the edges of one polygon may cross a column's middle: the memory it is worth.
const MAX_CROSSINGS: u64 = 1 << 25;

/// Refuses what is no polygon: fewer than three points, half a point, and coordinates that are not
/// numbers or over [`MAX_COORDINATE`]. `ring` is x0, y0, x1, y1, ….
pub fn check(ring: &[f64]) -> Result<()> {
    if !ring.len().is_multiple_of(2) {
        return Err(Error::invalid(format!("polygon has {} numbers, expected pairs", ring.len())));
    }
    if ring.len() < 6 {
        return Err(Error::invalid(format!("polygon has {} points, expected 3 or more", ring.len() / 2)));
    }
    match ring.iter().find(|value| value.is_nan() || value.abs() > MAX_COORDINATE) {
        None => Ok(()),
        Some(value) => Err(Error::invalid(format!(
            "polygon has the coordinate {value}, expected {:e} to {:e}",
            -MAX_COORDINATE, MAX_COORDINATE
        ))),
    }
}

/// The pixels of one polygon by the even-odd rule; `ring` is x0, y0, x1, y1, … in pixels of `size`, closed
/// by itself. What lies outside of the picture is cut off.
///
/// # Errors
/// No polygon (see [`check`]), no size of a mask, or a polygon that goes to and fro over the picture more
/// than 2^25 columns in all.
pub fn polygon(size: Size, ring: &[f64]) -> Result<Rle> {
    check(ring)?;
    let mut writer = RunWriter::new(size)?;
    let mut crossings = crossings(size, ring)?;
    crossings.sort_unstable();
    let (mut at, mut inside) = (0, false);
    for crossing in crossings {
        // Two at the same place are two changes of side, and none together.
        writer.push(inside, crossing - at);
        (at, inside) = (crossing, !inside);
    }
    writer.push(inside, u32::MAX);
    Ok(writer.finish())
}

/// The union of an object's polygons (`frPyObjects` and `merge`).
///
/// # Errors
/// As [`polygon`], or no polygons at all.
pub fn polygons(size: Size, rings: &[Vec<f64>]) -> Result<Rle> {
    let parts = rings.iter().map(|ring| polygon(size, ring)).collect::<Result<Vec<_>>>()?;
    Rle::merge(&parts.iter().collect::<Vec<_>>(), false)
}

/// Positions down the columns at which the polygon's inside begins or ends, in no order.
fn crossings(size: Size, ring: &[f64]) -> Result<Vec<u32>> {
    // Not rounded but cut towards 0 after adding a half, as C does.
    let fine = |value: f64| (SCALE * value + 0.5) as i32;
    let points: Vec<[i32; 2]> = ring.chunks_exact(2).map(|point| [fine(point[0]), fine(point[1])]).collect();
    let ends = points.iter().skip(1).chain(points.first());
    let edges: Vec<_> = points.iter().zip(ends).filter_map(|(&a, &b)| Edge::new(a, b, size.width)).collect();
    let count: u64 = edges.iter().map(|edge| u64::from(edge.last - edge.first) + 1).sum();
    if count > MAX_CROSSINGS {
        return Err(Error::invalid(format!(
            "polygon of {} points crosses {count} columns of a {size} mask, expected {MAX_CROSSINGS} at most",
            points.len()
        )));
    }
    let mut crossings = Vec::with_capacity(count as usize);
    for edge in &edges {
        for column in edge.first..=edge.last {
            let y = (f64::from(edge.height_at(column)) + 0.5) / SCALE - 0.5;
            let y = y.clamp(0.0, f64::from(size.height)).ceil();
            crossings.push(column * size.height + y as u32);
        }
    }
    Ok(crossings)
}

/// An edge of the polygon on the fine grid that crosses the middle of a column.
struct Edge {
    /// The end that the walk starts from: the smaller one on the longer axis.
    start: [i32; 2],
    /// Steps of the walk: the extent on the longer axis.
    steps: i32,
    /// Change on the shorter axis at each step.
    slope: f64,
    /// The longer axis is x.
    flat: bool,
    /// First and last column whose middle it crosses, within the picture.
    first: u32,
    last: u32,
}

impl Edge {
    /// `None` for an edge that crosses no column's middle within `width`.
    fn new(a: [i32; 2], b: [i32; 2], width: u32) -> Option<Self> {
        // The middle of column c lies between 5c + 2 and 5c + 3 of the fine grid.
        let (left, right) = (a[0].min(b[0]), a[0].max(b[0]));
        let first = ((left - 2).max(0) + 4) / 5;
        let last = (right - 3).div_euclid(5).min(width as i32 - 1);
        if last < first {
            return None;
        }
        let extent = [(a[0] - b[0]).abs(), (a[1] - b[1]).abs()];
        let flat = extent[0] >= extent[1];
        let (along, across) = if flat { (0, 1) } else { (1, 0) };
        let (start, end) = if a[along] > b[along] { (b, a) } else { (a, b) };
        let slope = f64::from(end[across] - start[across]) / f64::from(extent[along]);
        Some(Self { start, steps: extent[along], slope, flat, first: first as u32, last: last as u32 })
    }

    /// Position on the shorter axis after `step` steps.
    fn across(&self, step: i32) -> i32 {
        (f64::from(self.start[usize::from(self.flat)]) + self.slope * f64::from(step) + 0.5) as i32
    }

    /// The smaller y of the two fine points between which the middle of `column` is crossed.
    fn height_at(&self, column: u32) -> i32 {
        let left = column as i32 * 5 + 2;
        if self.flat {
            let step = left - self.start[0];
            return self.across(step).min(self.across(step + 1));
        }
        // x changes by less than 1 a step and never turns, so that exactly one step takes it from one
        // side to the other. Its place is computed, then corrected for what rounding did to it.
        let right = |step: i32| self.across(step) > left;
        let rising = self.slope > 0.0;
        let guess = (f64::from(left) + 0.5 - f64::from(self.start[0])) / self.slope;
        let mut step = (guess as i32).clamp(0, self.steps - 1);
        while step > 0 && right(step) == rising {
            step -= 1;
        }
        while step + 1 < self.steps && right(step + 1) != rising {
            step += 1;
        }
        self.start[1] + step
    }
}
