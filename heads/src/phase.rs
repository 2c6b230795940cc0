//! Training or not: what changes in a forward pass. Must not hold state.

use crate::Result;
use crate::seed::Seed;
use tch::Tensor;

/// Whether a forward pass is one of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Batch statistics and dropout, with everything random derived from the seed.
    Train(Seed),
    /// Running statistics, no dropout.
    Eval,
}

impl Phase {
    /// Is it training?
    pub fn is_training(self) -> bool {
        matches!(self, Self::Train(_))
    }

    /// Drops whole channels of `x` `[n, c, h, w]` with the given probability and scales the others up
    /// (torch's `Dropout2d`). The mask depends on the phase's seed and `name` alone, never on torch's
    /// global generator.
    pub fn drop_channels(self, x: Tensor, name: &str, probability: f64) -> Result<Tensor> {
        let Self::Train(seed) = self else { return Ok(x) };
        if probability <= 0.0 {
            return Ok(x);
        }
        let (n, c, _, _) = x.size4()?;
        let mut stream = seed.named(name).stream();
        let keep = (1.0 / (1.0 - probability)) as f32;
        let mask: Vec<f32> =
            (0..n * c).map(|_| if stream.uniform() < probability { 0.0 } else { keep }).collect();
        let mask = Tensor::f_from_slice(&mask)?.f_reshape([n, c, 1, 1])?; // [n, c, 1, 1]
        Ok(x.f_mul(&mask.f_to_device(x.device())?.f_to_kind(x.kind())?)?)
    }
}
