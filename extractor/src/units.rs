//! Which unit next: a worker's own first, then whatever is left uncommitted. No coordinator: claims only keep
//! live workers from doing the same unit at the same time.

use crate::Result;
use crate::counters::Counters;
use crate::worker::Worker;
use featcache_store::{Claim, FeatureSink, Unit};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a worker with nothing left to claim looks whether the others are done.
const POLL: Duration = Duration::from_millis(200);
/// How long it looks on before it does their units again: a worker that hangs must not hold up the store,
/// and a unit done twice is harmless.
const PATIENCE: Duration = Duration::from_secs(600);

/// A unit's place in its plan.
type Place = (usize, u64);

/// The units that one worker does.
pub(crate) struct Units<'a, S> {
    sink: &'a S,
    worker: Worker,
    stop: &'a AtomicBool,
    counters: &'a Counters,
    /// Missing when this run began, with their rows.
    missing_at_start: Vec<(Place, u64)>,
    /// Handed out by this run.
    taken: HashSet<Place>,
    /// Still to be looked at in this pass.
    pass: std::vec::IntoIter<Unit>,
    /// Since when every pass has found all units claimed by others.
    idle_since: Option<Instant>,
}

impl<'a, S: FeatureSink> Units<'a, S> {
    /// The units that `sink` misses.
    pub(crate) fn new(
        sink: &'a S,
        worker: Worker,
        stop: &'a AtomicBool,
        counters: &'a Counters,
    ) -> Result<Self> {
        let missing = sink.missing_units()?;
        let missing_at_start = missing.iter().map(|unit| (place(unit), unit.row_count())).collect();
        let pass = worker.order(missing).into_iter();
        Ok(Self {
            sink,
            worker,
            stop,
            counters,
            missing_at_start,
            taken: HashSet::new(),
            pass,
            idle_since: None,
        })
    }

    /// The next unit and its claim; `None` when all are committed or in this worker's hands, or on stop.
    /// Waits while live workers hold all that is left.
    pub(crate) fn next(&mut self) -> Result<Option<(Unit, Option<Claim>)>> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            for unit in self.pass.by_ref() {
                if self.taken.contains(&place(&unit)) {
                    continue;
                }
                if let Some(claim) = self.sink.claim(&unit)? {
                    self.taken.insert(place(&unit));
                    self.idle_since = None;
                    return Ok(Some((unit, Some(claim))));
                }
            }
            let left = self.left()?;
            if left.is_empty() {
                return Ok(None);
            }
            let idle = self.idle_since.get_or_insert_with(Instant::now).elapsed();
            if idle >= PATIENCE
                && let Some(unit) = left.first()
            {
                log::warn!("a worker has held a unit for {} s: doing it here too", PATIENCE.as_secs());
                self.taken.insert(place(unit));
                return Ok(Some((unit.clone(), None)));
            }
            if !idle.is_zero() {
                std::thread::sleep(POLL);
            }
            self.pass = self.worker.order(left).into_iter();
        }
    }

    /// Units that neither this run has taken nor anybody committed.
    fn left(&mut self) -> Result<Vec<Unit>> {
        let missing = self.sink.missing_units()?;
        let still: HashSet<Place> = missing.iter().map(place).collect();
        let elsewhere = self
            .missing_at_start
            .iter()
            .filter(|(place, _)| !still.contains(place) && !self.taken.contains(place))
            .map(|(_, rows)| rows)
            .sum();
        self.counters.set_elsewhere(elsewhere);
        Ok(missing.into_iter().filter(|unit| !self.taken.contains(&place(unit))).collect())
    }
}

fn place(unit: &Unit) -> Place {
    (unit.bucket, unit.number)
}
