//! Where the cells of a map lie while a stage works on it: in windows, as plain indices, computed once a size.
//!
//! Padding, rolling and cutting into windows only move cells. So a stage keeps its cells in **window order**,
//! one row a cell, without padding, and goes from the order of unshifted windows to that of shifted ones and
//! back by one gather a block. Padding exists only inside the attention of the windows that have it. Windows
//! with the same shift mask are neighbours, so there are at most four masks and not one a window.
//!
//! Semantics (torchvision's and Hugging Face's order): the map is padded right and bottom to multiples of the
//! window, then rolled; padded cells are attended like any other. If the map's shorter side is not larger than
//! the window, the window becomes that side and nothing shifts (Microsoft, Hugging Face), decided on the map at
//! hand and not on a configured image size.

use featcache_store::Size;
use tch::{Device, Tensor};

/// The window that a map is attended in.
pub(crate) fn effective_window(map: Size, window: u32) -> u32 {
    window.min(map.height.min(map.width)).max(1)
}

/// Which parts of a window may not see each other after rolling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mask {
    /// Everything sees everything.
    None,
    /// In the last column of windows: left and right of the seam.
    Columns,
    /// In the last row of windows: above and below the seam.
    Rows,
    /// In the last window: four quarters.
    Both,
}

/// Windows of one slice that share a mask: `windows` starting at `start`, both counted in the slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub(crate) mask: Mask,
    pub(crate) start: i64,
    pub(crate) windows: i64,
}

/// Windows worked on together.
#[derive(Debug)]
pub(crate) struct Slice {
    /// First cell, in window order.
    pub(crate) start: i64,
    /// Number of cells, without padding.
    pub(crate) cells: i64,
    /// Number of windows.
    pub(crate) windows: i64,
    /// By mask.
    pub(crate) groups: Vec<Group>,
    /// Place of each cell among the slice's `windows · W²` padded ones, if any are padded.
    pub(crate) places: Option<Tensor>,
}

/// One way of cutting the map into windows.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) slices: Vec<Slice>,
}

/// Both ways of cutting a map (or `n` equal ones) into windows, and the gathers between them. `None` is the
/// gather that changes nothing.
#[derive(Debug)]
pub(crate) struct WindowLayout {
    /// Window side in cells.
    pub(crate) window: u32,
    /// Cells that a shifted window is moved by; 0 if nothing shifts.
    pub(crate) shift: u32,
    /// Blocks 0, 2, 4, ….
    pub(crate) plain: Order,
    /// Blocks 1, 3, 5, ….
    pub(crate) shifted: Order,
    /// From row-major cells to plain windows.
    pub(crate) rows_to_plain: Option<Tensor>,
    /// From plain to shifted windows.
    pub(crate) plain_to_shifted: Option<Tensor>,
    /// Back.
    pub(crate) shifted_to_plain: Option<Tensor>,
    /// From plain windows to row-major cells.
    pub(crate) plain_to_rows: Option<Tensor>,
    /// From shifted windows to row-major cells.
    pub(crate) shifted_to_rows: Option<Tensor>,
}

impl WindowLayout {
    /// The layout of `pictures` maps, with about `slice_cells` cells a slice.
    pub(crate) fn new(pictures: u32, map: Size, window: u32, slice_cells: usize, device: Device) -> Self {
        let side = effective_window(map, window);
        let shift = if map.height.min(map.width) <= window { 0 } else { side / 2 };
        let plain = Cells::new(pictures, map, side, 0);
        let shifted = Cells::new(pictures, map, side, shift);
        let gather = |index: Vec<i64>| {
            let moves = index.iter().enumerate().any(|(to, &from)| to as i64 != from);
            moves.then(|| Tensor::from_slice(&index).to_device(device))
        };
        let (plain_places, shifted_places) = (inverse(&plain.rows), inverse(&shifted.rows));
        let through = |rows: &[i64], places: &[i64]| rows.iter().map(|&row| places[row as usize]).collect();
        Self {
            window: side,
            shift,
            plain_to_shifted: gather(through(&shifted.rows, &plain_places)),
            shifted_to_plain: gather(through(&plain.rows, &shifted_places)),
            plain: Order { slices: plain.slices(slice_cells, side, device) },
            shifted: Order { slices: shifted.slices(slice_cells, side, device) },
            rows_to_plain: gather(plain.rows),
            plain_to_rows: gather(plain_places),
            shifted_to_rows: gather(shifted_places),
        }
    }
}

