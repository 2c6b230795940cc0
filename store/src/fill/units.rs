//! Which unit next, until none is left uncommitted. No coordinator: claims only keep live workers from doing the
//! same unit at the same time.

use super::{FillCounters, Halt};
use crate::claim::Claim;
use crate::sink::FeatureSink;
use crate::{Result, Unit};
use std::collections::HashSet;
use std::time::Duration;

/// How often a worker with nothing left to claim looks whether the others are done.
const POLL: Duration = Duration::from_millis(200);
/// A unit's place in its plan.
type Place = (usize, u64);

/// The units that one worker does.
pub struct Units<'a, S> {
    sink: &'a S,
    /// Units in the order in which this worker tries them.
    order: &'a dyn Fn(Vec<Unit>) -> Vec<Unit>,
    halt: &'a Halt<'a>,
    counters: &'a FillCounters,
    /// Handed out by this run, and their rows.
    taken: HashSet<Place>,
    taken_rows: u64,
    /// Still to be looked at in this pass.
    pass: std::vec::IntoIter<Unit>,
    /// The last pass has found all units claimed by others.
    waiting: bool,
}

impl<'a, S: FeatureSink> Units<'a, S> {
    /// The units that `sink` misses, tried in the order that `order` gives them each time.
    ///
    /// # Errors
    /// As [`FeatureSink::missing_units`].
    pub fn new(
        sink: &'a S,
        order: &'a dyn Fn(Vec<Unit>) -> Vec<Unit>,
        halt: &'a Halt<'a>,
        counters: &'a FillCounters,
    ) -> Result<Self> {
        let pass = order(sink.missing_units()?).into_iter();
        let (taken, taken_rows) = (HashSet::new(), 0);
        Ok(Self { sink, order, halt, counters, taken, taken_rows, pass, waiting: false })
    }

    /// The next unit and its claim; `None` when all are committed or in this worker's hands, or when the
    /// run is to end. Waits while live workers hold all that is left: however long they take, as a claim
    /// says nothing of a worker that hangs.
    ///
    /// # Errors
    /// As [`FeatureSink::claim`] and [`FeatureSink::missing_units`].
    pub fn next_unit(&mut self) -> Result<Option<(Unit, Claim)>> {
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
                    self.taken_rows += unit.row_count();
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
            self.pass = (self.order)(left).into_iter();
        }
    }

    /// Units that neither this run has taken nor anybody committed.
    fn left(&mut self) -> Result<Vec<Unit>> {
        let mut left = self.sink.missing_units()?;
        left.retain(|unit| !self.taken.contains(&place(unit)));
        self.counters.set_left(self.taken_rows + left.iter().map(Unit::row_count).sum::<u64>());
        Ok(left)
    }
}

fn place(unit: &Unit) -> Place {
    (unit.bucket, unit.number)
}
