//! What is where in a scene: one owner a pixel, so that boxes, outlines, areas and the dense label
//! map are views of the same thing and agree to the pixel. It draws no colours and writes no files.
//!
//! Masks are of what is *visible*. Polygons run along pixel edges, so filling one gives back exactly
//! its mask; placements that would leave a hole, which COCO polygons cannot express, are refused.

use super::{Ground, Shape, shape::Coverage};

const GROUND: u16 = 0;
const CLUTTER: u16 = u16::MAX;

/// The labels of a scene.
#[derive(Debug, Clone)]
pub struct SceneLabels {
    width: usize,
    height: usize,
    grounds: Vec<u8>,
    /// [`GROUND`], [`CLUTTER`], or 1 + the number of the object in front.
    owners: Vec<u16>,
    drawn: Vec<Drawn>,
}

#[derive(Debug, Clone)]
struct Drawn {
    shape: Shape,
    crowd: bool,
    /// Pixels when it was drawn, before anything hid it.
    pixels: usize,
}

/// One labelled object, or one crowd of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SceneObject {
    /// Its class.
    pub shape: Shape,
    /// Many objects labelled as one region.
    pub crowd: bool,
    /// Extent of the visible mask: x, y, width, height.
    pub bbox: [usize; 4],
    /// Visible pixels.
    pub area: usize,
    /// Parts of the visible mask, `[x, y]` corners each; empty for a crowd.
    pub polygons: Vec<Vec<[usize; 2]>>,
    /// COCO run lengths of the visible mask (see [`run_lengths`]); empty unless a crowd.
    pub counts: Vec<usize>,
}

impl SceneLabels {
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            grounds: vec![0; width * height],
            owners: vec![GROUND; width * height],
            drawn: Vec::new(),
        }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The dense map as ADE20K has it, `[height, width]`: 0 not labelled, else 1 + the index in
    /// [`super::class_names`].
    pub fn values(&self) -> Vec<u8> {
        let shape_value = |shape: Shape| 1 + (Ground::ALL.len() + shape as usize) as u8;
        let value = |(owner, ground): (&u16, &u8)| match *owner {
            GROUND => *ground,
            CLUTTER => 0,
            object => shape_value(self.drawn[usize::from(object) - 1].shape),
        };
        self.owners.iter().zip(&self.grounds).map(value).collect()
    }

    /// The labelled objects, in drawing order.
    pub fn objects(&self) -> Vec<SceneObject> {
        let object = |index: usize| {
            let drawn = &self.drawn[index];
            let mask: Vec<bool> = self.owners.iter().map(|&owner| usize::from(owner) == index + 1).collect();
            let frame = Frame { width: self.width, height: self.height, mask };
            let area = frame.mask.iter().filter(|inside| **inside).count();
            let bbox = frame.extent()?;
            let outlines = || frame.outlines().into_iter().map(|outline| outline.points).collect();
            Some(SceneObject {
                shape: drawn.shape,
                crowd: drawn.crowd,
                bbox,
                area,
                polygons: if drawn.crowd { Vec::new() } else { outlines() },
                counts: if drawn.crowd { run_lengths(&frame.mask, self.width) } else { Vec::new() },
            })
        };
        (0..self.drawn.len()).filter_map(object).collect()
    }

    pub(super) fn set_ground(&mut self, x: usize, y: usize, ground: Ground) {
        self.grounds[y * self.width + x] = 1 + ground as u8;
    }

    /// Whether a shape may be drawn here: enough of it is inside the picture, enough remains of every
    /// object that it hides in part, and every mask stays free of holes.
    pub(super) fn accepts(&self, coverage: &Coverage, min_visible: f64, min_pixels: usize) -> bool {
        let pixels: Vec<(usize, usize)> = coverage.mask().collect();
        let enough = |left: usize, of: f64| left >= min_pixels && left as f64 >= min_visible * of;
        if !enough(pixels.len(), coverage.full_area()) {
            return false;
        }
        let mut owners = self.owners.clone();
        let new = self.drawn.len() as u16 + 1;
        let mut touched = vec![new];
        for (x, y) in pixels {
            let owner = std::mem::replace(&mut owners[y * self.width + x], new);
            if !touched.contains(&owner) && owner != GROUND && owner != CLUTTER {
                touched.push(owner);
            }
        }
        touched.into_iter().all(|object| {
            let mask: Vec<bool> = owners.iter().map(|&owner| owner == object).collect();
            let left = mask.iter().filter(|inside| **inside).count();
            let frame = Frame { width: self.width, height: self.height, mask };
            match self.drawn.get(usize::from(object) - 1) {
                Some(drawn) if !enough(left, drawn.pixels as f64) => false,
                Some(drawn) if drawn.crowd => true,
                _ => frame.outlines().iter().all(|outline| !outline.is_hole()),
            }
        })
    }

    pub(super) fn add_object(&mut self, shape: Shape, coverage: &Coverage) {
        self.add(shape, false, std::slice::from_ref(coverage));
    }

    /// Adds a crowd of `members`, unless all of them are outside.
    pub(super) fn add_crowd(&mut self, shape: Shape, members: &[Coverage]) {
        self.add(shape, true, members);
    }

    /// Marks the covered pixels as not labelled.
    pub(super) fn hide(&mut self, coverage: &Coverage) {
        for (x, y) in coverage.mask() {
            self.owners[y * self.width + x] = CLUTTER;
        }
    }

    fn add(&mut self, shape: Shape, crowd: bool, members: &[Coverage]) {
        let owner = self.drawn.len() as u16 + 1;
        for (x, y) in members.iter().flat_map(Coverage::mask) {
            self.owners[y * self.width + x] = owner;
        }
        let pixels = self.owners.iter().filter(|&&other| other == owner).count();
        if pixels > 0 {
            self.drawn.push(Drawn { shape, crowd, pixels });
        }
    }
}

