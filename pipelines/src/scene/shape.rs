//! Shapes as polygons, and the pixels that a polygon covers. It knows no colour and no label map.

use super::random::Random;
use super::texture::Pattern;

/// A class of shape: its outline tells it, its usual surface suggests it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A circle or ellipse.
    Disc,
    /// A square or slight rectangle.
    Square,
    /// A triangle.
    Triangle,
    /// A star of five points.
    Star,
    /// A plus sign.
    Cross,
    /// A heart.
    Heart,
    /// A crescent.
    Moon,
    /// An arrow.
    Arrow,
}

impl Shape {
    /// All shapes, in the order of their label values, which follow those of the grounds.
    pub const ALL: [Self; 8] = [
        Self::Disc,
        Self::Square,
        Self::Triangle,
        Self::Star,
        Self::Cross,
        Self::Heart,
        Self::Moon,
        Self::Arrow,
    ];

    /// Name of the class.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disc => "disc",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
            Self::Cross => "cross",
            Self::Heart => "heart",
            Self::Moon => "moon",
            Self::Arrow => "arrow",
        }
    }

    /// The surface that most of its class wear.
    pub(super) fn usual_pattern(self) -> Pattern {
        match self {
            Self::Disc => Pattern::Dots,
            Self::Square => Pattern::Checks,
            Self::Triangle => Pattern::Stripes,
            Self::Star => Pattern::Clouds,
            Self::Cross => Pattern::Plain,
            Self::Heart => Pattern::Scales,
            Self::Moon => Pattern::Weave,
            Self::Arrow => Pattern::Zigzag,
        }
    }

    /// The shape around `x`, `y`: upright within 20 degrees, mirrored and stretched by chance.
    pub(super) fn polygon(self, x: f32, y: f32, radius: f32, random: &mut Random) -> Polygon {
        let angle = random.range(-0.35, 0.35);
        let stretch = random.range(0.85, 1.18);
        let mirror = if random.below(2) == 0 { 1.0 } else { -1.0 };
        let place = |[u, v]: [f32; 2]| {
            let (u, v) = (u * radius * stretch * mirror, v * radius / stretch);
            [x + u * angle.cos() - v * angle.sin(), y + u * angle.sin() + v * angle.cos()]
        };
        Polygon { points: self.outline().into_iter().map(place).collect() }
    }

    /// Corners of the shape in a circle of about radius 1.
    fn outline(self) -> Vec<[f32; 2]> {
        use std::f32::consts::{PI, TAU};
        let on_circle = |angle: f32, radius: f32| [radius * angle.cos(), radius * angle.sin()];
        match self {
            Self::Disc => (0..48).map(|i| on_circle(TAU * i as f32 / 48.0, 0.9)).collect(),
            Self::Square => (0..4).map(|i| on_circle(TAU * (i as f32 + 0.5) / 4.0, 1.1)).collect(),
            Self::Triangle => (0..3).map(|i| on_circle(TAU * (i as f32 / 3.0 - 0.25), 1.15)).collect(),
            Self::Star => (0..10)
                .map(|i| on_circle(PI * (i as f32 / 5.0 - 0.5), if i % 2 == 0 { 1.15 } else { 0.5 }))
                .collect(),
            Self::Cross => {
                const ARM: f32 = 0.34;
                let corners = [[ARM, -1.05], [ARM, -ARM], [1.05, -ARM]];
                // A quarter, turned four times.
                (0..4)
                    .flat_map(|quarter| {
                        corners.map(|[u, v]| match quarter {
                            0 => [u, v],
                            1 => [-v, u],
                            2 => [-u, -v],
                            _ => [v, -u],
                        })
                    })
                    .collect()
            }
            Self::Heart => (0..48)
                .map(|i| {
                    let t = TAU * i as f32 / 48.0;
                    let v = 13.0 * t.cos() - 5.0 * (2.0 * t).cos() - 2.0 * (3.0 * t).cos() - (4.0 * t).cos();
                    [t.sin().powi(3) * 16.0 / 15.0, -v / 15.0 - 0.15]
                })
                .collect(),
            Self::Moon => {
                let outer = (0..=30).map(|i| on_circle(0.22 * PI + 1.56 * PI * i as f32 / 30.0, 1.05));
                // The inner arc runs back between the same two tips on a circle shifted to the right.
                let tip = on_circle(0.22 * PI, 1.05);
                let center = 0.5;
                let inner_radius = (tip[0] - center).hypot(tip[1]);
                let start = tip[1].atan2(tip[0] - center);
                let inner = (1..24).map(move |i| {
                    let [u, v] = on_circle(TAU - start - (TAU - 2.0 * start) * i as f32 / 24.0, inner_radius);
                    [u + center, v]
                });
                outer.chain(inner).collect()
            }
            Self::Arrow => {
                vec![
                    [1.1, 0.0],
                    [0.15, 0.85],
                    [0.15, 0.34],
                    [-1.05, 0.34],
                    [-1.05, -0.34],
                    [0.15, -0.34],
                    [0.15, -0.85],
                ]
            }
        }
    }
}

