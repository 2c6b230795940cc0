//! The objects of a picture as a detector learns them. Must not read features and holds no tensor, for it
//! crosses threads.

use crate::labels::Target;
use crate::mask::Rle;
use featcache_store::Size;

/// The truth of one picture, in the coordinates of its padded input.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    /// The part of the input that is picture.
    pub valid: Size,
    /// Boxes x1, y1, x2, y2 in pixels of the padded input, within `valid`.
    pub boxes: Vec<[f32; 4]>,
    /// Class of each box: the rank of its category in the store's list.
    pub classes: Vec<usize>,
    /// Mask of each box, at padded size; `None` where it has no usable one.
    pub masks: Vec<Option<Rle>>,
    /// Boxes of crowd regions: neither objects nor background.
    pub crowd: Vec<[f32; 4]>,
    /// The picture's label map at padded size, where the recipe asks for one and the store has it.
    pub semantic: Option<Target>,
}