/// A closed line along pixel edges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Corners `[x, y]`, without those on a straight line; inside is on the right hand.
    pub points: Vec<[usize; 2]>,
}

impl Outline {
    /// The enclosed area in pixels; negative around a hole.
    pub fn area(&self) -> i64 {
        let ends = self.points.iter().zip(self.points.iter().cycle().skip(1));
        ends.map(|(a, b)| a[0] as i64 * b[1] as i64 - b[0] as i64 * a[1] as i64).sum::<i64>() / 2
    }

    fn is_hole(&self) -> bool {
        self.area() < 0
    }
}

/// A mask of the size of the picture.
struct Frame {
    width: usize,
    height: usize,
    mask: Vec<bool>,
}

impl Frame {
    fn has(&self, x: i64, y: i64) -> bool {
        let inside = (0..self.width as i64).contains(&x) && (0..self.height as i64).contains(&y);
        inside && self.mask[y as usize * self.width + x as usize]
    }

    /// x, y, width, height of the mask, if it is not empty.
    fn extent(&self) -> Option<[usize; 4]> {
        let columns = (0..self.width).filter(|&x| (0..self.height).any(|y| self.mask[y * self.width + x]));
        let rows = (0..self.height).filter(|&y| self.mask[y * self.width..][..self.width].contains(&true));
        let ends = |mut at: Box<dyn Iterator<Item = usize> + '_>| {
            let first = at.next()?;
            Some((first, at.last().unwrap_or(first) + 1))
        };
        let ((left, right), (top, bottom)) = (ends(Box::new(columns))?, ends(Box::new(rows))?);
        Some([left, top, right - left, bottom - top])
    }

    /// All borders of the mask. Each follows the pixel edges with the mask on its right; where two
    /// pixels meet at a corner only, it stays with its own, so parts are 4-connected.
    fn outlines(&self) -> Vec<Outline> {
        const STEPS: [(i64, i64); 4] = [(1, 0), (0, 1), (-1, 0), (0, -1)];
        // Going in direction d from a corner, the pixel on the right hand and the one on the left.
        const RIGHT: [(i64, i64); 4] = [(0, 0), (-1, 0), (-1, -1), (0, -1)];
        const LEFT: [(i64, i64); 4] = [(0, -1), (0, 0), (-1, 0), (-1, -1)];
        let is_border = |x: i64, y: i64, d: usize| {
            self.has(x + RIGHT[d].0, y + RIGHT[d].1) && !self.has(x + LEFT[d].0, y + LEFT[d].1)
        };
        // A border is found at one of its top edges (direction 0), which are marked as they are passed.
        let mut passed = vec![false; self.mask.len()];
        let mut outlines = Vec::new();
        for start in 0..self.mask.len() {
            let (start_x, start_y) = ((start % self.width) as i64, (start / self.width) as i64);
            if passed[start] || !is_border(start_x, start_y, 0) {
                continue;
            }
            let (mut x, mut y, mut direction) = (start_x, start_y, 0);
            let mut points = Vec::new();
            loop {
                if direction == 0 {
                    passed[y as usize * self.width + x as usize] = true;
                }
                (x, y) = (x + STEPS[direction].0, y + STEPS[direction].1);
                let turned =
                    [1, 0, 3].map(|turn| (direction + turn) % 4).into_iter().find(|&d| is_border(x, y, d));
                let next = turned.expect("a border along pixel edges never ends");
                if next != direction {
                    points.push([x as usize, y as usize]);
                }
                direction = next;
                if (x, y, direction) == (start_x, start_y, 0) {
                    break;
                }
            }
            outlines.push(Outline { points });
        }
        outlines
    }
}

/// COCO's uncompressed run lengths of a mask (`[height, width]`): down the columns, starting with the
/// number of pixels that are *not* inside.
pub fn run_lengths(mask: &[bool], width: usize) -> Vec<usize> {
    let height = mask.len().checked_div(width).unwrap_or(0);
    let mut counts = vec![0];
    let mut inside = false;
    for at in (0..width).flat_map(|x| (0..height).map(move |y| y * width + x)) {
        if mask[at] != inside {
            inside = !inside;
            counts.push(0);
        }
        if let Some(last) = counts.last_mut() {
            *last += 1;
        }
    }
    counts
}
