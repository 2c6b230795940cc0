//! The heads of a tuning: one a candidate and seed, trained on one pass a seed and scored on one for all.

use super::rows::Rows;
use crate::cli::TuneArgs;
use crate::command::train;
use crate::exit::{ExitCode, failure};
use crate::tune::candidate::store_text;
use anyhow::Result;
use featcache_heads::evaluate::detection::evaluate_detectors;
use featcache_heads::evaluate::{EvaluateJob, EvaluateSettings, evaluate_runs};
use featcache_heads::recipe::TrainRecipe;
use featcache_heads::run::Run;
use featcache_heads::train::{TrainJob, TrainProgress, TrainSettings, train_together};
use featcache_heads::{TaskModel, Version};
use featcache_store::Store;
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tch::Device;

/// Time between two lines of progress while heads are scored.
const PROGRESS_LINE: Duration = Duration::from_secs(5);

/// What all heads have in common.
pub(super) struct Heads<'a> {
    pub(super) args: &'a TuneArgs,
    pub(super) store: &'a Store,
    pub(super) recipe: &'a TrainRecipe,
    pub(super) rows: &'a Rows,
    /// One a candidate, the reference first.
    pub(super) versions: Vec<Version>,
    pub(super) device: Device,
    pub(super) stop: &'a AtomicBool,
    pub(super) quiet: bool,
}

/// What training was.
pub(super) struct Trained {
    /// Samples of an epoch.
    pub(super) samples: u64,
    /// Steps of every head.
    pub(super) steps: u64,
    /// Rows left out because they are corrupt on disk, once for every visit.
    pub(super) skipped_rows: u64,
}

/// The score of one head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Score {
    /// mIoU or box AP.
    pub(super) metric: f64,
    pub(super) mask_ap: Option<f64>,
}

/// Scores by candidate and seed.
pub(super) struct Scores {
    /// What the metric is.
    pub(super) metric: &'static str,
    /// Samples scored on.
    pub(super) samples: u64,
    /// Of the heads that were trained on the candidate.
    pub(super) own: Vec<Vec<Score>>,
    /// Of the reference's heads on the candidate's features; none on the reference's.
    pub(super) untrained: Vec<Vec<Score>>,
}