/// A closed outline in pixels.
#[derive(Debug, Clone)]
pub(super) struct Polygon {
    points: Vec<[f32; 2]>,
}

impl Polygon {
    /// An irregular round thing of no class.
    pub(super) fn blob(x: f32, y: f32, radius: f32, random: &mut Random) -> Self {
        let points = (0..9).map(|i| {
            let angle = std::f32::consts::TAU * i as f32 / 9.0;
            let distance = radius * random.range(0.45, 1.2);
            [x + distance * angle.cos(), y + distance * angle.sin()]
        });
        Self { points: points.collect() }
    }

    /// The share of each pixel of a `width` × `height` picture that lies inside (even-odd rule):
    /// exact along a row, four rows a pixel.
    pub(super) fn coverage(&self, width: usize, height: usize) -> Coverage {
        const SUB_ROWS: usize = 4;
        let extent = |axis: usize, limit: usize| {
            let low = self.points.iter().map(|p| p[axis]).fold(f32::MAX, f32::min).floor();
            let high = self.points.iter().map(|p| p[axis]).fold(f32::MIN, f32::max).ceil();
            (low.clamp(0.0, limit as f32) as usize, high.clamp(0.0, limit as f32) as usize)
        };
        let ((left, right), (top, bottom)) = (extent(0, width), extent(1, height));
        let mut result = Coverage::empty(left, top, right - left, bottom - top, width, height);
        result.full_area = self.area();
        for y in top..bottom {
            for sub_row in 0..SUB_ROWS {
                let at = y as f32 + (sub_row as f32 + 0.5) / SUB_ROWS as f32;
                for span in self.crossings(at).chunks_exact(2) {
                    result.add_span(y, span[0], span[1], 1.0 / SUB_ROWS as f32);
                }
            }
        }
        result
    }

    /// Enclosed area in pixels (shoelace formula).
    fn area(&self) -> f64 {
        let ends = self.points.iter().zip(self.points.iter().cycle().skip(1));
        (ends.map(|(a, b)| f64::from(a[0] * b[1] - b[0] * a[1])).sum::<f64>() / 2.0).abs()
    }

    /// Columns where the outline crosses a level line, sorted.
    fn crossings(&self, y: f32) -> Vec<f32> {
        let ends = self.points.iter().zip(self.points.iter().cycle().skip(1));
        let mut crossings: Vec<f32> = ends
            .filter(|(a, b)| (a[1] <= y) != (b[1] <= y))
            .map(|(a, b)| a[0] + (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]))
            .collect();
        crossings.sort_unstable_by(f32::total_cmp);
        crossings
    }
}

