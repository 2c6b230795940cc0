//! UperNet (Xiao et al. 2018) as mmsegmentation's `UPerHead` with its auxiliary `FCNHead`: pyramid
//! pooling on the coarsest level, a feature pyramid down to the finest, fusion, classifier. Tensors
//! have mmsegmentation's names, so that published heads load.

use crate::conv::{Classifier, ConvModule, ConvSpec, resize};
use crate::head::{Logits, channels};
use crate::norm::NormKind;
use crate::parameter::Parameters;
use crate::{Error, Phase, Precision, Result};
use featcache_store::LevelSpec;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Options of UperNet; the defaults are mmsegmentation's, apart from the norm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UperNetOptions {
    /// Channels inside the head.
    pub channels: u32,
    /// Sides of the pooled maps of the pyramid pooling.
    pub pool_scales: Vec<u32>,
    /// Norm after every convolution. `batch` is the published recipe on eight GPUs; on one device
    /// with small batches `group` is its substitute and the default.
    pub norm: NormKind,
    /// Probability of dropping a channel before the classifier while training.
    pub dropout: f64,
    /// A second head on one level that only training uses.
    pub auxiliary: Option<AuxiliaryOptions>,
}

/// Options of the auxiliary FCN head: one 3×3 convolution and a classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuxiliaryOptions {
    /// Name of its level, one of the head's.
    pub level: String,
    /// Channels of its convolution.
    #[serde(default = "auxiliary_channels")]
    pub channels: u32,
    /// Weight of its loss.
    #[serde(default = "auxiliary_weight")]
    pub weight: f64,
}

fn auxiliary_channels() -> u32 {
    256
}

fn auxiliary_weight() -> f64 {
    0.4
}

impl Default for UperNetOptions {
    fn default() -> Self {
        Self {
            channels: 512,
            pool_scales: vec![1, 2, 3, 6],
            norm: NormKind::Group,
            dropout: 0.1,
            auxiliary: None,
        }
    }
}

/// The head.
#[derive(Debug)]
pub struct UperNet {
    pool: Vec<(i64, ConvModule)>,
    bottleneck: ConvModule,
    laterals: Vec<ConvModule>,
    outputs: Vec<ConvModule>,
    fusion: ConvModule,
    classifier: Classifier,
    dropout: f64,
    auxiliary: Option<Auxiliary>,
}

#[derive(Debug)]
struct Auxiliary {
    level: usize,
    conv: ConvModule,
    classifier: Classifier,
    weight: f64,
}

impl UperNet {
    /// A head over these levels, finest first; at least one.
    pub fn new(
        parameters: &mut Parameters,
        options: &UperNetOptions,
        levels: &[LevelSpec],
        classes: i64,
        precision: Precision,
    ) -> Result<Self> {
        let inputs = channels(levels);
        let (&coarsest, finer) =
            inputs.split_last().ok_or_else(|| Error::invalid("UperNet needs a level"))?;
        let width = i64::from(options.channels);
        let norm = options.norm;
        let mut conv = |name: String, input, output, kernel| {
            ConvModule::new(parameters, &name, ConvSpec { input, output, kernel, norm, precision })
        };
        let pool = (0..)
            .zip(&options.pool_scales)
            .map(|(i, &scale)| {
                let module = conv(format!("decode_head.psp_modules.{i}.1"), coarsest, width, 1)?;
                Ok((i64::from(scale), module))
            })
            .collect::<Result<Vec<_>>>()?;
        let pooled = coarsest + pool.len() as i64 * width;
        let bottleneck = conv("decode_head.bottleneck".into(), pooled, width, 3)?;
        let lateral = |(i, &input): (usize, &i64)| (format!("decode_head.lateral_convs.{i}"), input);
        let laterals = finer
            .iter()
            .enumerate()
            .map(lateral)
            .map(|(name, input)| conv(name, input, width, 1))
            .collect::<Result<Vec<_>>>()?;
        let outputs = (0..finer.len())
            .map(|i| conv(format!("decode_head.fpn_convs.{i}"), width, width, 3))
            .collect::<Result<Vec<_>>>()?;
        let fusion = conv("decode_head.fpn_bottleneck".into(), inputs.len() as i64 * width, width, 3)?;
        let classifier = Classifier::new(parameters, "decode_head.conv_seg", width, classes)?;
        let auxiliary = match &options.auxiliary {
            Some(auxiliary) => Some(Auxiliary::new(parameters, auxiliary, norm, levels, classes, precision)?),
            None => None,
        };
        let dropout = options.dropout;
        Ok(Self { pool, bottleneck, laterals, outputs, fusion, classifier, dropout, auxiliary })
    }

