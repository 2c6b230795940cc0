//! Box head of a detector: pooled regions in, class logits and deltas out. Names are mmdetection's
//! `Shared2FCBBoxHead` and `Shared4Conv1FCBBoxHead`. Must not know truth or boxes.

use crate::conv::{Conv, ConvLayout};
use crate::dense::Dense;
use crate::parameter::{Init, Parameters};
use crate::recipe::detector::BoxHeadOptions;
use crate::{Phase, Precision, Result};
use tch::{Kind, Tensor};

/// The layers.
#[derive(Debug)]
pub struct BoxHead {
    convs: Vec<Conv>,
    fcs: Vec<Dense>,
    classes: Dense,
    deltas: Dense,
    precision: Precision,
}

impl BoxHead {
    /// Layers for regions of `input` channels, called `{name}.*`; the background is the last of
    /// `classes + 1` logits.
    pub fn new(
        parameters: &mut Parameters,
        name: &str,
        options: &BoxHeadOptions,
        input: i64,
        classes: i64,
        precision: Precision,
    ) -> Result<Self> {
        let mut width = input;
        let mut convs = Vec::new();
        for i in 0..options.convs {
            let output = i64::from(options.conv_channels);
            let (norm, init) = (options.norm, Init::kaiming as fn(&[i64]) -> Init);
            let layout = ConvLayout { input: width, output, kernel: 3, norm, relu: true, init, precision };
            convs.push(Conv::module(parameters, &format!("{name}.shared_convs.{i}"), layout)?);
            width = output;
        }
        width *= i64::from(options.side).pow(2);
        let mut fcs = Vec::new();
        for i in 0..options.fcs {
            let output = i64::from(options.fc_channels);
            fcs.push(Dense::new(parameters, &format!("{name}.shared_fcs.{i}"), width, output, Init::xavier)?);
            width = output;
        }
        let boxes = if options.class_agnostic { 1 } else { classes };
        let (class, delta) = (|_: &[i64]| Init::Normal(0.01), |_: &[i64]| Init::Normal(0.001));
        let classes = Dense::new(parameters, &format!("{name}.fc_cls"), width, classes + 1, class)?;
        let deltas = Dense::new(parameters, &format!("{name}.fc_reg"), width, 4 * boxes, delta)?;
        Ok(Self { convs, fcs, classes, deltas, precision })
    }

    /// Regions `[r, c, side, side]`, at least one, to logits `[r, classes + 1]` and deltas `[r, 4 · boxes]`,
    /// binary32.
    pub fn forward(&self, regions: &Tensor, phase: Phase) -> Result<(Tensor, Tensor)> {
        let mut x = regions.shallow_clone();
        for conv in &self.convs {
            x = conv.forward(&x, phase)?;
        }
        x = x.f_flatten(1, -1)?; // [r, c · side · side], channels outermost as in the references
        for fc in &self.fcs {
            x = fc.forward(&x, self.precision)?.f_relu()?;
        }
        let classes = self.classes.forward(&x, self.precision)?.f_to_kind(Kind::Float)?;
        let deltas = self.deltas.forward(&x, self.precision)?.f_to_kind(Kind::Float)?;
        Ok((classes, deltas))
    }
}
