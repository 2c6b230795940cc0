//! Scores a run on a split of a store: predictions at the original size against the original label
//! maps; for detectors see [`detection`]. Must not train.

pub mod detection;
mod pass;

use crate::loader::LoaderOptions;
use crate::metric::mean_iou::{MeanIou, Scores};
use crate::run::Run;
use crate::segment::{DEFAULT_SEGMENT_BYTES, SegmentSizes, label_map};
use crate::selection::HoldOut;
use crate::truth::Truth;
use crate::version::Version;
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
    /// Samples of the split that are scored on; `None`: all.
    pub only: Option<&'a HoldOut>,
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
            only: None,
            view: DEFAULT_EVALUATE_VIEW.to_owned(),
            batch: DEFAULT_EVALUATE_BATCH,
            device: Device::Cpu,
            loader: LoaderOptions::default(),
            stop: None,
            progress: None,
        }
    }
}

/// A run to score, and on which version of the features.
#[derive(Debug, Clone, Copy)]
pub struct EvaluateJob<'a> {
    /// The run.
    pub run: &'a Run,
    /// Encodings that the features go through first: the score is that on a store transcoded to them. Left
    /// out, the store's own.
    pub version: Option<&'a Version>,
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
    let mut reports = evaluate_runs(&[EvaluateJob { run, version: None }], store, settings)?;
    reports.pop().ok_or_else(|| Error::invalid("no run to score"))
}

/// Scores several runs on one pass over the store; each report is what it would be alone, but that seconds
/// and bytes are of the pass for all.
///
/// # Errors
/// As [`evaluate_run`]; runs that read label maps by different rules.
pub fn evaluate_runs(
    jobs: &[EvaluateJob<'_>],
    store: &Store,
    settings: &EvaluateSettings<'_>,
) -> Result<Vec<Report>> {
    let Some(first) = jobs.first() else { return Ok(Vec::new()) };
    let zero = first.run.identity.recipe.labels.zero;
    if jobs.iter().any(|job| job.run.identity.recipe.labels.zero != zero) {
        return Err(Error::invalid("runs of different labels.zero cannot be scored together"));
    }
    check_view(store, &settings.view)?;
    let models = jobs.iter().map(|job| job.run.semantic()).collect::<Result<Vec<_>>>()?;
    let selection = pass::selection(store, settings)?;
    let truth = Truth::new(store, zero)?;
    truth.check(&selection)?;
    let (split, failed, missing) = (selection.split.clone(), selection.failed, selection.missing);
    let mut metrics = vec![MeanIou::new(truth.rule().classes()); jobs.len()];
    let (mut samples, mut unlabelled) = (0, 0);
    let read_target = |row| truth.original(row);
    let what = pass::What { store, selection, jobs };
    let costs = pass::pass(what, &read_target, settings, |head, batch, maps| {
        if head == 0 {
            let labelled = batch.targets.iter().flatten().count();
            samples += labelled as u64;
            unlabelled += (batch.targets.len() - labelled) as u64;
        }
        let logits = models[head].forward(maps, Phase::Eval)?.main; // [n, k, h, w]
        for (i, (&id, target)) in (0..).zip(batch.rows.rows.iter().zip(&batch.targets)) {
            let Some(target) = target else { continue };
            let row = store.row(id)?;
            let valid = row.valid_size.ok_or_else(|| Error::invalid(format!("row {id} has no size")))?;
            let sizes = SegmentSizes { padded: batch.rows.size, valid, original: target.size };
            let map = label_map(&logits.f_narrow(0, i, 1)?, sizes, DEFAULT_SEGMENT_BYTES)?;
            let refuse = |what| Error::Label { key: row.key.clone(), what };
            metrics[head].add(&map.classes, &target.classes).map_err(refuse)?;
        }
        Ok(())
    })?;
    let report = |(job, metric): (&EvaluateJob<'_>, &MeanIou)| Report {
        step: job.run.step,
        split: split.clone(),
        samples,
        unlabelled,
        failed,
        missing,
        scores: metric.scores(truth.rule().names()),
        seconds: costs.seconds,
        data_wait: costs.data_wait,
        read_bytes: costs.read_bytes,
        skipped: costs.skipped,
    };
    Ok(jobs.iter().zip(&metrics).map(report).collect())
}

/// Refuses a view on which label maps are not scored.
///
/// # Errors
/// The view is mirrored: predictions are compared with the original label maps as they lie.
pub fn check_view(store: &Store, view: &str) -> Result<()> {
    match store.recipe().views.iter().any(|known| known.name == view && known.hflip) {
        true => {
            Err(Error::invalid(format!("view {view:?} is mirrored, expected one that is not for label maps")))
        }
        false => Ok(()),
    }
}