    /// Maps `[n, c_i, h_i, w_i]`, finest first, to logits `[n, classes, h_0, w_0]`.
    pub fn forward(&self, maps: &[Tensor], phase: Phase) -> Result<Logits> {
        let (coarsest, finer) = match maps.split_last() {
            Some((coarsest, finer)) if finer.len() == self.laterals.len() => (coarsest, finer),
            _ => {
                let (found, expected) = (maps.len(), self.laterals.len() + 1);
                return Err(Error::invalid(format!("UperNet got {found} maps, expected {expected}")));
            }
        };
        let mut laterals = finer
            .iter()
            .zip(&self.laterals)
            .map(|(map, conv)| conv.forward(map, phase))
            .collect::<Result<Vec<_>>>()?;
        laterals.push(self.pyramid_pooling(coarsest, phase)?);
        for i in (1..laterals.len()).rev() {
            let (_, _, height, width) = laterals[i - 1].size4()?;
            laterals[i - 1] = laterals[i - 1].f_add(&resize(&laterals[i], height, width)?)?;
        }
        let (_, _, height, width) = laterals[0].size4()?;
        let mut pyramid = Vec::with_capacity(laterals.len());
        for (i, lateral) in laterals.iter().enumerate() {
            // The coarsest level went through the bottleneck and has no convolution of its own here.
            let map = match self.outputs.get(i) {
                Some(conv) => conv.forward(lateral, phase)?,
                None => lateral.shallow_clone(),
            };
            pyramid.push(resize(&map, height, width)?);
        }
        let fused = self.fusion.forward(&Tensor::f_cat(&pyramid, 1)?, phase)?; // [n, channels, h_0, w_0]
        let fused = phase.drop_channels(fused, "decode_head", self.dropout)?;
        let main = self.classifier.forward(&fused)?;
        let auxiliary = match &self.auxiliary {
            Some(auxiliary) if phase.is_training() => {
                Some((auxiliary.forward(maps, phase, self.dropout)?, auxiliary.weight))
            }
            _ => None,
        };
        Ok(Logits { main, auxiliary })
    }

    fn pyramid_pooling(&self, map: &Tensor, phase: Phase) -> Result<Tensor> {
        let (_, _, height, width) = map.size4()?;
        let mut parts = Vec::with_capacity(self.pool.len() + 1);
        for (scale, conv) in &self.pool {
            let pooled = conv.forward(&map.f_adaptive_avg_pool2d([*scale, *scale])?, phase)?;
            parts.push(resize(&pooled, height, width)?);
        }
        // The map itself comes first; concatenation wants one element type.
        let kind = parts.first().map_or(map.kind(), Tensor::kind);
        parts.insert(0, map.f_to_kind(kind)?);
        self.bottleneck.forward(&Tensor::f_cat(&parts, 1)?, phase)
    }
}

impl Auxiliary {
    fn new(
        parameters: &mut Parameters,
        options: &AuxiliaryOptions,
        norm: NormKind,
        levels: &[LevelSpec],
        classes: i64,
        precision: Precision,
    ) -> Result<Self> {
        let level = levels.iter().position(|level| level.name == options.level).ok_or_else(|| {
            let names: Vec<_> = levels.iter().map(|level| level.name.as_str()).collect();
            let (found, names) = (&options.level, names.join(", "));
            Error::invalid(format!("head.upernet.auxiliary.level is {found:?}, expected one of {names}"))
        })?;
        let (input, output) = (i64::from(levels[level].channels), i64::from(options.channels));
        let spec = ConvSpec { input, output, kernel: 3, norm, precision };
        let conv = ConvModule::new(parameters, "auxiliary_head.convs.0", spec)?;
        let classifier = Classifier::new(parameters, "auxiliary_head.conv_seg", output, classes)?;
        Ok(Self { level, conv, classifier, weight: options.weight })
    }

    fn forward(&self, maps: &[Tensor], phase: Phase, dropout: f64) -> Result<Tensor> {
        let x = self.conv.forward(&maps[self.level], phase)?;
        self.classifier.forward(&phase.drop_channels(x, "auxiliary_head", dropout)?)
    }
}
