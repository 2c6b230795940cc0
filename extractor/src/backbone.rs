//! Frozen backbones behind one trait, and the registry that knows them by name.
//!
//! A backbone turns pictures into a pyramid of maps, channels last, and says in data what it is: its levels,
//! the sizes it divides, and everything its features depend on. It knows nothing of files of pictures, of
//! datasets or of stores.

mod fake;
mod swin_v2;

pub use fake::Fake;
pub(crate) use swin_v2::kind_of;
pub use swin_v2::{Portions, SwinV2, SwinV2Config};

use crate::weights::WeightSource;
use crate::{Error, Result};
use featcache_store::{BackboneSpec, Compute, LevelSpec, Recipe, Size};
use tch::{Device, Tensor};

/// A frozen network. One thread owns it and the device it lies on; no gradient ever flows through it.
pub trait Backbone: Send {
    /// What it is: everything that its features depend on apart from the pixels.
    fn spec(&self) -> &BackboneSpec;

    /// Its levels, finest first.
    fn levels(&self) -> &[LevelSpec];

    /// The pipeline pads inputs to multiples of this, so that every level has `H/stride × W/stride` cells.
    fn divisor(&self) -> u32;

    /// Where it lies and where its input must be.
    fn device(&self) -> Device;

    /// Number of weights.
    fn parameters(&self) -> u64;

    /// Floating-point operations of the matrix products of one picture's forward pass, a multiplication and
    /// an addition counted as two. What is divided by time and by [`crate::gemm_peak::gemm_peak`] for the
    /// share of the machine that a backbone uses.
    fn flops(&self, input: Size) -> u64;

    /// The levels of normalised pictures.
    ///
    /// `input` is `[n, 3, h, w]` binary32 on [`Self::device`]; the result has one `[n, h', w', c]` tensor a
    /// level in the element type of the recipe's compute, contiguous. Fails with [`Error::Torch`] where
    /// libtorch refuses (out of memory), and with [`Error::Invalid`] on an input of another rank.
    fn forward(&self, input: &Tensor) -> Result<Vec<Tensor>>;
}

/// What a backbone is built with. What changes features is part of the recipe's options.
#[derive(Debug, Clone, PartialEq)]
pub struct BackboneOptions {
    /// Arithmetic of the forward pass.
    pub compute: Compute,
    /// Where it runs.
    pub device: Device,
    /// Attention window in cells; the backbone's own by default.
    pub window: Option<u32>,
    /// Windows that the weights were trained with, per stage: they scale the position bias. The backbone's
    /// own by default; 0 means the window in use.
    pub pretrained_window: Option<[u32; 4]>,
    /// A LayerNorm on the main branch after every so many blocks of a stage, 0 for none; by default what the
    /// weights file has, or the backbone's own where there is none.
    pub extra_norm_every: Option<u32>,
    /// The coarsest level goes through the backbone's own final norm.
    pub final_norm: bool,
}

impl Default for BackboneOptions {
    fn default() -> Self {
        Self {
            compute: Compute::Bf16,
            device: Device::Cpu,
            window: None,
            pretrained_window: None,
            extra_norm_every: None,
            final_norm: false,
        }
    }
}

impl BackboneOptions {
    /// The options with which a recipe's features were made, on `device`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the recipe has an option that no backbone of this version has.
    pub fn of_recipe(recipe: &Recipe, device: Device) -> Result<Self> {
        let mut options = Self { compute: recipe.backbone.compute, device, ..Self::default() };
        options.extra_norm_every = Some(0);
        options.final_norm = recipe.levels.iter().any(|level| level.norm != "none");
        for (name, value) in &recipe.backbone.options {
            let unreadable = || Error::invalid(format!("backbone option {name} = {value:?}: not understood"));
            let number = |text: &str| text.trim().parse::<u32>().ok();
            match name.as_str() {
                "window" => options.window = Some(number(value).ok_or_else(unreadable)?),
                "extra_norm_every" => options.extra_norm_every = Some(number(value).ok_or_else(unreadable)?),
                "pretrained_window" => {
                    let windows: Option<Vec<u32>> = value.split(',').map(number).collect();
                    let windows = windows.and_then(|w| w.try_into().ok()).ok_or_else(unreadable)?;
                    options.pretrained_window = Some(windows);
                }
                _ => return Err(unreadable()),
            }
        }
        Ok(options)
    }
}

/// Whether the named backbone has no weights to be read.
pub fn is_weightless(name: &str) -> bool {
    name == fake::NAME
}

/// What is known of a backbone before any weight is in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// As [`Backbone::spec`].
    pub spec: BackboneSpec,
    /// As [`Backbone::levels`].
    pub levels: Vec<LevelSpec>,
    /// As [`Backbone::divisor`].
    pub divisor: u32,
    /// As [`Backbone::parameters`].
    pub parameters: u64,
}

/// The registered names: `fake`, then SwinV2 by size.
pub fn names() -> Vec<&'static str> {
    std::iter::once(fake::NAME).chain(SwinV2Config::names()).collect()
}

/// The named backbone with its weights, ready on the options' device.
pub fn build(name: &str, source: &WeightSource, options: &BackboneOptions) -> Result<Box<dyn Backbone>> {
    if name == fake::NAME {
        return Ok(Box::new(Fake::new(options.compute, options.device)));
    }
    Ok(Box::new(SwinV2::load(swin_v2(name, source, options)?, source, options)?))
}

/// What [`build`] would give, without loading a weight. A weights file is matched and hashed.
pub fn outline(name: &str, source: &WeightSource, options: &BackboneOptions) -> Result<Outline> {
    if name == fake::NAME {
        let fake = Fake::new(options.compute, Device::Cpu);
        return Ok(Outline {
            spec: fake.spec().clone(),
            levels: fake.levels().to_vec(),
            divisor: fake.divisor(),
            parameters: 0,
        });
    }
    let config = swin_v2(name, source, options)?;
    let (parameters, weights) = swin_v2::matched(&config, source, options)?;
    Ok(Outline {
        spec: config.spec(weights.blake3(&parameters)?, options),
        levels: config.levels(options.final_norm),
        divisor: swin_v2::DIVISOR,
        parameters: parameters.iter().map(|p| p.elements() as u64).sum(),
    })
}

/// The recipe's entry for the named backbone, as [`outline`] gives it.
pub fn spec_of(name: &str, source: &WeightSource, options: &BackboneOptions) -> Result<BackboneSpec> {
    outline(name, source, options).map(|outline| outline.spec)
}

/// Refuses a name that no backbone has.
pub fn check_name(name: &str) -> Result<()> {
    match names().contains(&name) {
        true => Ok(()),
        false => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> Error {
    Error::Unknown { kind: "backbone", name: name.to_owned(), expected: names().join(", ") }
}

fn swin_v2(name: &str, source: &WeightSource, options: &BackboneOptions) -> Result<SwinV2Config> {
    SwinV2Config::named(name).ok_or_else(|| unknown(name))?.of_weights(source)?.with(options)
}
