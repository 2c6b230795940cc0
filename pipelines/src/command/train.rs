//! `featcache train`: one or several heads from a store alone; the same command resumes.

use crate::cli::{LoaderArgs, TrainArgs};
use crate::exit::{ExitCode, failure};
use crate::progress::duration;
use crate::report::Report;
use crate::{interrupt, model};
use anyhow::Result;
use featcache_heads::loader::LoaderOptions;
use featcache_heads::objects::LeftOut;
use featcache_heads::recipe::TrainRecipe;
use featcache_heads::train::{TrainJob, TrainProgress, TrainSettings, TrainSummary, train_together};
use featcache_store::{OnCorrupt, OpenOptions, ReadOptions, Store};
use std::path::{Path, PathBuf};

/// Parts of the loss that a line of progress shows.
const SHOWN_PARTS: usize = 3;

pub(super) fn run(args: &TrainArgs, quiet: bool) -> Result<Report> {
    let TrainArgs { recipe, out, .. } = args;
    if recipe.len() != out.len() {
        let what = format!("{} --recipe and {} --out: expected one --out for each", recipe.len(), out.len());
        return Err(failure(ExitCode::Usage, what));
    }
    for (number, run) in out.iter().enumerate() {
        let same = |other: &PathBuf| std::path::absolute(other).ok() == std::path::absolute(run).ok();
        if out[..number].iter().any(same) {
            let what = format!("--out {} is given twice: expected a folder for each head", run.display());
            return Err(failure(ExitCode::Usage, what));
        }
    }
    let recipes =
        recipe.iter().map(|path| TrainRecipe::read(path)).collect::<featcache_heads::Result<Vec<_>>>()?;
    let store = Store::open(&args.store, OpenOptions { incomplete: args.incomplete })?;
    let progress = |line: &TrainProgress| {
        if !quiet {
            let name = match out.len() {
                1 => String::new(),
                _ => out.get(line.head).map_or(String::new(), |run| format!("{}  ", run.display())),
            };
            log::info!("{name}{}", show(line));
        }
    };
    let settings = TrainSettings {
        split: args.split.clone(),
        without: None,
        loader: loader(&args.loader, &store)?,
        device: model::device(&args.machine)?,
        stop: Some(interrupt::flag()?),
        progress: Some(&progress),
    };
    model::set_threads(&args.machine);
    let weights = args.head_weights.as_deref();
    let jobs: Vec<TrainJob<'_>> = recipes
        .iter()
        .zip(out)
        .map(|(recipe, folder)| TrainJob { recipe, folder, weights, version: None })
        .collect();
    let summaries = train_together(&store, &jobs, &settings)?;
    let stopped = summaries.iter().any(|summary| summary.stopped);
    let code = if stopped { ExitCode::Incomplete } else { ExitCode::Done };
    let text: String = out.iter().zip(&summaries).map(|(run, summary)| text(run, summary)).collect();
    let report = match summaries.as_slice() {
        [one] => Report::new(one, text),
        several => Report::new(&several, text),
    };
    report.map(|report| report.ending(code))
}

/// How the store is read, as the flags say.
pub(super) fn loader(args: &LoaderArgs, store: &Store) -> Result<LoaderOptions> {
    let (threads, bytes) = (args.reader_threads, args.prefetch_mib << 20);
    let corrupt = if args.skip_corrupt { OnCorrupt::Skip } else { OnCorrupt::Fail };
    let read = ReadOptions { pages: args.pages.of(store)?, corrupt, ..ReadOptions::default() };
    Ok(LoaderOptions { threads, bytes, read })
}

/// A line of progress.
pub(super) fn show(line: &TrainProgress) -> String {
    // A loss of one part has nothing to take apart.
    let parts: Vec<String> = match line.losses.0.len() {
        0 | 1 => Vec::new(),
        _ => line.losses.largest(SHOWN_PARTS).iter().map(|(name, v)| format!("{name} {v:.3}")).collect(),
    };
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    format!(
        "step {:>5}/{}  epoch {:>3}  loss {:.4}{parts}  lr {:.2e}  {:.1} rows/s  data wait {:.1} %  read {:.2} GB/s",
        line.step,
        line.steps,
        line.epoch,
        line.loss,
        line.lr,
        line.rows_per_second,
        100.0 * line.data_wait,
        line.read_gb_per_second
    )
}

fn text(run: &Path, summary: &TrainSummary) -> String {
    let mut text = format!(
        "{}: step {} of {}{}\n",
        run.display(),
        summary.step,
        summary.steps,
        if summary.resumed_at > 0 {
            format!(", went on from step {}", summary.resumed_at)
        } else {
            String::new()
        }
    );
    text += &format!(
        "{} tunable parameters, {} backbone parameters\n",
        summary.tunable_parameters, summary.backbone_parameters
    );
    if let Some(weights) = &summary.weights {
        text += &format!("started from {weights}\n");
    }
    text += &format!("{} samples", summary.samples);
    if summary.failed_rows + summary.missing_rows > 0 {
        text += &format!(" ({} rows failed, {} missing)", summary.failed_rows, summary.missing_rows);
    }
    if summary.skipped_rows > 0 {
        text += &format!(" ({} reads skipped: corrupt on disk)", summary.skipped_rows);
    }
    if summary.dropped_samples > 0 {
        text += &format!(" ({} dropped: without labels or too small)", summary.dropped_samples);
    }
    text += &format!(", {}, data wait {:.2} %", duration(summary.seconds), 100.0 * summary.data_wait);
    if let Some(loss) = summary.loss {
        text += &format!(", last loss {loss:.4}");
    }
    text.push('\n');
    let LeftOut { boxes, masks } = summary.left_out;
    if boxes + masks > 0 {
        text +=
            &format!("left out at all visits: {boxes} boxes too small or outside, {masks} unusable masks\n");
    }
    if summary.stopped {
        text += "interrupted: run the same command to go on\n";
    }
    text
}