impl Heads<'_> {
    /// The seeds, in order.
    pub(super) fn seeds(&self) -> impl Iterator<Item = u64> {
        let first = self.recipe.train.seed;
        (0..self.args.seeds as u64).map(move |number| first.wrapping_add(number))
    }

    /// The run's folder of a candidate and seed. The reference is in its path: a candidate made from another
    /// is another.
    fn folder(&self, version: &Version, seed: u64) -> PathBuf {
        let [reference, candidate] = [self.store.encodings(), &version.encodings].map(store_text);
        self.args.out.join("runs").join(reference).join(candidate).join(format!("seed-{seed}"))
    }

    /// Trains all heads, a pass a seed; those that are trained already are left alone.
    ///
    /// # Errors
    /// As `train`; [`ExitCode::Incomplete`] where it was interrupted.
    pub(super) fn train(&self) -> Result<Trained> {
        let mut trained = Trained { samples: 0, steps: 0, skipped_rows: 0 };
        for seed in self.seeds() {
            let mut recipe = self.recipe.clone();
            recipe.train.seed = seed;
            let folders: Vec<PathBuf> =
                self.versions.iter().map(|version| self.folder(version, seed)).collect();
            let jobs = self.versions.iter().zip(&folders).map(|(version, folder)| {
                let (recipe, version) = (&recipe, Some(version));
                TrainJob { recipe, folder, weights: None, version }
            });
            let jobs: Vec<TrainJob<'_>> = jobs.collect();
            let progress = |line: &TrainProgress| {
                // One line a step is enough: the last head's, when all have done it.
                if !self.quiet && line.head + 1 == jobs.len() {
                    log::info!("seed {seed}, {} heads  {}", jobs.len(), train::show(line));
                }
            };
            let settings = TrainSettings {
                split: Some(self.rows.train_split.clone()),
                without: self.rows.held.as_ref(),
                loader: train::loader(&self.args.loader, self.store)?,
                device: self.device,
                stop: Some(self.stop),
                progress: Some(&progress),
            };
            let summaries = train_together(self.store, &jobs, &settings)?;
            if let Some(summary) = summaries.iter().find(|summary| summary.stopped) {
                let (step, steps) = (summary.step, summary.steps);
                let what = format!(
                    "stopped at step {step} of {steps} of seed {seed}: run the same command to go on"
                );
                return Err(failure(ExitCode::Incomplete, what));
            }
            if let Some(summary) = summaries.first() {
                let skipped_rows = trained.skipped_rows + summary.skipped_rows;
                trained = Trained { samples: summary.samples, steps: summary.steps, skipped_rows };
            }
        }
        Ok(trained)
    }

    /// Scores all heads on one pass, and the reference's heads on every candidate's features.
    ///
    /// # Errors
    /// As `eval`; a split on which no score can be computed.
    pub(super) fn score(&self) -> Result<Scores> {
        let open = |version: &Version| {
            let folders = self.seeds().map(|seed| self.folder(version, seed));
            folders
                .map(|folder| Run::open(&folder, self.device))
                .collect::<featcache_heads::Result<Vec<Run>>>()
        };
        let runs: Vec<Vec<Run>> = self.versions.iter().map(open).collect::<featcache_heads::Result<_>>()?;
        let reference = runs.first().map_or(&[][..], Vec::as_slice);
        let own = self.versions.iter().zip(&runs).map(|(version, runs)| (version, runs.as_slice()));
        let untrained = self.versions.iter().skip(1).map(|version| (version, reference));
        let jobs = own
            .chain(untrained)
            .flat_map(|(version, runs)| runs.iter().map(|run| EvaluateJob { run, version: Some(version) }));
        let last = Cell::new(Instant::now());
        let progress = |done: u64, total: u64| {
            if !self.quiet && last.get().elapsed() >= PROGRESS_LINE {
                last.set(Instant::now());
                log::info!("{done} of {total} samples scored");
            }
        };
        let settings = EvaluateSettings {
            split: Some(self.rows.eval_split.clone()),
            only: self.rows.held.as_ref(),
            view: self.args.view.clone(),
            loader: train::loader(&self.args.loader, self.store)?,
            progress: Some(&progress),
            device: self.device,
            stop: Some(self.stop),
            ..EvaluateSettings::default()
        };
        let (metric, samples, scores) = self.score_jobs(&jobs.collect::<Vec<_>>(), &settings)?;
        let mut by_candidate = scores.chunks(self.args.seeds.max(1)).map(<[Score]>::to_vec);
        let own = by_candidate.by_ref().take(self.versions.len()).collect();
        Ok(Scores {
            metric,
            samples,
            own,
            untrained: std::iter::once(Vec::new()).chain(by_candidate).collect(),
        })
    }

    fn score_jobs(
        &self,
        jobs: &[EvaluateJob<'_>],
        settings: &EvaluateSettings<'_>,
    ) -> Result<(&'static str, u64, Vec<Score>)> {
        let nothing =
            || failure(ExitCode::BadInput, format!("split {}: no sample has a score", self.rows.eval_split));
        if jobs.iter().any(|job| matches!(job.run.model, TaskModel::Detection(_))) {
            let scores = evaluate_detectors(jobs, self.store, settings)?;
            let samples = scores.first().map_or(0, |scores| scores.report.samples);
            let scores = scores.iter().map(|scores| {
                let metric = scores.report.boxes.ap.ok_or_else(nothing)?;
                Ok(Score { metric, mask_ap: scores.report.masks.and_then(|masks| masks.ap) })
            });
            return Ok(("box AP", samples, scores.collect::<Result<_>>()?));
        }
        let reports = evaluate_runs(jobs, self.store, settings)?;
        let samples = reports.first().map_or(0, |report| report.samples);
        let scores = reports
            .iter()
            .map(|report| Ok(Score { metric: report.scores.miou.ok_or_else(nothing)?, mask_ap: None }));
        Ok(("mIoU", samples, scores.collect::<Result<_>>()?))
    }
}
