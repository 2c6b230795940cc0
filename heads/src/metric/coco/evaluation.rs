//! Evaluates detections against the truth: COCO's arrays of precision, recall and scores. Means over them are
//! [`selection`](super::selection)'s.

use super::cell::Context;
use super::detection::Detection;
use super::ground_truth::GroundTruth;
use super::grouping::groups;
use super::options::{CategoryMode, CocoOptions, IouType};
pub use super::tally::ABSENT;
use super::tally::Tally;
use super::workers::in_parallel;
use crate::Result;
use featcache_store::Category;

/// Lengths of the axes of an evaluation's arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// T: IoU thresholds.
    pub thresholds: usize,
    /// R: recalls at which precision is sampled.
    pub recalls: usize,
    /// K: categories, or 1 where they are pooled.
    pub categories: usize,
    /// A: area ranges.
    pub areas: usize,
    /// M: limits of detections.
    pub limits: usize,
}

/// Precision, recall and scores; [`ABSENT`] where a category has no object that counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    iou: IouType,
    options: CocoOptions,
    categories: Vec<Category>,
    precision: Vec<f64>,
    recall: Vec<f64>,
    scores: Vec<f64>,
    objects: Vec<usize>,
}

/// Evaluates `detections` on the pictures of `truth`.
///
/// # Errors
/// [`crate::Error::Invalid`] for options that cannot be evaluated with, naming the first detection of an unknown picture or
/// category or with numbers that are not finite; for masks also naming what has no usable mask at its picture's size.
pub fn evaluate(
    truth: &GroundTruth,
    detections: &[Detection],
    iou: IouType,
    options: &CocoOptions,
) -> Result<Evaluation> {
    let options = options.checked()?;
    let groups = groups(truth, detections, options.categories)?;
    let context = Context { truth, detections, iou, mask_area: options.mask_area };
    let tallies = in_parallel(groups, options.threads, |group| Tally::of(group, &context, &options))?;
    let categories = match options.categories {
        CategoryMode::Each => truth.categories().to_vec(),
        // pycocotools' id of the one category.
        CategoryMode::Pooled => vec![Category { id: -1, name: "all".into(), supercategory: None }],
    };
    Ok(Evaluation::gather(iou, options, categories, &tallies))
}

impl Evaluation {
    fn gather(iou: IouType, options: CocoOptions, categories: Vec<Category>, tallies: &[Tally]) -> Self {
        let [t_count, r_count] = [options.thresholds.len(), options.recalls.len()];
        let block = options.areas.len() * options.max_detections.len();
        // Each category's [A, M] blocks go where they belong in [T, R, K, A, M].
        let arrange = |of: fn(&Tally) -> &[f64], outer: usize| -> Vec<f64> {
            let mut array = Vec::with_capacity(outer * tallies.len() * block);
            for at in 0..outer {
                tallies.iter().for_each(|tally| array.extend(&of(tally)[at * block..][..block]));
            }
            array
        };
        Self {
            iou,
            precision: arrange(|tally| &tally.precision, t_count * r_count),
            recall: arrange(|tally| &tally.recall, t_count),
            scores: arrange(|tally| &tally.scores, t_count * r_count),
            objects: tallies.iter().flat_map(|tally| tally.objects.iter().copied()).collect(),
            options,
            categories,
        }
    }

    /// What overlaps were taken of.
    pub fn iou(&self) -> IouType {
        self.iou
    }

    /// What was asked, limits in ascending order.
    pub fn options(&self) -> &CocoOptions {
        &self.options
    }

    /// Categories by ascending id; one of id -1 where they are pooled.
    pub fn categories(&self) -> &[Category] {
        &self.categories
    }

    /// Lengths of the axes.
    pub fn counts(&self) -> Counts {
        Counts {
            thresholds: self.options.thresholds.len(),
            recalls: self.options.recalls.len(),
            categories: self.categories.len(),
            areas: self.options.areas.len(),
            limits: self.options.max_detections.len(),
        }
    }

    /// Precision `[T, R, K, A, M]`: the greatest at or beyond each recall.
    pub fn precision(&self) -> &[f64] {
        &self.precision
    }

    /// Greatest recall `[T, K, A, M]`.
    pub fn recall(&self) -> &[f64] {
        &self.recall
    }

    /// Scores of the detections that reach each recall, `[T, R, K, A, M]`; 0 where none does.
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }

    /// Objects that count, `[K, A]`.
    pub fn objects(&self) -> &[usize] {
        &self.objects
    }
}
