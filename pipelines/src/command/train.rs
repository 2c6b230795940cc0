//! `featcache train`: a head from a store alone; the same command resumes.

use crate::cli::{LoaderArgs, TrainArgs};
use crate::exit::ExitCode;
use crate::progress::duration;
use crate::report::Report;
use crate::{interrupt, model};
use anyhow::Result;
use featcache_heads::loader::LoaderOptions;
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
        split: args.split.clone(),
        loader: loader(&args.loader),
        device: model::device(&args.machine)?,
        stop: Some(interrupt::flag()?),
        progress: Some(&progress),
    };
    model::set_threads(&args.machine);
    let summary = train(&store, &recipe, &args.out, &settings)?;
    let code = if summary.stopped { ExitCode::Incomplete } else { ExitCode::Done };
    Report::new(&summary, text(&args.out, &summary)).map(|report| report.ending(code))
}

/// How the store is read, as the flags say.
pub(super) fn loader(args: &LoaderArgs) -> LoaderOptions {
    let (threads, bytes) = (args.reader_threads, args.prefetch_mib << 20);
    LoaderOptions { threads, bytes, ..LoaderOptions::default() }
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
