//! Cells times a matrix: the sums of a tile of cells and a lane of columns stay in registers while the matrix
//! passes by. Sums run over ascending rows of the matrix, and nothing is fused.

use crate::instruction_set::Loop;
use crate::quantised::Element;

/// Columns of a panel.
const LANE: usize = 16;
/// Cells whose sums are made together: with more, the sums of AVX2 leave its registers.
pub(super) const TILE: usize = 4;

/// A matrix `[depth, width]`, cut into panels of [`LANE`] columns, each row by row; the last has zeros where
/// the matrix has no column. And what is added to every row of a product.
#[derive(Clone)]
pub(super) struct Panels {
    depth: usize,
    width: usize,
    values: Vec<f32>,
    bias: Vec<f32>,
}

impl Panels {
    /// The matrix of these elements, by row and column; where `bias` ends, zero is added.
    pub(super) fn new(
        depth: usize,
        width: usize,
        element: impl Fn(usize, usize) -> f32,
        bias: &[f32],
    ) -> Self {
        let padded = width.next_multiple_of(LANE);
        let mut values = Vec::with_capacity(depth * padded);
        for first in (0..width).step_by(LANE) {
            for row in 0..depth {
                let columns = first..first + LANE;
                values.extend(columns.map(|column| if column < width { element(row, column) } else { 0.0 }));
            }
        }
        let mut bias = bias.to_vec();
        bias.resize(padded, 0.0);
        Self { depth, width, values, bias }
    }

    /// Arranges cells of `depth` numbers in tiles: the first number of all cells of a tile, then the second,
    /// and so on. The last tile has zeros for cells that there are not.
    pub(super) fn tile(&self, numbers: impl ExactSizeIterator<Item = f32>, tiles: &mut Vec<f32>) {
        let cells = numbers.len() / self.depth;
        tiles.clear();
        tiles.resize(cells.next_multiple_of(TILE) * self.depth, 0.0);
        let mut numbers = numbers;
        for (number, tile) in tiles.chunks_exact_mut(self.depth * TILE).enumerate() {
            for cell in 0..TILE.min(cells - number * TILE) {
                tile.iter_mut()
                    .skip(cell)
                    .step_by(TILE)
                    .zip(&mut numbers)
                    .for_each(|(t, number)| *t = number);
            }
        }
    }
}

/// Tiles of cells times a matrix, plus its bias.
pub(super) struct Product<'a, T> {
    pub(super) tiles: &'a [f32],
    pub(super) panels: &'a Panels,
    /// Cells of `width` elements, row by row.
    pub(super) target: &'a mut [T],
}

impl<T: Element> Loop for Product<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Panels { depth, width, values, bias } = self.panels;
        let panels = values.chunks_exact(depth * LANE).zip(bias.as_chunks::<LANE>().0);
        for ((panel, bias), first) in panels.zip((0..).step_by(LANE)) {
            let lanes = panel.as_chunks::<LANE>().0;
            let targets = self.target.chunks_mut(TILE * width);
            for (tile, target) in self.tiles.chunks_exact(depth * TILE).zip(targets) {
                // By name and not in a loop: only so are they kept in registers.
                let [mut a, mut b, mut c, mut d] = [[0f32; LANE]; TILE];
                for ([first, second, third, fourth], lane) in tile.as_chunks().0.iter().zip(lanes) {
                    add(&mut a, *first, lane);
                    add(&mut b, *second, lane);
                    add(&mut c, *third, lane);
                    add(&mut d, *fourth, lane);
                }
                for (sums, cell) in [a, b, c, d].iter().zip(target.chunks_mut(*width)) {
                    let lane = cell.get_mut(first..).unwrap_or_default();
                    for ((target, sum), bias) in lane.iter_mut().zip(sums).zip(bias) {
                        let value = sum + bias;
                        // The one NaN that every element type can round.
                        *target = T::of(if value.is_nan() { f32::NAN } else { value });
                    }
                }
            }
        }
    }
}

/// Adds a lane of the matrix, times a number, to the sums of a cell.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "within fixed arrays, and half as fast with iterators")]
fn add(sums: &mut [f32; LANE], number: f32, lane: &[f32; LANE]) {
    for i in 0..LANE {
        sums[i] += number * lane[i];
    }
}
