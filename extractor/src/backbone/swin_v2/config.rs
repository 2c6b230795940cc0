//! What a SwinV2 is made of: sizes, parameters in canonical order, levels, cost. No tensor is touched here.
//!
//! Sizes: Microsoft's configurations for T, S, B, L; SimMIM's for H and giant; the SwinV2 paper §3.6 for G
//! (depths 2, 2, 42, 4, which gives its 3.0 billion weights, and a LayerNorm on the main branch every six
//! blocks). See `reference/paper.md` §2.1.

use crate::backbone::BackboneOptions;
use crate::weights::{Init, Parameter, WeightSource};
use crate::{Error, Result};
use featcache_store::{BackboneSpec, LevelSpec, Size};
use std::collections::BTreeMap;

/// Width of the hidden layer of the position-bias network.
pub(crate) const BIAS_HIDDEN: usize = 512;
/// Side of a patch in pixels.
pub(crate) const PATCH: u32 = 4;
/// Largest window taken: its bias table has (2W−1)² rows and its windows W² tokens.
const MAX_WINDOW: u32 = 512;

/// Sizes of a SwinV2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwinV2Config {
    /// Registered name.
    pub name: String,
    /// Channels of the finest stage; stage i has `channels << i`.
    pub channels: usize,
    /// Blocks per stage.
    pub depths: [usize; 4],
    /// Attention heads per stage.
    pub heads: [usize; 4],
    /// Attention window in cells. A map whose shorter side is not larger is attended without shift in
    /// windows of that side.
    pub window: u32,
    /// Windows that the weights were trained with, per stage; 0 means the window in use.
    pub pretrained_window: [u32; 4],
    /// A LayerNorm on the main branch after every so many blocks of a stage (`norm3`); 0 for none. A weights
    /// file decides this where there is one.
    pub extra_norm_every: usize,
}

