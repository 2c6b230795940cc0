//! What heads say of candidates: scores by seed, and losses against the reference of the same seed. Pure
//! arithmetic.
//!
//! Heads of one seed see the same rows in the same order and start from the same weights, whatever the
//! candidate, so a loss is a difference within a seed. It still has noise of its own: two trainings that differ
//! in the last bit part ways.

use featcache_store::Spread;
use serde::Serialize;

/// A candidate with what was measured of it.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// The encodings, as `--store` takes them.
    pub store: String,
    /// Where the candidate comes from.
    pub origin: super::candidate::Origin,
    /// Bytes of an image: payload, scales and offsets.
    pub bytes_per_image: f64,
    /// Over those of the reference.
    pub of_reference: f64,
    /// Over those of all levels in bf16.
    pub of_bf16: f64,
    /// The metric of every seed's head, 0 to 1.
    pub scores: Vec<f64>,
    /// Their median and extremes.
    pub metric: Spread,
    /// Median and extremes of the mask AP, of detectors whose truth has masks.
    pub mask_ap: Option<Spread>,
    /// What the heads lose that were trained on the candidate; `None` for the reference, and where the
    /// reference's heads score nothing.
    pub loss: Option<Loss>,
    /// What the reference's heads lose when they are given the candidate's features, which they were not
    /// trained on: no noise of training is in it.
    pub loss_untrained: Option<Loss>,
}

/// Losses relative to the reference of the same seed: 0.01 is a metric of 0.495 in place of 0.5.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Loss {
    /// Of every seed whose reference scores more than nothing.
    pub by_seed: Vec<f64>,
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
    /// Half the width of the 95 % interval of their mean (Student's t); `None` of one seed.
    pub uncertainty: Option<f64>,
    /// Whether that interval holds zero: the seeds do not tell the loss from none.
    pub within_noise: Option<bool>,
}

impl Loss {
    /// The losses of scores against the reference's, seed by seed; `None` where no seed can tell.
    pub fn of(reference: &[f64], scores: &[f64]) -> Option<Self> {
        let pairs = reference.iter().zip(scores).filter(|(reference, _)| **reference > 0.0);
        let by_seed: Vec<f64> = pairs.map(|(reference, score)| (reference - score) / reference).collect();
        let mut sorted = by_seed.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, greatest) = (*sorted.first()?, *sorted.last()?);
        let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        let (mean, uncertainty) = interval(&by_seed);
        let within_noise = uncertainty.map(|half| mean.abs() <= half);
        Some(Self { by_seed, median, least, greatest, uncertainty, within_noise })
    }
}

/// The 0.975 quantiles of Student's t for 1, 2, … degrees of freedom; beyond, that of many.
const STUDENT: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
const STUDENT_OF_MANY: f64 = 2.2;

/// The mean and half the width of its 95 % interval.
fn interval(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    if values.len() < 2 {
        return (mean, None);
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let student = STUDENT.get(values.len() - 2).copied().unwrap_or(STUDENT_OF_MANY);
    (mean, Some(student * (variance / n).sqrt()))
}
