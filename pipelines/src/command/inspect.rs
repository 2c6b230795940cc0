//! `featcache inspect`: what a store holds, one sample of it, and pictures of its levels.

mod truth;

use crate::cli::InspectArgs;
use crate::exit::{ExitCode, failure};
use crate::level;
use crate::progress::bytes;
use crate::pyramid::{self, Pyramid};
use crate::report::{self, Report};
use anyhow::{Context, Result};
use featcache_store::listing::Label;
use featcache_store::{Annotation, Batch, DType, OpenOptions, ReadOptions, SampleRow, Size, Status, Store};
use serde::Serialize;
use std::path::Path;

pub(super) fn run(args: &InspectArgs) -> Result<Report> {
    let store = Store::open(&args.store, OpenOptions { incomplete: args.incomplete })?;
    match &args.sample {
        None => overview(&store),
        Some(key) => sample(args, &store, key),
    }
}

#[derive(Debug, Serialize)]
struct Overview {
    store: String,
    format: u32,
    fingerprint: String,
    finished: bool,
    recipe: featcache_store::Recipe,
    splits: Vec<SplitCount>,
    buckets: Vec<BucketCount>,
    levels: Vec<LevelBytes>,
    bytes: u64,
    categories: usize,
    failures: Vec<Failed>,
}

#[derive(Debug, Serialize)]
struct SplitCount {
    name: String,
    view: String,
    rows: u64,
    ok: u64,
    failed: u64,
    missing: u64,
}

#[derive(Debug, Serialize)]
struct BucketCount {
    split: String,
    view: String,
    size: String,
    rows: u64,
}

#[derive(Debug, Serialize)]
struct LevelBytes {
    name: String,
    stride: u32,
    channels: u32,
    encoding: String,
    bytes: u64,
    /// What the encoding has lost, if it changes values and the store is finished.
    loss: Option<featcache_store::LevelLoss>,
}

#[derive(Debug, Serialize)]
struct Failed {
    split: String,
    key: String,
    view: String,
    reason: String,
}

fn overview(store: &Store) -> Result<Report> {
    let recipe = store.recipe().clone();
    let mut splits: Vec<SplitCount> = Vec::new();
    let mut buckets: Vec<BucketCount> = Vec::new();
    let mut failures = Vec::new();
    let level_bytes = level::payload_bytes(store);
    for row in store.rows() {
        let index =
            splits.iter().position(|s| s.name == *row.split && s.view == *row.view).unwrap_or_else(|| {
                let (name, view) = (row.split.to_string(), row.view.to_string());
                splits.push(SplitCount { name, view, rows: 0, ok: 0, failed: 0, missing: 0 });
                splits.len() - 1
            });
        let count = &mut splits[index];
        count.rows += 1;
        match &row.status {
            Status::Ok => {
                count.ok += 1;
            }
            Status::Missing => count.missing += 1,
            Status::Failed(reason) => {
                count.failed += 1;
                failures.push(Failed {
                    split: row.split.to_string(),
                    key: row.key.to_string(),
                    view: row.view.to_string(),
                    reason: reason.to_string(),
                });
            }
        }
        if let Some(size) = row.bucket {
            let size = size.to_string();
            match buckets.iter_mut().find(|b| b.split == *row.split && b.view == *row.view && b.size == size)
            {
                Some(bucket) => bucket.rows += 1,
                None => buckets.push(BucketCount {
                    split: row.split.to_string(),
                    view: row.view.to_string(),
                    size,
                    rows: 1,
                }),
            }
        }
    }
    let overview = Overview {
        store: store.root().display().to_string(),
        format: featcache_store::FORMAT,
        fingerprint: store.fingerprint().to_string(),
        finished: store.manifest().is_some(),
        levels: recipe
            .levels
            .iter()
            .zip(&level_bytes)
            .map(|(level, &bytes)| LevelBytes {
                name: level.name.clone(),
                stride: level.stride,
                channels: level.channels,
                encoding: store.encodings().of(&level.name).map_or(String::new(), |e| e.to_string()),
                bytes,
                loss: store.manifest().and_then(|manifest| manifest.losses.get(&level.name).cloned()),
            })
            .collect(),
        recipe,
        splits,
        buckets,
        bytes: level_bytes.iter().sum(),
        categories: store.categories().len(),
        failures,
    };
    Report::new(&overview, overview_text(&overview))
}

