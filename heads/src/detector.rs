//! Detectors: level norms, neck, region proposals, box and mask heads over a store's levels. They know
//! neither stores nor files, and no backbone.

mod box_loss;
mod cascade;
mod inference;
mod pooling;
mod proposal;
mod roi_heads;
mod sampling;
mod semantic_loss;
mod stage;
mod truths;
mod weights;

pub use inference::Detections;
pub use weights::{Misshaped, Naming, WeightReport};

use crate::losses::Losses;
use crate::neck::Neck;
use crate::neck::levels::Levels;
use crate::objects::Objects;
use crate::parameter::Parameters;
use crate::recipe::detector::DetectorRecipe;
use crate::seed::Seed;
use crate::{Error, Phase, Precision, Result};
use featcache_store::{LevelSpec, Size};
use proposal::Proposer;
use roi_heads::RoiHeads;
use tch::{Device, Kind, Tensor};
use truths::Truths;

/// Mask R-CNN, Cascade Mask R-CNN or HTC. It has no backbone: its maps come from a store or from the
/// caller.
#[derive(Debug)]
pub struct Detector {
    levels: Levels,
    classes: usize,
    parameters: Parameters,
    neck: Neck,
    proposer: Proposer,
    heads: RoiHeads,
    precision: Precision,
}

impl Detector {
    /// A detector at its seeded start over the given levels, finest first.
    ///
    /// # Errors
    /// A recipe that contradicts itself or the levels; no levels or no classes.
    pub fn new(
        recipe: &DetectorRecipe,
        precision: Precision,
        levels: Vec<LevelSpec>,
        classes: usize,
        seed: u64,
        device: Device,
    ) -> Result<Self> {
        recipe.check().map_err(Error::invalid)?;
        if levels.is_empty() || classes == 0 {
            return Err(Error::invalid("a detector needs at least one level and one class"));
        }
        let strides = strides(&levels, recipe.neck.outputs as usize)?;
        let mut parameters = Parameters::new(device, Seed(seed).named("parameters"));
        let levels = Levels::new(&mut parameters, levels, recipe.level_norm)?;
        let neck = Neck::new(&mut parameters, &recipe.neck, levels.specs(), precision)?;
        let proposer = Proposer::new(&mut parameters, recipe, strides.clone(), precision)?;
        let heads =
            RoiHeads::new(&mut parameters, recipe, &strides, levels.specs().len(), classes, precision)?;
        Ok(Self { levels, classes, parameters, neck, proposer, heads, precision })
    }

    /// Its tensors, named as in mmdetection.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Levels it reads, in the order in which it wants their maps.
    pub fn levels(&self) -> &[LevelSpec] {
        self.levels.specs()
    }

    /// Number of its classes, the background not counted.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Element type in which it wants its maps.
    pub fn map_kind(&self) -> Kind {
        self.precision.kind()
    }

    /// The neck's outputs `[n, channels, h_i, w_i]` for maps `[n, c_i, h_i, w_i]`, one a level.
    pub fn pyramid(&self, maps: &[Tensor], phase: Phase) -> Result<Vec<Tensor>> {
        self.neck.forward(&self.levels.forward(maps)?, phase)
    }

    /// Losses by part on a batch: maps `[n, c_i, h_i, w_i]`, one a level, and the truth of its n
    /// pictures. The phase's seed draws the samples; outside of training a fixed one does.
    ///
    /// # Errors
    /// Maps that do not fit the levels, truth that contradicts itself. Numbers that are not finite are
    /// no error here: they show in the parts.
    pub fn losses(&self, maps: &[Tensor], pictures: &[&Objects], phase: Phase) -> Result<Losses> {
        check_pictures(maps, pictures.len())?;
        let truths = (0..)
            .zip(pictures)
            .map(|(picture, objects)| Truths::new(objects, self.classes, picture))
            .collect::<Result<Vec<_>>>()?;
        let seed = match phase {
            Phase::Train(seed) => seed,
            Phase::Eval => Seed(0),
        };
        let levels = self.pyramid(maps, phase)?;
        let proposals = self.proposer.forward(&levels, phase)?;
        let mut losses = Losses { parts: Vec::new() };
        let [classes, boxes] = self.proposer.losses(&proposals, &truths, seed.named("rpn"))?;
        losses.parts.push(("loss_rpn_cls".to_owned(), classes));
        losses.parts.push(("loss_rpn_bbox".to_owned(), boxes));
        let valid: Vec<Size> = truths.iter().map(|truths| truths.valid).collect();
        let counts = self.proposer.counts(phase.is_training());
        let regions = self.proposer.boxes(&proposals, &valid, counts, false)?;
        self.heads.losses(&levels, &regions, &truths, phase, seed.named("roi"), &mut losses)?;
        Ok(losses)
    }

    /// Detections of every picture of a batch; `valid` are the sizes of the pictures in their padded
    /// inputs.
    ///
    /// # Errors
    /// Maps that do not fit the levels; scores that are not numbers.
    pub fn detect(&self, maps: &[Tensor], valid: &[Size]) -> Result<Vec<Detections>> {
        let _guard = tch::no_grad_guard();
        check_pictures(maps, valid.len())?;
        let levels = self.pyramid(maps, Phase::Eval)?;
        let proposals = self.proposer.forward(&levels, Phase::Eval)?;
        let regions = self.proposer.boxes(&proposals, valid, self.proposer.counts(false), true)?;
        self.heads.detect(&levels, &regions, valid)
    }
}

/// Strides of the neck's outputs: the levels', then each twice the one before.
fn strides(levels: &[LevelSpec], outputs: usize) -> Result<Vec<u32>> {
    let mut strides: Vec<u32> = levels.iter().map(|level| level.stride).collect();
    if strides.contains(&0) || !strides.is_sorted_by(|a, b| a < b) {
        return Err(Error::invalid(format!(
            "a detector's levels have strides {strides:?}, expected finest first"
        )));
    }
    while let (Some(last), true) = (strides.last(), strides.len() < outputs) {
        strides.push(last.saturating_mul(2));
    }
    Ok(strides)
}

fn check_pictures(maps: &[Tensor], pictures: usize) -> Result<()> {
    for map in maps {
        let (n, _, _, _) = map.size4()?;
        if n != pictures as i64 || pictures == 0 {
            return Err(Error::invalid(format!(
                "maps of {n} pictures with the truth or sizes of {pictures}"
            )));
        }
    }
    Ok(())
}
