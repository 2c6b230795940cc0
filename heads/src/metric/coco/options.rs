//! What an evaluation is asked: thresholds, area ranges, limits. Holds the official defaults and nothing else.

use crate::{Error, Result};

/// What overlaps are taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IouType {
    /// Boxes.
    Bbox,
    /// Masks.
    Segm,
}

impl IouType {
    /// pycocotools' name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bbox => "bbox",
            Self::Segm => "segm",
        }
    }
}

/// Objects of `from` to `to` square pixels, both inclusive.
#[derive(Debug, Clone, PartialEq)]
pub struct AreaRange {
    /// `all`, `small`, `medium`, `large`, or a name of one's own.
    pub name: String,
    /// Least area that counts.
    pub from: f64,
    /// Greatest area that counts.
    pub to: f64,
}

impl AreaRange {
    /// A named range, both ends inclusive.
    pub fn new(name: &str, from: f64, to: f64) -> Self {
        Self { name: name.into(), from, to }
    }

    /// Whether an object of this area counts.
    pub fn holds(&self, area: f64) -> bool {
        (self.from..=self.to).contains(&area)
    }
}

/// Whether categories count (pycocotools' `useCats`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CategoryMode {
    /// Every category for itself; the numbers are means over them.
    Each,
    /// All as one: a detection may match an object of any category.
    Pooled,
}

/// Area of a detection that has both a box and a mask, in an evaluation of masks. It decides which unmatched
/// detections fall outside an area range, so only the numbers by size depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskArea {
    /// Pixels of the mask. Published numbers: Detectron2 and mmdetection remove the boxes before they evaluate masks.
    OfMask,
    /// Width times height of the box: what pycocotools' `loadRes` does with a file whose entries have both.
    OfBox,
}

/// What is asked; [`CocoOptions::default`] asks for the official numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct CocoOptions {
    /// IoU thresholds, ascending; .5, .55, … .95.
    pub thresholds: Vec<f64>,
    /// Recalls at which precision is sampled, ascending; 0, .01, … 1.
    pub recalls: Vec<f64>,
    /// Area ranges; all, small (to 32²), medium (to 96²), large.
    pub areas: Vec<AreaRange>,
    /// Greatest number of detections that count, of a picture and category, ascending; 1, 10, 100.
    pub max_detections: Vec<usize>,
    /// Whether categories count.
    pub categories: CategoryMode,
    /// Area of detections with a box in an evaluation of masks.
    pub mask_area: MaskArea,
    /// Threads that share the categories.
    pub threads: usize,
}

impl Default for CocoOptions {
    fn default() -> Self {
        Self {
            thresholds: linspace(0.5, 0.95, 10),
            recalls: linspace(0.0, 1.0, 101),
            areas: vec![
                AreaRange::new("all", 0.0, 1e10),
                AreaRange::new("small", 0.0, 1024.0),
                AreaRange::new("medium", 1024.0, 9216.0),
                AreaRange::new("large", 9216.0, 1e10),
            ],
            max_detections: vec![1, 10, 100],
            categories: CategoryMode::Each,
            mask_area: MaskArea::OfMask,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

impl CocoOptions {
    /// The same with limits put in order, if every value can be evaluated with.
    pub(super) fn checked(&self) -> Result<Self> {
        let invalid = |what: String| Err(Error::invalid(format!("COCO options: {what}")));
        for (name, values) in [("IoU thresholds", &self.thresholds), ("recalls", &self.recalls)] {
            let valid = !values.is_empty()
                && values.iter().all(|v| (0.0..=1.0).contains(v))
                && values.is_sorted_by(|a, b| a < b);
            if !valid {
                return invalid(format!("{name} are {values:?}, expected ascending numbers from 0 to 1"));
            }
        }
        if self.areas.is_empty() || !self.areas.iter().all(|a| a.from <= a.to) {
            return invalid(format!("area ranges are {:?}, expected some of from ≤ to", self.areas));
        }
        if self.max_detections.is_empty() || self.max_detections.contains(&0) {
            return invalid(format!("max_detections are {:?}, expected some above 0", self.max_detections));
        }
        let mut checked = self.clone();
        checked.max_detections.sort_unstable();
        checked.max_detections.dedup();
        checked.threads = self.threads.max(1);
        Ok(checked)
    }

    /// The greatest limit; the list of checked options is ascending and not empty.
    pub(super) fn limit(&self) -> usize {
        self.max_detections.iter().copied().max().unwrap_or_default()
    }
}

/// `numpy.linspace(from, to, count)`, bit for bit.
fn linspace(from: f64, to: f64, count: u32) -> Vec<f64> {
    let step = (to - from) / f64::from(count - 1);
    (0..count).map(|i| if i + 1 == count { to } else { f64::from(i) * step + from }).collect()
}