fn overview_text(overview: &Overview) -> String {
    let recipe = &overview.recipe;
    let state = if overview.finished { "finished" } else { "not finished" };
    let mut text = format!("{}: format {}, {state}\n", overview.store, overview.format);
    text += &format!("fingerprint  {}\n", overview.fingerprint);
    text += &format!(
        "backbone     {} in {:?}, weights blake3 {}…\n",
        recipe.backbone.name,
        recipe.backbone.compute,
        recipe.backbone.weights_blake3.get(..16).unwrap_or_default()
    )
    .to_lowercase();
    for (name, value) in &recipe.backbone.options {
        text += &format!("             {name} {value}\n");
    }
    text += &format!(
        "input        resize {} by {}, padded to multiples of {}, EXIF {}\n",
        recipe.preprocess.resize,
        recipe.preprocess.resampler,
        recipe.preprocess.pad_divisor,
        if recipe.preprocess.exif_transpose { "applied" } else { "ignored" }
    );
    text += &format!("labels       {} categories\n\n", overview.categories);
    let rows: Vec<Vec<String>> = overview
        .splits
        .iter()
        .map(|s| {
            let counts = [s.rows, s.ok, s.failed, s.missing].map(|count| count.to_string());
            let mut row = vec![format!("{}/{}", s.name, s.view)];
            row.extend(counts);
            row
        })
        .collect();
    text += &report::table(&["split/view", "rows", "ok", "failed", "missing"], &rows);
    text.push('\n');
    let rows: Vec<Vec<String>> = overview
        .levels
        .iter()
        .map(|l| {
            let mut row = vec![
                l.name.clone(),
                l.stride.to_string(),
                l.channels.to_string(),
                l.encoding.clone(),
                bytes(l.bytes),
            ];
            row.extend(report::loss_columns(l.loss.as_ref()));
            row
        })
        .collect();
    let header = ["level", "stride", "channels", "encoding", "bytes", "rel L2", "cosine", "worst rel L2"];
    text += &report::table(&header, &rows);
    text += &format!("\n{} in {} buckets\n", bytes(overview.bytes), overview.buckets.len());
    for failed in overview.failures.iter().take(20) {
        text += &format!("failed: {}/{} ({}): {}\n", failed.split, failed.key, failed.view, failed.reason);
    }
    if overview.failures.len() > 20 {
        text += &format!("… and {} more (--json lists all)\n", overview.failures.len() - 20);
    }
    text
}

#[derive(Debug, Serialize)]
struct SampleReport {
    key: String,
    split: String,
    rows: Vec<RowReport>,
    labels: Vec<String>,
    pictures: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RowReport {
    row: u64,
    view: String,
    source: String,
    source_size: Option<Size>,
    valid_size: Option<Size>,
    bucket: Option<Size>,
    status: String,
    levels: Vec<LevelStatistics>,
}

/// Statistics of one level's values.
#[derive(Debug, Serialize)]
struct LevelStatistics {
    name: String,
    shape: [usize; 3],
    mean: f64,
    std: f64,
    min: f32,
    max: f32,
    not_finite: usize,
}

fn sample(args: &InspectArgs, store: &Store, key: &str) -> Result<Report> {
    let rows = rows_of(args, store, key)?;
    let first = rows[0].clone();
    let mut pictures = Vec::new();
    if let Some(folder) = &args.pca {
        pictures = write_pictures(args, store, &rows, folder)?;
    }
    if let Some(folder) = &args.truth {
        let shown = truth::Shown { store, root: args.root.as_deref(), pca_samples: args.pca_samples };
        pictures.extend(shown.write(&rows, folder)?);
    }
    let report = SampleReport {
        key: key.to_owned(),
        split: first.split.to_string(),
        rows: rows.iter().map(|row| row_report(store, row)).collect::<Result<_>>()?,
        labels: store.annotations(first.id)?.iter().map(|label| describe(store, label)).collect(),
        pictures,
    };
    let text = sample_text(&report);
    Report::new(&report, text)
}

/// The rows (one a view) of the sample, of one split.
fn rows_of(args: &InspectArgs, store: &Store, key: &str) -> Result<Vec<SampleRow>> {
    let wanted =
        |row: &SampleRow| row.key.0 == key && args.split.as_ref().is_none_or(|split| *row.split == **split);
    let rows: Vec<SampleRow> = store.rows().iter().filter(wanted).collect();
    let Some(first) = rows.first() else {
        let example =
            store.rows().iter().next().map_or(String::new(), |row| format!(" (keys look like {})", row.key));
        return Err(failure(
            ExitCode::BadInput,
            format!("{}: no sample {key:?}{example}", store.root().display()),
        ));
    };
    if rows.iter().any(|row| row.split != first.split) {
        return Err(failure(ExitCode::Usage, format!("sample {key:?} is in several splits: give --split")));
    }
    Ok(rows)
}

fn row_report(store: &Store, row: &SampleRow) -> Result<RowReport> {
    let mut levels = Vec::new();
    if row.status == Status::Ok {
        let reader = store.reader(ReadOptions { dtype: Some(DType::F32), ..ReadOptions::default() })?;
        let mut batch = Batch::default();
        for level in &store.recipe().levels {
            reader.read(&[row.id], &[store.level(&level.name)?], None, &mut batch)?;
            let map = batch.level(0);
            let [_, h, w, c] = map.shape;
            levels.push(statistics(&level.name, [h, w, c], map.bytes));
        }
    }
    Ok(RowReport {
        row: row.id.0,
        view: row.view.to_string(),
        source: row.source.to_string(),
        source_size: row.source_size,
        valid_size: row.valid_size,
        bucket: row.bucket,
        status: match &row.status {
            Status::Ok => "ok".to_owned(),
            Status::Missing => "missing".to_owned(),
            Status::Failed(reason) => format!("failed: {reason}"),
        },
        levels,
    })
}

fn statistics(name: &str, shape: [usize; 3], bytes: &[u8]) -> LevelStatistics {
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0usize);
    let (mut min, mut max, mut not_finite) = (f32::INFINITY, f32::NEG_INFINITY, 0);
    for value in level::values(bytes) {
        if value.is_finite() {
            sum += f64::from(value);
            squares += f64::from(value) * f64::from(value);
            count += 1;
            min = min.min(value);
            max = max.max(value);
        } else {
            not_finite += 1;
        }
    }
    let mean = sum / count.max(1) as f64;
    let std = (squares / count.max(1) as f64 - mean * mean).max(0.0).sqrt();
    LevelStatistics { name: name.to_owned(), shape, mean, std, min, max, not_finite }
}

