//! Layer normalisation of every level over its channels: a frozen backbone's maps are not normalised,
//! and their scales differ by level. Must not mix levels.

use crate::Result;
use crate::parameter::{Init, Parameters, Role};
use featcache_store::LevelSpec;
use tch::{Kind, Tensor};

/// One LayerNorm a level.
#[derive(Debug)]
pub(super) struct LevelNorm {
    norms: Vec<(Tensor, Tensor)>,
}

/// ε of torch's `LayerNorm`.
const EPSILON: f64 = 1e-5;

impl LevelNorm {
    /// Tensors are called `{name}.{level}.weight` and `{name}.{level}.bias`.
    pub(super) fn new(parameters: &mut Parameters, name: &str, levels: &[LevelSpec]) -> Result<Self> {
        let norms = levels
            .iter()
            .map(|level| {
                let (name, shape) = (format!("{name}.{}", level.name), [i64::from(level.channels)]);
                let weight =
                    parameters.create(format!("{name}.weight"), &shape, Role::NoDecay, Init::Ones)?;
                let bias = parameters.create(format!("{name}.bias"), &shape, Role::NoDecay, Init::Zeros)?;
                Ok((weight, bias))
            })
            .collect::<Result<_>>()?;
        Ok(Self { norms })
    }

    /// Each map `[n, c, h, w]` (channels_last), one a level, normalised at every cell; statistics in
    /// binary32.
    pub(super) fn forward(&self, maps: &[Tensor]) -> Result<Vec<Tensor>> {
        let normalise = |(x, (weight, bias)): (&Tensor, &(Tensor, Tensor))| {
            let cells = x.f_permute([0, 2, 3, 1])?.f_to_kind(Kind::Float)?; // [n, h, w, c]
            let cells = cells.f_layer_norm(weight.size(), Some(weight), Some(bias), EPSILON, true)?;
            Ok(cells.f_permute([0, 3, 1, 2])?) // [n, c, h, w]
        };
        maps.iter().zip(&self.norms).map(normalise).collect()
    }
}
