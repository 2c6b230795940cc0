//! Feature pyramid network (Lin et al. 2017) as mmdetection's and torchvision's, which are equal: 1×1
//! laterals, nearest upsampling to the finer map's exact size, 3×3 outputs, further levels by taking
//! every second cell. Names are mmdetection's.

use crate::conv::{Conv, ConvLayout};
use crate::parameter::{Init, Parameters};
use crate::recipe::detector::NeckOptions;
use crate::{Error, Phase, Precision, Result};
use featcache_store::LevelSpec;
use tch::Tensor;

/// The neck.
#[derive(Debug)]
pub struct Fpn {
    laterals: Vec<Conv>,
    outputs: Vec<Conv>,
    count: usize,
}

impl Fpn {
    /// A pyramid over these levels, finest first.
    ///
    /// # Errors
    /// More levels than outputs.
    pub fn new(
        parameters: &mut Parameters,
        options: &NeckOptions,
        levels: &[LevelSpec],
        precision: Precision,
    ) -> Result<Self> {
        let count = options.outputs as usize;
        if levels.is_empty() || levels.len() > count {
            let found = levels.len();
            return Err(Error::invalid(format!("an FPN of {count} outputs over {found} levels")));
        }
        let width = i64::from(options.channels);
        let mut conv = |name: String, input, kernel| {
            let (norm, init) = (options.norm, Init::xavier as fn(&[i64]) -> Init);
            let layout = ConvLayout { input, output: width, kernel, norm, relu: false, init, precision };
            Conv::module(parameters, &name, layout)
        };
        let laterals = (0..)
            .zip(levels)
            .map(|(i, level)| conv(format!("neck.lateral_convs.{i}"), i64::from(level.channels), 1))
            .collect::<Result<_>>()?;
        let outputs = (0..levels.len())
            .map(|i| conv(format!("neck.fpn_convs.{i}"), width, 3))
            .collect::<Result<_>>()?;
        Ok(Self { laterals, outputs, count })
    }

    /// Maps `[n, c_i, h_i, w_i]`, finest first, to `outputs` maps `[n, channels, h_i, w_i]`.
    pub fn forward(&self, maps: &[Tensor], phase: Phase) -> Result<Vec<Tensor>> {
        if maps.len() != self.laterals.len() {
            let (found, expected) = (maps.len(), self.laterals.len());
            return Err(Error::invalid(format!("the FPN got {found} maps, expected {expected}")));
        }
        let mut inner = maps
            .iter()
            .zip(&self.laterals)
            .map(|(map, conv)| conv.forward(map, phase))
            .collect::<Result<Vec<_>>>()?;
        for i in (1..inner.len()).rev() {
            let (_, _, height, width) = inner[i - 1].size4()?;
            let coarser = inner[i].f_upsample_nearest2d([height, width], None, None)?;
            inner[i - 1] = inner[i - 1].f_add(&coarser)?;
        }
        let mut pyramid = inner
            .iter()
            .zip(&self.outputs)
            .map(|(map, conv)| conv.forward(map, phase))
            .collect::<Result<Vec<_>>>()?;
        while let (Some(last), true) = (pyramid.last(), pyramid.len() < self.count) {
            pyramid.push(last.f_max_pool2d(1, 2, 0, 1, false)?);
        }
        Ok(pyramid)
    }
}
