//! `featcache eval`: a trained head's score on a store.

mod detection;

use crate::cli::EvalArgs;
use crate::exit::{ExitCode, failure};
use crate::progress::duration;
use crate::report::{self, Report};
use crate::{interrupt, model};
use anyhow::Result;
use featcache_heads::TaskModel;
use featcache_heads::evaluate::{EvaluateSettings, Report as Scored, evaluate_run};
use featcache_heads::run::Run;
use featcache_store::{OpenOptions, Store};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Time between two lines of progress.
const PROGRESS_LINE: Duration = Duration::from_secs(5);

pub(super) fn run(args: &EvalArgs, quiet: bool) -> Result<Report> {
    if let Some(file) = args.results.as_ref().filter(|file| file.file_name().is_none()) {
        let what = format!("--results {}: expected the name of a file, such as found.json", file.display());
        return Err(failure(ExitCode::Usage, what));
    }
    let store = Store::open(&args.store, OpenOptions { incomplete: args.incomplete })?;
    model::set_threads(&args.machine);
    let last = Cell::new(Instant::now());
    let progress = |done: u64, total: u64| {
        if !quiet && last.get().elapsed() >= PROGRESS_LINE {
            last.set(Instant::now());
            log::info!("{done} of {total} samples scored");
        }
    };
    let settings = EvaluateSettings {
        split: args.split.clone(),
        view: args.view.clone(),
        loader: super::train::loader(&args.loader, &store)?,
        progress: Some(&progress),
        device: model::device(&args.machine)?,
        stop: Some(interrupt::flag()?),
        ..EvaluateSettings::default()
    };
    let run = Run::open(&args.run, settings.device)?;
    run.check_store(&store)?;
    if matches!(run.model, TaskModel::Detection(_)) {
        return detection::run(args, &run, &store, &settings);
    }
    for (flag, given) in [("results", &args.results), ("report", &args.report), ("root", &args.root)] {
        if given.is_some() {
            let what = format!("--{flag}: expected a detector, {} is a semantic head", args.run.display());
            return Err(failure(ExitCode::Usage, what));
        }
    }
    let scored = evaluate_run(&run, &store, &settings)?;
    Report::new(&scored, text(&scored))
}

fn text(scored: &Scored) -> String {
    let percent = |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{:.2}", 100.0 * v));
    let mut classes: Vec<_> = scored.scores.classes.iter().filter(|class| class.iou.is_some()).collect();
    classes.sort_by(|a, b| b.iou.partial_cmp(&a.iou).unwrap_or(std::cmp::Ordering::Equal));
    let rows: Vec<Vec<String>> = classes
        .iter()
        .map(|class| vec![class.name.clone(), percent(class.iou), percent(class.accuracy)])
        .collect();
    let mut text = report::table(&["class", "IoU %", "accuracy %"], &rows);
    text += &format!(
        "\nmIoU {}  mAcc {}  aAcc {}  ({} samples of {}, step {}, {})\n",
        percent(scored.scores.miou),
        percent(scored.scores.macc),
        percent(scored.scores.aacc),
        scored.samples,
        scored.split,
        scored.step,
        duration(scored.seconds)
    );
    if scored.skipped > 0 {
        text += &format!("left out: {} corrupt on disk\n", scored.skipped);
    }
    if scored.unlabelled + scored.failed + scored.missing > 0 {
        text += &format!(
            "left out: {} without label map, {} failed at extraction, {} not extracted yet\n",
            scored.unlabelled, scored.failed, scored.missing
        );
    }
    text
}
