//! `featcache extract`: the pipeline from pictures to a finished store; the same command resumes.

use crate::calibration::{self, CALIBRATION_SEED, Calibration, DEFAULT_CALIBRATION_ROWS};
use crate::cli::ExtractArgs;
use crate::dataset::Pictures;
use crate::exit::{ExitCode, failure};
use crate::model::Model;
use crate::progress::{Progress, bytes, duration};
use crate::report::Report;
use crate::{interrupt, machine};
use anyhow::{Context, Result};
use featcache_extractor::counters::Counters;
use featcache_extractor::extract::{self, Ended, Extraction};
use featcache_extractor::preprocess;
use featcache_extractor::source::Source;
use featcache_extractor::worker::Worker;
use featcache_store::{
    Encodings, Error, FeatureSink, Finish, Licence, Listing, NewStore, OpenOptions, Plan, Projections, RowId,
    Status, Store, StoreWriter, WriterOptions,
};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Failed samples named in the summary; the rest are counted.
const FAILURES_SHOWN: usize = 20;

#[derive(Debug, Serialize)]
struct Summary {
    store: String,
    fingerprint: String,
    finished: bool,
    interrupted: bool,
    units_missing: usize,
    rows: u64,
    rows_this_run: u64,
    failed: u64,
    failures: Vec<FailedRow>,
    seconds: f64,
    images_per_second: f64,
    bytes_written: u64,
    bottleneck: String,
    device_seconds: DeviceSeconds,
    peak_rss_bytes: u64,
}

