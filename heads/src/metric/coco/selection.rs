//! Parts of an evaluation, and means over them. Must not decide which parts are published.

use super::evaluation::{ABSENT, Evaluation};
use super::mean::mean;
use crate::{Error, Result};

/// Part of an evaluation that a mean is taken over.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// One IoU threshold, exactly as in the options; all without.
    pub threshold: Option<f64>,
    /// Id of one category; all without.
    pub category: Option<i64>,
    /// Name of the area range.
    pub area: String,
    /// Limit of detections.
    pub max_detections: usize,
}

impl Default for Selection {
    /// What the first of the twelve numbers is a mean over.
    fn default() -> Self {
        Self { threshold: None, category: None, area: "all".into(), max_detections: 100 }
    }
}

impl Evaluation {
    /// Mean of the precisions selected, between 0 and 1; `None` where no category has an object that counts, or
    /// nothing of the evaluation is selected.
    pub fn mean_precision(&self, selection: &Selection) -> Option<f64> {
        let r_count = self.options().recalls.len();
        let rows = self.selected(selection).ok()?;
        let values = rows.thresholds.iter().flat_map(|&t| (0..r_count).map(move |r| t * r_count + r));
        mean(&values.flat_map(|outer| rows.picks(outer, self.precision())).collect::<Vec<_>>())
    }

    /// Mean of the greatest recalls selected, as for [`mean_precision`](Self::mean_precision).
    pub fn mean_recall(&self, selection: &Selection) -> Option<f64> {
        let rows = self.selected(selection).ok()?;
        mean(&rows.thresholds.iter().flat_map(|&t| rows.picks(t, self.recall())).collect::<Vec<_>>())
    }

    /// Positions selected on every axis.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming what the evaluation does not have.
    pub(super) fn selected(&self, selection: &Selection) -> Result<Rows> {
        let missing = |what: &str, found: String, expected: String| {
            Error::invalid(format!("{what} {found} was not evaluated, expected one of {expected}"))
        };
        let options = self.options();
        let thresholds = match selection.threshold {
            None => (0..options.thresholds.len()).collect(),
            Some(threshold) => {
                let position = options.thresholds.iter().position(|&t| t == threshold);
                let list = || format!("{:?}", options.thresholds);
                vec![position.ok_or_else(|| missing("IoU threshold", threshold.to_string(), list()))?]
            }
        };
        let categories = match selection.category {
            None => (0..self.categories().len()).collect(),
            Some(id) => {
                let position = self.categories().iter().position(|category| category.id == id);
                let list = || format!("{} categories", self.categories().len());
                vec![position.ok_or_else(|| missing("category", id.to_string(), list()))?]
            }
        };
        let area = options.areas.iter().position(|area| area.name == selection.area);
        let names = || format!("{:?}", options.areas.iter().map(|area| &area.name).collect::<Vec<_>>());
        let area = area.ok_or_else(|| missing("area range", selection.area.clone(), names()))?;
        let max = selection.max_detections;
        let limit = options.max_detections.iter().position(|&limit| limit == max);
        let list = || format!("{:?}", options.max_detections);
        let limit = limit.ok_or_else(|| missing("limit of", max.to_string(), list()))?;
        let limits = options.max_detections.len();
        Ok(Rows {
            thresholds,
            categories,
            inner: area * limits + limit,
            block: options.areas.len() * limits,
            all_categories: self.categories().len(),
        })
    }
}

/// What a selection picks of the arrays.
pub(super) struct Rows {
    /// Positions of thresholds.
    pub(super) thresholds: Vec<usize>,
    categories: Vec<usize>,
    /// Position of area range and limit in a block.
    inner: usize,
    /// Area ranges times limits.
    block: usize,
    all_categories: usize,
}

impl Rows {
    /// The values of the categories selected, those that are there, in `[outer, K, A, M]`.
    pub(super) fn picks<'a>(&'a self, outer: usize, array: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        let at = move |&category: &usize| {
            array[(outer * self.all_categories + category) * self.block + self.inner]
        };
        self.categories.iter().map(at).filter(|&value| value > ABSENT)
    }
}
