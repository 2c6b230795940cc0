//! The fake backbone: deterministic, without weights, instant, and a function of the input pixels.
//!
//! It stands in for a real one wherever the path around it is tested. Its maps are exact means of pixels, so
//! that a mix-up of pictures, rows, columns, colours or levels shows; nothing in them is worth learning from,
//! except the mean colour of a cell.

use super::Backbone;
use crate::{Error, Result};
use featcache_store::{BackboneSpec, Compute, LevelSpec, Size};
use tch::{Device, Kind, Tensor};

/// Registered name.
pub(crate) const NAME: &str = "fake";
/// Channels of the finest level; they double from level to level.
const CHANNELS: u32 = 8;

/// Channel `j` of a level is the mean colour `j % 3` of the cell, times `1 + j / 3`, plus `j / 16`.
#[derive(Debug)]
pub struct Fake {
    spec: BackboneSpec,
    levels: Vec<LevelSpec>,
    device: Device,
}

impl Fake {
    /// A fake backbone; two of them never differ.
    pub fn new(compute: Compute, device: Device) -> Self {
        let levels = (0..4)
            .map(|i| LevelSpec {
                name: format!("p{}", i + 2),
                stride: 4 << i,
                channels: CHANNELS << i,
                tap: format!("mean{}", 4 << i),
                norm: "none".into(),
            })
            .collect();
        let spec = BackboneSpec {
            name: NAME.into(),
            weights_blake3: blake3::hash(b"featcache fake backbone 1").to_hex().to_string(),
            compute,
            options: Default::default(),
        };
        Self { spec, levels, device }
    }

    fn level(&self, cells: &Tensor, channels: u32) -> Result<Tensor, tch::TchError> {
        let channels: Vec<i64> = (0..i64::from(channels)).collect();
        let options = (Kind::Float, self.device);
        let colour = Tensor::from_slice(&channels).to_device(self.device).f_remainder(3)?;
        let gain: Vec<f32> = channels.iter().map(|&j| 1.0 + (j / 3) as f32).collect();
        let offset: Vec<f32> = channels.iter().map(|&j| j as f32 / 16.0).collect();
        let to_device = |values: &[f32]| Tensor::from_slice(values).f_to_device(options.1);
        cells
            .f_permute([0, 2, 3, 1])? // [n, h, w, 3]
            .f_index_select(3, &colour)? // [n, h, w, c]
            .f_mul(&to_device(&gain)?)?
            .f_add(&to_device(&offset)?)?
            .f_to_kind(super::kind_of(self.spec.compute))?
            .f_contiguous()
    }
}

impl Backbone for Fake {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn levels(&self) -> &[LevelSpec] {
        &self.levels
    }

    fn divisor(&self) -> u32 {
        32
    }

    fn device(&self) -> Device {
        self.device
    }

    fn parameters(&self) -> u64 {
        0
    }

    fn flops(&self, _: Size) -> u64 {
        0
    }

    fn forward(&self, input: &Tensor) -> Result<Vec<Tensor>> {
        if input.size().len() != 4 {
            return Err(Error::invalid(format!("input of shape {:?}, expected [n, 3, h, w]", input.size())));
        }
        tch::no_grad(|| {
            let mut levels = Vec::with_capacity(self.levels.len());
            let mut cells = input.shallow_clone();
            for level in &self.levels {
                // Means of means of equal areas are exact means; sizes round up as a padded backbone's do.
                let step = if level.stride == 4 { 4 } else { 2 };
                cells = cells.f_avg_pool2d([step, step], [step, step], [0, 0], true, false, None::<i64>)?;
                levels.push(self.level(&cells, level.channels)?);
            }
            Ok(levels)
        })
        .map_err(Error::torch("run the fake backbone"))
    }
}
