//! `featcache demo`: the whole path on scenes it draws itself, through the very commands that users run.

use crate::cli::{Cli, DemoArgs};
use crate::exit::ExitCode;
use crate::picture::{Canvas, LabelMap, Palette, Sheet, SheetRow, overlay};
use crate::progress::bytes;
use crate::pyramid::{self, Pyramid};
use crate::report::{self, Report};
use crate::scene::{self, SceneOptions};
use anyhow::{Context, Result};
use clap::Parser;
use featcache_extractor::image::{self, Limits};
use featcache_store::{Label, OpenOptions, RowStatus, SampleRow, Store};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The demo's backbone: SwinV2 of 1.6 M weights, pretrained on other scenes of the same drawer by
/// `tools/pretrain_demo_backbone.py`.
const WEIGHTS: &[u8] = include_bytes!("../../assets/swinv2-demo.safetensors");
const RECIPE: &str = include_str!("../../../recipes/demo.toml");
/// Held-out scenes on the contact sheet.
const SHEET_ROWS: usize = 6;

#[derive(Debug, Serialize)]
struct Summary {
    folder: String,
    pictures: usize,
    images_per_second: f64,
    bottleneck: String,
    bytes_per_image: f64,
    levels: Vec<LevelBytes>,
    read_gigabytes_per_second: f64,
    read_over_preadv: f64,
    data_wait_share: f64,
    tunable_parameters: u64,
    backbone_parameters_at_training: u64,
    mean_iou: f64,
    mean_accuracy: f64,
    pixel_accuracy: f64,
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
    let options = SceneOptions { seed: args.seed, train: args.train, val: args.val, ..SceneOptions::default() };
    log::info!("drawing {} scenes", args.train + args.val);
    let scenes = scene::write_dataset(&out.join("scenes"), &options)?;
    if args.draw_only {
        let text = format!("{} pictures in {} and {}", scenes.pictures, scenes.coco.display(), scenes.ade20k.display());
        return Report::new(&serde_json::json!({ "pictures": scenes.pictures, "objects": scenes.objects }), text);
    }
    let weights = out.join("swinv2-demo.safetensors");
    std::fs::write(&weights, WEIGHTS).with_context(|| weights.display().to_string())?;
    let recipe = out.join("demo.toml");
    std::fs::write(&recipe, RECIPE).with_context(|| recipe.display().to_string())?;
    let (store, run) = (out.join("store"), out.join("run"));

    let extracted = step(
        quiet,
        &["extract", "ade20k", "--split", "training,validation", "--backbone", "swinv2-demo", "--resize", "none",
          "--views", "base,hflip", "--batch", "8"],
        &[("--root", &scenes.ade20k), ("--weights", &weights), ("--out", &store)],
        &[],
    )?;
    step(quiet, &["verify"], &[], &[&store])?;
    let read = step(quiet, &["bench", "read", "--threads", "1", "--repeats", "3"], &[], &[&store])?;
    let trained = step(quiet, &["train", "--split", "training"], &[("--recipe", &recipe), ("--out", &run)], &[&store])?;
    let scored = step(quiet, &["eval", "--split", "validation"], &[], &[&run, &store])?;

    let store = Store::open(&store, OpenOptions::default())?;
    let sheet = out.join("contact-sheet.png");
    contact_sheet(&store, &scenes.ade20k, &run, &scored, &sheet)?;
    let summary = summary(args, scenes.pictures, &store, [&extracted, &read, &trained, &scored], &sheet);
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
fn contact_sheet(store: &Store, root: &Path, run: &Path, scored: &Value, path: &Path) -> Result<()> {
    let held_out: Vec<&SampleRow> = store
        .rows()
        .iter()
        .filter(|row| &*row.split == "validation" && &*row.view == "base" && row.status == RowStatus::Ok)
        .collect();
    let step = (held_out.len() / SHEET_ROWS).max(1);
    let shown: Vec<&SampleRow> = held_out.into_iter().step_by(step).take(SHEET_ROWS).collect();
    let basis: Vec<_> = shown.iter().map(|row| row.id).chain(pyramid::spread(store, 8, None)).collect();
    let pyramid = Pyramid::fit(store, &basis)?;
    let model = super::predict::Head::load(run)?;
    let names = model.classes().to_vec();
    let palette = Palette::new(names.len());
    let mut rows = Vec::new();
    for row in shown {
        let file = root.join(&*row.source);
        let picture = read_picture(&file)?;
        let mut cells = vec![picture.clone()];
        cells.extend(pyramid.render(row.id)?);
        let predicted = model.predict_row(store, row)?;
        let truth = model.truth(store, row)?;
        for map in [&predicted, &truth] {
            let map = LabelMap::new(map.width, map.height, &map.classes)?;
            cells.push(overlay::labels(&picture, &map, &palette, overlay::DEFAULT_ALPHA));
        }
        rows.push(SheetRow { caption: row.key.to_string(), cells });
    }
    let levels = store.recipe().levels.iter().map(|level| format!("{} PCA (stride {})", level.name, level.stride));
    let columns = std::iter::once("image".to_owned())
        .chain(levels)
        .chain(["prediction".to_owned(), "truth".to_owned()])
        .collect();
    Sheet {
        title: "featcache demo: held-out scenes".to_owned(),
        subtitle: format!(
            "frozen {} features from the store, {} head, mIoU {:.3}",
            store.recipe().backbone.name,
            model.kind(),
            scored["mean_iou"].as_f64().unwrap_or(f64::NAN)
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

fn read_picture(path: &Path) -> Result<Canvas> {
    let limits = Limits::default();
    let bytes = image::read_file(path, &limits)?;
    let picture = image::decode(&bytes, &limits)?;
    Canvas::from_rgb(picture.size.width as usize, picture.size.height as usize, picture.rgb)
}
