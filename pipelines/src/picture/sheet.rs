//! A contact sheet: rows of pictures under column titles, with captions, a legend and footnotes.
//! It lays out finished pictures and must not make any.

use super::{Canvas, Palette, Rgb, TextSize, overlay};

/// Background of sheets.
pub(super) const PAPER: Rgb = [22, 24, 29];
/// Text on it.
pub(super) const INK: Rgb = [232, 234, 238];
const FAINT: Rgb = [150, 156, 168];
const GAP: usize = 10;
const MARGIN: usize = 24;

/// One sample: its pictures, one a column, and a line of text below.
#[derive(Debug, Clone)]
pub struct SheetRow {
    /// Written below the row.
    pub caption: String,
    /// Pictures from left to right; missing ones stay empty.
    pub cells: Vec<Canvas>,
}

/// What a sheet is made of.
#[derive(Debug, Clone)]
pub struct Sheet {
    /// Heading.
    pub title: String,
    /// Line below the heading.
    pub subtitle: String,
    /// Column titles.
    pub columns: Vec<String>,
    /// Samples.
    pub rows: Vec<SheetRow>,
    /// Class names, by class index, for the key at the bottom; none for no key.
    pub legend: Vec<String>,
    /// Lines at the bottom.
    pub footnotes: Vec<String>,
    /// Width and height in pixels that a picture is fitted into.
    pub cell: (usize, usize),
}

impl Sheet {
    /// Default width and height of a cell.
    pub const DEFAULT_CELL: (usize, usize) = (224, 224);

    /// Draws the sheet. Each row is as high as its highest picture.
    pub fn draw(&self, palette: &Palette) -> Canvas {
        let (cell_width, cell_height) = (self.cell.0.max(1), self.cell.1.max(1));
        let columns =
            self.rows.iter().map(|row| row.cells.len()).chain([self.columns.len(), 1]).max().unwrap_or(1);
        let width = 2 * MARGIN + columns * cell_width + (columns - 1) * GAP;
        let inner = width - 2 * MARGIN;
        let rows: Vec<Vec<Canvas>> = self
            .rows
            .iter()
            .map(|row| row.cells.iter().map(|cell| cell.fitted(cell_width, cell_height)).collect())
            .collect();
        let row_heights: Vec<usize> =
            rows.iter().map(|row| row.iter().map(Canvas::height).max().unwrap_or(0)).collect();
        let caption_height = TextSize::Small.line_height() + 2 * GAP;
        let line = TextSize::Small.line_height() + 4;
        let head = TextSize::Title.line_height() + GAP + line + 2 * GAP;
        let titles = TextSize::Strong.line_height() + GAP;
        let entries: Vec<(usize, String)> = self.legend.iter().cloned().enumerate().collect();
        let legend = overlay::legend(&entries, palette, inner, PAPER, INK);
        let body: usize = row_heights.iter().map(|height| height + caption_height).sum();
        let height = 2 * MARGIN + head + titles + body + legend.height() + self.footnotes.len() * line;

        let mut page = Canvas::new(width, height, PAPER);
        let left = MARGIN as i64;
        let mut top = MARGIN;
        page.text_within(left, top as i64, inner, &self.title, TextSize::Title, INK);
        top += TextSize::Title.line_height() + GAP;
        page.text_within(left, top as i64, inner, &self.subtitle, TextSize::Small, FAINT);
        top += line + 2 * GAP;
        let column_left = |column: usize| (MARGIN + column * (cell_width + GAP)) as i64;
        for (column, title) in self.columns.iter().enumerate() {
            page.text_within(column_left(column), top as i64, cell_width, title, TextSize::Strong, INK);
        }
        top += titles;
        for ((row, cells), row_height) in self.rows.iter().zip(&rows).zip(row_heights) {
            for (column, cell) in cells.iter().enumerate() {
                let indent = (cell_width - cell.width().min(cell_width)) / 2;
                page.paste(column_left(column) + indent as i64, top as i64, cell);
            }
            top += row_height + 4;
            page.text_within(left, top as i64, inner, &row.caption, TextSize::Small, FAINT);
            top += caption_height - 4;
        }
        page.paste(left, top as i64, &legend);
        top += legend.height();
        for footnote in &self.footnotes {
            page.text_within(left, top as i64, inner, footnote, TextSize::Small, FAINT);
            top += line;
        }
        page
    }
}
