//! What several measurements of one thing come to.

use serde::Serialize;

/// Median and extremes of some measurements.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    /// The middle one (of an even number, the upper middle).
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of these values; all are NaN where there is none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
        Self { median: at(values.len() / 2), min: at(0), max: at(values.len().saturating_sub(1)) }
    }
}
