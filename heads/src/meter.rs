//! Rates of a run between two lines of its log. Must not decide when a line is due.

use crate::loader::Loader;
use std::time::{Duration, Instant};

/// Counts from one line of the log to the next.
#[derive(Debug)]
pub(crate) struct Meter {
    at: Instant,
    step: u64,
    rows: u64,
    waited: Duration,
    bytes: u64,
}

/// What happened a second, and the share of time spent waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    pub(crate) steps: f64,
    pub(crate) rows: f64,
    pub(crate) waited: f64,
    pub(crate) gigabytes: f64,
}

impl Meter {
    /// Starts to count at this step.
    pub(crate) fn new(step: u64) -> Self {
        Self { at: Instant::now(), step, rows: 0, waited: Duration::ZERO, bytes: 0 }
    }

    /// Counts the rows of a step.
    pub(crate) fn add(&mut self, rows: usize) {
        self.rows += rows as u64;
    }

    /// The rates since the last call, at this step.
    pub(crate) fn lap<T: Send>(&mut self, step: u64, loader: &Loader<'_, T>) -> Rates {
        let seconds = self.at.elapsed().as_secs_f64().max(1e-9);
        let (waited, bytes) = (loader.waited(), loader.bytes());
        let rates = Rates {
            steps: (step - self.step) as f64 / seconds,
            rows: self.rows as f64 / seconds,
            waited: (waited - self.waited).as_secs_f64() / seconds,
            gigabytes: (bytes - self.bytes) as f64 / 1e9 / seconds,
        };
        *self = Self { at: Instant::now(), step, rows: 0, waited, bytes };
        rates
    }
}
