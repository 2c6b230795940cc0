//! The trained part of a semantic network: level norms and a head over a store's levels. Must not know
//! stores, losses or files.

use crate::head::{Head, Linear, Logits, UperNet};
use crate::neck::levels::Levels;
use crate::parameter::Parameters;
use crate::recipe::{HeadKind, HeadRecipe};
use crate::seed::Seed;
use crate::segment::{DEFAULT_SEGMENT_BYTES, LabelMap, SegmentSizes, label_map};
use crate::{Error, Phase, Precision, Result};
use featcache_store::LevelSpec;
use tch::{Device, Tensor};

/// Level norms and a head. It has no backbone: its maps come from a store or from the caller.
#[derive(Debug)]
pub struct SemanticModel {
    levels: Levels,
    classes: Vec<String>,
    parameters: Parameters,
    head: Head,
    precision: Precision,
}

impl SemanticModel {
    /// A model at its seeded start over the given levels, finest first.
    pub fn new(
        recipe: &HeadRecipe,
        precision: Precision,
        levels: Vec<LevelSpec>,
        classes: Vec<String>,
        seed: u64,
        device: Device,
    ) -> Result<Self> {
        if levels.is_empty() || classes.is_empty() {
            return Err(Error::invalid("a head needs at least one level and one class"));
        }
        let mut parameters = Parameters::new(device, Seed(seed).named("parameters"));
        let levels = Levels::new(&mut parameters, levels, recipe.level_norm)?;
        let count = classes.len() as i64;
        let head = match recipe.kind {
            HeadKind::Linear => {
                let options = recipe.linear.clone().unwrap_or_default();
                Head::Linear(Linear::new(&mut parameters, &options, levels.specs(), count, precision)?)
            }
            HeadKind::UperNet => {
                let options = recipe.upernet.clone().unwrap_or_default();
                let head = UperNet::new(&mut parameters, &options, levels.specs(), count, precision)?;
                Head::UperNet(Box::new(head))
            }
            HeadKind::Detector => return Err(Error::invalid("a detector is no semantic head")),
        };
        Ok(Self { levels, classes, parameters, head, precision })
    }

    /// Levels it reads, in the order in which it wants their maps.
    pub fn levels(&self) -> &[LevelSpec] {
        self.levels.specs()
    }

    /// Names of its classes, in order.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Its tensors.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Element type in which it wants its maps.
    pub fn map_kind(&self) -> tch::Kind {
        self.precision.kind()
    }

    /// Maps `[n, c, h, w]`, one a level, to logits at the finest level's size.
    pub fn forward(&self, maps: &[Tensor], phase: Phase) -> Result<Logits> {
        self.head.forward(&self.levels.forward(maps)?, phase)
    }

    /// Classes of one picture from its maps `[1, c, h, w]`, one a level, finest first.
    pub fn predict(&self, maps: &[Tensor], sizes: SegmentSizes) -> Result<LabelMap> {
        let _guard = tch::no_grad_guard();
        let logits = self.forward(maps, Phase::Eval)?.main; // [1, k, h, w]
        label_map(&logits, sizes, DEFAULT_SEGMENT_BYTES)
    }
}
