//! Which of the assigned boxes a loss is computed on. Must not assign.

use super::assigner::Match;
use crate::seed::{Seed, Stream};

/// A random sample of given size with at most a given share of positives, as mmdetection's
/// `RandomSampler` and torchvision's `BalancedPositiveNegativeSampler` count; what positives leave free,
/// negatives fill.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomSampler {
    /// Boxes a picture.
    pub count: usize,
    /// At most this share of `count` is positive (rounded down).
    pub positive_share: f64,
}

/// Indices of the sampled boxes, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    /// Boxes matched with a truth.
    pub positive: Vec<usize>,
    /// Background.
    pub negative: Vec<usize>,
}

impl RandomSampler {
    /// A sample of `matches` that depends on them and the seed alone. Where all fit, all are taken.
    pub fn sample(&self, matches: &[Match], seed: Seed) -> Sample {
        let mut stream = seed.named("sampler").stream();
        let indices = |wanted: fn(&Match) -> bool| -> Vec<usize> {
            (0..matches.len()).filter(|&index| wanted(&matches[index])).collect()
        };
        let most = (self.count as f64 * self.positive_share.clamp(0.0, 1.0)) as usize;
        let positive = choose(indices(|found| matches!(found, Match::Truth(_))), most, &mut stream);
        let free = self.count - positive.len();
        let negative = choose(indices(|found| *found == Match::Background), free, &mut stream);
        Sample { positive, negative }
    }
}

/// At most `most` of the candidates, each equally likely, in their order.
fn choose(mut candidates: Vec<usize>, most: usize, stream: &mut Stream) -> Vec<usize> {
    let count = candidates.len();
    if count <= most {
        return candidates;
    }
    // The first `most` steps of Fisher-Yates; the high half of the product is uniform in `0..left` up to
    // a bias of left / 2^64.
    for position in 0..most {
        let left = (count - position) as u128;
        let drawn = (u128::from(stream.bits()) * left) >> 64;
        candidates.swap(position, position + drawn as usize);
    }
    candidates.truncate(most);
    candidates.sort_unstable();
    candidates
}
