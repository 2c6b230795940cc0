//! The linear probe of DINOv2's `BNHead`: batch normalisation and one 1×1 convolution, on one level or
//! on all of them resized to the finest and concatenated.

use crate::conv::{Classifier, resize};
use crate::head::{Logits, channels};
use crate::norm::{Norm, NormKind};
use crate::parameter::Parameters;
use crate::{Error, Phase, Precision, Result};
use featcache_store::LevelSpec;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Options of the linear head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinearOptions {
    /// Probability of dropping a channel before the classifier while training.
    pub dropout: f64,
}

impl Default for LinearOptions {
    /// No dropout, as DINOv2.
    fn default() -> Self {
        Self { dropout: 0.0 }
    }
}

/// BatchNorm → (dropout) → 1×1 convolution.
#[derive(Debug)]
pub struct Linear {
    norm: Norm,
    classifier: Classifier,
    dropout: f64,
    precision: Precision,
}

impl Linear {
    /// A head over these levels, finest first.
    pub fn new(
        parameters: &mut Parameters,
        options: &LinearOptions,
        levels: &[LevelSpec],
        classes: i64,
        precision: Precision,
    ) -> Result<Self> {
        let width = channels(levels).iter().sum();
        let norm = Norm::new(parameters, "decode_head.bn", NormKind::Batch, width)?;
        let classifier = Classifier::new(parameters, "decode_head.conv_seg", width, classes)?;
        Ok(Self { norm, classifier, dropout: options.dropout, precision })
    }

    /// Maps `[n, c_i, h_i, w_i]` to logits `[n, classes, h_0, w_0]`.
    pub fn forward(&self, maps: &[Tensor], phase: Phase) -> Result<Logits> {
        let finest = maps.first().ok_or_else(|| Error::invalid("the linear head needs a level"))?;
        let (_, _, height, width) = finest.size4()?;
        let maps = maps
            .iter()
            .map(|map| resize(&map.f_to_kind(self.precision.kind())?, height, width))
            .collect::<Result<Vec<_>>>()?;
        let x = match maps.as_slice() {
            [one] => one.shallow_clone(),
            many => Tensor::f_cat(many, 1)?, // [n, Σ c_i, h_0, w_0]
        };
        let x = self.norm.forward(&x, phase)?;
        let x = phase.drop_channels(x, "decode_head", self.dropout)?;
        Ok(Logits { main: self.classifier.forward(&x)?, auxiliary: None })
    }
}
