//! What a model reads: levels, each with a LayerNorm where its recipe wants one, and maps that are checked
//! against them. Must not mix levels.

use crate::neck::level_norm::LevelNorm;
use crate::parameter::Parameters;
use crate::{Error, Result};
use featcache_store::LevelSpec;
use tch::Tensor;

/// Levels of a model, in the order in which it wants their maps.
#[derive(Debug)]
pub(crate) struct Levels {
    specs: Vec<LevelSpec>,
    norm: Option<LevelNorm>,
}

impl Levels {
    /// `norm` is the recipe's switch; the tensors are called `neck.norms.{level}.weight` and `.bias`.
    pub(crate) fn new(parameters: &mut Parameters, specs: Vec<LevelSpec>, norm: bool) -> Result<Self> {
        let norm = match norm {
            true => Some(LevelNorm::new(parameters, "neck.norms", &specs)?),
            false => None,
        };
        Ok(Self { specs, norm })
    }

    /// What they are.
    pub(crate) fn specs(&self) -> &[LevelSpec] {
        &self.specs
    }

    /// Maps `[n, c_i, h_i, w_i]`, one a level, normalised where the levels are.
    ///
    /// # Errors
    /// Another number of maps or of a map's channels than the levels have.
    pub(crate) fn forward(&self, maps: &[Tensor]) -> Result<Vec<Tensor>> {
        if maps.len() != self.specs.len() {
            let names: Vec<_> = self.specs.iter().map(|level| level.name.as_str()).collect();
            let (found, names) = (maps.len(), names.join(", "));
            return Err(Error::invalid(format!("{found} maps, expected one for each of {names}")));
        }
        for (map, level) in maps.iter().zip(&self.specs) {
            let (_, channels, _, _) = map.size4()?;
            if channels != i64::from(level.channels) {
                let (name, expected) = (&level.name, level.channels);
                return Err(Error::invalid(format!("{name} has {channels} channels, expected {expected}")));
            }
        }
        match &self.norm {
            Some(norm) => norm.forward(maps),
            None => Ok(maps.iter().map(Tensor::shallow_clone).collect()),
        }
    }
}
