//! Region proposal network (Ren et al. 2015): objectness and deltas of every anchor of every level. Names
//! are mmdetection's. Must not know truth or boxes.

use crate::conv::{Conv, ConvLayout};
use crate::parameter::{Init, Parameters};
use crate::recipe::detector::RpnOptions;
use crate::{Phase, Precision, Result};
use tch::{Kind, Tensor};

/// The layers, shared by all levels.
#[derive(Debug)]
pub struct Rpn {
    convs: Vec<Conv>,
    objectness: Conv,
    deltas: Conv,
}

/// What a region proposal network says of a batch, level by level. Anchors are counted cell by cell,
/// row by row.
#[derive(Debug)]
pub struct RpnOutput {
    /// Logits `[n, h·w·anchors]`, binary32.
    pub objectness: Vec<Tensor>,
    /// Deltas `[n, h·w·anchors, 4]`, binary32.
    pub deltas: Vec<Tensor>,
    /// Height and width of each level's map.
    pub sizes: Vec<(i64, i64)>,
}

impl Rpn {
    /// Layers for maps of `input` channels.
    pub fn new(
        parameters: &mut Parameters,
        options: &RpnOptions,
        input: i64,
        precision: Precision,
    ) -> Result<Self> {
        let width = i64::from(options.channels);
        let init = |_: &[i64]| Init::Normal(0.01);
        let layout = |input, output, kernel, relu| ConvLayout {
            input,
            output,
            kernel,
            norm: None,
            relu,
            init,
            precision,
        };
        let convs = match options.convs {
            1 => vec![Conv::plain(parameters, "rpn_head.rpn_conv", layout(input, width, 3, true))?],
            count => (0..count)
                .map(|i| {
                    let input = if i == 0 { input } else { width };
                    Conv::module(parameters, &format!("rpn_head.rpn_conv.{i}"), layout(input, width, 3, true))
                })
                .collect::<Result<_>>()?,
        };
        let anchors = options.ratios.len() as i64;
        let objectness = Conv::plain(parameters, "rpn_head.rpn_cls", layout(width, anchors, 1, false))?;
        let deltas = Conv::plain(parameters, "rpn_head.rpn_reg", layout(width, 4 * anchors, 1, false))?;
        Ok(Self { convs, objectness, deltas })
    }

    /// Maps `[n, c, h_i, w_i]` to their anchors' objectness and deltas.
    pub fn forward(&self, maps: &[Tensor], phase: Phase) -> Result<RpnOutput> {
        let mut output = RpnOutput { objectness: Vec::new(), deltas: Vec::new(), sizes: Vec::new() };
        for map in maps {
            let (n, _, height, width) = map.size4()?;
            let mut x = map.shallow_clone();
            for conv in &self.convs {
                x = conv.forward(&x, phase)?;
            }
            let of_anchors = |conv: &Conv| -> Result<Tensor> {
                let x = conv.forward(&x, phase)?.f_permute([0, 2, 3, 1])?; // [n, h, w, values]
                Ok(x.f_to_kind(Kind::Float)?)
            };
            output.objectness.push(of_anchors(&self.objectness)?.f_reshape([n, -1])?);
            output.deltas.push(of_anchors(&self.deltas)?.f_reshape([n, -1, 4])?);
            output.sizes.push((height, width));
        }
        Ok(output)
    }
}
