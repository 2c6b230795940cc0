//! Convolutions of heads, with and without norm and ReLU, and the resize between maps. Must not know
//! which head they are in. Maps are `[n, c, h, w]` in channels_last memory throughout.

use crate::norm::{Norm, NormKind};
use crate::parameter::{Init, Parameters, Role};
use crate::{Phase, Precision, Result};
use tch::Tensor;

/// A convolution with bias and nothing after it: a head's classifier.
#[derive(Debug)]
pub struct Classifier {
    weight: Tensor,
    bias: Tensor,
}

impl Classifier {
    /// 1×1, `channels` to `classes`, started as mmseg's `conv_seg` (normal of 0.01, bias 0).
    pub fn new(parameters: &mut Parameters, name: &str, channels: i64, classes: i64) -> Result<Self> {
        let shape = [classes, channels, 1, 1];
        let weight = parameters.create(format!("{name}.weight"), &shape, Role::Weight, Init::Normal(0.01))?;
        let bias = parameters.create(format!("{name}.bias"), &[classes], Role::NoDecay, Init::Zeros)?;
        Ok(Self { weight, bias })
    }

    /// `[n, channels, h, w]` to logits `[n, classes, h, w]`, binary32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let kind = x.kind();
        let (weight, bias) = (self.weight.f_to_kind(kind)?, self.bias.f_to_kind(kind)?);
        let logits = x.f_conv2d(&weight, Some(&bias), 1, 0, 1, 1)?; // [n, classes, h, w]
        Ok(logits.f_to_kind(tch::Kind::Float)?)
    }
}

/// Convolution without bias → norm → ReLU: mmcv's `ConvModule`, with its names.
#[derive(Debug)]
pub struct ConvModule {
    weight: Tensor,
    norm: Norm,
    padding: i64,
    precision: Precision,
}

/// Shape and norm of a [`ConvModule`].
#[derive(Debug, Clone, Copy)]
pub struct ConvSpec {
    /// Channels in.
    pub input: i64,
    /// Channels out.
    pub output: i64,
    /// Side of the kernel, odd; the map keeps its size.
    pub kernel: i64,
    /// Norm after it.
    pub norm: NormKind,
    /// Arithmetic.
    pub precision: Precision,
}

impl ConvModule {
    /// Tensors are called `{name}.conv.weight`, `{name}.bn.*` or `{name}.gn.*`.
    pub fn new(parameters: &mut Parameters, name: &str, spec: ConvSpec) -> Result<Self> {
        let shape = [spec.output, spec.input, spec.kernel, spec.kernel];
        let init = Init::kaiming(&shape);
        let weight = parameters.create(format!("{name}.conv.weight"), &shape, Role::Weight, init)?;
        let norm_name = match spec.norm {
            NormKind::Batch => format!("{name}.bn"),
            NormKind::Group => format!("{name}.gn"),
        };
        let norm = Norm::new(parameters, &norm_name, spec.norm, spec.output)?;
        Ok(Self { weight, norm, padding: spec.kernel / 2, precision: spec.precision })
    }

    /// `[n, input, h, w]` to `[n, output, h, w]`.
    pub fn forward(&self, x: &Tensor, phase: Phase) -> Result<Tensor> {
        let kind = self.precision.kind();
        let weight = self.weight.f_to_kind(kind)?;
        let x = x.f_to_kind(kind)?.f_conv2d(&weight, None::<&Tensor>, 1, self.padding, 1, 1)?;
        Ok(self.norm.forward(&x, phase)?.f_relu()?)
    }
}

/// Convolution → (norm) → (ReLU), each to choose; with bias where there is no norm.
#[derive(Debug)]
pub struct Conv {
    weight: Tensor,
    bias: Option<Tensor>,
    norm: Option<Norm>,
    relu: bool,
    padding: i64,
    precision: Precision,
}

/// What a [`Conv`] is made of.
#[derive(Debug, Clone, Copy)]
pub struct ConvLayout {
    /// Channels in.
    pub input: i64,
    /// Channels out.
    pub output: i64,
    /// Side of the kernel, odd; the map keeps its size.
    pub kernel: i64,
    /// Norm after it.
    pub norm: Option<NormKind>,
    /// ReLU at the end.
    pub relu: bool,
    /// Start of the weight, from its shape.
    pub init: fn(&[i64]) -> Init,
    /// Arithmetic.
    pub precision: Precision,
}

impl Conv {
    /// As mmcv's `ConvModule`: `{name}.conv.weight`, `{name}.conv.bias`, `{name}.bn.*` or `{name}.gn.*`.
    pub fn module(parameters: &mut Parameters, name: &str, layout: ConvLayout) -> Result<Self> {
        Self::new(parameters, &format!("{name}.conv"), name, layout)
    }

    /// As torch's `Conv2d`: `{name}.weight` and `{name}.bias`; norms as [`module`](Self::module).
    pub fn plain(parameters: &mut Parameters, name: &str, layout: ConvLayout) -> Result<Self> {
        Self::new(parameters, name, name, layout)
    }

    fn new(parameters: &mut Parameters, conv: &str, module: &str, layout: ConvLayout) -> Result<Self> {
        let ConvLayout { input, output, kernel, norm, relu, init, precision } = layout;
        let shape = [output, input, kernel, kernel];
        let weight = parameters.create(format!("{conv}.weight"), &shape, Role::Weight, init(&shape))?;
        let bias = match norm {
            Some(_) => None,
            None => Some(parameters.create(format!("{conv}.bias"), &[output], Role::NoDecay, Init::Zeros)?),
        };
        let norm = norm.map(|kind| {
            let name = match kind {
                NormKind::Batch => format!("{module}.bn"),
                NormKind::Group => format!("{module}.gn"),
            };
            Norm::new(parameters, &name, kind, output)
        });
        Ok(Self { weight, bias, norm: norm.transpose()?, relu, padding: kernel / 2, precision })
    }

    /// `[n, input, h, w]` to `[n, output, h, w]` in the precision's kind.
    pub fn forward(&self, x: &Tensor, phase: Phase) -> Result<Tensor> {
        let kind = self.precision.kind();
        let weight = self.weight.f_to_kind(kind)?;
        let bias = self.bias.as_ref().map(|bias| bias.f_to_kind(kind)).transpose()?;
        let mut x = x.f_to_kind(kind)?.f_conv2d(&weight, bias.as_ref(), 1, self.padding, 1, 1)?;
        if let Some(norm) = &self.norm {
            x = norm.forward(&x, phase)?;
        }
        if self.relu {
            // In place: neither the convolution nor a norm needs what it gave.
            let _ = x.f_relu_()?;
        }
        Ok(x)
    }
}

/// Bilinear with `align_corners=False` to `[height, width]`; nothing where the size is right already.
pub fn resize(x: &Tensor, height: i64, width: i64) -> Result<Tensor> {
    let (_, _, h, w) = x.size4()?;
    if (h, w) == (height, width) {
        return Ok(x.shallow_clone());
    }
    Ok(x.f_upsample_bilinear2d([height, width], false, None, None)?)
}