#[derive(Debug, Serialize)]
struct DeviceSeconds {
    waiting_for_decode: f64,
    computing: f64,
    waiting_for_writer: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct FailedRow {
    split: String,
    view: String,
    key: String,
    reason: String,
}

pub(super) fn run(args: &ExtractArgs, quiet: bool) -> Result<Report> {
    let pictures = Pictures::from_args(&args.dataset)?;
    let worker = Worker::detect(args.rank, args.world, |name| std::env::var(name).ok())
        .map_err(|what| failure(ExitCode::Usage, what))?;
    let model = Model::from_args(&args.recipe, &args.weights, &args.machine)?;
    let writer = open(args, &pictures, &model)?;
    let summary = fill(args, &model, &writer, worker, quiet)?;
    let code = if !summary.finished || (args.strict && summary.failed > 0) {
        ExitCode::Incomplete
    } else {
        ExitCode::Done
    };
    Report::new(&summary, text(&summary)).map(|report| report.ending(code))
}

/// Creates the store, or goes on with it if it is of the same recipe, encodings and dataset.
fn open(args: &ExtractArgs, pictures: &Pictures, model: &Model) -> Result<StoreWriter> {
    let encodings = Encodings::parse(&args.store.store, &model.recipe.levels)
        .map_err(|error| failure(ExitCode::Usage, format!("--store: {error}")))?;
    let options = WriterOptions {
        shard_bytes: Some(args.store.shard_mib << 20),
        dataset: Some(pictures.spec()),
        licence: Licence { weights: args.weights_licence.clone(), images: args.images_licence.clone() },
        ..WriterOptions::default()
    };
    // The store asks for its contents only if there are none yet, and speaks only of its own errors.
    let mut failed = None;
    let contents = || {
        let listing = pictures.list(&model.recipe.preprocess).map_err(anyhow::Error::from);
        let contents = listing.and_then(|listing| {
            let projections = calibrate(args, model, &encodings, &listing)?;
            Ok(NewStore { listing, projections })
        });
        contents.map_err(|error| {
            let what = error.to_string();
            failed = Some(error);
            Error::invalid(what)
        })
    };
    let writer = StoreWriter::create_or_resume(&args.out, &model.recipe, &encodings, contents, options);
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(writer?)
}

/// The bases of the levels that are held as coefficients, from the features of some rows of the plan.
fn calibrate(
    args: &ExtractArgs,
    model: &Model,
    encodings: &Encodings,
    listing: &Listing,
) -> Result<Projections> {
    let recipe = &model.recipe;
    let mut calibration = Calibration::new(&recipe.levels, encodings)?;
    if calibration.is_empty() {
        return Ok(Projections::default());
    }
    let plan = Plan::new(recipe, listing, args.store.shard_mib << 20)?;
    let placed = plan.rows().iter().zip(0u64..).filter(|(row, _)| row.place.is_ok()).map(|(_, id)| id);
    let ids = calibration::sample(placed, DEFAULT_CALIBRATION_ROWS, CALIBRATION_SEED);
    log::info!("calibrating the bases of projected levels on {} rows", ids.len());
    let source = Source::new(&args.dataset.root, recipe)?;
    let levels: Vec<usize> = calibration.levels().collect();
    for row in ids.into_iter().filter_map(|id| plan.row(RowId(id))) {
        let prepared = source.prepare(&row.source, &row.view, &row.place)?;
        // A picture that does not decode will be recorded as such; here it counts for nothing.
        let (Ok(input), Ok(place)) = (prepared.input, &row.place) else { continue };
        let device = model.backbone.device();
        let pixels = preprocess::collate(&[input], place.bucket, &recipe.preprocess, device)?;
        let maps = model.backbone.forward(&pixels)?; // each [1, h, w, c]
        for &level in &levels {
            let map =
                model.kept.get(level).and_then(|&kept| maps.get(kept)).context("a level without map")?;
            calibration.add(level, map)?;
        }
    }
    calibration.finish()
}

/// Does the units that are missing, and finishes the store if none is left.
fn fill(
    args: &ExtractArgs,
    model: &Model,
    writer: &StoreWriter,
    worker: Worker,
    quiet: bool,
) -> Result<Summary> {
    let rows = writer.plan().rows().len() as u64;
    let missing = writer.missing_units()?;
    let counters = Arc::new(Counters::new(writer.plan(), &missing));
    let fill = counters.fill();
    let done_before = fill.done();
    let stop = interrupt::flag()?;
    let started = Instant::now();
    let mut record = machine::run_record(args, worker, model.backbone.device())?;
    let mut ended = Ended::Done;
    if !missing.is_empty() {
        writer.record_run(&record)?;
        let source = Source::new(&args.dataset.root, &model.recipe)?;
        let extraction = Extraction {
            worker,
            prepare: &|row| source.prepare(&row.source, &row.view, &row.place),
            recipe: &model.recipe,
            kept: &model.kept,
            batch: args.batch.unwrap_or_else(|| machine::default_batch(model.backbone.device())),
            decoders: args.decoders.unwrap_or_else(machine::default_decoders),
            stop,
            counters: &counters,
        };
        let progress = Progress::start(Arc::clone(&counters), quiet);
        let result = extract::run(&extraction, model.backbone.as_ref(), writer);
        drop(progress);
        ended = result?;
        record.ended_unix_s = machine::unix_seconds();
        record.units = fill.units();
        record.rows = counters.computed();
        record.failed = fill.failed();
        writer.record_run(&record)?;
    }
    // A signal that came after the last unit has nothing left to stop.
    let left = writer.missing_units()?.len();
    let interrupted = ended == Ended::Stopped && left > 0;
    let finish = if interrupted { Finish::Missing(left) } else { writer.finish()? };
    let seconds = started.elapsed().as_secs_f64();
    let failures = failures(&args.out)?;
    let [waiting_for_decode, computing, waiting_for_writer] = counters.device_seconds();
    Ok(Summary {
        store: args.out.display().to_string(),
        fingerprint: model.recipe.fingerprint().to_string(),
        finished: finish == Finish::Done,
        interrupted,
        units_missing: match finish {
            Finish::Done => 0,
            Finish::Missing(units) => units,
        },
        rows,
        rows_this_run: fill.done() - fill.elsewhere() - done_before,
        failed: failures.len() as u64,
        failures,
        seconds,
        images_per_second: counters.computed() as f64 / seconds.max(1e-9),
        bytes_written: fill.bytes(),
        bottleneck: counters.bottleneck().to_string(),
        device_seconds: DeviceSeconds { waiting_for_decode, computing, waiting_for_writer },
        peak_rss_bytes: machine::peak_rss_bytes(),
    })
}

/// Rows of the store without features, from what is committed.
pub(super) fn failures(store: &Path) -> Result<Vec<FailedRow>> {
    let store = Store::open(store, OpenOptions { incomplete: true })?;
    let failed = store.rows().iter().filter_map(|row| match &row.status {
        Status::Failed(reason) => Some(FailedRow {
            split: row.split.to_string(),
            view: row.view.to_string(),
            key: row.key.to_string(),
            reason: reason.clone(),
        }),
        Status::Ok | Status::Missing => None,
    });
    Ok(failed.collect())
}

fn text(summary: &Summary) -> String {
    let mut out = format!(
        "{}: {} of {} rows, {} failed\n",
        summary.store, summary.rows_this_run, summary.rows, summary.failed
    );
    out += &format!(
        "{} in {}: {:.2} img/s, {}\n",
        bytes(summary.bytes_written),
        duration(summary.seconds),
        summary.images_per_second,
        summary.bottleneck
    );
    out += &failure_lines(&summary.failures);
    if summary.finished {
        out += &format!("finished, fingerprint {}\n", &summary.fingerprint);
    } else {
        let why = if summary.interrupted { "interrupted: " } else { "" };
        out += &format!("{why}{} units missing: run the same command to go on\n", summary.units_missing);
    }
    out
}

/// The first of the rows without features, a line each.
pub(super) fn failure_lines(failures: &[FailedRow]) -> String {
    let mut out = String::new();
    for row in failures.iter().take(FAILURES_SHOWN) {
        out += &format!("failed: {}/{}: {}\n", row.split, row.key, row.reason);
    }
    if failures.len() > FAILURES_SHOWN {
        out += &format!("… and {} more: see samples.parquet\n", failures.len() - FAILURES_SHOWN);
    }
    out
}
