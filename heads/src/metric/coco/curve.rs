//! Precision over recall, for plots.

use super::evaluation::Evaluation;
use super::mean::mean;
use super::selection::Selection;
use crate::Result;

/// Precision at each recall of the options: the area under it is the average precision.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Curve {
    /// From 0 to 1.
    pub recall: Vec<f64>,
    /// Mean over the thresholds and categories selected that have objects.
    pub precision: Vec<f64>,
    /// Mean score that reaches the recall; 0 counts for those that never do.
    pub scores: Vec<f64>,
}

impl Evaluation {
    /// The curve of one category, or the mean of all; `None` where no object counts.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] naming what was selected but not evaluated.
    pub fn curve(&self, selection: &Selection) -> Result<Option<Curve>> {
        let rows = self.selected(selection)?;
        let recalls = self.options().recalls.len();
        let along = |array: &[f64]| -> Option<Vec<f64>> {
            let at = |r| rows.thresholds.iter().map(move |&t| t * recalls + r);
            let values = |r| at(r).flat_map(|outer| rows.picks(outer, array)).collect::<Vec<_>>();
            (0..recalls).map(|r| mean(&values(r))).collect()
        };
        let curve = along(self.precision()).zip(along(self.scores()));
        let recall = || self.options().recalls.clone();
        Ok(curve.map(|(precision, scores)| Curve { recall: recall(), precision, scores }))
    }
}
