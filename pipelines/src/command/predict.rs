//! `featcache predict`: backbone and head on pictures, overlays out.

mod labels;
mod objects;

use crate::cli::PredictArgs;
use crate::exit::{ExitCode, failure};
use crate::model::{self, Model};
use crate::picture::Canvas;
use crate::report::Report;
use anyhow::{Context, Result};
use featcache_extractor::extract::block;
use featcache_extractor::image::{self, ExifRule, Limits};
use featcache_extractor::preprocess::{self, Planned, Preparation};
use featcache_heads::TaskModel;
use featcache_heads::features::RunFeatures;
use featcache_heads::run::Run;
use featcache_heads::tensor::feature_map;
use featcache_store::{Size, ViewSpec};
use objects::Results;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

#[derive(Debug, Serialize)]
struct Predicted {
    image: String,
    overlay: Option<String>,
    labels: Option<String>,
    classes: Vec<ClassShare>,
    objects: Vec<objects::ObjectFound>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct ClassShare {
    name: String,
    share: f64,
}

pub(super) fn run(args: &PredictArgs) -> Result<Report> {
    refuse_equal_stems(&args.images)?;
    let head = Run::open(&args.run, model::device(&args.machine)?)?;
    let features = RunFeatures::read(&args.run, &head.identity.fingerprint)?;
    let model = Model::from_recipe(&features.recipe, &args.weights, &args.machine)?;
    let path_to_head = PathToHead { head, model, features };
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let mut results = Results::new(&path_to_head.head, &args.images);
    let mut all = Vec::new();
    let mut text = String::new();
    for path in &args.images {
        let predicted = match predict(args, &path_to_head, &mut results, path) {
            Ok(predicted) => predicted,
            Err(error) => Predicted {
                image: path.display().to_string(),
                overlay: None,
                labels: None,
                classes: Vec::new(),
                objects: Vec::new(),
                error: Some(crate::exit::one_line(&error)),
            },
        };
        text += &line(&predicted);
        all.push(predicted);
    }
    let failed = all.iter().filter(|predicted| predicted.error.is_some()).count();
    if failed == all.len() {
        return Err(failure(ExitCode::BadInput, format!("no picture was predicted: {}", text.trim_end())));
    }
    if matches!(path_to_head.head.model, TaskModel::Detection(_)) {
        let path = args.out.join(objects::RESULTS_FILE);
        results.write(&path)?;
        text += &format!("wrote {}\n", path.display());
    }
    let code = if failed == 0 { ExitCode::Done } else { ExitCode::Incomplete };
    Report::new(&all, text).map(|report| report.ending(code))
}

/// What a picture goes through: the backbone, the store's rounding, the head.
struct PathToHead {
    head: Run,
    model: Model,
    features: RunFeatures,
}

/// Both results of a picture are named after it: of two pictures of one name one would be lost.
fn refuse_equal_stems(images: &[PathBuf]) -> Result<()> {
    let mut seen = BTreeMap::new();
    for path in images {
        if let Some(first) = seen.insert(stem(path), path) {
            let (first, second) = (first.display(), path.display());
            let what = format!(
                "{first} and {second}: expected pictures of different names, both are {:?}",
                stem(path)
            );
            return Err(failure(ExitCode::Usage, what));
        }
    }
    Ok(())
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or("picture".into(), |stem| stem.to_string_lossy().into_owned())
}

/// A picture as the head sees it.
struct Seen {
    stem: String,
    file_name: String,
    /// The original picture.
    canvas: Canvas,
    source: Size,
    valid: Size,
    padded: Size,
    /// The head's levels, `[1, c, h, w]` each.
    maps: Vec<Tensor>,
}

fn predict(
    args: &PredictArgs,
    path_to_head: &PathToHead,
    results: &mut Results,
    path: &Path,
) -> Result<Predicted> {
    let seen = see(path_to_head, path)?;
    let mut predicted = Predicted {
        image: path.display().to_string(),
        overlay: None,
        labels: None,
        classes: Vec::new(),
        objects: Vec::new(),
        error: None,
    };
    let head = &path_to_head.head;
    match &head.model {
        TaskModel::Segmentation(model) => {
            let written = labels::predict(&args.out, head, model, &seen)?;
            predicted.overlay = Some(written.overlay.display().to_string());
            predicted.labels = Some(written.labels.display().to_string());
            predicted.classes = written.classes;
        }
        TaskModel::Detection(detector) => {
            let overlay = args.out.join(format!("{}-overlay.png", seen.stem));
            predicted.objects = results.predict(detector, &seen, args.score, &overlay)?;
            predicted.overlay = Some(overlay.display().to_string());
        }
    }
    Ok(predicted)
}

/// Reads a picture and runs the backbone on it.
fn see(path_to_head: &PathToHead, path: &Path) -> Result<Seen> {
    let model = &path_to_head.model;
    let limits = Limits::default();
    let preprocess = &model.recipe.preprocess;
    let bytes = image::read_file(path, &limits)??;
    let picture = image::decode_oriented(&bytes, ExifRule::of(preprocess), &limits)?;
    let source = picture.size;
    let valid = preprocess.resize.apply(source);
    let padded = valid.padded(preprocess.pad_divisor);
    let input =
        Preparation::of(preprocess, limits)?.prepare(&bytes, &ViewSpec::base(), Planned { source, valid })?;
    let pixels = preprocess::collate(&[input], padded, preprocess, model.backbone.device())?;
    let levels = model.backbone.forward(&pixels)?; // each [1, h, w, c]
    let maps = maps(path_to_head, &levels)?;
    let canvas = Canvas::from_rgb(source.width as usize, source.height as usize, picture.rgb)?;
    let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Seen { stem: stem(path), file_name, canvas, source, valid, padded, maps })
}

