//! `featcache train`: a head from a store alone; the same command resumes.

use crate::cli::TrainArgs;
use crate::exit::{ExitCode, failure};
use crate::progress::duration;
use crate::report::Report;
use crate::{features, interrupt, model};
use anyhow::Result;
use featcache_heads::recipe::TrainRecipe;
use featcache_heads::train::{TrainProgress, TrainSettings, TrainSummary, train};
use featcache_store::{OpenOptions, Store};
use std::path::Path;

pub(super) fn run(args: &TrainArgs, quiet: bool) -> Result<Report> {
    let recipe = TrainRecipe::read(&args.recipe)?;
    let store = Store::open(&args.store, OpenOptions { incomplete: args.incomplete })?;
    let progress = |line: &TrainProgress| {
        if !quiet {
            log::info!("{}", show(line));
        }
    };
    let settings = TrainSettings {
        split: one_split(&args.split)?,
        device: model::device(&args.machine)?,
        stop: Some(interrupt::flag()?),
        progress: Some(&progress),
        ..TrainSettings::default()
    };
    model::set_threads(&args.machine);
    // What `predict` needs of the store, so that a run folder can travel without it.
    features::write(&args.out, store.recipe())?;
    let summary = train(&store, &recipe, &args.out, &settings)?;
    let code = if summary.stopped { ExitCode::Incomplete } else { ExitCode::Done };
    Report::new(&summary, text(&args.out, &summary)).map(|report| report.ending(code))
}

/// At most one split: a head is trained and scored on one.
pub(super) fn one_split(splits: &[String]) -> Result<Option<String>> {
    match splits {
        [] => Ok(None),
        [split] => Ok(Some(split.clone())),
        several => Err(failure(
            ExitCode::Usage,
            format!("--split {}: expected one split, found {}", several.join(","), several.len()),
        )),
    }
}

fn show(line: &TrainProgress) -> String {
    format!(
        "step {:>5}/{}  epoch {:>3}  loss {:.4}  lr {:.2e}  {:.1} rows/s  data wait {:.1} %  read {:.2} GB/s",
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
    text += &format!("{} samples", summary.samples);
    if summary.failed_rows + summary.missing_rows > 0 {
        text += &format!(" ({} rows failed, {} missing)", summary.failed_rows, summary.missing_rows);
    }
    text += &format!(", {}, data wait {:.2} %", duration(summary.seconds), 100.0 * summary.data_wait);
    if let Some(loss) = summary.loss {
        text += &format!(", last loss {loss:.4}");
    }
    text.push('\n');
    if summary.stopped {
        text += "interrupted: run the same command to go on\n";
    }
    text
}
