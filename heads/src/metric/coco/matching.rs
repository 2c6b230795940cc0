//! Who takes whom in one cell: `COCOeval.evaluateImg`. Knows overlaps and flags, not shapes.

use super::overlap::Overlaps;

/// A detection that reaches a threshold by less than this reaches it.
const SLACK: f64 = 1e-10;

/// Objects in the order in which detections try them: those that count first, each part in the order given.
#[derive(Debug, Default)]
pub(super) struct Trial {
    order: Vec<u32>,
    counted: usize,
    taken: Vec<bool>,
}

impl Trial {
    /// Prepares for objects of which some are ignored.
    pub(super) fn reset(&mut self, ignored: impl Iterator<Item = bool> + Clone) {
        self.order.clear();
        let pick = |wanted: bool| {
            let indexed = (0u32..).zip(ignored.clone());
            indexed.filter(move |&(_, ignored)| ignored == wanted).map(|(index, _)| index)
        };
        self.order.extend(pick(false));
        self.counted = self.order.len();
        self.order.extend(pick(true));
    }

    /// Objects that count.
    pub(super) fn counted(&self) -> usize {
        self.counted
    }

    /// Lets every detection, best first, take the object it overlaps most with, at least by `threshold`; of equal
    /// ones the last. An object is taken once, a crowd any number of times; one that is ignored is only taken
    /// where none that counts can be. `each` is told the object taken and whether it is ignored.
    pub(super) fn run(
        &mut self,
        overlaps: &Overlaps,
        crowd: &[bool],
        threshold: f64,
        mut each: impl FnMut(usize, Option<(usize, bool)>),
    ) {
        self.taken.clear();
        self.taken.resize(crowd.len(), false);
        self.taken.resize(crowd.len(), false);
        let least = threshold.min(1.0 - SLACK);
        for detection in 0..overlaps.rows() {
            if overlaps.best(detection) < least {
                each(detection, None);
                continue;
            }
            let row = overlaps.row(detection);
            let (mut best, mut choice) = (least, None);
            for (position, &object) in self.order.iter().enumerate() {
                let object = object as usize;
                if self.taken[object] && !crowd[object] {
                    continue;
                }
                let ignored = position >= self.counted;
                if ignored && matches!(choice, Some((_, false))) {
                    break;
                }
                if row[object] < best {
                    continue;
                }
                best = row[object];
                choice = Some((object, ignored));
            }
            if let Some((object, _)) = choice {
                self.taken[object] = true;
            }
            each(detection, choice);
        }
    }

    /// Whether an object was taken in the last run.
    pub(super) fn taken(&self, object: usize) -> bool {
        self.taken[object]
    }
}
