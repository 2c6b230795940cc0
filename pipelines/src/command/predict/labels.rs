//! Predictions of a semantic head: the picture under its classes, and a label map in the dataset's own
//! values. Runs no network.

use super::{ClassShare, Seen};
use crate::picture::overlay::LabelMap as Labels;
use crate::picture::{Canvas, Palette, overlay};
use anyhow::{Context, Result};
use featcache_heads::SemanticModel;
use featcache_heads::run::Run;
use featcache_heads::segment::{LabelMap, SegmentSizes};
use std::path::{Path, PathBuf};

/// What was written for a picture.
pub(super) struct Written {
    pub(super) overlay: PathBuf,
    pub(super) labels: PathBuf,
    pub(super) classes: Vec<ClassShare>,
}

/// Predicts one picture's label map and writes it and its overlay into `out`.
///
/// # Errors
/// Maps that do not fit the head; a file cannot be written.
pub(super) fn predict(out: &Path, head: &Run, model: &SemanticModel, seen: &Seen) -> Result<Written> {
    let sizes = SegmentSizes { padded: seen.padded, valid: seen.valid, original: seen.source };
    let map = model.predict(&seen.maps, sizes)?;
    let overlay = out.join(format!("{}-overlay.png", seen.stem));
    let labels = out.join(format!("{}-labels.png", seen.stem));
    draw(&seen.canvas, &map, model.classes(), &Palette::new(model.classes().len()))?.write_png(&overlay)?;
    write_labels(&map, head, model, &labels)?;
    Ok(Written { overlay, labels, classes: shares(&map, model.classes()) })
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
fn write_labels(map: &LabelMap, head: &Run, model: &SemanticModel, path: &Path) -> Result<()> {
    let values = label_values(head, model.classes().len());
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
fn label_values(head: &Run, classes: usize) -> Vec<u16> {
    let categories =
        head.identity.categories.iter().map(|category| u16::try_from(category.id).unwrap_or(u16::MAX));
    let background = classes > head.identity.categories.len();
    background.then_some(0).into_iter().chain(categories).collect()
}
