//! Semantic branch of HTC (Chen et al. 2019, §3.4): all levels fused at one of them, a stuff map and
//! an embedding that boxes and masks pool from. Names are mmdetection's `FusedSemanticHead`. Must not know
//! regions.

use crate::conv::{Conv, ConvLayout};
use crate::parameter::{Init, Parameters};
use crate::recipe::detector::SemanticOptions;
use crate::{Error, Phase, Precision, Result};
use tch::{Kind, Tensor};

/// The layers.
#[derive(Debug)]
pub struct SemanticBranch {
    level: usize,
    laterals: Vec<Conv>,
    convs: Vec<Conv>,
    embedding: Conv,
    logits: Conv,
}

impl SemanticBranch {
    /// Layers over `levels` maps of `width` channels, called `{name}.*`.
    pub fn new(
        parameters: &mut Parameters,
        name: &str,
        options: &SemanticOptions,
        levels: usize,
        width: i64,
        precision: Precision,
    ) -> Result<Self> {
        let layout = |output, kernel, relu| {
            let init = Init::kaiming as fn(&[i64]) -> Init;
            ConvLayout { input: width, output, kernel, norm: None, relu, init, precision }
        };
        let mut conv = |layer: String, kernel| {
            Conv::module(parameters, &format!("{name}.{layer}"), layout(width, kernel, true))
        };
        let laterals = (0..levels).map(|i| conv(format!("lateral_convs.{i}"), 1)).collect::<Result<_>>()?;
        let convs = (0..options.convs).map(|i| conv(format!("convs.{i}"), 3)).collect::<Result<_>>()?;
        let embedding = conv("conv_embedding".into(), 1)?;
        let classes = i64::from(options.classes);
        let logits = Conv::plain(parameters, &format!("{name}.conv_logits"), layout(classes, 1, false))?;
        Ok(Self { level: options.level as usize, laterals, convs, embedding, logits })
    }

    /// Index of the level at which it works.
    pub fn level(&self) -> usize {
        self.level
    }

    /// Maps `[n, c, h_i, w_i]` to features `[n, c, h, w]` at the branch's level.
    pub fn features(&self, maps: &[Tensor], phase: Phase) -> Result<Tensor> {
        let own = maps.get(self.level).ok_or_else(|| {
            Error::invalid(format!("the semantic branch works at level {} of {}", self.level, maps.len()))
        })?;
        let (_, _, height, width) = own.size4()?;
        let mut sum: Option<Tensor> = None;
        // The own level comes first, as in the reference: sums of floats have an order.
        let order = std::iter::once(self.level).chain((0..maps.len()).filter(|&i| i != self.level));
        for (map, lateral) in order.filter_map(|i| Some((&maps[i], self.laterals.get(i)?))) {
            let (_, _, h, w) = map.size4()?;
            let resized = match (h, w) == (height, width) {
                true => map.shallow_clone(),
                false => map.f_upsample_bilinear2d([height, width], true, None, None)?,
            };
            let term = lateral.forward(&resized, phase)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&term)?,
                None => term,
            });
        }
        let mut x = sum.ok_or_else(|| Error::invalid("a semantic branch without levels"))?;
        for conv in &self.convs {
            x = conv.forward(&x, phase)?;
        }
        Ok(x)
    }

    /// Features to the logits `[n, classes, h, w]` of the stuff map, binary32.
    pub fn logits(&self, features: &Tensor, phase: Phase) -> Result<Tensor> {
        Ok(self.logits.forward(features, phase)?.f_to_kind(Kind::Float)?)
    }

    /// Features to the embedding `[n, c, h, w]` that regions are pooled from.
    pub fn embedding(&self, features: &Tensor, phase: Phase) -> Result<Tensor> {
        self.embedding.forward(features, phase)
    }
}
