//! Scores a run on a split of a store: predictions at the original size against the original label
//! maps; for detectors see [`detection`]. Must not train.

pub mod detection;
mod pass;

use crate::loader::LoaderOptions;
use crate::metric::mean_iou::{MeanIou, Scores};
use crate::run::Run;
use crate::segment::{DEFAULT_SEGMENT_BYTES, SegmentSizes, label_map};
use crate::selection::{Selection, choose_split};
use crate::truth::Truth;
use crate::{Error, Phase, Result};
use featcache_store::Store;
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use tch::Device;

/// Rows of a batch in evaluation, by default. Results do not depend on it beyond rounding.
pub const DEFAULT_EVALUATE_BATCH: usize = 4;

/// View that is scored on, by default.
pub const DEFAULT_EVALUATE_VIEW: &str = "base";

/// How a run is scored.
pub struct EvaluateSettings<'a> {
    /// Split to score on; `None`: the only one, or the one whose name starts with `val`.
    pub split: Option<String>,
    /// View to score on.
    pub view: String,
    /// Rows of a batch.
    pub batch: usize,
    /// Where tensors live.
    pub device: Device,
    /// How the store is read ahead.
    pub loader: LoaderOptions,
    /// Set from elsewhere to give up after the current batch.
    pub stop: Option<&'a AtomicBool>,
    /// Called with the samples scored and their number in all.
    pub progress: Option<&'a dyn Fn(u64, u64)>,
}

impl Default for EvaluateSettings<'_> {
    fn default() -> Self {
        Self {
            split: None,
            view: DEFAULT_EVALUATE_VIEW.to_owned(),
            batch: DEFAULT_EVALUATE_BATCH,
            device: Device::Cpu,
            loader: LoaderOptions::default(),
            stop: None,
            progress: None,
        }
    }
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Step of the checkpoint.
    pub step: u64,
    /// Split scored on.
    pub split: String,
    /// Samples scored.
    pub samples: u64,
    /// Samples without a label map, left out.
    pub unlabelled: u64,
    /// Samples without features because they failed at extraction, left out.
    pub failed: u64,
    /// Samples that an incomplete store does not have yet, left out.
    pub missing: u64,
    /// The scores.
    pub scores: Scores,
    /// Seconds it took.
    pub seconds: f64,
    /// Share of them spent waiting for data.
    pub data_wait: f64,
    /// Bytes of features read.
    pub read_bytes: u64,
    /// Samples left out because they are corrupt on disk.
    pub skipped: u64,
}

/// Scores the run in `folder` on a store of the same fingerprint and categories.
///
/// # Errors
/// Another store ([`Error::RunMismatch`] names the field); [`Error::Stopped`]; unreadable features or
/// labels.
pub fn evaluate(folder: &Path, store: &Store, settings: &EvaluateSettings<'_>) -> Result<Report> {
    let run = Run::open(folder, settings.device)?;
    run.check_store(store)?;
    evaluate_run(&run, store, settings)
}

/// As [`evaluate`], of a run that is open already.
///
/// # Errors
/// As [`evaluate`]; a mirrored view: predictions are compared with the original label maps as they lie.
pub fn evaluate_run(run: &Run, store: &Store, settings: &EvaluateSettings<'_>) -> Result<Report> {
    let model = run.semantic()?;
    let split = choose_split(store, settings.split.as_deref(), "val")?;
    let selection = Selection::new(store, &split, std::slice::from_ref(&settings.view))?;
    let truth = Truth::new(store, run.identity.recipe.labels.zero)?;
    truth.check(&selection)?;
    let (failed, missing) = (selection.failed, selection.missing);
    if store.recipe().views.iter().any(|view| view.name == settings.view && view.hflip) {
        let view = &settings.view;
        return Err(Error::invalid(format!(
            "view {view:?} is mirrored, expected one that is not for label maps"
        )));
    }

    let mut metric = MeanIou::new(truth.rule().classes());
    let (mut samples, mut unlabelled) = (0, 0);
    let read_target = |row| truth.original(row);
    let projected = run.identity.recipe.head.projected;
    let what = pass::What { store, selection, levels: model.levels(), kind: model.map_kind(), projected };
    let costs = pass::pass(what, &read_target, settings, |batch, maps| {
        let logits = model.forward(maps, Phase::Eval)?.main; // [n, k, h, w]
        for (i, (&id, target)) in (0..).zip(batch.rows.rows.iter().zip(&batch.targets)) {
            let Some(target) = target else {
                unlabelled += 1;
                continue;
            };
            let row = store.row(id)?;
            let valid = row.valid_size.ok_or_else(|| Error::invalid(format!("row {id} has no size")))?;
            let sizes = SegmentSizes { padded: batch.rows.size, valid, original: target.size };
            let map = label_map(&logits.f_narrow(0, i, 1)?, sizes, DEFAULT_SEGMENT_BYTES)?;
            let refuse = |what| Error::Label { key: row.key.clone(), what };
            metric.add(&map.classes, &target.classes).map_err(refuse)?;
            samples += 1;
        }
        Ok(())
    })?;
    Ok(Report {
        step: run.step,
        split,
        samples,
        unlabelled,
        failed,
        missing,
        scores: metric.scores(truth.rule().names()),
        seconds: costs.seconds,
        data_wait: costs.data_wait,
        read_bytes: costs.read_bytes,
        skipped: costs.skipped,
    })
}