fn describe(store: &Store, annotation: &Annotation) -> String {
    match &annotation.label {
        Label::Object { category_id, bbox, iscrowd, segmentation, .. } => {
            let name = store.categories().iter().find(|c| c.id == *category_id).map(|c| c.name.as_str());
            let [x, y, w, h] = bbox.map(|v| v.round());
            format!(
                "{} at {x},{y} {w}x{h}{}{}",
                name.unwrap_or("category without name"),
                if *iscrowd { ", crowd" } else { "" },
                if segmentation.is_some() { "" } else { ", no mask" }
            )
        }
        Label::LabelMap { png } => format!("label map, {} as PNG", bytes(png.len() as u64)),
    }
}

/// `KEY-VIEW-LEVEL.png`, on a basis of `--pca-samples` rows that is the same for every sample of the store.
fn write_pictures(
    args: &InspectArgs,
    store: &Store,
    rows: &[SampleRow],
    folder: &Path,
) -> Result<Vec<String>> {
    let shown: Vec<&SampleRow> = rows.iter().filter(|row| row.status == Status::Ok).collect();
    if shown.is_empty() {
        let what = format!("sample {}: expected features to show, found none", rows[0].key);
        return Err(failure(ExitCode::BadInput, what));
    }
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let pyramid = Pyramid::fit(store, &pyramid::spread(store, args.pca_samples))?;
    let mut written = Vec::new();
    for row in shown {
        for (level, canvas) in store.recipe().levels.iter().zip(pyramid.render(row.id)?) {
            // Keys of folders hold slashes.
            let name = format!("{}-{}-{}.png", row.key.0.replace('/', "_"), row.view, level.name);
            let path = folder.join(name);
            canvas.write_png(&path)?;
            written.push(path.display().to_string());
        }
    }
    Ok(written)
}

fn sample_text(report: &SampleReport) -> String {
    let size = |size: Option<Size>| size.map_or("unknown".to_owned(), |size| size.to_string());
    let mut text = format!("{}/{}\n", report.split, report.key);
    for row in &report.rows {
        text += &format!(
            "row {} view {}: {} {} → {} in bucket {}: {}\n",
            row.row,
            row.view,
            row.source,
            size(row.source_size),
            size(row.valid_size),
            size(row.bucket),
            row.status
        );
        let rows: Vec<Vec<String>> = row
            .levels
            .iter()
            .map(|level| {
                vec![
                    level.name.clone(),
                    format!("{:?}", level.shape),
                    format!("{:.4}", level.mean),
                    format!("{:.4}", level.std),
                    format!("{:.3}", level.min),
                    format!("{:.3}", level.max),
                    level.not_finite.to_string(),
                ]
            })
            .collect();
        text += &report::table(&["level", "shape", "mean", "std", "min", "max", "not finite"], &rows);
    }
    for label in &report.labels {
        text += &format!("label: {label}\n");
    }
    for picture in &report.pictures {
        text += &format!("wrote {picture}\n");
    }
    text
}
