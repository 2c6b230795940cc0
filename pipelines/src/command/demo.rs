//! `featcache demo`: the whole path on scenes it draws itself, through the very commands that users run.

mod detection;
mod origin;

use crate::cli::{Cli, DemoArgs};
use crate::exit::ExitCode;
use crate::level;
use crate::picture::overlay::LabelMap;
use crate::picture::{Canvas, Palette, Sheet, SheetRow, overlay};
use crate::progress::bytes;
use crate::pyramid::{self, Pyramid};
use crate::report::Report;
use crate::scene::{self, SceneOptions};
use anyhow::{Context, Result};
use clap::Parser;
use featcache_extractor::image::{self, Limits};
use featcache_heads::run::Run;
use featcache_heads::segment::SegmentSizes;
use featcache_heads::tensor::feature_map;
use featcache_heads::truth::Truth;
use featcache_store::{Batch, OpenOptions, ReadOptions, SampleRow, Status, Store};
use origin::Origin;
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use tch::Device;

/// The demo's backbone: SwinV2 of 2.7 M weights, pretrained on other scenes of the same drawer by
/// `tools/pretrain_demo_backbone.py`.
const WEIGHTS: &[u8] = include_bytes!("../../../assets/swinv2-demo.safetensors");
/// The windows that they were trained with, which the file does not tell.
const PRETRAINED_WINDOW: &str = "8,8,8,8";
const RECIPE: &str = include_str!("../../../recipes/demo.toml");
/// Held-out scenes on the contact sheet.
const SHEET_ROWS: usize = 6;

#[derive(Debug, Serialize)]
struct Summary {
    folder: String,
    pictures: usize,
    /// Rows of the store that were there already; the next two say nothing where these are all.
    rows_kept: u64,
    images_per_second: Option<f64>,
    bottleneck: Option<String>,
    bytes_per_image: f64,
    levels: Vec<LevelBytes>,
    read_gigabytes_per_second: f64,
    read_over_preadv: f64,
    /// Steps of the run that were there already; the next says nothing where these are all.
    steps_kept: u64,
    data_wait_share: Option<f64>,
    tunable_parameters: u64,
    backbone_parameters_at_training: u64,
    mean_iou: f64,
    mean_accuracy: f64,
    pixel_accuracy: f64,
    detector_tunable_parameters: u64,
    box_ap: f64,
    box_ap50: f64,
    mask_ap: f64,
    contact_sheet: String,
}

#[derive(Debug, Serialize)]
struct LevelBytes {
    name: String,
    bytes_per_image: f64,
}

pub(super) fn run(args: &DemoArgs, quiet: bool) -> Result<Report> {
    let out = &args.out;
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    Origin::new(args, WEIGHTS, &[RECIPE, detection::RECIPE]).settle(out)?;
    let options =
        SceneOptions { seed: args.seed, train: args.train, val: args.val, ..SceneOptions::default() };
    log::info!("drawing {} scenes", args.train + args.val);
    let scenes = scene::write_dataset(&out.join("scenes"), &options)?;
    if args.draw_only {
        let text = format!(
            "{} pictures in {} and {}",
            scenes.pictures,
            scenes.coco.display(),
            scenes.ade20k.display()
        );
        return Report::new(
            &serde_json::json!({ "pictures": scenes.pictures, "objects": scenes.objects }),
            text,
        );
    }
    let weights = out.join("swinv2-demo.safetensors");
    std::fs::write(&weights, WEIGHTS).with_context(|| weights.display().to_string())?;
    let recipe = out.join("demo.toml");
    std::fs::write(&recipe, RECIPE).with_context(|| recipe.display().to_string())?;
    let (store, run) = (out.join("store"), out.join("run"));

    let extracted = step(
        quiet,
        &[
            "extract",
            "ade20k",
            "--split",
            "training,validation",
            "--backbone",
            "swinv2-demo",
            "--pretrained-window",
            PRETRAINED_WINDOW,
            "--resize",
            "none",
            "--views",
            "base,hflip",
            "--batch",
            "8",
        ],
        &[("--root", &scenes.ade20k), ("--weights", &weights), ("--out", &store)],
        &[],
    )?;
    step(quiet, &["verify"], &[], &[&store])?;
    let read = step(quiet, &["bench", "read", "--threads", "1", "--repeats", "3"], &[], &[&store])?;
    let trained =
        step(quiet, &["train", "--split", "training"], &[("--recipe", &recipe), ("--out", &run)], &[&store])?;
    let scored = step(quiet, &["eval", "--split", "validation"], &[], &[&run, &store])?;

    let detected = detection::run(out, &scenes.coco, &weights, quiet)?;

    let store = Store::open(&store, OpenOptions::default())?;
    let sheet = out.join("contact-sheet.png");
    contact_sheet(args, &store, &scenes.ade20k, &run, [&scored, &detected.scored], &sheet)?;
    let results = [&extracted, &read, &trained, &scored];
    let summary = summary(args, scenes.pictures, &store, results, &detected, &sheet);
    Report::new(&summary, text(&summary))
}

