//! Normalisation inside heads: batch or group, by recipe. Must not know which head it is in.

use crate::parameter::{Init, Parameters, Role};
use crate::{Phase, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Which normalisation follows a head's convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// Batch statistics while training, running ones after: needs batches of some size.
    Batch,
    /// 32 groups (or the largest divisor of the channels below that): independent of the batch.
    Group,
}

/// A normalisation over channels, `[n, c, h, w]` to the same.
#[derive(Debug)]
pub enum Norm {
    /// Batch normalisation.
    Batch {
        /// Scale `[c]`.
        weight: Tensor,
        /// Shift `[c]`.
        bias: Tensor,
        /// Running mean `[c]`.
        mean: Tensor,
        /// Running variance `[c]`.
        variance: Tensor,
    },
    /// Group normalisation.
    Group {
        /// Number of groups.
        groups: i64,
        /// Scale `[c]`.
        weight: Tensor,
        /// Shift `[c]`.
        bias: Tensor,
    },
}

/// Groups of group normalisation, as detectron2 and Mask2Former use them.
const GROUPS: i64 = 32;

/// Both normalisations' ε, torch's default.
const EPSILON: f64 = 1e-5;

/// Weight of the newest batch in running statistics, torch's default.
const MOMENTUM: f64 = 0.1;

impl Norm {
    /// A normalisation of `channels` channels whose tensors are called `{name}.weight` and so on.
    pub fn new(parameters: &mut Parameters, name: &str, kind: NormKind, channels: i64) -> Result<Self> {
        let shape = [channels];
        let weight = parameters.create(format!("{name}.weight"), &shape, Role::NoDecay, Init::Ones)?;
        let bias = parameters.create(format!("{name}.bias"), &shape, Role::NoDecay, Init::Zeros)?;
        Ok(match kind {
            NormKind::Batch => {
                let mut buffer = |what, init| {
                    parameters.create(format!("{name}.running_{what}"), &shape, Role::Buffer, init)
                };
                let (mean, variance) = (buffer("mean", Init::Zeros)?, buffer("var", Init::Ones)?);
                Self::Batch { weight, bias, mean, variance }
            }
            NormKind::Group => {
                let groups = (1..=GROUPS.min(channels)).rev().find(|g| channels % g == 0).unwrap_or(1);
                Self::Group { groups, weight, bias }
            }
        })
    }

    /// Normalises `x`: `[n, c, h, w]`.
    pub fn forward(&self, x: &Tensor, phase: Phase) -> Result<Tensor> {
        Ok(match self {
            Self::Batch { weight, bias, mean, variance } => {
                let size = x.size();
                // One value a channel (a single picture pooled to 1×1) has no variance: torch's Python
                // layer refuses it and its kernel would turn the running variance into NaN. The
                // running statistics stand in.
                let single = size.iter().product::<i64>() == size.get(1).copied().unwrap_or(0);
                let batch = phase.is_training() && !single;
                x.f_batch_norm(
                    Some(weight),
                    Some(bias),
                    Some(mean),
                    Some(variance),
                    batch,
                    MOMENTUM,
                    EPSILON,
                    true,
                )?
            }
            Self::Group { groups, weight, bias } => {
                // Mixed types are not supported everywhere, and statistics want binary32 anyway.
                let kind = x.kind();
                x.f_to_kind(tch::Kind::Float)?
                    .f_group_norm(*groups, Some(weight), Some(bias), EPSILON, true)?
                    .f_to_kind(kind)?
            }
        })
    }
}