/// How much of each pixel is covered, within a frame of a larger picture.
#[derive(Debug, Clone)]
pub(super) struct Coverage {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    picture: (usize, usize),
    /// Pixels of the whole outline, outside the picture as well.
    full_area: f64,
    values: Vec<f32>,
}

impl Coverage {
    fn empty(left: usize, top: usize, width: usize, height: usize, pw: usize, ph: usize) -> Self {
        Self {
            left,
            top,
            width,
            height,
            picture: (pw, ph),
            full_area: 0.0,
            values: vec![0.0; width * height],
        }
    }

    fn add_span(&mut self, y: usize, from: f32, to: f32, weight: f32) {
        let from = (from - self.left as f32).clamp(0.0, self.width as f32);
        let to = (to - self.left as f32).clamp(0.0, self.width as f32);
        let row = &mut self.values[(y - self.top) * self.width..][..self.width];
        for (x, value) in row.iter_mut().enumerate().take(to.ceil() as usize).skip(from as usize) {
            *value += weight * (to.min(x as f32 + 1.0) - from.max(x as f32)).max(0.0);
        }
    }

    /// Area of the whole outline in pixels, with what lies outside the picture; 0 once blurred or moved.
    pub(super) fn full_area(&self) -> f64 {
        self.full_area
    }

    /// Share covered, 0 outside.
    pub(super) fn at(&self, x: i64, y: i64) -> f32 {
        let column = usize::try_from(x - self.left as i64).ok().filter(|&c| c < self.width);
        let row = usize::try_from(y - self.top as i64).ok().filter(|&r| r < self.height);
        column.zip(row).map_or(0.0, |(column, row)| self.values[row * self.width + column])
    }

    /// Covered pixels inside the picture and their share: column, row, share.
    pub(super) fn pixels(&self) -> impl Iterator<Item = (usize, usize, f32)> {
        self.values
            .iter()
            .enumerate()
            .filter(|(_, value)| **value > 0.0)
            .map(|(at, value)| (self.left + at % self.width, self.top + at / self.width, value.min(1.0)))
    }

    /// Pixels that count as covered, at least half: column, row.
    pub(super) fn mask(&self) -> impl Iterator<Item = (usize, usize)> {
        self.pixels().filter(|(_, _, share)| *share >= 0.5).map(|(x, y, _)| (x, y))
    }

    /// Mean over a square of `2 · radius + 1` pixels, in a frame that much larger.
    pub(super) fn blurred(&self, radius: usize) -> Self {
        let left = self.left.saturating_sub(radius);
        let top = self.top.saturating_sub(radius);
        let right = (self.left + self.width + radius).min(self.picture.0);
        let bottom = (self.top + self.height + radius).min(self.picture.1);
        let mut result = Self::empty(left, top, right - left, bottom - top, self.picture.0, self.picture.1);
        let reach = radius as i64;
        let area = ((2 * radius + 1) * (2 * radius + 1)) as f32;
        for y in 0..result.height {
            for x in 0..result.width {
                let (cx, cy) = ((left + x) as i64, (top + y) as i64);
                let sum: f32 = (-reach..=reach)
                    .flat_map(|dy| (-reach..=reach).map(move |dx| (dx, dy)))
                    .map(|(dx, dy)| self.at(cx + dx, cy + dy))
                    .sum();
                result.values[y * result.width + x] = sum / area;
            }
        }
        result
    }

    /// Moved right and down, cut at the picture's edge.
    pub(super) fn shifted(&self, right: usize, down: usize) -> Self {
        let (left, top) = ((self.left + right).min(self.picture.0), (self.top + down).min(self.picture.1));
        let width = self.width.min(self.picture.0 - left);
        let height = self.height.min(self.picture.1 - top);
        let mut result = Self::empty(left, top, width, height, self.picture.0, self.picture.1);
        for (to, from) in
            result.values.chunks_exact_mut(width.max(1)).zip(self.values.chunks_exact(self.width.max(1)))
        {
            to.copy_from_slice(&from[..width]);
        }
        result
    }
}
