//! `featcache plan`: what an extraction will cost, before it is run.

use crate::cli::PlanArgs;
use crate::dataset::Pictures;
use crate::exit::{ExitCode, failure};
use crate::model::{self, Model};
use crate::progress::{bytes, duration};
use crate::report::{self, Report};
use anyhow::{Context, Result};
use featcache_extractor::preprocess;
use featcache_extractor::source::Source;
use featcache_store::layout;
use featcache_store::projections;
use featcache_store::zarr::hierarchy;
use featcache_store::{Compression, Encodings, LevelArrays, LevelSpec, Plan, PlanRow};
use serde::Serialize;
use std::time::Instant;

/// What a finished store holds in its root folder.
const ROOT_FILES: [&str; 6] =
    [layout::ROOT, layout::PLAN, layout::SAMPLES, layout::ANNOTATIONS, layout::CATEGORIES, layout::MANIFEST];

#[derive(Debug, Serialize)]
struct Outlook {
    dataset: String,
    splits: Vec<SplitOutlook>,
    backbone: String,
    compute: featcache_store::Compute,
    resize: String,
    views: Vec<String>,
    rows: u64,
    unreadable: u64,
    buckets: Vec<BucketOutlook>,
    levels: Vec<LevelOutlook>,
    bytes: u64,
    /// Compressed levels take less than these bytes; nobody knows before how much less.
    at_most: bool,
    bytes_per_row: f64,
    units: u64,
    files: u64,
    estimate: Option<Estimate>,
}

#[derive(Debug, Serialize)]
struct SplitOutlook {
    name: String,
    samples: u64,
}

#[derive(Debug, Serialize)]
struct BucketOutlook {
    split: String,
    view: String,
    size: String,
    rows: u64,
    units: u64,
}

#[derive(Debug, Serialize)]
struct LevelOutlook {
    name: String,
    stride: u32,
    channels: u32,
    encoding: String,
    bytes: u64,
    share: f64,
}

/// Time of a handful of pictures, one by one, decoding included; the first is a warm-up and not counted.
#[derive(Debug, Serialize)]
struct Estimate {
    device: String,
    threads: usize,
    timed_images: usize,
    seconds_per_image: f64,
    seconds_per_image_min: f64,
    seconds_per_image_max: f64,
    hours: f64,
}

pub(super) fn run(args: &PlanArgs) -> Result<Report> {
    let source = Pictures::from_args(&args.dataset)?;
    let recipe = model::planned_recipe(&args.recipe, &args.weights)?;
    let encodings = Encodings::parse(&args.store.store, &recipe.levels)
        .map_err(|error| failure(ExitCode::Usage, format!("--store: {error}")))?;
    let listing = source.list(&recipe.preprocess)?;
    let plan = Plan::new(&recipe, &listing, args.store.shard_mib << 20)?;
    let estimate = if args.time_images == 0 { None } else { estimate(args, &plan)? };

    let level_bytes: Vec<u64> = plan.level_bytes(&encodings)?.into_iter().map(|(_, bytes)| bytes).collect();
    let total: u64 = level_bytes.iter().sum();
    let unreadable = plan.rows().iter().filter(|row| row.place.is_err()).count() as u64;
    let units = plan.unit_count();
    let files = files(&plan, &recipe.levels, &encodings)?;
    let rows = plan.rows().len() as u64;
    let splits: std::collections::BTreeSet<&str> = listing.samples.iter().map(|s| s.split.as_str()).collect();
    let outlook = Outlook {
        dataset: source.kind.to_owned(),
        splits: splits
            .iter()
            .map(|&name| SplitOutlook {
                name: name.to_owned(),
                samples: listing.samples.iter().filter(|sample| sample.split == name).count() as u64,
            })
            .collect(),
        backbone: recipe.backbone.name.clone(),
        compute: recipe.backbone.compute,
        resize: recipe.preprocess.resize.to_string(),
        views: recipe.views.iter().map(|view| view.name.clone()).collect(),
        rows,
        unreadable,
        buckets: plan
            .buckets()
            .iter()
            .map(|bucket| BucketOutlook {
                split: bucket.split.to_string(),
                view: bucket.view.to_string(),
                size: bucket.size.to_string(),
                rows: bucket.row_count(),
                units: bucket.unit_count(),
            })
            .collect(),
        levels: recipe
            .levels
            .iter()
            .zip(&level_bytes)
            .map(|(level, &bytes)| LevelOutlook {
                name: level.name.clone(),
                stride: level.stride,
                channels: level.channels,
                encoding: encodings.of(&level.name).map_or(String::new(), |e| e.to_string()),
                bytes,
                share: bytes as f64 / total.max(1) as f64,
            })
            .collect(),
        bytes: total,
        at_most: encodings.iter().any(|(_, encoding)| encoding.compression != Compression::None),
        bytes_per_row: total as f64 / (rows - unreadable).max(1) as f64,
        units,
        files,
        estimate,
    };
    Report::new(&outlook, text(&outlook))
}

