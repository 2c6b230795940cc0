//! What the stages of a transcoding count, for whoever draws or reports it.

use crate::fill::FillCounters;
use crate::{Plan, Unit};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Share of its time from which on a stage that does not wait holds the others up.
const BUSY: f64 = 0.9;

/// Counters of one transcoding. Stages add, one place reads.
#[derive(Debug, Default)]
pub struct TranscodeCounters {
    fill: FillCounters,
    bytes_read: AtomicU64,
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
        Self { fill: FillCounters::new(plan, missing), ..Self::default() }
    }

    /// Rows, units and bytes of the target.
    pub fn fill(&self) -> &FillCounters {
        &self.fill
    }

    /// Bytes of features that this run has read.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Relaxed)
    }

    /// What holds the others up, as far as can be said.
    pub fn bottleneck(&self) -> &'static str {
        let share = |busy: &Clock, waiting: &Clock| {
            let busy = busy.seconds();
            busy / (busy + waiting.seconds()).max(f64::MIN_POSITIVE)
        };
        match (share(&self.reading, &self.sending), share(&self.writing, &self.receiving)) {
            _ if self.fill.written() == 0 => "starting",
            (_, writing) if writing > BUSY => "disk-bound",
            (reading, _) if reading > BUSY => "read-bound",
            _ => "encode-bound",
        }
    }

    pub(crate) fn add_read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Relaxed);
    }
}
