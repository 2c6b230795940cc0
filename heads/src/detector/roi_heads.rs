//! Everything after the proposals: stages, what they pool from, and the semantic branch. Must not
//! propose.

use crate::detector::inference::Detections;
use crate::detector::pooling::{Maps, Pooler};
use crate::detector::semantic_loss::semantic_loss;
use crate::detector::stage::Stage;
use crate::detector::truths::Truths;
use crate::detector::{cascade, inference};
use crate::head::semantic_branch::SemanticBranch;
use crate::losses::Losses;
use crate::parameter::Parameters;
use crate::recipe::detector::{DetectorKind, DetectorRecipe, InferenceOptions, SemanticOptions, Style};
use crate::seed::Seed;
use crate::{Phase, Precision, Result};
use featcache_store::Size;
use tch::Tensor;

/// The heads.
#[derive(Debug)]
pub(super) struct RoiHeads {
    /// How its stages learn.
    pub(super) kind: DetectorKind,
    /// In order.
    pub(super) stages: Vec<Stage>,
    /// From maps to regions.
    pub(super) pooler: Pooler,
    /// Whose conventions.
    pub(super) style: Style,
    /// From scores to detections.
    pub(super) inference: InferenceOptions,
    /// Classes, the background not counted.
    pub(super) classes: usize,
    /// One box for all classes.
    pub(super) class_agnostic: bool,
    /// Side of masks.
    pub(super) mask_side: usize,
    semantic: Option<(SemanticBranch, SemanticOptions, f32)>,
}

impl RoiHeads {
    /// Heads over the neck's outputs of these strides, of which regions are pooled from the first
    /// `levels`.
    pub(super) fn new(
        parameters: &mut Parameters,
        recipe: &DetectorRecipe,
        strides: &[u32],
        levels: usize,
        classes: usize,
        precision: Precision,
    ) -> Result<Self> {
        let head = &recipe.head;
        let stages = (0..head.stages.len())
            .map(|index| Stage::new(parameters, recipe, index, classes, precision))
            .collect::<Result<Vec<_>>>()?;
        let semantic = match &head.semantic {
            Some(options) => {
                let (name, width) = ("roi_head.semantic_head", i64::from(recipe.neck.channels));
                let branch = SemanticBranch::new(parameters, name, options, strides.len(), width, precision)?;
                let scale = strides.get(branch.level()).map_or(0.0, |&stride| 1.0 / stride as f32);
                Some((branch, options.clone(), scale))
            }
            None => None,
        };
        Ok(Self {
            kind: head.kind,
            stages,
            pooler: Pooler::new(recipe, &strides[..levels.min(strides.len())]),
            style: recipe.style,
            inference: recipe.inference,
            classes,
            class_agnostic: head.boxes.class_agnostic,
            mask_side: 2 * head.masks.side as usize,
            semantic,
        })
    }

    /// Losses of all stages on these proposals.
    pub(super) fn losses(
        &self,
        levels: &[Tensor],
        proposals: &[Vec<[f32; 4]>],
        pictures: &[Truths<'_>],
        phase: Phase,
        seed: Seed,
        losses: &mut Losses,
    ) -> Result<()> {
        let mut embedding = None;
        if let Some((branch, options, scale)) = &self.semantic {
            let features = branch.features(levels, phase)?;
            let logits = branch.logits(&features, phase)?;
            let loss = semantic_loss(&logits, pictures, options.weight)?;
            losses.parts.push(("loss_semantic_seg".to_owned(), loss));
            embedding = Some((branch.embedding(&features, phase)?, *scale));
        }
        let semantic = embedding.as_ref().map(|(embedding, scale)| (embedding, *scale));
        let maps = Maps { levels, semantic };
        cascade::losses(self, maps, proposals, pictures, phase, seed, losses)
    }

    /// Detections of every picture from its proposals.
    pub(super) fn detect(
        &self,
        levels: &[Tensor],
        proposals: &[Vec<[f32; 4]>],
        valid: &[Size],
    ) -> Result<Vec<Detections>> {
        let mut embedding = None;
        if let Some((branch, _, scale)) = &self.semantic {
            let features = branch.features(levels, Phase::Eval)?;
            embedding = Some((branch.embedding(&features, Phase::Eval)?, *scale));
        }
        let semantic = embedding.as_ref().map(|(embedding, scale)| (embedding, *scale));
        inference::detect(self, Maps { levels, semantic }, proposals, valid)
    }
}