/// Runs one command as the shell would and returns its JSON result.
fn step(quiet: bool, words: &[&str], paths: &[(&str, &Path)], positional: &[&Path]) -> Result<Value> {
    let mut args: Vec<std::ffi::OsString> = vec!["featcache".into()];
    args.extend(words.iter().map(Into::into));
    args.extend(positional.iter().map(|path| path.as_os_str().to_owned()));
    for (flag, path) in paths {
        args.push(flag.into());
        args.push(path.as_os_str().to_owned());
    }
    if quiet {
        args.push("--quiet".into());
    }
    let shown: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    log::info!("\n$ {}", shown.join(" "));
    let report = super::execute(&Cli::try_parse_from(&args)?)?;
    if report.code != ExitCode::Done {
        return Err(crate::exit::failure(report.code, format!("{}: {}", words[0], report.text())));
    }
    if !quiet {
        log::info!("{}", report.text().trim_end());
    }
    Ok(report.json().clone())
}

/// Image, PCA of every level, prediction and truth of some held-out scenes.
fn contact_sheet(
    args: &DemoArgs,
    store: &Store,
    root: &Path,
    run: &Path,
    [scored, detected]: [&Value; 2],
    path: &Path,
) -> Result<()> {
    let held_out: Vec<SampleRow> = store
        .rows()
        .iter()
        .filter(|row| &*row.split == "validation" && &*row.view == "base" && row.status == Status::Ok)
        .collect();
    let step = (held_out.len() / SHEET_ROWS).max(1);
    let shown: Vec<SampleRow> = held_out.into_iter().step_by(step).take(SHEET_ROWS).collect();
    let basis: Vec<_> = shown.iter().map(|row| row.id).chain(pyramid::spread(store, 8)).collect();
    let pyramid = Pyramid::fit(store, &basis)?;
    let head = Run::open(run, Device::Cpu)?;
    head.check_store(store)?;
    let truth = Truth::new(store, head.identity.recipe.labels.zero)?;
    let names = head.semantic()?.classes().to_vec();
    let palette = Palette::new(names.len());
    let gallery = detection::Gallery::open(&args.out, &names, &palette)?;
    let mut rows = Vec::new();
    for row in shown {
        let picture = read_picture(&root.join(&*row.source))?;
        let mut cells = vec![picture.clone()];
        cells.extend(pyramid.render(row.id)?);
        let predicted = predict_row(store, &head, &row)?.classes;
        let target = truth.original(row.id)?.context("a scene without label map")?;
        let target: Vec<u16> = target
            .classes
            .iter()
            .map(|&class| {
                u16::try_from(class)
                    .ok()
                    .filter(|&c| usize::from(c) < names.len())
                    .unwrap_or(LabelMap::IGNORE)
            })
            .collect();
        for classes in [&predicted, &target] {
            let map = LabelMap::new(picture.width(), picture.height(), classes)?;
            cells.push(overlay::labels(&picture, &map, &palette, overlay::DEFAULT_ALPHA));
        }
        // Scenes of both layouts are numbered alike; COCO's numbers go on after the training scenes.
        let number = row.key.0.rsplit('_').next().and_then(|digits| digits.parse::<usize>().ok());
        let number = number.with_context(|| format!("scene {} has no number", row.key))?;
        cells.extend(gallery.cells(args.train + number, &picture)?);
        rows.push(SheetRow { caption: row.key.to_string(), cells });
    }
    let levels =
        store.recipe().levels.iter().map(|level| format!("{} PCA (stride {})", level.name, level.stride));
    let columns = std::iter::once("image".to_owned())
        .chain(levels)
        .chain(["prediction", "truth", "detections", "objects"].map(str::to_owned))
        .collect();
    Sheet {
        title: "featcache demo: held-out scenes".to_owned(),
        subtitle: format!(
            "frozen {} features read from the store, {:?} head, mIoU {:.3}; detector, box AP {:.3}",
            store.recipe().backbone.name,
            head.identity.recipe.head.kind,
            scored["scores"]["miou"].as_f64().unwrap_or(f64::NAN),
            detected["scores"]["boxes"]["ap"].as_f64().unwrap_or(f64::NAN)
        ),
        columns,
        rows,
        legend: names,
        footnotes: Vec::new(),
        cell: Sheet::DEFAULT_CELL,
    }
    .draw(&palette)
    .write_png(path)
}

/// The head's label map of one row, from the store alone.
fn predict_row(store: &Store, head: &Run, row: &SampleRow) -> Result<featcache_heads::segment::LabelMap> {
    let (Some(padded), Some(valid), Some(original)) = (row.bucket, row.valid_size, row.source_size) else {
        anyhow::bail!("row {} has no size", row.id)
    };
    let levels = head.model.levels().iter().map(|level| store.level(&level.name));
    let levels = levels.collect::<featcache_store::Result<Vec<_>>>()?;
    let reader = store.reader(ReadOptions::default())?;
    let mut batch = Batch::new();
    reader.read(&[row.id], &levels, None, &mut batch)?;
    let maps = (0..levels.len())
        .map(|i| {
            let level = batch.level(i);
            feature_map(level.bytes, level.shape, level.dtype, head.model.map_kind(), Device::Cpu)
        })
        .collect::<featcache_heads::Result<Vec<_>>>()?; // each [1, c, h, w]
    Ok(head.semantic()?.predict(&maps, SegmentSizes { padded, valid, original })?)
}

