//! A plot of curves and marks over two axes, such as precision over recall. It must not know what the
//! numbers mean.

use super::sheet::{INK, PAPER};
use super::{Canvas, Palette, Rgb, TextSize, overlay, text_width};

/// One axis: its name, what lies at its ends, and where lines cross it.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Name.
    pub name: String,
    /// Values at its two ends, which differ.
    pub range: [f64; 2],
    /// Values with a line across the plot, and what is written there.
    pub ticks: Vec<(f64, String)>,
}

/// One line of a plot, or some marks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Line {
    /// Name in the key.
    pub name: String,
    /// Points `[x, y]`, from left to right.
    pub points: Vec<[f64; 2]>,
    /// For marks instead of a line: least and greatest y of every point.
    pub spreads: Vec<[f64; 2]>,
    /// Drawn strongly, over the others.
    pub strong: bool,
}

/// Curves with their axes. What lies outside of them is drawn at their ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// Heading.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines; their place in the list decides their colour.
    pub lines: Vec<Line>,
    /// Side of the square that the curves lie in, in pixels.
    pub side: usize,
}

const GRID: Rgb = [52, 56, 64];
const FAINT: Rgb = [150, 156, 168];
const MARGIN: usize = 56;
/// Side of a mark.
const MARK: usize = 9;
/// Lines across an axis of round numbers, at most.
const MOST_TICKS: f64 = 8.0;

impl Axis {
    /// From 0 to 1.
    pub fn unit(name: &str) -> Self {
        let tick = |tick: u32| {
            let text =
                if tick.is_multiple_of(2) { format!("{:.1}", f64::from(tick) / 10.0) } else { String::new() };
            (f64::from(tick) / 10.0, text)
        };
        Self { name: name.to_owned(), range: [0.0, 1.0], ticks: (0..=10).map(tick).collect() }
    }

    /// Of round numbers around all that are finite of `values`.
    pub fn around(name: &str, values: impl Iterator<Item = f64>) -> Self {
        let start = (f64::INFINITY, f64::NEG_INFINITY);
        let finite = values.filter(|value| value.is_finite());
        let (least, greatest) = finite.fold(start, |(a, b), value| (a.min(value), b.max(value)));
        let (least, greatest) = if least > greatest { (0.0, 1.0) } else { (least, greatest) };
        let width = (greatest - least).max(1e-6 * greatest.abs()).max(1e-9);
        let unit = 10f64.powf((width / MOST_TICKS).log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|of| of * unit).into_iter().find(|step| width / step < MOST_TICKS);
        let step = step.unwrap_or(10.0 * unit);
        let (first, last) =
            ((least / step).floor(), (greatest / step).ceil().max((least / step).floor() + 1.0));
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let tick = |tick: usize| {
            let value = (first + tick as f64) * step;
            (value, format!("{value:.decimals$}"))
        };
        let ticks = (0..=(last - first) as usize).map(tick).collect();
        Self { name: name.to_owned(), range: [first * step, last * step], ticks }
    }

    /// Where a value lies, 0 at one end and 1 at the other.
    fn share(&self, value: f64) -> f64 {
        let [from, to] = self.range;
        ((value - from) / (to - from)).clamp(0.0, 1.0)
    }
}

impl Plot {
    /// Side of the curves' square, by default.
    pub const DEFAULT_SIDE: usize = 560;

    /// Draws the plot with a key below it.
    pub fn draw(&self) -> Canvas {
        let palette = Palette::new(self.lines.len());
        let side = self.side.max(2);
        let width = side + 2 * MARGIN;
        let entries: Vec<(usize, String)> =
            self.lines.iter().map(|line| line.name.clone()).enumerate().collect();
        let key = overlay::legend(&entries, &palette, side, PAPER, INK);
        let head = TextSize::Title.line_height() + TextSize::Small.line_height() + 24;
        let top = MARGIN / 2 + head;
        let mut page = Canvas::new(width, top + side + MARGIN + key.height() + MARGIN / 2, PAPER);
        page.text_within(MARGIN as i64, (MARGIN / 2) as i64, side, &self.title, TextSize::Title, INK);
        let name_top = (top - TextSize::Small.line_height() - 6) as i64;
        page.text_within(MARGIN as i64, name_top, side, &self.y.name, TextSize::Small, FAINT);
        let (left, bottom) = (MARGIN as i64, (top + side) as i64);
        let along = |share: f64| (side as f64 * share).round() as i64;
        for (value, text) in &self.x.ticks {
            let at = left + along(self.x.share(*value));
            page.fill(at, top as i64, 1, side, GRID);
            page.text(
                at - text_width(text, TextSize::Small) as i64 / 2,
                bottom + 6,
                text,
                TextSize::Small,
                FAINT,
            );
        }
        for (value, text) in &self.y.ticks {
            let at = bottom - along(self.y.share(*value));
            page.fill(left, at, side, 1, GRID);
            let start = left - 6 - text_width(text, TextSize::Small) as i64;
            page.text(start, at - 8, text, TextSize::Small, FAINT);
        }
        let name_width = text_width(&self.x.name, TextSize::Small).min(side);
        let name_left = left + (side - name_width) as i64;
        page.text_within(name_left, bottom + 24, side, &self.x.name, TextSize::Small, FAINT);
        let pixel = |[x, y]: [f64; 2]| {
            let [x, y] = [self.x.share(x), self.y.share(y)].map(|share| share * side as f64);
            [MARGIN as f64 + x, (top + side) as f64 - y]
        };
        for strong in [false, true] {
            for (index, line) in self.lines.iter().enumerate().filter(|(_, line)| line.strong == strong) {
                let color = palette.color(index);
                let finite = line.points.iter().filter(|point| point.iter().all(|v| v.is_finite()));
                let points: Vec<[f64; 2]> = finite.map(|&point| pixel(point)).collect();
                if line.spreads.is_empty() {
                    for pair in points.windows(2) {
                        stroke(&mut page, pair[0], pair[1], strong, color);
                    }
                }
                for (&[x, y], spread) in line.points.iter().zip(&line.spreads) {
                    let [from, to] = spread.map(|y| pixel([x, y]));
                    stroke(&mut page, from, to, strong, color);
                    let [x, y] = pixel([x, y]).map(|v| v.round() as i64 - (MARK / 2) as i64);
                    page.fill(x, y, MARK, MARK, color);
                }
            }
        }
        page.paste(left, bottom + MARGIN as i64, &key);
        page
    }
}

/// A straight line, half a pixel a step.
fn stroke(page: &mut Canvas, from: [f64; 2], to: [f64; 2], strong: bool, color: Rgb) {
    let [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    let steps = (2.0 * dx.abs().max(dy.abs())).ceil().max(1.0) as usize;
    let width = if strong { 3 } else { 1 };
    for step in 0..=steps {
        let share = step as f64 / steps as f64;
        let [x, y] = [from[0] + dx * share, from[1] + dy * share].map(|v| v.round() as i64);
        page.fill(x - width / 2, y - width / 2, width as usize, width as usize, color);
    }
}
