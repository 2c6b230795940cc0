//! Swin Transformer V2 as a frozen backbone: four stages of windowed cosine attention, any input size.
//!
//! Sources: Microsoft's `swin_transformer_v2.py`, the SwinV2 paper (arXiv 2111.09883), checked against
//! transformers and timm in `tests/cases/swin_v2.rs`. The levels are the stages' outputs before downsampling,
//! not normalised: V2 normalises branches, and the main branch grows from block to block. Any input size
//! works as in transformers: pixels are padded right and bottom to the patch, maps to the window inside
//! attention and to even sizes before merging.
//!
//! On a CPU pictures of a batch are run one by one: features do not depend on the batch, to the last bit.

mod attention;
mod block;
mod config;
mod extra_norm;
mod loader;
mod norm;
mod patch_embedding;
mod patch_merging;
mod portions;
mod position_bias;
mod trained_window;
mod window_layout;

pub use config::SwinV2Config;
pub use portions::Portions;

use super::{Backbone, BackboneOptions};
use crate::weights::{Parameter, WeightSource, Weights};
use crate::{Error, Result};
use block::Block;
use featcache_store::{BackboneSpec, Compute, LevelSpec, Size};
use loader::{Loader, loading};
use norm::Norm;
use patch_embedding::PatchEmbedding;
use patch_merging::PatchMerging;
use position_bias::BiasCache;
use std::cell::RefCell;
use tch::{Device, Kind, TchError, Tensor};
use window_layout::WindowLayout;

/// Padding inputs to multiples of the coarsest stride keeps every map whole.
pub(crate) const DIVISOR: u32 = 32;
/// Element type of the main branch in every compute: each block adds to it, and in bfloat16 a hundred roundings
/// add up (measured on SwinV2-S: p5 1.4 % off from fp32, 1.0 % with a binary32 main branch, 5 % slower).
const MAIN_BRANCH: Kind = Kind::Float;
/// Layouts kept: four stages of a few input sizes. Pictures come in buckets of one size.
const KEPT_LAYOUTS: usize = 16;

/// Element type of a compute.
pub(crate) fn kind_of(compute: Compute) -> Kind {
    match compute {
        Compute::Fp32 => Kind::Float,
        Compute::Bf16 => Kind::BFloat16,
    }
}

/// A SwinV2 with its weights on a device.
#[derive(Debug)]
pub struct SwinV2 {
    config: SwinV2Config,
    spec: BackboneSpec,
    levels: Vec<LevelSpec>,
    device: Device,
    kind: Kind,
    parameters: u64,
    embedding: PatchEmbedding,
    stages: Vec<Stage>,
    final_norm: Option<Norm>,
    portions: Portions,
    biases: RefCell<BiasCache>,
    layouts: RefCell<Vec<(LayoutKey, WindowLayout)>>,
}

/// The parameters of a configuration, all of them found in the source.
pub(crate) fn matched(
    config: &SwinV2Config,
    source: &WeightSource,
    options: &BackboneOptions,
) -> Result<(Vec<Parameter>, Weights)> {
    let parameters = config.parameters();
    let weights = source.matched(&parameters)?;
    trained_window::check(config, &weights, options.pretrained_window.is_some())?;
    Ok((parameters, weights))
}

#[derive(Debug)]
struct Stage {
    blocks: Vec<Block>,
    merging: Option<PatchMerging>,
}

/// What a layout depends on: pictures, map, and the stage, whose width sets the slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LayoutKey {
    pictures: u32,
    map: Size,
    stage: usize,
}

impl SwinV2 {
    /// Reads or draws the weights of a configuration. Fails with [`Error::Weights`] where a file does not
    /// have them all.
    pub fn load(config: SwinV2Config, source: &WeightSource, options: &BackboneOptions) -> Result<Self> {
        let (parameters, weights) = matched(&config, source, options)?;
        let spec = config.spec(weights.blake3(&parameters)?, options);
        let device = options.device;
        let kind = kind_of(options.compute);
        let loader = Loader { weights: &weights, parameters: &parameters, kind, device };
        let _guard = tch::no_grad_guard();
        let embedding = PatchEmbedding {
            weight: loader.take("patch_embed.proj.weight")?.f_flatten(1, -1).map_err(loading())?,
            bias: loader.take("patch_embed.proj.bias")?,
            norm: loader.norm("patch_embed.norm")?,
        };
        let mut stages = Vec::with_capacity(4);
        let mut block_number = 0;
        for stage in 0..4 {
            let mut blocks = Vec::with_capacity(config.depths[stage]);
            for block in 0..config.depths[stage] {
                blocks.push(loader.block(&config, stage, block, block_number)?);
                block_number += 1;
            }
            let merging = if stage < 3 {
                let name = format!("layers.{stage}.downsample");
                Some(PatchMerging {
                    weight: loader.take(&format!("{name}.reduction.weight"))?,
                    norm: loader.norm(&format!("{name}.norm"))?,
                })
            } else {
                None
            };
            stages.push(Stage { blocks, merging });
        }
        let final_norm = if options.final_norm { Some(loader.main_norm("norm")?) } else { None };
        Ok(Self {
            levels: config.levels(options.final_norm),
            parameters: parameters.iter().map(|p| p.elements() as u64).sum(),
            config,
            spec,
            device,
            kind,
            embedding,
            stages,
            final_norm,
            portions: Portions::of(device),
            biases: RefCell::new(BiasCache::new(device, kind)),
            layouts: RefCell::new(Vec::new()),
        })
    }

