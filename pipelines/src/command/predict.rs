//! `featcache predict`: backbone and head on pictures, overlays out.

use crate::cli::PredictArgs;
use crate::exit::{ExitCode, failure};
use crate::model::{self, Model};
use crate::picture::overlay::LabelMap as Labels;
use crate::picture::{Canvas, Palette, overlay};
use crate::report::Report;
use anyhow::{Context, Result};
use featcache_extractor::extract::block;
use featcache_extractor::image::{self, ExifRule, Limits};
use featcache_extractor::preprocess::{self, Planned, Preparation};
use featcache_heads::features::RunFeatures;
use featcache_heads::run::Run;
use featcache_heads::segment::{LabelMap, SegmentSizes};
use featcache_heads::tensor::feature_map;
use featcache_store::{Encodings, ViewSpec};
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
    let path_to_head = PathToHead { head, model, encodings: features.encodings };
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let palette = Palette::new(path_to_head.head.model.classes().len());
    let mut all = Vec::new();
    let mut text = String::new();
    for path in &args.images {
        let predicted = match predict(&args.out, &path_to_head, &palette, path) {
            Ok(predicted) => predicted,
            Err(error) => Predicted {
                image: path.display().to_string(),
                overlay: None,
                labels: None,
                classes: Vec::new(),
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
    let code = if failed == 0 { ExitCode::Done } else { ExitCode::Incomplete };
    Report::new(&all, text).map(|report| report.ending(code))
}

/// What a picture goes through: the backbone, the store's rounding, the head.
struct PathToHead {
    head: Run,
    model: Model,
    encodings: Encodings,
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

fn predict(out: &Path, path_to_head: &PathToHead, palette: &Palette, path: &Path) -> Result<Predicted> {
    let PathToHead { head, model, .. } = path_to_head;
    let limits = Limits::default();
    let preprocess = &model.recipe.preprocess;
    let bytes = image::read_file(path, &limits)??;
    let picture = image::decode_oriented(&bytes, ExifRule::of(preprocess), &limits)?;
    let source = picture.size;
    let valid = preprocess.resize.apply(source);
    let padded = valid.padded(preprocess.pad_divisor);
    let input = Preparation::of(preprocess, limits)?.prepare(
        &bytes,
        &ViewSpec { name: "base".to_owned(), hflip: false },
        Planned { source, valid },
    )?;
    let pixels = preprocess::collate(&[input], padded, preprocess, model.backbone.device())?;
    let levels = model.backbone.forward(&pixels)?; // each [1, h, w, c]
    let maps = maps(path_to_head, &levels)?;
    let map = head.model.predict(&maps, SegmentSizes { padded, valid, original: source })?;

    let stem = stem(path);
    let (overlay_path, labels_path) =
        (out.join(format!("{stem}-overlay.png")), out.join(format!("{stem}-labels.png")));
    let canvas = Canvas::from_rgb(source.width as usize, source.height as usize, picture.rgb)?;
    draw(&canvas, &map, head.model.classes(), palette)?.write_png(&overlay_path)?;
    write_labels(&map, head, &labels_path)?;
    Ok(Predicted {
        image: path.display().to_string(),
        overlay: Some(overlay_path.display().to_string()),
        labels: Some(labels_path.display().to_string()),
        classes: shares(&map, head.model.classes()),
        error: None,
    })
}

/// The head's levels as `[1, c, h, w]`: encoded and decoded as the store did, because the head was trained
/// on what that left of them.
fn maps(path_to_head: &PathToHead, levels: &[Tensor]) -> Result<Vec<Tensor>> {
    let PathToHead { head, model, encodings } = path_to_head;
    let wanted = head.model.levels().iter().map(|level| {
        let position = model.recipe.levels.iter().position(|l| l.name == level.name);
        let map = position.and_then(|position| model.kept.get(position)).and_then(|&kept| levels.get(kept));
        let encoding = encodings.of(&level.name);
        map.zip(encoding).with_context(|| format!("level {} is not among the features", level.name))
    });
    wanted
        .map(|wanted| {
            let (map, encoding) = wanted?;
            let block = block(&map.f_to_device(Device::Cpu)?, 0)?; // [h, w, c]
            let dtype = encoding.value_dtype();
            let mut bytes = vec![0; block.shape.iter().product::<usize>() * dtype.bytes()];
            encoding.decode(&encoding.payload(&block)?, &mut bytes, dtype)?;
            let [h, w, c] = block.shape;
            let (kind, device) = (head.model.map_kind(), model.backbone.device());
            Ok(feature_map(&bytes, [1, h, w, c], dtype, kind, device)?)
        })
        .collect()
}

/// The picture under its classes, with a key of those that occur.
fn draw(canvas: &Canvas, map: &LabelMap, names: &[String], palette: &Palette) -> Result<Canvas> {
    let labels = Labels::new(map.size.width as usize, map.size.height as usize, &map.classes)?;
    let tinted = overlay::labels(canvas, &labels, palette, overlay::DEFAULT_ALPHA);
    Ok(overlay::with_legend(&tinted, &present(map, names), palette))
}

/// Classes that occur, with their names, in class order.
fn present(map: &LabelMap, names: &[String]) -> Vec<(usize, String)> {
    let mut seen = vec![false; names.len()];
    for &class in &map.classes {
        if let Some(seen) = seen.get_mut(class as usize) {
            *seen = true;
        }
    }
    let named = names.iter().enumerate().filter(|(class, _)| seen[*class]);
    named.map(|(class, name)| (class, name.clone())).collect()
}

fn shares(map: &LabelMap, names: &[String]) -> Vec<ClassShare> {
    let mut counts = vec![0u64; names.len()];
    for &class in &map.classes {
        if let Some(count) = counts.get_mut(class as usize) {
            *count += 1;
        }
    }
    let all = map.classes.len().max(1) as f64;
    let mut shares: Vec<ClassShare> = names
        .iter()
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| ClassShare { name: name.clone(), share: count as f64 / all })
        .collect();
    shares.sort_by(|a, b| b.share.total_cmp(&a.share));
    shares
}

/// The dataset's own values (category ids) as a grey PNG, 8 bits where they fit, else 16.
fn write_labels(map: &LabelMap, head: &Run, path: &Path) -> Result<()> {
    let values = label_values(head);
    let values: Vec<u16> =
        map.classes.iter().map(|&class| values.get(class as usize).copied().unwrap_or(u16::MAX)).collect();
    let wide = values.iter().any(|&value| value > 255);
    let bytes: Vec<u8> = match wide {
        true => values.iter().flat_map(|value| value.to_be_bytes()).collect(),
        false => values.iter().map(|&value| value as u8).collect(),
    };
    let mut encoded = Vec::new();
    let mut encoder = png::Encoder::new(&mut encoded, map.size.width, map.size.height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(if wide { png::BitDepth::Sixteen } else { png::BitDepth::Eight });
    let mut writer = encoder.write_header().with_context(|| path.display().to_string())?;
    writer.write_image_data(&bytes).with_context(|| path.display().to_string())?;
    writer.finish().with_context(|| path.display().to_string())?;
    std::fs::write(path, encoded).with_context(|| path.display().to_string())
}

/// The value in the dataset's label maps of each class: category ids, before them 0 where the recipe makes
/// the unlabelled a class of its own.
fn label_values(head: &Run) -> Vec<u16> {
    let categories =
        head.identity.categories.iter().map(|category| u16::try_from(category.id).unwrap_or(u16::MAX));
    let background = head.model.classes().len() > head.identity.categories.len();
    background.then_some(0).into_iter().chain(categories).collect()
}

fn line(predicted: &Predicted) -> String {
    match (&predicted.error, &predicted.overlay) {
        (Some(error), _) => format!("{}: {error}\n", predicted.image),
        (None, overlay) => {
            let classes: Vec<String> = predicted
                .classes
                .iter()
                .take(4)
                .map(|class| format!("{} {:.0} %", class.name, 100.0 * class.share))
                .collect();
            let overlay = overlay.as_deref().unwrap_or_default();
            format!("{} → {overlay}: {}\n", predicted.image, classes.join(", "))
        }
    }
}
