//! What the stages of an extraction count, for whoever draws or reports it.

use featcache_store::fill::FillCounters;
use featcache_store::{Plan, Unit};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counters of one extraction. Stages add, one place reads.
#[derive(Debug, Default)]
pub struct Counters {
    fill: FillCounters,
    computed: AtomicU64,
    unreadable: u64,
    waiting_for_decode: AtomicU64,
    computing: AtomicU64,
    waiting_for_writer: AtomicU64,
}

/// The stage that holds the others up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bottleneck {
    /// Too early to say.
    Unknown,
    /// Reading, decoding and resizing pictures.
    Decode,
    /// The backbone: as it should be.
    Backbone,
    /// Encoding and writing features.
    Store,
}

impl Bottleneck {
    /// As a line of progress says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "starting",
            Self::Decode => "decode-bound",
            Self::Backbone => "backbone-bound",
            Self::Store => "store-bound",
        }
    }
}

impl std::fmt::Display for Bottleneck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Counters {
    /// Counters of a run that has the `missing` units of `plan` before it.
    pub fn new(plan: &Plan, missing: &[Unit]) -> Self {
        let unreadable = plan.rows().iter().filter(|row| row.place.is_err()).count() as u64;
        Self { fill: FillCounters::new(plan, missing), unreadable, ..Self::default() }
    }

    /// Rows, units and bytes of the store.
    pub fn fill(&self) -> &FillCounters {
        &self.fill
    }

    /// Rows that this run has put through the backbone.
    pub fn computed(&self) -> u64 {
        self.computed.load(Relaxed)
    }

    /// Rows without features as far as this run knows: those whose file could not be read when the dataset
    /// was listed, and those that failed since.
    pub fn failed(&self) -> u64 {
        self.unreadable + self.fill.failed()
    }

    /// Seconds that the device thread waited for decoded pictures, computed, and waited for the writer.
    pub fn device_seconds(&self) -> [f64; 3] {
        [&self.waiting_for_decode, &self.computing, &self.waiting_for_writer]
            .map(|counter| counter.load(Relaxed) as f64 * 1e-9)
    }

    /// The stage that the device thread has lost most time to, if that is a tenth or more of its time.
    pub fn bottleneck(&self) -> Bottleneck {
        let [decode, computing, writer] = self.device_seconds();
        let all = decode + computing + writer;
        if self.computed() == 0 || all <= 0.0 {
            Bottleneck::Unknown
        } else if decode.max(writer) < 0.1 * all {
            Bottleneck::Backbone
        } else if decode > writer {
            Bottleneck::Decode
        } else {
            Bottleneck::Store
        }
    }

    pub(crate) fn add_computed(&self, rows: u64) {
        self.computed.fetch_add(rows, Relaxed);
    }

    pub(crate) fn add_decode_wait(&self, time: Duration) {
        self.waiting_for_decode.fetch_add(nanos(time), Relaxed);
    }

    pub(crate) fn add_computing(&self, time: Duration) {
        self.computing.fetch_add(nanos(time), Relaxed);
    }

    pub(crate) fn add_writer_wait(&self, time: Duration) {
        self.waiting_for_writer.fetch_add(nanos(time), Relaxed);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