fn summary(
    args: &DemoArgs,
    pictures: usize,
    store: &Store,
    results: [&Value; 4],
    detected: &detection::Results,
    sheet: &Path,
) -> Summary {
    let [extracted, read, trained, scored] = results;
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let ok = store.rows().iter().filter(|row| row.status == Status::Ok).count().max(1) as f64;
    let levels: Vec<LevelBytes> = store
        .recipe()
        .levels
        .iter()
        .zip(level::payload_bytes(store))
        .map(|(level, bytes)| LevelBytes { name: level.name.clone(), bytes_per_image: bytes as f64 / ok })
        .collect();
    let rows_computed = count(&extracted["rows_this_run"]);
    let steps_kept = count(&trained["resumed_at"]);
    let steps_done = count(&trained["step"]) - steps_kept;
    Summary {
        folder: args.out.display().to_string(),
        pictures,
        rows_kept: count(&extracted["rows"]) - rows_computed,
        images_per_second: (rows_computed > 0).then(|| number(&extracted["images_per_second"])),
        bottleneck: (rows_computed > 0)
            .then(|| extracted["bottleneck"].as_str().unwrap_or_default().to_owned()),
        bytes_per_image: levels.iter().map(|level| level.bytes_per_image).sum(),
        levels,
        read_gigabytes_per_second: number(&read["stores"][0]["headline"]["gb_per_second"]),
        read_over_preadv: number(&read["stores"][0]["headline"]["ratio"]),
        steps_kept,
        data_wait_share: (steps_done > 0).then(|| number(&trained["data_wait"])),
        tunable_parameters: count(&trained["tunable_parameters"]),
        backbone_parameters_at_training: count(&trained["backbone_parameters"]),
        mean_iou: number(&scored["scores"]["miou"]),
        mean_accuracy: number(&scored["scores"]["macc"]),
        pixel_accuracy: number(&scored["scores"]["aacc"]),
        detector_tunable_parameters: count(&detected.trained["tunable_parameters"]),
        box_ap: number(&detected.scored["scores"]["boxes"]["ap"]),
        box_ap50: number(&detected.scored["scores"]["boxes"]["ap50"]),
        mask_ap: number(&detected.scored["scores"]["masks"]["ap"]),
        contact_sheet: sheet.display().to_string(),
    }
}

fn text(summary: &Summary) -> String {
    let levels: Vec<String> = summary
        .levels
        .iter()
        .map(|level| format!("{} {}", level.name, bytes(level.bytes_per_image as u64)))
        .collect();
    let rows = [
        vec![
            "extraction".to_owned(),
            match (summary.images_per_second, &summary.bottleneck) {
                (Some(rate), Some(bottleneck)) => format!("{rate:.1} img/s, {bottleneck}"),
                _ => format!("kept: all {} rows were in the store already", summary.rows_kept),
            },
        ],
        vec![
            "bytes per image".to_owned(),
            format!("{} ({})", bytes(summary.bytes_per_image as u64), levels.join(", ")),
        ],
        vec![
            "reading".to_owned(),
            format!(
                "{:.1} GB/s checked, {:.2} of raw preadv",
                summary.read_gigabytes_per_second, summary.read_over_preadv
            ),
        ],
        vec![
            "training".to_owned(),
            format!(
                "{} tunable parameters, {} of a backbone, {}",
                summary.tunable_parameters,
                summary.backbone_parameters_at_training,
                match summary.data_wait_share {
                    Some(share) => format!("data wait {:.2} %", 100.0 * share),
                    None => format!("kept: all {} steps were done already", summary.steps_kept),
                }
            ),
        ],
        vec![
            "held-out scenes".to_owned(),
            format!(
                "mIoU {:.3}, mAcc {:.3}, aAcc {:.3}",
                summary.mean_iou, summary.mean_accuracy, summary.pixel_accuracy
            ),
        ],
        vec![
            "objects in them".to_owned(),
            format!(
                "box AP {:.3} (AP50 {:.3}), mask AP {:.3}, {} tunable parameters",
                summary.box_ap, summary.box_ap50, summary.mask_ap, summary.detector_tunable_parameters
            ),
        ],
        vec!["contact sheet".to_owned(), summary.contact_sheet.clone()],
    ];
    let width = rows.iter().map(|row| row[0].len()).max().unwrap_or(0);
    rows.iter().map(|row| format!("{:<width$}  {}\n", row[0], row[1])).collect()
}

fn read_picture(path: &Path) -> Result<Canvas> {
    let limits = Limits::default();
    let bytes = image::read_file(path, &limits)??;
    let picture = image::decode(&bytes, &limits)?;
    Canvas::from_rgb(picture.size.width as usize, picture.size.height as usize, picture.rgb)
}
