//! The trained part of a semantic network: level norms and a head over a store's levels. Must not know
//! stores, losses or files.

use crate::conv::resize;
use crate::head::{Head, Linear, Logits, UperNet};
use crate::neck::level_norm::LevelNorm;
use crate::parameter::Parameters;
use crate::recipe::{HeadKind, HeadRecipe};
use crate::seed::Seed;
use crate::{Error, Phase, Precision, Result};
use featcache_store::{LevelSpec, Size};
use tch::{Device, Tensor};

/// Level norms and a head. It has no backbone: its maps come from a store or from the caller.
#[derive(Debug)]
pub struct SemanticModel {
    levels: Vec<LevelSpec>,
    classes: Vec<String>,
    parameters: Parameters,
    norm: Option<LevelNorm>,
    head: Head,
    precision: Precision,
}

/// A predicted class for every pixel of the original picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    /// Height and width of the original picture.
    pub size: Size,
    /// Class numbers, row-major.
    pub classes: Vec<u16>,
}

/// The sizes that lead from a map back to its picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PredictSizes {
    /// What the backbone saw, padding included.
    pub padded: Size,
    /// The part of it, from the top left, that was picture.
    pub valid: Size,
    /// The picture before resizing.
    pub original: Size,
}

/// Bytes of resized logits held at a time while predicting: large pictures with many classes are
/// resized a few classes at a time.
const PREDICT_BYTES: u64 = 256 << 20;

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
        let norm = match recipe.level_norm {
            true => Some(LevelNorm::new(&mut parameters, "neck.norms", &levels)?),
            false => None,
        };
        let count = classes.len() as i64;
        let head = match recipe.kind {
            HeadKind::Linear => {
                let options = recipe.linear.clone().unwrap_or_default();
                Head::Linear(Linear::new(&mut parameters, &options, &levels, count, precision)?)
            }
            HeadKind::UperNet => {
                let options = recipe.upernet.clone().unwrap_or_default();
                let head = UperNet::new(&mut parameters, &options, &levels, count, precision)?;
                Head::UperNet(Box::new(head))
            }
        };
        Ok(Self { levels, classes, parameters, norm, head, precision })
    }

    /// Levels it reads, in the order in which it wants their maps.
    pub fn levels(&self) -> &[LevelSpec] {
        &self.levels
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
        if maps.len() != self.levels.len() {
            let names: Vec<_> = self.levels.iter().map(|level| level.name.as_str()).collect();
            let (found, names) = (maps.len(), names.join(", "));
            return Err(Error::invalid(format!("{found} maps, expected one for each of {names}")));
        }
        for (map, level) in maps.iter().zip(&self.levels) {
            let (_, channels, _, _) = map.size4()?;
            if channels != i64::from(level.channels) {
                let (name, expected) = (&level.name, level.channels);
                return Err(Error::invalid(format!("{name} has {channels} channels, expected {expected}")));
            }
        }
        match &self.norm {
            Some(norm) => self.head.forward(&norm.forward(maps)?, phase),
            None => self.head.forward(maps, phase),
        }
    }

    /// Classes of one picture from its maps `[1, c, h, w]`, one a level: mmsegmentation's `whole`
    /// inference. Logits are resized to the padded input, cut to the valid part, resized to the
    /// original size (each bilinear, `align_corners=False`); the largest wins, the first of equals.
    pub fn predict(&self, maps: &[Tensor], sizes: PredictSizes) -> Result<LabelMap> {
        let _guard = tch::no_grad_guard();
        let logits = self.forward(maps, Phase::Eval)?.main; // [1, k, h, w]
        self.label_map(&logits, sizes)
    }

    /// The label map of one picture's logits `[1, k, h, w]`; the second half of
    /// [`SemanticModel::predict`].
    pub fn label_map(&self, logits: &Tensor, sizes: PredictSizes) -> Result<LabelMap> {
        let _guard = tch::no_grad_guard();
        let PredictSizes { padded, valid, original } = sizes;
        if valid.height > padded.height || valid.width > padded.width {
            return Err(Error::invalid(format!("valid size {valid} passes the padded size {padded}")));
        }
        let [ph, pw, vh, vw, height, width] =
            [padded.height, padded.width, valid.height, valid.width, original.height, original.width]
                .map(i64::from);
        let (_, count, _, _) = logits.size4()?;
        let pixels = (ph * pw).max(height * width).unsigned_abs().max(1);
        let step = (PREDICT_BYTES / 4 / pixels).clamp(1, count.unsigned_abs()) as i64;
        let mut best: Option<(Tensor, Tensor)> = None;
        for first in (0..count).step_by(step as usize) {
            let part = logits.f_narrow(1, first, step.min(count - first))?;
            let part = resize(&part, ph, pw)?.f_narrow(2, 0, vh)?.f_narrow(3, 0, vw)?;
            let part = resize(&part, height, width)?; // [1, step, height, width]
            let (value, class) = part.f_max_dim(1, false)?; // [1, height, width]
            let class = class.f_add_scalar(first)?;
            best = Some(match best {
                None => (value, class),
                Some((best, classes)) => {
                    let better = value.f_gt_tensor(&best)?;
                    (value.f_where_self(&better, &best)?, class.f_where_self(&better, &classes)?)
                }
            });
        }
        let (_, classes) = best.ok_or_else(|| Error::invalid("logits without classes"))?;
        let mut numbers = vec![0i32; classes.numel()];
        classes.f_to_kind(tch::Kind::Int)?.f_copy_data(&mut numbers, classes.numel())?;
        let classes = numbers.into_iter().map(|class| class as u16).collect();
        Ok(LabelMap { size: original, classes })
    }
}
