//! A plot of curves over 0..1 in both directions, such as precision over recall. It must not know what
//! the numbers mean.

use super::sheet::{INK, PAPER};
use super::{Canvas, Palette, Rgb, TextSize, overlay};

/// One line of a plot: points from left to right, both coordinates 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Name in the key.
    pub name: String,
    /// Points `[x, y]`.
    pub points: Vec<[f64; 2]>,
    /// Drawn strongly, over the others.
    pub strong: bool,
}

/// Curves with their axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// Heading.
    pub title: String,
    /// Below the horizontal axis.
    pub x_name: String,
    /// Above the vertical axis.
    pub y_name: String,
    /// The lines; their place in the list decides their colour.
    pub lines: Vec<Line>,
    /// Side of the square that the curves lie in, in pixels.
    pub side: usize,
}

const GRID: Rgb = [52, 56, 64];
const FAINT: Rgb = [150, 156, 168];
const MARGIN: usize = 56;
const TICKS: usize = 10;

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
        page.text_within(MARGIN as i64, name_top, side, &self.y_name, TextSize::Small, FAINT);
        let (left, bottom) = (MARGIN as i64, (top + side) as i64);
        for tick in 0..=TICKS {
            let at = (side * tick / TICKS) as i64;
            page.fill(left + at, top as i64, 1, side, GRID);
            page.fill(left, bottom - at, side, 1, GRID);
            if tick % 2 == 0 {
                let text = format!("{:.1}", tick as f64 / TICKS as f64);
                page.text(left + at - 8, bottom + 6, &text, TextSize::Small, FAINT);
                page.text(left - 36, bottom - at - 8, &text, TextSize::Small, FAINT);
            }
        }
        let name_left = left + (side / 2) as i64;
        page.text_within(name_left, bottom + 24, side / 2, &self.x_name, TextSize::Small, FAINT);
        for strong in [false, true] {
            for (index, line) in self.lines.iter().enumerate().filter(|(_, line)| line.strong == strong) {
                let pixel = |[x, y]: [f64; 2]| {
                    let at = |v: f64| v.clamp(0.0, 1.0) * side as f64;
                    [MARGIN as f64 + at(x), (top + side) as f64 - at(y)]
                };
                let finite = line.points.iter().filter(|point| point.iter().all(|v| v.is_finite()));
                let points: Vec<[f64; 2]> = finite.map(|&point| pixel(point)).collect();
                for pair in points.windows(2) {
                    stroke(&mut page, pair[0], pair[1], strong, palette.color(index));
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
