//! Mask head of a detector: pooled regions in, one mask's logits a region out. Names are mmdetection's
//! `FCNMaskHead` and `HTCMaskHead`. Must not know truth or boxes.

use crate::conv::{Conv, ConvLayout};
use crate::parameter::{Init, Parameters, Role};
use crate::recipe::detector::MaskHeadOptions;
use crate::{Error, Phase, Precision, Result};
use tch::{Kind, Tensor};

/// The layers.
#[derive(Debug)]
pub struct MaskHead {
    /// 1×1 convolution of the previous stage's features (mask information flow).
    flow: Option<Conv>,
    convs: Vec<Conv>,
    upsample: (Tensor, Tensor),
    logits: (Tensor, Tensor),
    precision: Precision,
}

impl MaskHead {
    /// Layers for regions of `input` channels, called `{name}.*`. With `flow` the head takes features of
    /// the stage before it.
    pub fn new(
        parameters: &mut Parameters,
        name: &str,
        options: &MaskHeadOptions,
        input: i64,
        classes: i64,
        flow: bool,
        precision: Precision,
    ) -> Result<Self> {
        let width = i64::from(options.channels);
        let mut conv = |name: String, input, output, kernel, norm| {
            let init = Init::kaiming as fn(&[i64]) -> Init;
            let layout = ConvLayout { input, output, kernel, norm, relu: true, init, precision };
            Conv::module(parameters, &name, layout)
        };
        let convs = (0..options.convs)
            .map(|i| {
                let input = if i == 0 { input } else { width };
                conv(format!("{name}.convs.{i}"), input, width, 3, options.norm)
            })
            .collect::<Result<Vec<_>>>()?;
        let flow = match flow {
            true => Some(conv(format!("{name}.conv_res"), width, input, 1, None)?),
            false => None,
        };
        let width = if options.convs == 0 { input } else { width };
        let output = i64::from(options.channels);
        let mut pair = |layer: &str, shape: [i64; 4], outputs: i64| {
            let (weight, bias) = (format!("{name}.{layer}.weight"), format!("{name}.{layer}.bias"));
            // torch counts the first axis as outputs, for a transposed convolution too.
            let weight = parameters.create(weight, &shape, Role::Weight, kaiming_first(&shape))?;
            let bias = parameters.create(bias, &[outputs], Role::NoDecay, Init::Zeros)?;
            Ok::<_, Error>((weight, bias))
        };
        let upsample = pair("upsample", [width, output, 2, 2], output)?;
        let logits = pair("conv_logits", [classes, output, 1, 1], classes)?;
        Ok(Self { flow, convs, upsample, logits, precision })
    }

    /// Regions `[r, c, side, side]`, plus what the stage before hands on, to the features
    /// `[r, channels, side, side]` that this stage hands on.
    pub fn features(&self, regions: &Tensor, before: Option<&Tensor>, phase: Phase) -> Result<Tensor> {
        let mut x = match (&self.flow, before) {
            (Some(flow), Some(before)) => {
                regions.f_to_kind(self.precision.kind())?.f_add(&flow.forward(before, phase)?)?
            }
            _ => regions.shallow_clone(),
        };
        for conv in &self.convs {
            x = conv.forward(&x, phase)?;
        }
        Ok(x)
    }

    /// Features `[r, channels, side, side]` to the logits `[r, 2·side, 2·side]` of each region's class,
    /// binary32. The other classes' masks are neither trained nor used, so they are not computed.
    pub fn logits(&self, features: &Tensor, classes: &[i64]) -> Result<Tensor> {
        let kind = self.precision.kind();
        let (weight, bias) = (self.upsample.0.f_to_kind(kind)?, self.upsample.1.f_to_kind(kind)?);
        let x = features.f_to_kind(kind)?;
        let mut x = x.f_conv_transpose2d(&weight, Some(&bias), 2, 0, 0, 1, 1)?;
        let _ = x.f_relu_()?;
        let (r, c, height, width) = x.size4()?;
        let classes = Tensor::f_from_slice(classes)?.f_to_device(x.device())?;
        let weight = self.logits.0.f_index_select(0, &classes)?.f_view([r, c, 1])?.f_to_kind(kind)?;
        let bias = self.logits.1.f_index_select(0, &classes)?.f_view([r, 1, 1])?;
        let cells = x.f_permute([0, 2, 3, 1])?.f_reshape([r, height * width, c])?;
        let logits = cells.f_bmm(&weight)?.f_to_kind(Kind::Float)?.f_add(&bias)?; // [r, h · w, 1]
        Ok(logits.f_view([r, height, width])?)
    }
}

/// He et al. 2015 counted over the first axis: torch's `kaiming_normal_(mode="fan_out")`.
fn kaiming_first(shape: &[i64; 4]) -> Init {
    let fan_out = shape[0] * shape[2] * shape[3];
    Init::Normal((2.0 / fan_out.max(1) as f64).sqrt())
}
