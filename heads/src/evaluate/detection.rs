//! Scores a detector on a split of a store with COCO's metric, in original coordinates. Must not train,
//! draw or write files.

use super::pass::{What, pass, selection};
use super::{EvaluateJob, EvaluateSettings};
use crate::found::WayBack;
use crate::mask::paste::PasteConvention;
use crate::metric::coco::ground_truth::object;
use crate::metric::coco::summary::{CategoryScore, Summary};
use crate::metric::coco::{CocoOptions, Detection, Evaluation, GroundTruth, IouType, Picture, evaluate};
use crate::objects::sizes;
use crate::recipe::detector::Style;
use crate::run::Run;
use crate::{Error, Result};
use featcache_store::{RowId, Store};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DetectionReport {
    /// Step of the checkpoint.
    pub step: u64,
    /// Split scored on.
    pub split: String,
    /// Samples scored, those without objects too.
    pub samples: u64,
    /// Samples without features because they failed at extraction, left out.
    pub failed: u64,
    /// Samples that an incomplete store does not have yet, left out.
    pub missing: u64,
    /// Objects of the truth, crowds included.
    pub objects: u64,
    /// Detections scored.
    pub detections: u64,
    /// The twelve numbers of boxes.
    pub boxes: Summary,
    /// The twelve numbers of masks.
    pub masks: Option<Summary>,
    /// Why there are none: the first object of the truth whose mask is missing or cannot be read.
    pub masks_left_out: Option<String>,
    /// Boxes by category.
    pub box_categories: Vec<CategoryScore>,
    /// Masks by category.
    pub mask_categories: Vec<CategoryScore>,
    /// Seconds of the pass over the store: reading, the detector, pasting masks.
    pub seconds: f64,
    /// Share of them spent waiting for data.
    pub data_wait: f64,
    /// Seconds of the metric.
    pub metric_seconds: f64,
    /// Bytes of features read.
    pub read_bytes: u64,
    /// Samples left out because they are corrupt on disk.
    pub skipped: u64,
}

/// A report with what it was made from.
#[derive(Debug)]
pub struct DetectionScores {
    /// The numbers.
    pub report: DetectionReport,
    /// What is true; shared by all that were scored together.
    pub truth: Arc<GroundTruth>,
    /// What was found, picture by picture.
    pub found: Vec<Detection>,
    /// The metric's arrays for boxes.
    pub boxes: Evaluation,
    /// And for masks.
    pub masks: Option<Evaluation>,
    /// Row of each picture, by image id.
    pub rows: Arc<HashMap<i64, RowId>>,
}

/// Scores a detector on a store of the same fingerprint and categories.
///
/// # Errors
/// Another store ([`Error::RunMismatch`] names the field: a category list of another dataset); a run of
/// another task; [`Error::Stopped`]; unreadable features or annotations.
pub fn evaluate_detector(
    run: &Run,
    store: &Store,
    settings: &EvaluateSettings<'_>,
) -> Result<DetectionScores> {
    let mut scores = evaluate_detectors(&[EvaluateJob { run, version: None }], store, settings)?;
    scores.pop().ok_or_else(|| Error::invalid("no run to score"))
}

