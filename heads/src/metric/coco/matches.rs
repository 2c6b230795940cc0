//! What became of every detection at one threshold, and which objects nobody found: for pages of the best and worst.

use super::cell::{Context, Shapes};
use super::detection::Detection;
use super::ground_truth::GroundTruth;
use super::grouping::groups;
use super::matching::Trial;
use super::options::{AreaRange, CocoOptions, IouType};
use super::workers::in_parallel;
use crate::{Error, Result};

/// What a detection counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It found an object.
    TruePositive,
    /// It found nothing, or what a better one had found.
    FalsePositive,
    /// It lies in a crowd, or its object or itself is beyond the official 10^10 square pixels.
    Ignored,
    /// Its picture and category had enough detections of higher score.
    BeyondLimit,
}

/// What became of one detection.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct MatchStatus {
    /// What it counts as.
    pub fate: Fate,
    /// Position in [`GroundTruth::objects`] of the object it took, if any.
    pub object: Option<usize>,
    /// Overlap with that object; without one the greatest with any object of its category in its picture, 0 if there
    /// is none. Beyond the limit it is not computed.
    pub iou: f64,
}

/// Fates of detections and objects at one threshold.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Matches {
    /// One a detection, in the order given.
    pub detections: Vec<MatchStatus>,
    /// Positions of the objects that count and were not found, ascending.
    pub missed: Vec<usize>,
}

/// Matches `detections` at an IoU `threshold`, objects of all sizes, under the greatest limit of the options.
///
/// # Errors
/// Those of [`evaluate`](super::evaluate), and a threshold that is not within 0 and 1.
pub fn matches(
    truth: &GroundTruth,
    detections: &[Detection],
    iou: IouType,
    threshold: f64,
    options: &CocoOptions,
) -> Result<Matches> {
    let options = options.checked()?;
    if !(0.0..=1.0).contains(&threshold) {
        return Err(Error::invalid(format!("IoU threshold is {threshold}, expected 0 to 1")));
    }
    let all = AreaRange::new("all", 0.0, 1e10);
    let context = Context { truth, detections, iou, mask_area: options.mask_area };
    let groups = groups(truth, detections, options.categories)?;
    let parts = in_parallel(groups, options.threads, |mut group| {
        group.sort();
        let (mut shapes, mut trial) = (Shapes::default(), Trial::default());
        let (mut fates, mut missed) = (Vec::with_capacity(group.len()), Vec::new());
        for cell in group.cells(options.limit()) {
            context.shapes(&cell, &mut shapes)?;
            let ignored = |i: usize| shapes.crowd[i] || !all.holds(shapes.truth_areas[i]);
            trial.reset((0..cell.truth.len()).map(ignored));
            trial.run(&shapes.overlaps, &shapes.crowd, threshold, |found, choice| {
                let fate = match choice {
                    Some((_, false)) => Fate::TruePositive,
                    Some((_, true)) => Fate::Ignored,
                    None if all.holds(shapes.found_areas[found]) => Fate::FalsePositive,
                    None => Fate::Ignored,
                };
                let iou = match choice {
                    Some((object, _)) => shapes.overlaps.row(found)[object],
                    None => shapes.overlaps.best(found).max(0.0),
                };
                let object = choice.map(|(object, _)| cell.truth[object].index as usize);
                fates.push((cell.found[found].index as usize, MatchStatus { fate, object, iou }));
            });
            let beyond = MatchStatus { fate: Fate::BeyondLimit, object: None, iou: 0.0 };
            fates.extend(cell.beyond.iter().map(|found| (found.index as usize, beyond)));
            let lost = |&i: &usize| !ignored(i) && !trial.taken(i);
            missed.extend((0..cell.truth.len()).filter(lost).map(|i| cell.truth[i].index as usize));
        }
        Ok((fates, missed))
    })?;
    // Every detection is in exactly one cell.
    let mut statuses =
        vec![MatchStatus { fate: Fate::BeyondLimit, object: None, iou: 0.0 }; detections.len()];
    let mut missed = Vec::new();
    for (fates, lost) in parts {
        fates.into_iter().for_each(|(index, status)| statuses[index] = status);
        missed.extend(lost);
    }
    missed.sort_unstable();
    Ok(Matches { detections: statuses, missed })
}