    /// The same network, worked through in other portions than [`Portions::of`] its device.
    pub fn with_portions(self, portions: Portions) -> Self {
        let biases = RefCell::new(BiasCache::new(self.device, self.kind));
        Self { portions, biases, layouts: RefCell::new(Vec::new()), ..self }
    }

    /// All levels of `pictures` `[n, 3, h, w]`, run together.
    fn run(&self, pictures: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let (n, _, height, width) = pictures.size4()?;
        let patch = i64::from(config::PATCH);
        let mut map = Size::new(((height + patch - 1) / patch) as u32, ((width + patch - 1) / patch) as u32);
        let mut x = self.embedding.forward(pictures, self.kind)?.f_to_kind(MAIN_BRANCH)?; // [n·h·w, c], rows
        let mut levels = Vec::with_capacity(self.stages.len());
        for (number, stage) in self.stages.iter().enumerate() {
            let key = LayoutKey { pictures: n as u32, map, stage: number };
            x = self.with_layout(key, |layout| self.run_stage(stage, layout, x))?;
            let shape = [n, i64::from(map.height), i64::from(map.width), self.config.width(number) as i64];
            let mut level = x.f_view(shape)?;
            if let (None, Some(norm)) = (&stage.merging, &self.final_norm) {
                level = norm.forward(&level)?;
            }
            level = level.f_to_kind(self.kind)?;
            if let Some(merging) = &stage.merging {
                x = merging.forward(&level)?.f_to_kind(MAIN_BRANCH)?;
                map = Size::new(map.height.div_ceil(2), map.width.div_ceil(2));
            } else {
                x = Tensor::new();
            }
            levels.push(level);
        }
        Ok(levels)
    }

    /// The blocks of a stage; `x` comes and goes as row-major cells `[n·h·w, d]`.
    fn run_stage(&self, stage: &Stage, layout: &WindowLayout, x: Tensor) -> Result<Tensor, TchError> {
        let gather = |x: Tensor, index: &Option<Tensor>| match index {
            Some(index) => x.f_index_select(0, index),
            None => Ok(x),
        };
        let mut x = gather(x, &layout.rows_to_plain)?;
        let mut shifted = false;
        for (number, block) in stage.blocks.iter().enumerate() {
            let shift = number % 2 == 1 && layout.shift > 0;
            x = match (shifted, shift) {
                (false, true) => gather(x, &layout.plain_to_shifted)?,
                (true, false) => gather(x, &layout.shifted_to_plain)?,
                _ => x,
            };
            shifted = shift;
            let order = if shift { &layout.shifted } else { &layout.plain };
            block.forward(&x, layout.window, order, &self.portions, &self.biases)?;
        }
        gather(x, if shifted { &layout.shifted_to_rows } else { &layout.plain_to_rows })
    }

    fn with_layout<T>(&self, key: LayoutKey, then: impl FnOnce(&WindowLayout) -> T) -> T {
        let mut layouts = self.layouts.borrow_mut();
        let at = layouts.iter().position(|(k, _)| *k == key).unwrap_or_else(|| {
            if layouts.len() == KEPT_LAYOUTS {
                let _ = layouts.remove(0);
            }
            let cells = self.slice_cells(key.stage);
            let layout = WindowLayout::new(key.pictures, key.map, self.config.window, cells, self.device);
            layouts.push((key, layout));
            layouts.len() - 1
        });
        then(&layouts[at].1)
    }

    /// Cells of a slice: their hidden layer sets it.
    fn slice_cells(&self, stage: usize) -> usize {
        let hidden_bytes = 4 * self.config.width(stage) * self.kind.elt_size_in_bytes();
        (self.portions.slice_bytes / hidden_bytes).max(self.portions.slice_cells)
    }
}

impl Backbone for SwinV2 {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn levels(&self) -> &[LevelSpec] {
        &self.levels
    }

    fn divisor(&self) -> u32 {
        DIVISOR
    }

    fn device(&self) -> Device {
        self.device
    }

    fn parameters(&self) -> u64 {
        self.parameters
    }

    fn flops(&self, input: Size) -> u64 {
        self.config.flops(input)
    }

    fn forward(&self, input: &Tensor) -> Result<Vec<Tensor>> {
        let shape = input.size();
        let n = match shape[..] {
            [n, 3, h, w] if n > 0 && h > 0 && w > 0 => n,
            _ => return Err(Error::invalid(format!("input of shape {shape:?}, expected [n, 3, h, w]"))),
        };
        let torch = Error::torch("run SwinV2");
        let _guard = tch::no_grad_guard();
        if self.portions.together || n <= 1 {
            return self.run(input).map_err(torch);
        }
        let one_by_one = || -> Result<Vec<Tensor>, TchError> {
            let pictures = (0..n).map(|i| self.run(&input.f_narrow(0, i, 1)?));
            let pictures = pictures.collect::<Result<Vec<_>, TchError>>()?;
            (0..self.levels.len())
                .map(|level| Tensor::f_cat(&pictures.iter().map(|p| &p[level]).collect::<Vec<_>>(), 0))
                .collect()
        };
        one_by_one().map_err(torch)
    }
}
