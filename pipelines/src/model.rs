//! A frozen backbone together with the recipe that its features have.

use crate::cli::{ComputeArg, MachineArgs, RecipeArgs, ResamplerArg, WeightArgs};
use crate::exit::{ExitCode, failure};
use anyhow::Result;
use featcache_extractor::backbone::{self, Backbone, BackboneOptions};
use featcache_extractor::device::{self, DeviceChoice};
use featcache_extractor::preprocess::DECODER;
use featcache_extractor::resample::Resampler;
use featcache_extractor::weights::WeightSource;
use featcache_store::{BackboneSpec, Compute, LevelSpec, Preprocess, Recipe, ResizeRule, ViewSpec};

/// Mean and standard deviation of ImageNet on the 0..1 scale, RGB: what every SwinV2 was trained with.
const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];

/// A loaded backbone and what its features are.
pub struct Model {
    /// The frozen network.
    pub backbone: Box<dyn Backbone>,
    /// What its features are.
    pub recipe: Recipe,
    /// Positions of the recipe's levels among the backbone's.
    pub kept: Vec<usize>,
}

impl Model {
    /// The backbone that the flags name, loaded.
    ///
    /// # Errors
    /// Unknown names, weights that do not fit, a device that is not there.
    pub fn from_args(recipe: &RecipeArgs, weights: &WeightArgs, machine: &MachineArgs) -> Result<Self> {
        let source = weight_source(weights, &recipe.backbone)?;
        let mut options = options(recipe)?;
        options.device = device(machine)?;
        set_threads(machine);
        let backbone = backbone::build(&recipe.backbone, &source, &options)?;
        let kept = kept(backbone.levels(), &recipe.levels)?;
        let recipe = recipe_of(recipe, backbone.spec().clone(), backbone.levels(), backbone.divisor())?;
        Ok(Self { backbone, recipe, kept })
    }

    /// The backbone that made the features of `recipe`, with its weights checked by their hash.
    ///
    /// # Errors
    /// As [`Model::from_args`]; [`ExitCode::RecipeMismatch`] if the weights are others.
    pub fn from_recipe(recipe: &Recipe, weights: &WeightArgs, machine: &MachineArgs) -> Result<Self> {
        let name = &recipe.backbone.name;
        let source = weight_source(weights, name)?;
        let options = BackboneOptions::of_recipe(recipe, device(machine)?)?;
        set_threads(machine);
        let backbone = backbone::build(name, &source, &options)?;
        let (expected, found) = (&recipe.backbone, backbone.spec());
        if found != expected {
            return Err(failure(
                ExitCode::RecipeMismatch,
                format!(
                    "backbone {name}: weights differ: the features are of blake3 {}, found {}",
                    expected.weights_blake3, found.weights_blake3
                ),
            ));
        }
        let names: Vec<String> = recipe.levels.iter().map(|level| level.name.clone()).collect();
        let kept = kept(backbone.levels(), &names)?;
        Ok(Self { backbone, recipe: recipe.clone(), kept })
    }
}

/// The recipe that the flags describe, without a weight in memory. Without weights given: seed 0's.
///
/// # Errors
/// Unknown names, weights that do not fit.
pub fn planned_recipe(args: &RecipeArgs, weights: &WeightArgs) -> Result<Recipe> {
    let source = weight_source(weights, &args.backbone).unwrap_or(WeightSource::Random(0));
    let outline = backbone::outline(&args.backbone, &source, &options(args)?)?;
    recipe_of(args, outline.spec, &outline.levels, outline.divisor)
}

/// The device that the flags name.
///
/// # Errors
/// It is not there, and why.
pub fn device(machine: &MachineArgs) -> Result<tch::Device> {
    Ok(machine.device.parse::<DeviceChoice>()?.open()?)
}

