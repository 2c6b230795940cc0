//! Predictions of a detector: boxes, masks, names and scores over the picture, and all of them as one
//! COCO json. Runs no backbone.

use super::Seen;
use crate::instance::of_detection;
use crate::picture::Palette;
use crate::picture::instances::{Instance, instances};
use anyhow::{Context, Result};
use featcache_heads::detector::Detector;
use featcache_heads::evaluate::detection::paste_convention;
use featcache_heads::found::WayBack;
use featcache_heads::mask::paste::PasteConvention;
use featcache_heads::run::Run;
use featcache_store::{Category, ViewSpec};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Name of the results in the folder of the overlays.
pub(super) const RESULTS_FILE: &str = "predictions.json";

/// An object that was drawn.
#[derive(Debug, Serialize)]
pub(super) struct ObjectFound {
    pub(super) name: String,
    pub(super) score: f64,
    /// x, y, width, height in pixels of the picture.
    pub(super) bbox: [f64; 4],
}

/// What is found in all pictures, in the form of COCO's instances files: `images`, `categories`, and
/// `annotations` with a score each. pycocotools reads the file as a data set and its annotations as
/// results.
pub(super) struct Results {
    categories: Vec<Category>,
    paste: PasteConvention,
    /// Pictures are numbered by their names, as COCO's are, or from 1 where those are not all different
    /// numbers.
    by_name: bool,
    images: Vec<Value>,
    annotations: Vec<Value>,
}

impl Results {
    pub(super) fn new(head: &Run, pictures: &[PathBuf]) -> Self {
        let categories = head.identity.categories.iter();
        let category = |c: &featcache_heads::identity::CategoryName| Category {
            id: c.id,
            name: c.name.clone(),
            supercategory: None,
        };
        // `1.jpg` and `001.jpg` are named with one number: no two pictures may have it.
        let mut seen = HashSet::new();
        let by_name =
            pictures.iter().all(|path| number(&super::stem(path)).is_some_and(|number| seen.insert(number)));
        let paste = paste_convention(head);
        let categories = categories.map(category).collect();
        Self { categories, paste, by_name, images: Vec::new(), annotations: Vec::new() }
    }

    /// Finds the objects of a picture, keeps them all and draws those of at least this score.
    ///
    /// # Errors
    /// Maps that do not fit the detector; a file cannot be written.
    pub(super) fn predict(
        &mut self,
        detector: &Detector,
        seen: &Seen,
        score: f64,
        overlay: &Path,
    ) -> Result<Vec<ObjectFound>> {
        let detected = detector.detect(&seen.maps, &[seen.valid])?;
        let detections = detected.first().context("no result for the picture")?;
        let view = ViewSpec::base();
        let geometry = view.geometry(seen.source, seen.valid)?;
        let way = WayBack { geometry, hflip: false, source: seen.source, paste: self.paste };
        let place = self.images.len() as i64 + 1;
        let image_id = number(&seen.stem).filter(|_| self.by_name).unwrap_or(place);
        let ids: Vec<i64> = self.categories.iter().map(|category| category.id).collect();
        let mut drawn: Vec<Instance> = Vec::new();
        let (mut objects, mut annotations) = (Vec::new(), Vec::new());
        for found in way.found(detections)? {
            let class = found.class;
            let found = found.detection(image_id, &ids)?;
            let bbox = found.bbox.unwrap_or_default();
            let mut annotation = json!({
                "id": self.annotations.len() + annotations.len() + 1,
                "image_id": image_id,
                "category_id": found.category_id,
                "bbox": bbox,
                "area": found.mask.as_ref().map_or(bbox[2] * bbox[3], |mask| mask.area() as f64),
                "iscrowd": 0,
                "score": found.score,
            });
            if let Some(mask) = &found.mask {
                let size = [mask.size().height, mask.size().width];
                annotation["segmentation"] = json!({ "size": size, "counts": mask.encode() });
            }
            annotations.push(annotation);
            if found.score >= score {
                let name = self.categories.get(class).map_or(String::new(), |c| c.name.clone());
                objects.push(ObjectFound { name, score: found.score, bbox });
                drawn.push(of_detection(&found, &self.categories)?);
            }
        }
        // A picture whose overlay cannot be written is a failed one, of which nothing is in the results.
        instances(&seen.canvas, &drawn, &Palette::new(self.categories.len())).write_png(overlay)?;
        self.annotations.append(&mut annotations);
        self.images.push(json!({
            "id": image_id,
            "file_name": seen.file_name,
            "height": seen.source.height,
            "width": seen.source.width,
        }));
        Ok(objects)
    }

    /// Writes them all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let category = |c: &Category| json!({ "id": c.id, "name": c.name });
        let all = json!({
            "images": self.images,
            "annotations": self.annotations,
            "categories": self.categories.iter().map(category).collect::<Vec<_>>(),
        });
        std::fs::write(path, serde_json::to_vec(&all)?).with_context(|| path.display().to_string())
    }
}

/// The number that a picture is named with, as COCO's are: `000000000139`.
fn number(stem: &str) -> Option<i64> {
    stem.parse().ok().filter(|&number: &i64| number > 0)
}
