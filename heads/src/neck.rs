//! Necks: what stands between a store's maps and a head.

pub mod bifpn;
pub mod fpn;
mod level_norm;
pub(crate) mod levels;

use crate::parameter::Parameters;
use crate::recipe::detector::{NeckKind, NeckOptions};
use crate::{Phase, Precision, Result};
use featcache_store::LevelSpec;
use tch::Tensor;

pub use bifpn::BiFpn;
pub use fpn::Fpn;

/// The necks there are.
#[derive(Debug)]
pub enum Neck {
    /// Feature pyramid network.
    Fpn(Fpn),
    /// Bidirectional pyramid.
    BiFpn(BiFpn),
}

impl Neck {
    /// The neck of a recipe over these levels, finest first.
    pub fn new(
        parameters: &mut Parameters,
        options: &NeckOptions,
        levels: &[LevelSpec],
        precision: Precision,
    ) -> Result<Self> {
        Ok(match options.kind {
            NeckKind::Fpn => Self::Fpn(Fpn::new(parameters, options, levels, precision)?),
            NeckKind::BiFpn => Self::BiFpn(BiFpn::new(parameters, options, levels, precision)?),
        })
    }

    /// Maps `[n, c_i, h_i, w_i]`, finest first, to `outputs` maps `[n, channels, h_i, w_i]`; each one
    /// beyond the levels has half the sides of the one before it, rounded up.
    pub fn forward(&self, maps: &[Tensor], phase: Phase) -> Result<Vec<Tensor>> {
        match self {
            Self::Fpn(neck) => neck.forward(maps, phase),
            Self::BiFpn(neck) => neck.forward(maps, phase),
        }
    }
}