/// Files of the store that one uninterrupted run leaves: a shard a unit and array, a record a unit, a
/// document an array and a group, [`ROOT_FILES`], and the run itself.
fn files(plan: &Plan, levels: &[LevelSpec], encodings: &Encodings) -> Result<u64> {
    let (mut levels_of_buckets, mut shards) = (Vec::new(), 0);
    for bucket in plan.buckets() {
        for level in levels {
            let encoding = encodings.of(&level.name).context("a level without encoding")?;
            let of_level = LevelArrays::new(bucket, level, encoding)?;
            shards += bucket.unit_count() * of_level.iter().count() as u64;
            levels_of_buckets.push(of_level);
        }
    }
    let documents = hierarchy(levels_of_buckets.iter().flat_map(LevelArrays::iter)).len() as u64
        + ROOT_FILES.len() as u64;
    // Of a basis and of a mean, the document and the only chunk.
    let of_bases = projections::documents(levels, encodings);
    let chunks = of_bases.values().filter(|document| document["node_type"] == "array").count();
    Ok(shards + plan.unit_count() + documents + (of_bases.len() + chunks) as u64 + 1)
}

/// Times a handful of pictures that are spread over the plan's rows, one by one.
fn estimate(args: &PlanArgs, plan: &Plan) -> Result<Option<Estimate>> {
    let readable: Vec<&PlanRow> = plan.rows().iter().filter(|row| row.place.is_ok()).collect();
    if readable.is_empty() {
        return Ok(None);
    }
    let mut weights = args.weights.clone();
    if weights.weights.is_none() && weights.random_weights.is_none() {
        weights.random_weights = Some(0);
    }
    let model = Model::from_args(&args.recipe, &weights, &args.machine)?;
    let source = Source::new(&args.dataset.root, &model.recipe)?;
    let count = args.time_images.min(readable.len());
    let pixels = |row: &PlanRow| {
        row.place.as_ref().map_or(0.0, |place| f64::from(place.bucket.height) * f64::from(place.bucket.width))
    };
    let mean_pixels = readable.iter().map(|row| pixels(row)).sum::<f64>() / readable.len() as f64;
    let mut seconds = Vec::new();
    for index in 0..=count {
        let row = readable[index * (readable.len() - 1) / count.max(1)];
        let started = Instant::now();
        time_row(&source, &model, row).with_context(|| format!("timing {}", row.source))?;
        // Time grows with the pixels: each picture's time is scaled to the plan's mean picture.
        seconds.push(started.elapsed().as_secs_f64() * mean_pixels / pixels(row).max(1.0));
    }
    let mut counted = seconds[1..].to_vec();
    counted.sort_by(f64::total_cmp);
    let median = counted[counted.len() / 2];
    Ok(Some(Estimate {
        device: format!("{:?}", model.backbone.device()).to_lowercase(),
        threads: usize::try_from(tch::get_num_threads()).unwrap_or(1),
        timed_images: count,
        seconds_per_image: median,
        seconds_per_image_min: counted[0],
        seconds_per_image_max: counted[counted.len() - 1],
        hours: median * readable.len() as f64 / 3600.0,
    }))
}

fn time_row(source: &Source<'_>, model: &Model, row: &PlanRow) -> Result<()> {
    let prepared = source.prepare(&row.source, &row.view, &row.place)?;
    // A picture that does not decode costs no backbone time: it is timed as what it is.
    let (Ok(input), Ok(place)) = (prepared.input, &row.place) else { return Ok(()) };
    let device = model.backbone.device();
    let pixels = preprocess::collate(&[input], place.bucket, &model.recipe.preprocess, device)?;
    for map in model.backbone.forward(&pixels)? {
        drop(map.f_to_device(tch::Device::Cpu)?);
    }
    Ok(())
}

fn text(outlook: &Outlook) -> String {
    let mut out = String::new();
    let splits: Vec<String> =
        outlook.splits.iter().map(|split| format!("{} ({} samples)", split.name, split.samples)).collect();
    let mut line = |name: &str, value: String| out.push_str(&format!("{name:<10}{value}\n"));
    line("dataset", format!("{}: {}", outlook.dataset, splits.join(", ")));
    line("backbone", format!("{} in {:?}", outlook.backbone, outlook.compute).to_lowercase());
    line("input", format!("resize {}, views {}", outlook.resize, outlook.views.join(", ")));
    line(
        "rows",
        format!("{} in {} buckets, {} unreadable", outlook.rows, outlook.buckets.len(), outlook.unreadable),
    );
    line("store", format!("{} units, {} files", outlook.units, outlook.files));
    let mut rows: Vec<Vec<String>> = outlook
        .levels
        .iter()
        .map(|level| {
            vec![
                level.name.clone(),
                level.stride.to_string(),
                level.channels.to_string(),
                level.encoding.clone(),
                bytes(level.bytes),
                format!("{:.1} %", 100.0 * level.share),
            ]
        })
        .collect();
    rows.push(vec![
        "all".to_owned(),
        String::new(),
        String::new(),
        String::new(),
        bytes(outlook.bytes),
        format!("{}/row", bytes(outlook.bytes_per_row as u64)),
    ]);
    out.push('\n');
    out.push_str(&report::table(&["level", "stride", "channels", "encoding", "bytes", "share"], &rows));
    if outlook.at_most {
        out.push_str("at most: levels with zstd are counted as if nothing could be compressed\n");
    }
    if let Some(estimate) = &outlook.estimate {
        out.push_str(&format!(
            "\nestimate  {} on {} with {} threads: {:.2} s/image (median of {}, {:.2} to {:.2})\n",
            duration(estimate.hours * 3600.0),
            estimate.device,
            estimate.threads,
            estimate.seconds_per_image,
            estimate.timed_images,
            estimate.seconds_per_image_min,
            estimate.seconds_per_image_max
        ));
    }
    out
}
