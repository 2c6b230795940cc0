//! What filling a store counts, for whoever draws or reports it.

use crate::sink::Appended;
use crate::{Plan, Unit};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of one run. Stages add, one place reads.
#[derive(Debug, Default)]
pub struct FillCounters {
    total: u64,
    /// Rows that were missing at the start.
    missing: u64,
    done: AtomicU64,
    elsewhere: AtomicU64,
    written: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    units: AtomicU64,
}

impl FillCounters {
    /// Counters of a run that has the `missing` units of `plan` before it.
    pub fn new(plan: &Plan, missing: &[Unit]) -> Self {
        let total = plan.rows().len() as u64;
        let missing: u64 = missing.iter().map(Unit::row_count).sum();
        Self { total, missing, done: total.saturating_sub(missing).into(), ..Self::default() }
    }

    /// Rows of the plan.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Rows done: failed ones, those of earlier runs and those of other workers included.
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed) + self.elsewhere()
    }

    /// Rows that other workers have committed while this run lasted.
    pub fn elsewhere(&self) -> u64 {
        self.elsewhere.load(Relaxed)
    }

    /// Rows with features that this run has appended.
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Rows without features that this run has appended.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Bytes that the sink has made of this run's features.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Units committed in this run.
    pub fn units(&self) -> u64 {
        self.units.load(Relaxed)
    }

    /// A row was appended.
    pub fn add_row(&self, row: Appended) {
        self.done.fetch_add(1, Relaxed);
        match row {
            Appended::Features { bytes } => {
                self.written.fetch_add(1, Relaxed);
                self.bytes.fetch_add(bytes, Relaxed);
            }
            Appended::Failed => {
                self.failed.fetch_add(1, Relaxed);
            }
        }
    }

    /// A unit was committed.
    pub fn add_unit(&self) {
        self.units.fetch_add(1, Relaxed);
    }

    /// Rows that this run has taken or that nobody has done: the others of those that were missing are done
    /// elsewhere.
    pub(crate) fn set_left(&self, rows: u64) {
        self.elsewhere.store(self.missing.saturating_sub(rows), Relaxed);
    }
}