/// Scores several detectors on one pass over the store; each result is what it would be alone, but that
/// seconds and bytes of the pass are of all.
///
/// # Errors
/// As [`evaluate_detector`].
pub fn evaluate_detectors(
    jobs: &[EvaluateJob<'_>],
    store: &Store,
    settings: &EvaluateSettings<'_>,
) -> Result<Vec<DetectionScores>> {
    let detectors = jobs.iter().map(|job| job.run.detector()).collect::<Result<Vec<_>>>()?;
    jobs.iter().try_for_each(|job| job.run.check_store(store))?;
    let selection = selection(store, settings)?;
    let (split, failed, missing) = (selection.split.clone(), selection.failed, selection.missing);
    let ids: Vec<RowId> = selection.samples.iter().flatten().map(|row| row.row).collect();
    let (mut truth, mut rows) = truth_of(store, &ids, |_| true)?;
    if truth.objects().is_empty() {
        return Err(Error::invalid(format!("no sample of split {split:?} has objects: nothing to score")));
    }
    // Before the pass and not after it: what cannot be scored is to be known before hours of detection.
    let masks_left_out = truth.check_masks().err().map(|error| error.to_string());
    if let Some(what) = &masks_left_out {
        log::warn!("masks are not scored: {what}");
    }
    let images: HashMap<RowId, i64> = rows.iter().map(|(&image, &row)| (row, image)).collect();
    // Of the store, which has those of every run.
    let categories: Vec<i64> = store.categories().iter().map(|category| category.id).collect();

    let (mut found, mut seen) = (vec![Vec::new(); jobs.len()], HashSet::new());
    let what = What { store, selection, jobs };
    let no_target = |_| Ok(());
    let costs = pass(what, &no_target, settings, |head, batch, maps| {
        seen.extend(batch.rows.rows.iter().copied());
        let rows = batch.rows.rows.iter().map(|&id| Ok(store.row(id)?)).collect::<Result<Vec<_>>>()?;
        let valid = rows.iter().map(|row| Ok(sizes(row)?.1)).collect::<Result<Vec<_>>>()?;
        let detected = detectors[head].detect(maps, &valid)?;
        if detected.len() != rows.len() {
            return Err(Error::invalid(format!("{} results for {} rows", detected.len(), rows.len())));
        }
        let paste = paste_convention(jobs[head].run);
        for (row, detections) in rows.iter().zip(&detected) {
            let (source, valid, _) = sizes(row)?;
            let view = store.recipe().views.iter().find(|view| view.name == *row.view);
            let view =
                view.ok_or_else(|| Error::invalid(format!("view {:?} is not in the store", row.view)))?;
            let way = WayBack { geometry: view.geometry(source, valid)?, hflip: view.hflip, source, paste };
            let image = images.get(&row.id).copied().unwrap_or_default();
            for one in way.found(detections)? {
                found[head].push(one.detection(image, &categories)?);
            }
        }
        Ok(())
    })?;

    if costs.skipped > 0 {
        // What was not looked at is not missed.
        (truth, rows) = truth_of(store, &ids, |id| seen.contains(&id))?;
    }
    let (truth, rows) = (Arc::new(truth), Arc::new(rows));
    let scores = jobs.iter().zip(found).map(|(job, found)| {
        let begin = Instant::now();
        let options = CocoOptions::default();
        let boxes = evaluate(&truth, &found, IouType::Bbox, &options)?;
        let masks = match &masks_left_out {
            None => Some(evaluate(&truth, &found, IouType::Segm, &options)?),
            Some(_) => None,
        };
        let report = DetectionReport {
            step: job.run.step,
            split: split.clone(),
            samples: seen.len() as u64,
            failed,
            missing,
            objects: truth.objects().len() as u64,
            detections: found.len() as u64,
            boxes: boxes.summary(),
            masks: masks.as_ref().map(Evaluation::summary),
            masks_left_out: masks_left_out.clone(),
            box_categories: boxes.category_scores(),
            mask_categories: masks.as_ref().map(Evaluation::category_scores).unwrap_or_default(),
            seconds: costs.seconds,
            data_wait: costs.data_wait,
            metric_seconds: begin.elapsed().as_secs_f64(),
            read_bytes: costs.read_bytes,
            skipped: costs.skipped,
        };
        let (truth, rows) = (Arc::clone(&truth), Arc::clone(&rows));
        Ok(DetectionScores { report, truth, found, boxes, masks, rows })
    });
    scores.collect()
}

/// How a run's masks are pasted: as the framework does whose conventions its recipe follows.
pub fn paste_convention(run: &Run) -> PasteConvention {
    match run.identity.recipe.detector().style {
        Style::Mmdet => PasteConvention::MmDetection,
        Style::Torchvision => PasteConvention::Torchvision,
    }
}

/// The truth of those rows that are scored and the row of every image id. Samples of a dataset without image
/// ids get their place in the list of all, from 1; label maps beside the objects are passed over.
fn truth_of(
    store: &Store,
    ids: &[RowId],
    is_scored: impl Fn(RowId) -> bool,
) -> Result<(GroundTruth, HashMap<i64, RowId>)> {
    let numbered = ids.iter().all(|&id| store.row(id).is_ok_and(|row| row.image_id.is_some()));
    let (mut pictures, mut objects, mut rows) = (Vec::new(), Vec::new(), HashMap::new());
    for (place, &id) in (1..).zip(ids).filter(|(_, id)| is_scored(**id)) {
        let row = store.row(id)?;
        let image_id = row.image_id.filter(|_| numbered).unwrap_or(place);
        pictures.push(Picture { id: image_id, size: row.source_size });
        rows.insert(image_id, id);
        for annotation in store.annotations(id)? {
            objects.extend(object(annotation, image_id));
        }
    }
    Ok((GroundTruth::new(store.categories().to_vec(), pictures, objects)?, rows))
}
