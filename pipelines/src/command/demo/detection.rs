//! The demo's second task: objects of the same scenes, found by a small Cascade Mask R-CNN on the same frozen
//! features. Draws no scenes and no sheet.

use super::{PRETRAINED_WINDOW, step};
use crate::instance::{of_detection, of_object};
use crate::picture::instances::{Instance, instances};
use crate::picture::{Canvas, Palette};
use anyhow::{Context, Result};
use featcache_heads::evaluate::detection::paste_convention;
use featcache_heads::found::WayBack;
use featcache_heads::metric::coco::GroundTruth;
use featcache_heads::run::Run;
use featcache_heads::tensor::feature_map;
use featcache_store::{Batch, Category, OpenOptions, ReadOptions, SampleRow, Store};
use serde_json::Value;
use std::path::Path;
use tch::Device;

/// Recipe of the demo's detector.
pub(super) const RECIPE: &str = include_str!("../../../../recipes/demo-detection.toml");

/// Detections of at least this score are on the sheet: soft-NMS leaves boxes over better ones, at lower scores.
const DRAWN_SCORE: f64 = 0.5;

/// What the commands said.
pub(super) struct Results {
    pub(super) trained: Value,
    pub(super) scored: Value,
}

/// Extracts, trains and scores, in the demo's folder.
///
/// # Errors
/// As the commands.
pub(super) fn run(out: &Path, coco: &Path, weights: &Path, quiet: bool) -> Result<Results> {
    let recipe = out.join("demo-detection.toml");
    std::fs::write(&recipe, RECIPE).with_context(|| recipe.display().to_string())?;
    let (store, run, report) = (out.join("store-coco"), out.join("run-detection"), out.join("detection"));
    let words = ["extract", "coco", "--split", "train,val", "--backbone", "swinv2-demo"];
    let more = ["--pretrained-window", PRETRAINED_WINDOW, "--resize", "none", "--views", "base,hflip"];
    let words = [&words[..], &more, &["--batch", "8"]].concat();
    step(quiet, &words, &[("--root", coco), ("--weights", weights), ("--out", &store)], &[])?;
    let paths: [(&str, &Path); 2] = [("--recipe", &recipe), ("--out", &run)];
    let trained = step(quiet, &["train", "--split", "train"], &paths, &[&store])?;
    let paths: [(&str, &Path); 2] = [("--report", &report), ("--root", coco)];
    let scored = step(quiet, &["eval", "--split", "val"], &paths, &[&run, &store])?;
    Ok(Results { trained, scored })
}

/// The trained detector and its store, for pictures.
pub(super) struct Gallery {
    store: Store,
    head: Run,
    palette: Palette,
}

impl Gallery {
    /// Opens what [`run`] made in the demo's folder. A category has the colour that `palette` gives to the class
    /// of its name in `classes`, the legend of the sheet.
    ///
    /// # Errors
    /// Something of it is missing or does not belong together.
    pub(super) fn open(out: &Path, classes: &[String], palette: &Palette) -> Result<Self> {
        let store = Store::open(&out.join("store-coco"), OpenOptions::default())?;
        let head = Run::open(&out.join("run-detection"), Device::Cpu)?;
        head.check_store(&store)?;
        let class = |category: &Category| classes.iter().position(|class| *class == category.name);
        let classes: Option<Vec<usize>> = store.categories().iter().map(class).collect();
        let palette = palette.of(classes.context("a category that is no class of the label maps")?);
        Ok(Self { store, head, palette })
    }

    /// What the detector finds in the held-out scene of this COCO number, and what is true, over `picture`.
    ///
    /// # Errors
    /// The store has no such scene.
    pub(super) fn cells(&self, number: usize, picture: &Canvas) -> Result<[Canvas; 2]> {
        let row = self.store.find(Some("val"), &format!("{number:012}"), "base")?;
        let found = self.found(&row)?;
        let truth = GroundTruth::of_store(&self.store, &[row.id])?;
        let objects = truth.objects().iter();
        let objects = objects
            .map(|object| of_object(object, row.source_size, self.store.categories()))
            .collect::<Result<Vec<_>>>()?;
        Ok([found, objects].map(|marks| instances(picture, &marks, &self.palette)))
    }

    fn found(&self, row: &SampleRow) -> Result<Vec<Instance>> {
        let (Some(source), Some(valid)) = (row.source_size, row.valid_size) else {
            anyhow::bail!("row {} has no size", row.id)
        };
        let detector = self.head.detector()?;
        let levels = detector.levels().iter().map(|level| self.store.level(&level.name));
        let levels = levels.collect::<featcache_store::Result<Vec<_>>>()?;
        let mut batch = Batch::new();
        self.store.reader(ReadOptions::default())?.read(&[row.id], &levels, None, &mut batch)?;
        let maps = (0..levels.len())
            .map(|i| {
                let level = batch.level(i);
                feature_map(level.bytes, level.shape, level.dtype, detector.map_kind(), Device::Cpu)
            })
            .collect::<featcache_heads::Result<Vec<_>>>()?; // each [1, c, h, w]
        let detected = detector.detect(&maps, &[valid])?;
        let detections = detected.first().context("no result for the picture")?;
        let view = self.store.recipe().views.iter().find(|view| view.name == *row.view);
        let view = view.with_context(|| format!("view {} is not in the store", row.view))?;
        let geometry = view.geometry(source, valid)?;
        let way = WayBack { geometry, hflip: view.hflip, source, paste: paste_convention(&self.head) };
        let ids: Vec<i64> = self.store.categories().iter().map(|category| category.id).collect();
        let mut marks = Vec::new();
        for found in way.found(detections)? {
            if found.score >= DRAWN_SCORE {
                marks.push(of_detection(&found.detection(0, &ids)?, self.store.categories())?);
            }
        }
        Ok(marks)
    }
}
