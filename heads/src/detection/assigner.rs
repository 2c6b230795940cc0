//! Which box learns which truth: by the IoU. Must not sample.

use super::boxes::{intersection_over_first, iou};

/// What a box is to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The truth with this index.
    Truth(u32),
    /// That there is nothing.
    Background,
    /// Nothing at all: it is neither clearly on a truth nor clearly off, or it lies in a crowd.
    Ignored,
}

/// What happens to a truth that no box overlaps enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LowQuality {
    /// Nothing: second stages of Cascade R-CNN and torchvision.
    Off,
    /// All boxes that overlap a truth most learn it, if that overlap is at least this much; a later
    /// truth takes a box from an earlier one and from the one it overlaps more (mmdetection's
    /// `match_low_quality` and `min_pos_iou`).
    Claim(f32),
    /// All boxes that overlap a truth most learn the truth that they overlap most themselves
    /// (torchvision's `allow_low_quality_matches`).
    Restore,
}

/// Assignment by maximal IoU: mmdetection's `MaxIoUAssigner`, torchvision's `Matcher`.
///
/// Both references let a truth that overlaps *no* box claim every box of overlap 0 (torchvision, and
/// mmdetection where `min_pos_iou` is 0). Here it claims none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaxIouAssigner {
    /// A box learns the truth that it overlaps most, from this IoU on.
    pub positive: f32,
    /// A box whose largest IoU is below this is background.
    pub negative: f32,
    /// Truths that are left over.
    pub low_quality: LowQuality,
    /// A box is ignored where more than this share of its area lies in one crowd region; `None` does
    /// not look at crowds, as all published configurations.
    pub crowd_share: Option<f32>,
}

impl MaxIouAssigner {
    /// One match a box. Without truths every box outside crowds is background. Of truths that a box
    /// overlaps equally it takes the first; a degenerate box or truth overlaps nothing.
    pub fn assign(&self, boxes: &[[f32; 4]], truths: &[[f32; 4]], crowd: &[[f32; 4]]) -> Vec<Match> {
        let ignored: Vec<bool> = boxes.iter().map(|&bounds| self.is_in_crowd(bounds, crowd)).collect();
        let mut best = vec![(0.0_f32, 0_u32); boxes.len()];
        // Of each truth the boxes that overlap it most, and how much.
        let mut closest: Vec<(f32, Vec<usize>)> = Vec::with_capacity(truths.len());
        for (truth, &region) in (0_u32..).zip(truths) {
            let (mut most, mut ties) = (0.0, Vec::new());
            for (index, &bounds) in boxes.iter().enumerate() {
                // Nearly all boxes lie beside a truth: they are told by comparisons alone.
                if ignored[index] || is_beside(bounds, region) {
                    continue;
                }
                let overlap = iou(region, bounds);
                if overlap > best[index].0 {
                    best[index] = (overlap, truth);
                }
                if overlap > most {
                    most = overlap;
                    ties.clear();
                }
                if overlap > 0.0 && overlap == most {
                    ties.push(index);
                }
            }
            closest.push((most, ties));
        }
        let rate = |(&(overlap, truth), &ignored): (&(f32, u32), &bool)| {
            if ignored {
                Match::Ignored
            } else if overlap >= self.positive && !truths.is_empty() {
                Match::Truth(truth)
            } else if overlap < self.negative || truths.is_empty() {
                Match::Background
            } else {
                Match::Ignored
            }
        };
        let mut matches: Vec<Match> = best.iter().zip(&ignored).map(rate).collect();
        for (truth, (most, ties)) in (0_u32..).zip(closest) {
            match self.low_quality {
                LowQuality::Claim(minimum) if most >= minimum => {
                    ties.into_iter().for_each(|index| matches[index] = Match::Truth(truth));
                }
                LowQuality::Restore => {
                    ties.into_iter().for_each(|index| matches[index] = Match::Truth(best[index].1));
                }
                LowQuality::Claim(_) | LowQuality::Off => {}
            }
        }
        matches
    }

    fn is_in_crowd(&self, bounds: [f32; 4], crowd: &[[f32; 4]]) -> bool {
        let Some(share) = self.crowd_share else { return false };
        crowd.iter().any(|&region| intersection_over_first(bounds, region) > share)
    }
}

/// Is one wholly left of, right of, above or below the other? Never of what is not a number.
fn is_beside(a: [f32; 4], b: [f32; 4]) -> bool {
    (a[2] <= b[0]) | (b[2] <= a[0]) | (a[3] <= b[1]) | (b[3] <= a[1])
}
