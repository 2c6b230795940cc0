//! COCO's detection metric as `pycocotools.cocoeval` 2.0.11 defines it: the twelve numbers, what they are made of,
//! and what became of every detection. Must not know models, heads or torch.
//!
//! In reading order: what is true ([`ground_truth`], [`instances`]), what was found ([`detection`], [`results`]),
//! what is asked ([`options`]), how the two meet (`cell`, `matching`, `tally`), and what comes of it
//! ([`evaluation`], [`selection`], [`summary`], [`curve`], [`matches`](mod@matches)).
//!
//! Where this differs from pycocotools, on purpose:
//! - a detection of an unknown picture or category is an error, not dropped in silence;
//! - ids do not steer the numbers: pycocotools takes a match with the annotation of id 0 for a miss, and loads the
//!   last of several annotations of one id several times (here an error);
//! - masks of another size than their picture are an error, not an IoU of -1.

mod cell;
pub mod curve;
pub mod detection;
pub mod evaluation;
pub mod ground_truth;
mod grouping;
pub mod instances;
mod list;
pub mod matches;
mod matching;
mod mean;
pub mod options;
mod overlap;
pub mod results;
pub mod selection;
pub mod summary;
mod tally;
mod workers;

pub use curve::Curve;
pub use detection::Detection;
pub use evaluation::{ABSENT, Counts, Evaluation, evaluate};
pub use ground_truth::{GroundTruth, Object, Picture};
pub use matches::{Fate, MatchStatus, Matches, matches};
pub use options::{AreaRange, CategoryMode, CocoOptions, IouType, MaskArea};
pub use selection::Selection;
pub use summary::{CategoryScore, Summary};
