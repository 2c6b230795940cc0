//! Bidirectional feature pyramid (Tan et al. 2020) in the variant of Swin's authors
//! (Swin-Transformer-Object-Detection, `mmdet/models/necks/bifpn.py`): full 3×3 convolutions, norm after
//! every convolution, fast normalised fusion followed by swish. Names are that file's.

use crate::conv::{Conv, ConvLayout};
use crate::norm::NormKind;
use crate::parameter::{Init, Parameters, Role};
use crate::recipe::detector::NeckOptions;
use crate::{Error, Phase, Precision, Result};
use featcache_store::LevelSpec;
use tch::Tensor;

/// The neck.
#[derive(Debug)]
pub struct BiFpn {
    inputs: usize,
    outputs: usize,
    layers: Vec<Layer>,
}

/// One pass down and one up.
#[derive(Debug)]
struct Layer {
    /// 1×1 convolutions of the maps whose width differs.
    laterals: Vec<Option<Conv>>,
    /// Of every level but the coarsest: own map and the coarser one.
    down: Vec<Fusion>,
    /// Of every level but the finest: the finer one, own map after the way down, own lateral.
    up: Vec<Fusion>,
}

/// Weighted sum → swish → 3×3 convolution.
#[derive(Debug)]
struct Fusion {
    /// One a map, `[1, 1, 1, 1, maps]`.
    weights: Tensor,
    conv: Conv,
}

/// Keeps the weights' sum from 0.
const EPSILON: f64 = 1e-4;

impl BiFpn {
    /// `repeats` layers over these levels, finest first. Levels beyond them are pooled from the coarsest
    /// map before the first layer.
    ///
    /// # Errors
    /// More levels than outputs; fewer than two outputs.
    pub fn new(
        parameters: &mut Parameters,
        options: &NeckOptions,
        levels: &[LevelSpec],
        precision: Precision,
    ) -> Result<Self> {
        let outputs = options.outputs as usize;
        let Some(coarsest) = levels.last().filter(|_| levels.len() <= outputs && outputs > 1) else {
            let found = levels.len();
            return Err(Error::invalid(format!("a BiFPN of {outputs} outputs over {found} levels")));
        };
        let width = i64::from(options.channels);
        let mut widths: Vec<i64> = levels.iter().map(|level| i64::from(level.channels)).collect();
        widths.resize(outputs, i64::from(coarsest.channels));
        let norm = options.norm.unwrap_or(NormKind::Group);
        let mut layers = Vec::with_capacity(options.repeats as usize);
        for repeat in 0..options.repeats {
            layers.push(Layer::new(
                parameters,
                &format!("neck.bi_fpn.{repeat}"),
                &widths,
                width,
                norm,
                precision,
            )?);
            widths.fill(width);
        }
        Ok(Self { inputs: levels.len(), outputs, layers })
    }

    /// Maps `[n, c_i, h_i, w_i]`, finest first, to `outputs` maps `[n, channels, h_i, w_i]`.
    pub fn forward(&self, maps: &[Tensor], phase: Phase) -> Result<Vec<Tensor>> {
        if maps.len() != self.inputs {
            let (found, expected) = (maps.len(), self.inputs);
            return Err(Error::invalid(format!("the BiFPN got {found} maps, expected {expected}")));
        }
        let mut pyramid: Vec<Tensor> = maps.iter().map(Tensor::shallow_clone).collect();
        while let (Some(last), true) = (pyramid.last(), pyramid.len() < self.outputs) {
            pyramid.push(half(last)?);
        }
        for layer in &self.layers {
            pyramid = layer.forward(&pyramid, phase)?;
        }
        Ok(pyramid)
    }
}

impl Layer {
    fn new(
        parameters: &mut Parameters,
        name: &str,
        widths: &[i64],
        width: i64,
        norm: NormKind,
        precision: Precision,
    ) -> Result<Self> {
        let layout = |input, kernel| {
            let init = Init::xavier as fn(&[i64]) -> Init;
            ConvLayout { input, output: width, kernel, norm: Some(norm), relu: false, init, precision }
        };
        let last = widths.len() - 1;
        let (mut laterals, mut down, mut up) = (Vec::new(), Vec::new(), Vec::new());
        for (i, &input) in widths.iter().enumerate() {
            laterals.push(match input == width {
                true => None,
                false => {
                    Some(Conv::module(parameters, &format!("{name}.lateral_convs.{i}"), layout(input, 1))?)
                }
            });
            let mut fusion = |kind: &str, i: usize, inputs: i64| {
                let (one, shape) = (Init::Ones, [1, 1, 1, 1, inputs]);
                let weights = format!("{name}.{kind}_combine.{i}.weights");
                let weights = parameters.create(weights, &shape, Role::NoDecay, one)?;
                let conv =
                    Conv::module(parameters, &format!("{name}.{kind}_combine_conv.{i}"), layout(width, 3))?;
                Ok::<_, Error>(Fusion { weights, conv })
            };
            if i < last {
                down.push(fusion("lateral", i, 2)?);
            }
            if i > 0 {
                up.push(fusion("out", i - 1, if i < last { 3 } else { 2 })?);
            }
        }
        Ok(Self { laterals, down, up })
    }

    fn forward(&self, maps: &[Tensor], phase: Phase) -> Result<Vec<Tensor>> {
        let lateral = |(map, conv): (&Tensor, &Option<Conv>)| match conv {
            Some(conv) => conv.forward(map, phase),
            None => Ok(map.shallow_clone()),
        };
        let laterals = maps.iter().zip(&self.laterals).map(lateral).collect::<Result<Vec<_>>>()?;
        let mut outs: Vec<Tensor> = laterals.iter().map(Tensor::shallow_clone).collect();
        for (i, fusion) in self.down.iter().enumerate().rev() {
            let (_, _, height, width) = outs[i].size4()?;
            let coarser = outs[i + 1].f_upsample_nearest2d([height, width], None, None)?;
            outs[i] = fusion.forward(&[&outs[i], &coarser], phase)?;
        }
        for (i, fusion) in self.up.iter().enumerate() {
            let finer = half(&outs[i])?;
            let coarsest = i + 2 == outs.len();
            // The coarsest level was not changed on the way down: its lateral would count twice.
            outs[i + 1] = match coarsest {
                true => fusion.forward(&[&finer, &outs[i + 1]], phase)?,
                false => fusion.forward(&[&finer, &outs[i + 1], &laterals[i + 1]], phase)?,
            };
        }
        Ok(outs)
    }
}

impl Fusion {
    /// Σ wᵢ·xᵢ / (Σ wᵢ + ε) with w = relu(weights), then swish and the convolution.
    fn forward(&self, maps: &[&Tensor], phase: Phase) -> Result<Tensor> {
        let weights = self.weights.f_view([-1])?.f_relu()?; // [maps]
        let shares = weights.f_div(&weights.f_sum(tch::Kind::Float)?.f_add_scalar(EPSILON)?)?;
        let mut sum: Option<Tensor> = None;
        for (i, map) in (0..).zip(maps) {
            let term = map.f_mul(&shares.f_select(0, i)?.f_to_kind(map.kind())?)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&term)?,
                None => term,
            });
        }
        let sum = sum.ok_or_else(|| Error::invalid("a fusion of no maps"))?;
        self.conv.forward(&sum.f_silu()?, phase)
    }
}

/// Half the sides, rounded up: maximum over 3×3 cells at every second one.
fn half(map: &Tensor) -> Result<Tensor> {
    Ok(map.f_max_pool2d(3, 2, 1, 1, false)?)
}