fn inverse(index: &[i64]) -> Vec<i64> {
    let mut inverse = vec![0; index.len()];
    for (to, &from) in index.iter().enumerate() {
        inverse[from as usize] = to as i64;
    }
    inverse
}

/// The cells of maps in window order.
struct Cells {
    /// Row-major number of each cell, without padding.
    rows: Vec<i64>,
    /// Place of each cell among the padded cells of its own window.
    places: Vec<i64>,
    /// Mask and number of cells of each window.
    windows: Vec<(Mask, usize)>,
}

impl Cells {
    fn new(pictures: u32, map: Size, side: u32, shift: u32) -> Self {
        let padded = map.padded(side);
        let (down, across) = (padded.height / side, padded.width / side);
        let mask_of = |y: u32, x: u32| match (shift > 0 && y + 1 == down, shift > 0 && x + 1 == across) {
            (false, false) => Mask::None,
            (false, true) => Mask::Columns,
            (true, false) => Mask::Rows,
            (true, true) => Mask::Both,
        };
        let mut cells = Self { rows: Vec::new(), places: Vec::new(), windows: Vec::new() };
        for mask in [Mask::None, Mask::Columns, Mask::Rows, Mask::Both] {
            for picture in 0..pictures {
                for wy in 0..down {
                    for wx in (0..across).filter(|&wx| mask_of(wy, wx) == mask) {
                        let before = cells.rows.len();
                        for place in 0..side * side {
                            let y = (wy * side + place / side + shift) % padded.height;
                            let x = (wx * side + place % side + shift) % padded.width;
                            if y < map.height && x < map.width {
                                let row = (u64::from(picture) * u64::from(map.height) + u64::from(y))
                                    * u64::from(map.width)
                                    + u64::from(x);
                                cells.rows.push(row as i64);
                                cells.places.push(i64::from(place));
                            }
                        }
                        cells.windows.push((mask, cells.rows.len() - before));
                    }
                }
            }
        }
        cells
    }

    /// Cuts the windows into slices of whole windows, about `slice_cells` padded cells each.
    fn slices(&self, slice_cells: usize, side: u32, device: Device) -> Vec<Slice> {
        let area = (side * side) as usize;
        // Equal slices, not full ones and a remainder: a small product runs far below the machine's speed.
        let count = (self.windows.len() * area).div_ceil(slice_cells.max(area)).max(1);
        let per_slice = self.windows.len().div_ceil(count).max(1);
        let mut start = 0;
        let mut slices = Vec::with_capacity(count);
        for windows in self.windows.chunks(per_slice) {
            let cells: usize = windows.iter().map(|(_, cells)| cells).sum();
            let mut groups: Vec<Group> = Vec::new();
            let mut places = Vec::with_capacity(cells);
            let mut cell = start;
            for (w, &(mask, in_window)) in windows.iter().enumerate() {
                match groups.last_mut() {
                    Some(group) if group.mask == mask => group.windows += 1,
                    _ => groups.push(Group { mask, start: w as i64, windows: 1 }),
                }
                places.extend(self.places[cell..cell + in_window].iter().map(|p| (w * area) as i64 + p));
                cell += in_window;
            }
            let padded = cells < windows.len() * area;
            slices.push(Slice {
                start: start as i64,
                cells: cells as i64,
                windows: windows.len() as i64,
                groups,
                places: padded.then(|| Tensor::from_slice(&places).to_device(device)),
            });
            start = cell;
        }
        slices
    }
}