/// The head's levels as `[1, c, h, w]`: encoded and decoded as the store did, because the head was trained
/// on what that left of them.
fn maps(path_to_head: &PathToHead, levels: &[Tensor]) -> Result<Vec<Tensor>> {
    let PathToHead { head, model, features } = path_to_head;
    let projected = head.identity.recipe.head.projected;
    let wanted = head.model.levels().iter().map(|level| {
        let position = model.recipe.levels.iter().position(|l| l.name == level.name);
        let map = position.and_then(|position| model.kept.get(position)).and_then(|&kept| levels.get(kept));
        let encoding = features.encodings.of(&level.name);
        let found =
            map.zip(encoding).with_context(|| format!("level {} is not among the features", level.name));
        found.map(|(map, encoding)| (map, encoding, features.projections.of(&level.name), level.channels))
    });
    wanted
        .map(|wanted| {
            let (map, encoding, projection, channels) = wanted?;
            let block = block(&map.f_to_device(Device::Cpu)?, 0)?; // [h, w, c]
            let dtype = encoding.value_dtype();
            let bytes = encoding.round_trip(&block, projection, projected, dtype)?;
            let [h, w, _] = block.shape;
            let (kind, device) = (head.model.map_kind(), model.backbone.device());
            Ok(feature_map(&bytes, [1, h, w, channels as usize], dtype, kind, device)?)
        })
        .collect()
}

fn line(predicted: &Predicted) -> String {
    match (&predicted.error, &predicted.overlay) {
        (Some(error), _) => format!("{}: {error}\n", predicted.image),
        (None, overlay) => {
            let classes = predicted.classes.iter().map(|c| format!("{} {:.0} %", c.name, 100.0 * c.share));
            let objects = predicted.objects.iter().map(|o| format!("{} {:.2}", o.name, o.score));
            let classes: Vec<String> = classes.take(4).chain(objects.take(6)).collect();
            let overlay = overlay.as_deref().unwrap_or_default();
            format!("{} → {overlay}: {}\n", predicted.image, classes.join(", "))
        }
    }
}