/// Gives torch the threads that the flags name, at most the CPUs that this process may use; how many.
pub fn set_threads(machine: &MachineArgs) -> usize {
    let allowed = device::intra_op_threads();
    let threads = machine.threads.unwrap_or(allowed);
    if threads > allowed {
        // Torch's threads wait for each other by spinning: many on few CPUs hardly come to an end.
        log::warn!("--threads {threads}: this process may use {allowed} CPUs, and so many threads are used");
    }
    let threads = threads.min(allowed);
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    threads
}

fn weight_source(args: &WeightArgs, backbone: &str) -> Result<WeightSource> {
    match (&args.weights, args.random_weights) {
        (Some(path), _) => Ok(WeightSource::File(path.clone())),
        (None, Some(seed)) => Ok(WeightSource::Random(seed)),
        (None, None) if backbone::is_weightless(backbone) => Ok(WeightSource::Random(0)),
        (None, None) => {
            backbone::check_name(backbone)?;
            let what = format!("backbone {backbone} wants --weights FILE or --random-weights SEED");
            Err(failure(ExitCode::Usage, what))
        }
    }
}

fn compute(arg: ComputeArg) -> Compute {
    match arg {
        ComputeArg::Fp32 => Compute::Fp32,
        ComputeArg::Bf16 => Compute::Bf16,
    }
}

fn options(args: &RecipeArgs) -> Result<BackboneOptions> {
    let pretrained_window = args
        .pretrained_window
        .as_ref()
        .map(|text| {
            let windows: Option<Vec<u32>> = text.split(',').map(|w| w.trim().parse().ok()).collect();
            windows.and_then(|windows| windows.try_into().ok()).ok_or_else(|| {
                let message =
                    format!("--pretrained-window {text:?}: expected four numbers, such as 12,12,12,6");
                failure(ExitCode::Usage, message)
            })
        })
        .transpose()?;
    Ok(BackboneOptions {
        compute: compute(args.compute),
        window: args.window,
        pretrained_window,
        ..BackboneOptions::default()
    })
}

fn recipe_of(args: &RecipeArgs, spec: BackboneSpec, levels: &[LevelSpec], divisor: u32) -> Result<Recipe> {
    let usage = |error: featcache_store::Error| failure(ExitCode::Usage, error.to_string());
    let kept = kept(levels, &args.levels)?;
    let resampler = match args.resampler {
        ResamplerArg::Bilinear => Resampler::Bilinear,
        ResamplerArg::Bicubic => Resampler::Bicubic,
    };
    let views: Vec<ViewSpec> =
        args.views.iter().map(|name| ViewSpec::named(name).map_err(usage)).collect::<Result<_>>()?;
    for (index, view) in views.iter().enumerate() {
        if views[..index].contains(view) {
            return Err(failure(ExitCode::Usage, format!("view {:?} is named twice", view.name)));
        }
    }
    Ok(Recipe {
        backbone: spec,
        preprocess: Preprocess {
            decoder: DECODER.to_owned(),
            exif_transpose: args.exif,
            resize: args.resize.parse::<ResizeRule>().map_err(usage)?,
            resampler: resampler.name().to_owned(),
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            pad_divisor: divisor,
        },
        views,
        levels: kept.iter().map(|&index| levels[index].clone()).collect(),
    })
}

/// Positions of `names` among `levels`, finest first.
fn kept(levels: &[LevelSpec], names: &[String]) -> Result<Vec<usize>> {
    let mut kept = Vec::new();
    for name in names {
        let Some(index) = levels.iter().position(|level| &level.name == name) else {
            let known: Vec<&str> = levels.iter().map(|level| level.name.as_str()).collect();
            let known = known.join(", ");
            return Err(failure(
                ExitCode::Usage,
                format!("level {name:?} is unknown: the backbone has {known}"),
            ));
        };
        kept.push(index);
    }
    kept.sort_unstable();
    if kept.is_empty() || kept.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(failure(ExitCode::Usage, "levels: expected one or more different names".to_owned()));
    }
    Ok(kept)
}
