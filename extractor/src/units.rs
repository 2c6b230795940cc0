//! Which unit next: a worker's own first, then whatever is left uncommitted. No coordinator: claims only keep
//! live workers from doing the same unit at the same time.

use crate::Result;
use crate::counters::Counters;
use crate::halt::Halt;
use crate::worker::Worker;
use featcache_store::{Claim, FeatureSink, Unit};
use std::collections::HashSet;
use std::time::Duration;

/// How often a worker with nothing left to claim looks whether the others are done.
const POLL: Duration = Duration::from_millis(200);
/// A unit's place in its plan.
type Place = (usize, u64);

/// The units that one worker does.
pub(crate) struct Units<'a, S> {
    sink: &'a S,
    worker: Worker,
    halt: &'a Halt<'a>,
    counters: &'a Counters,
    /// Missing when this run began, with their rows.
    missing_at_start: Vec<(Place, u64)>,
    /// Handed out by this run.
    taken: HashSet<Place>,
    /// Still to be looked at in this pass.
    pass: std::vec::IntoIter<Unit>,
    /// The last pass has found all units claimed by others.
    waiting: bool,
}

impl<'a, S: FeatureSink> Units<'a, S> {
    /// The units that `sink` misses.
    pub(crate) fn new(
        sink: &'a S,
        worker: Worker,
        halt: &'a Halt<'a>,
        counters: &'a Counters,
    ) -> Result<Self> {
        let missing = sink.missing_units()?;
        let missing_at_start = missing.iter().map(|unit| (place(unit), unit.row_count())).collect();
        let pass = worker.order(missing).into_iter();
        Ok(Self {
            sink,
            worker,
            halt,
            counters,
            missing_at_start,
            taken: HashSet::new(),
            pass,
            waiting: false,
        })
    }

    /// The next unit and its claim; `None` when all are committed or in this worker's hands, or when the
    /// run is to end. Waits while live workers hold all that is left: however long they take, as a claim
    /// says nothing of a worker that hangs.
    pub(crate) fn next(&mut self) -> Result<Option<(Unit, Claim)>> {
        loop {
            if self.halt.is_set() {
                return Ok(None);
            }
            for unit in self.pass.by_ref() {
                if self.taken.contains(&place(&unit)) {
                    continue;
                }
                if let Some(claim) = self.sink.claim(&unit)? {
                    self.taken.insert(place(&unit));
                    self.waiting = false;
                    return Ok(Some((unit, claim)));
                }
            }
            let left = self.left()?;
            if left.is_empty() {
                return Ok(None);
            }
            if self.waiting {
                std::thread::sleep(POLL);
            } else {
                // Others may have let go of units while this pass lasted: one more before any wait.
                log::debug!("other workers hold the {} units that are left", left.len());
                self.waiting = true;
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
