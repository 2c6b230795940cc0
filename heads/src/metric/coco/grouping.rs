//! Sorts detections and objects into groups, one a category, and groups into cells, one a picture. Copies positions
//! and scores only.

use super::detection::Detection;
use super::ground_truth::GroundTruth;
use super::options::CategoryMode;
use crate::{Error, Result};

/// A detection's place in its group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// Position of its picture.
    pub(super) picture: u32,
    /// Position among all detections.
    pub(super) index: u32,
    /// Its confidence.
    pub(super) score: f64,
}

/// An object's place in its group.
#[derive(Debug, Clone, Copy)]
pub(super) struct True {
    /// Position of its picture.
    pub(super) picture: u32,
    /// Position among all objects.
    pub(super) index: u32,
}

/// Everything of one category.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    found: Vec<Found>,
    truth: Vec<True>,
}

/// What meets: one category in one picture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell<'a> {
    /// Position of the picture.
    pub(super) picture: u32,
    /// Detections by falling score, equal ones in the order given, no more than the limit.
    pub(super) found: &'a [Found],
    /// Those beyond the limit.
    pub(super) beyond: &'a [Found],
    /// Objects in the order given.
    pub(super) truth: &'a [True],
}

/// Groups by ascending category id, or one of all. Nothing is in order before [`Group::sort`].
///
/// # Errors
/// [`crate::Error::Invalid`] naming the first detection that is faulty or of an unknown picture or category.
pub(super) fn groups(
    truth: &GroundTruth,
    detections: &[Detection],
    mode: CategoryMode,
) -> Result<Vec<Group>> {
    let mut groups = vec![Group::default(); truth.categories().len()];
    for (number, (detection, index)) in detections.iter().zip(0u32..).enumerate() {
        let [picture, category] = locate(truth, detection, number)?;
        let found = Found { picture, index, score: detection.score };
        groups[category as usize].found.push(found);
    }
    for (&[picture, category], index) in truth.places().iter().zip(0u32..) {
        groups[category as usize].truth.push(True { picture, index });
    }
    Ok(match mode {
        CategoryMode::Each => groups,
        // Official order of equal scores: by category first.
        CategoryMode::Pooled => vec![Group {
            found: groups.iter().flat_map(|group| group.found.iter().copied()).collect(),
            truth: groups.iter().flat_map(|group| group.truth.iter().copied()).collect(),
        }],
    })
}

/// Positions of a detection's picture and category, if it can be counted at all.
fn locate(truth: &GroundTruth, detection: &Detection, number: usize) -> Result<[u32; 2]> {
    let place = match detection.fault() {
        Some(fault) => Err(fault),
        None => truth.place(detection.image_id, detection.category_id),
    };
    let fitting = place.and_then(|[picture, category]| {
        let size = truth.pictures()[picture as usize].size;
        match (&detection.mask, size) {
            (Some(mask), Some(size)) if mask.size() != size => {
                Err(format!("mask is {}, its picture is {size}", mask.size()))
            }
            _ => Ok([picture, category]),
        }
    });
    fitting.map_err(|what| Error::invalid(format!("{}: {what}", name(detection, number))))
}

/// How a detection is named in errors.
pub(super) fn name(detection: &Detection, number: usize) -> String {
    format!("detection {number} (image {}, category {})", detection.image_id, detection.category_id)
}

impl Group {
    /// Brings detections and objects into the official order: by picture, then falling score, then as given.
    pub(super) fn sort(&mut self) {
        self.found.sort_by(|a, b| {
            // Scores are finite, so that they have an order; 0 and -0 are equal, as in numpy.
            let scores = b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal);
            a.picture.cmp(&b.picture).then(scores)
        });
        self.truth.sort_by_key(|object| object.picture);
    }

    /// The cells of a sorted group by picture; pictures with neither detections nor objects have none.
    pub(super) fn cells(&self, limit: usize) -> impl Iterator<Item = Cell<'_>> {
        let (mut found, mut truth) = (self.found.as_slice(), self.truth.as_slice());
        std::iter::from_fn(move || {
            let first = [found.first().map(|f| f.picture), truth.first().map(|t| t.picture)];
            let picture = first.into_iter().flatten().min()?;
            let here = found.iter().take_while(|f| f.picture == picture).count();
            let objects = truth.iter().take_while(|t| t.picture == picture).count();
            let (cell_found, cell_truth) = (&found[..here], &truth[..objects]);
            (found, truth) = (&found[here..], &truth[objects..]);
            let (kept, beyond) = cell_found.split_at(here.min(limit));
            Some(Cell { picture, found: kept, beyond, truth: cell_truth })
        })
    }

    /// Number of detections, those beyond any limit included.
    pub(super) fn len(&self) -> usize {
        self.found.len()
    }
}
