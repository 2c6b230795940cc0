//! Soft suppression: overlap lowers scores instead of removing boxes (Bodla et al. 2017). Must not
//! compare boxes of different classes.

use super::boxes::iou;
use std::collections::BTreeMap;

/// How overlap with a better box lowers a score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decay {
    /// × (1 − IoU) where the IoU is at least the threshold.
    Linear(f32),
    /// × exp(−IoU² / σ).
    Gaussian(f32),
}

impl Decay {
    /// The factor for an overlap.
    fn factor(self, overlap: f32) -> f32 {
        match self {
            Self::Linear(threshold) if overlap >= threshold => 1.0 - overlap,
            Self::Linear(_) => 1.0,
            Self::Gaussian(sigma) => (-(overlap * overlap) / sigma).exp(),
        }
    }
}

/// Soft-NMS by class, as mmcv's `soft_nms` in `batched_nms`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftNms {
    /// The rule.
    pub decay: Decay,
    /// Boxes that fall below this score are gone.
    pub min_score: f32,
}

impl Default for SoftNms {
    /// mmcv's defaults: linear from IoU 0.3, minimal score 0.001.
    fn default() -> Self {
        Self { decay: Decay::Linear(0.3), min_score: 1e-3 }
    }
}

impl SoftNms {
    /// Indices and lowered scores, by descending lowered score (ties: the lower class, then the lower
    /// index), at most `limit`. What starts below the minimal score or with NaN is left out, and so is
    /// what has no partner in the three slices.
    ///
    /// Cost: `limit` × boxes of a class, since a box that is picked keeps its score.
    pub fn pick(
        &self,
        bounds: &[[f32; 4]],
        scores: &[f32],
        classes: &[usize],
        limit: usize,
    ) -> Vec<(usize, f32)> {
        let mut groups: BTreeMap<usize, Vec<Candidate>> = BTreeMap::new();
        for (index, ((&bounds, &score), &class)) in bounds.iter().zip(scores).zip(classes).enumerate() {
            if score >= self.min_score {
                groups.entry(class).or_default().push(Candidate { index, bounds, score });
            }
        }
        let mut groups: Vec<Vec<Candidate>> = groups.into_values().collect();
        let mut best: Vec<Option<usize>> = groups.iter().map(|group| first_best(group)).collect();
        let mut picked = Vec::new();
        while picked.len() < limit {
            let mut next: Option<(usize, usize, f32)> = None;
            for (class, (group, best)) in groups.iter().zip(&best).enumerate() {
                let Some(position) = *best else { continue };
                let score = group[position].score;
                if next.is_none_or(|(_, _, other)| score > other) {
                    next = Some((class, position, score));
                }
            }
            let Some((class, position, score)) = next else { break };
            let winner = groups[class].remove(position);
            picked.push((winner.index, score));
            groups[class].retain_mut(|candidate| {
                candidate.score *= self.decay.factor(iou(winner.bounds, candidate.bounds));
                candidate.score >= self.min_score
            });
            best[class] = first_best(&groups[class]);
        }
        picked
    }
}

/// A box that is not picked yet.
#[derive(Debug)]
struct Candidate {
    index: usize,
    bounds: [f32; 4],
    score: f32,
}

/// Position of the first of the highest scores.
fn first_best(group: &[Candidate]) -> Option<usize> {
    (0..group.len()).reduce(
        |best, position| {
            if group[position].score > group[best].score { position } else { best }
        },
    )
}
