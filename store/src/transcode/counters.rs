//! What the stages of a transcoding count, for whoever draws or reports it.

use crate::sink::Appended;
use crate::{Plan, Unit};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Share of its time from which on a stage that does not wait holds the others up.
const BUSY: f64 = 0.9;

/// Counters of one transcoding. Stages add, one place reads.
#[derive(Debug, Default)]
pub struct TranscodeCounters {
    total: u64,
    /// Rows that were missing at the start.
    missing: u64,
    done: AtomicU64,
    elsewhere: AtomicU64,
    written: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    bytes_read: AtomicU64,
    units: AtomicU64,
    pub(crate) reading: Clock,
    pub(crate) sending: Clock,
    pub(crate) receiving: Clock,
    pub(crate) writing: Clock,
}

/// Nanoseconds that a stage has spent on something.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = work();
        self.0.fetch_add(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX), Relaxed);
        done
    }

    fn seconds(&self) -> f64 {
        self.0.load(Relaxed) as f64 * 1e-9
    }
}

impl TranscodeCounters {
    /// Counters of a run that has the `missing` units of `plan` before it.
    pub fn new(plan: &Plan, missing: &[Unit]) -> Self {
        let total = plan.rows().len() as u64;
        let missing: u64 = missing.iter().map(Unit::row_count).sum();
        Self { total, missing, done: total.saturating_sub(missing).into(), ..Self::default() }
    }

    /// Rows of the target.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Rows done: failed ones, those of earlier runs and those of other workers included.
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed) + self.elsewhere.load(Relaxed)
    }

    /// Rows with features that this run has written.
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Rows without features that this run has written.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Bytes of features that this run has written.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Bytes of features that this run has read.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Relaxed)
    }

    /// Units committed in this run.
    pub fn units(&self) -> u64 {
        self.units.load(Relaxed)
    }

    /// What holds the others up, as far as can be said.
    pub fn bottleneck(&self) -> &'static str {
        let share = |busy: &Clock, waiting: &Clock| {
            let busy = busy.seconds();
            busy / (busy + waiting.seconds()).max(f64::MIN_POSITIVE)
        };
        match (share(&self.reading, &self.sending), share(&self.writing, &self.receiving)) {
            _ if self.written() == 0 => "starting",
            (_, writing) if writing > BUSY => "disk-bound",
            (reading, _) if reading > BUSY => "read-bound",
            _ => "encode-bound",
        }
    }

    /// Rows that this run has taken or that nobody has done: the others of those that were missing are done
    /// elsewhere.
    pub(crate) fn set_left(&self, rows: u64) {
        self.elsewhere.store(self.missing.saturating_sub(rows), Relaxed);
    }

    pub(crate) fn add_read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn add_row(&self, row: Appended) {
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

    pub(crate) fn add_unit(&self) {
        self.units.fetch_add(1, Relaxed);
    }
}