/// Channels, depths, heads, window, pretrained windows, extra norm. The windows are those of the public
/// weights that suit a frozen backbone best: IN-1K at 256² (w16) for T and S, IN-22K at 192² (w12) above.
type Row = (&'static str, usize, [usize; 4], [usize; 4], u32, [u32; 4], usize);
const TABLE: [Row; 8] = [
    ("swinv2-demo", 32, [2, 2, 4, 2], [2, 4, 8, 16], 8, [8, 8, 8, 8], 0),
    ("swinv2-t", 96, [2, 2, 6, 2], [3, 6, 12, 24], 16, [16, 16, 16, 8], 0),
    ("swinv2-s", 96, [2, 2, 18, 2], [3, 6, 12, 24], 16, [16, 16, 16, 8], 0),
    ("swinv2-b", 128, [2, 2, 18, 2], [4, 8, 16, 32], 12, [12, 12, 12, 6], 0),
    ("swinv2-l", 192, [2, 2, 18, 2], [6, 12, 24, 48], 12, [12, 12, 12, 6], 0),
    ("swinv2-h", 352, [2, 2, 18, 2], [11, 22, 44, 88], 12, [12, 12, 12, 6], 6),
    ("swinv2-giant", 448, [2, 2, 18, 2], [14, 28, 56, 112], 12, [12, 12, 12, 6], 0),
    ("swinv2-g", 512, [2, 2, 42, 4], [16, 32, 64, 128], 12, [12, 12, 12, 6], 6),
];

impl SwinV2Config {
    /// The registered names, smallest first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|row| row.0)
    }

    /// The configuration of this name.
    pub fn named(name: &str) -> Option<Self> {
        let &(name, channels, depths, heads, window, pretrained_window, extra_norm_every) =
            TABLE.iter().find(|row| row.0 == name)?;
        let name = name.to_owned();
        Some(Self { name, channels, depths, heads, window, pretrained_window, extra_norm_every })
    }

    /// With what a weights file tells of the network that it is of: its extra norms.
    ///
    /// # Errors
    /// As [`WeightSource::matched`] where the file is none.
    pub fn of_weights(mut self, source: &WeightSource) -> Result<Self> {
        self.extra_norm_every = super::extra_norm::of_source(source)?.unwrap_or(self.extra_norm_every);
        Ok(self)
    }

    /// With what the options ask for.
    pub(crate) fn with(mut self, options: &BackboneOptions) -> Result<Self> {
        self.window = options.window.unwrap_or(self.window);
        self.pretrained_window = options.pretrained_window.unwrap_or(self.pretrained_window);
        self.extra_norm_every = options.extra_norm_every.map_or(self.extra_norm_every, |n| n as usize);
        for window in
            std::iter::once(self.window).chain(self.pretrained_window.into_iter().filter(|w| *w > 0))
        {
            if !(2..=MAX_WINDOW).contains(&window) {
                return Err(Error::invalid(format!("window of {window} cells: expected 2 to {MAX_WINDOW}")));
            }
        }
        Ok(self)
    }

    /// Channels of a stage.
    pub(crate) fn width(&self, stage: usize) -> usize {
        self.channels << stage
    }

    /// Whether `norm3` follows this block (timm's `swinv2_cr` and mmpretrain count per stage).
    pub(crate) fn has_extra_norm(&self, block: usize) -> bool {
        self.extra_norm_every > 0 && (block + 1).is_multiple_of(self.extra_norm_every)
    }

    /// The recipe's entry.
    pub(crate) fn spec(&self, weights_blake3: String, options: &BackboneOptions) -> BackboneSpec {
        let list = self.pretrained_window.map(|w| w.to_string()).join(",");
        let mut extra = BTreeMap::from([
            ("window".to_owned(), self.window.to_string()),
            ("pretrained_window".to_owned(), list),
        ]);
        if self.extra_norm_every > 0 {
            extra.insert("extra_norm_every".to_owned(), self.extra_norm_every.to_string());
        }
        BackboneSpec { name: self.name.clone(), weights_blake3, compute: options.compute, options: extra }
    }

    /// Outputs of the four stages before downsampling: what timm calls features and Hugging Face hidden
    /// states before downsampling.
    pub(crate) fn levels(&self, final_norm: bool) -> Vec<LevelSpec> {
        (0..4)
            .map(|stage| LevelSpec {
                name: format!("p{}", stage + 2),
                stride: PATCH << stage,
                channels: self.width(stage) as u32,
                tap: format!("stage{stage}"),
                norm: if final_norm && stage == 3 { "norm" } else { "none" }.into(),
            })
            .collect()
    }

    /// Every parameter, in canonical order, under Microsoft's names.
    ///
    /// Random initialisation keeps variances (standard deviation 1/√fan-in) and gives the post-norms of blocks
    /// the weight 0.3. Training from scratch starts them at 0, which makes every block the identity; at 1 a
    /// random network is chaotic (measured: features 20 % off in bfloat16, with 0.3 they are 1 % off).
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut list = Vec::new();
        let fan_in = |n: usize| Init::Bell(1.0 / (n as f32).sqrt());
        let bias = Init::Bell(0.02);
        let norm = |list: &mut Vec<Parameter>, name: String, width: usize| {
            let branch = name.ends_with("norm1") || name.ends_with("norm2");
            let weight = Init::Constant(if branch { 0.3 } else { 1.0 });
            list.push(Parameter::new(format!("{name}.weight"), &[width], weight));
            list.push(Parameter::new(format!("{name}.bias"), &[width], bias));
        };
        let patch = PATCH as usize;
        let c = self.channels;
        list.push(Parameter::new(
            "patch_embed.proj.weight",
            &[c, 3, patch, patch],
            fan_in(3 * patch * patch),
        ));
        list.push(Parameter::new("patch_embed.proj.bias", &[c], bias));
        norm(&mut list, "patch_embed.norm".into(), c);
        for stage in 0..4 {
            let d = self.width(stage);
            let heads = self.heads[stage];
            for block in 0..self.depths[stage] {
                let name = format!("layers.{stage}.blocks.{block}");
                let mut add = |name_in_block: &str, shape: &[usize], init| {
                    list.push(Parameter::new(format!("{name}.{name_in_block}"), shape, init));
                };
                add("attn.logit_scale", &[heads, 1, 1], Init::Constant(std::f32::consts::LN_10));
                add("attn.q_bias", &[d], bias);
                add("attn.v_bias", &[d], bias);
                add("attn.cpb_mlp.0.weight", &[BIAS_HIDDEN, 2], fan_in(2));
                add("attn.cpb_mlp.0.bias", &[BIAS_HIDDEN], fan_in(2));
                add("attn.cpb_mlp.2.weight", &[heads, BIAS_HIDDEN], fan_in(BIAS_HIDDEN));
                add("attn.qkv.weight", &[3 * d, d], fan_in(d));
                add("attn.proj.weight", &[d, d], fan_in(d));
                add("attn.proj.bias", &[d], bias);
                add("mlp.fc1.weight", &[4 * d, d], fan_in(d));
                add("mlp.fc1.bias", &[4 * d], bias);
                add("mlp.fc2.weight", &[d, 4 * d], fan_in(4 * d));
                add("mlp.fc2.bias", &[d], bias);
                norm(&mut list, format!("{name}.norm1"), d);
                norm(&mut list, format!("{name}.norm2"), d);
                if self.has_extra_norm(block) {
                    norm(&mut list, format!("{name}.norm3"), d);
                }
            }
            if stage < 3 {
                let name = format!("layers.{stage}.downsample");
                list.push(Parameter::new(format!("{name}.reduction.weight"), &[2 * d, 4 * d], fan_in(4 * d)));
                norm(&mut list, format!("{name}.norm"), 2 * d);
            }
        }
        norm(&mut list, "norm".into(), self.width(3));
        list
    }

    /// Matrix products of one picture's forward pass: 2 · multiply-adds, linear layers on the map's cells,
    /// attention on the windows that cover it. Position biases are left out: they are computed once.
    pub fn flops(&self, input: Size) -> u64 {
        let mut map = Size::new(input.height.div_ceil(PATCH), input.width.div_ceil(PATCH));
        let cells = |map: Size| u64::from(map.height) * u64::from(map.width);
        let mut products = cells(map) * (u64::from(PATCH * PATCH) * 3) * self.channels as u64;
        for stage in 0..4 {
            let d = self.width(stage) as u64;
            let window = u64::from(super::window_layout::effective_window(map, self.window));
            let padded = map.padded(window as u32);
            let block = cells(map) * 12 * d * d + cells(padded) * 2 * window * window * d;
            products += self.depths[stage] as u64 * block;
            if stage < 3 {
                map = Size::new(map.height.div_ceil(2), map.width.div_ceil(2));
                products += cells(map) * 8 * d * d;
            }
        }
        2 * products
    }
}
