//! Counts one category: matches of all its cells at every threshold and area range, ranked by score, give precision
//! over recall. `COCOeval.accumulate` without the passes it does not need: precision is only ever read at true
//! positives, because it falls between them.

use super::cell::{Context, Shapes};
use super::grouping::Group;
use super::matching::Trial;
use super::options::CocoOptions;
use crate::Result;

/// Where there is nothing to average: no object of the category in the area range.
pub const ABSENT: f64 = -1.0;

/// What became of a detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    False,
    True,
    Ignored,
}

/// Precision over recall of one category, [`ABSENT`] where no object counts.
#[derive(Debug)]
pub(super) struct Tally {
    /// `[thresholds, recalls, areas, limits]`.
    pub(super) precision: Vec<f64>,
    /// Scores at which those recalls are reached, in the same order.
    pub(super) scores: Vec<f64>,
    /// Greatest recall, `[thresholds, areas, limits]`.
    pub(super) recall: Vec<f64>,
    /// Objects that count, by area range.
    pub(super) objects: Vec<usize>,
}

/// One ranking of detections.
struct Ranking<'a> {
    /// Positions by falling score.
    order: &'a [u32],
    /// Scores by position.
    scores: &'a [f64],
}

impl Tally {
    /// Counts a group.
    pub(super) fn of(mut group: Group, context: &Context<'_>, options: &CocoOptions) -> Result<Self> {
        group.sort();
        let (t_count, a_count) = (options.thresholds.len(), options.areas.len());
        let mut outcomes = vec![Vec::with_capacity(group.len()); a_count * t_count];
        let mut objects = vec![0; a_count];
        let (mut scores, mut ranks) = (Vec::new(), Vec::new());
        let (mut shapes, mut trial) = (Shapes::default(), Trial::default());
        for cell in group.cells(options.limit()) {
            context.shapes(&cell, &mut shapes)?;
            for (a, area) in options.areas.iter().enumerate() {
                let truth = shapes.truth_areas.iter().zip(&shapes.crowd);
                trial.reset(truth.map(|(&size, &crowd)| crowd || !area.holds(size)));
                objects[a] += trial.counted();
                for (t, &threshold) in options.thresholds.iter().enumerate() {
                    let outcomes = &mut outcomes[a * t_count + t];
                    trial.run(&shapes.overlaps, &shapes.crowd, threshold, |detection, choice| {
                        outcomes.push(match choice {
                            Some((_, false)) => Outcome::True,
                            Some((_, true)) => Outcome::Ignored,
                            None if area.holds(shapes.found_areas[detection]) => Outcome::False,
                            None => Outcome::Ignored,
                        });
                    });
                }
            }
            scores.extend(cell.found.iter().map(|found| found.score));
            ranks.extend(0..cell.found.len());
        }
        let mut tally = Self::absent(options, objects);
        let mut order: Vec<u32> = (0u32..).take(scores.len()).collect();
        order.sort_by(|&a, &b| {
            // Stable: equal scores stay in the order of pictures.
            let [a, b] = [a, b].map(|position| scores[position as usize]);
            b.partial_cmp(&a).unwrap_or(std::cmp::Ordering::Equal)
        });
        let mut last = None;
        for (m, &limit) in options.max_detections.iter().enumerate() {
            let kept: Vec<u32> = order.iter().copied().filter(|&p| ranks[p as usize] < limit).collect();
            let same = last.replace(kept.len()) == Some(kept.len());
            let ranking = Ranking { order: &kept, scores: &scores };
            for a in (0..a_count).filter(|&a| tally.objects[a] > 0).collect::<Vec<_>>() {
                for t in 0..t_count {
                    // A limit that cuts nothing off more than the one before it changes nothing.
                    match same {
                        true => tally.repeat(options, [t, a, m]),
                        false => tally.rank(options, [t, a, m], &ranking, &outcomes[a * t_count + t]),
                    }
                }
            }
        }
        Ok(tally)
    }

    fn absent(options: &CocoOptions, objects: Vec<usize>) -> Self {
        let cells = options.thresholds.len() * options.areas.len() * options.max_detections.len();
        let curves = vec![ABSENT; cells * options.recalls.len()];
        Self { precision: curves.clone(), scores: curves, recall: vec![ABSENT; cells], objects }
    }

    /// Fills the curve of one threshold, area range and limit.
    fn rank(&mut self, options: &CocoOptions, at: [usize; 3], ranking: &Ranking<'_>, outcomes: &[Outcome]) {
        let objects = self.objects[at[1]] as f64;
        // Of every true positive: the position, and the precision there.
        let mut points: Vec<(u32, f64)> = Vec::new();
        let (mut hits, mut misses) = (0u32, 0u32);
        for &position in ranking.order {
            match outcomes[position as usize] {
                Outcome::True => {
                    hits += 1;
                    let (hits, misses) = (f64::from(hits), f64::from(misses));
                    points.push((position, hits / (misses + hits + f64::EPSILON)));
                }
                Outcome::False => misses += 1,
                Outcome::Ignored => {}
            }
        }
        let mut best = 0.0f64;
        for (_, precision) in points.iter_mut().rev() {
            best = best.max(*precision);
            *precision = best;
        }
        self.recall[index(options, at)] = f64::from(hits) / objects;
        let mut needed = 0usize;
        for (r, &recall) in options.recalls.iter().enumerate() {
            while needed <= points.len() && (needed as f64 / objects) < recall {
                needed += 1;
            }
            let (position, precision) = match needed.checked_sub(1) {
                // Recall 0 is reached by the first detection, whatever it is.
                None => (ranking.order.first().copied(), best),
                Some(last) => points.get(last).map_or((None, 0.0), |&(p, precision)| (Some(p), precision)),
            };
            let slot = curve_index(options, at, r);
            self.precision[slot] = precision;
            self.scores[slot] = position.map_or(0.0, |p| ranking.scores[p as usize]);
        }
    }

    /// Takes over the curve of the limit before.
    fn repeat(&mut self, options: &CocoOptions, at: [usize; 3]) {
        let slot = index(options, at);
        self.recall[slot] = self.recall[slot - 1];
        for r in 0..options.recalls.len() {
            let slot = curve_index(options, at, r);
            self.precision[slot] = self.precision[slot - 1];
            self.scores[slot] = self.scores[slot - 1];
        }
    }
}

fn index(options: &CocoOptions, [t, a, m]: [usize; 3]) -> usize {
    (t * options.areas.len() + a) * options.max_detections.len() + m
}

fn curve_index(options: &CocoOptions, [t, a, m]: [usize; 3], r: usize) -> usize {
    ((t * options.recalls.len() + r) * options.areas.len() + a) * options.max_detections.len() + m
}
