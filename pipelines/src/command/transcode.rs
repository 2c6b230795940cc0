//! `featcache transcode`: a store in other encodings, or less of it; the same command resumes.

use super::extract::{FailedRow, failure_lines, failures};
use crate::calibration::{self, CALIBRATION_SEED, Calibration, DEFAULT_CALIBRATION_ROWS};
use crate::cli::TranscodeArgs;
use crate::exit::{ExitCode, failure};
use crate::progress::{Progress, bytes, duration};
use crate::report::{self, Report};
use crate::{interrupt, machine};
use anyhow::Result;
use featcache_store::{
    Batch, DType, Encodings, Error, FeatureSink, Finish, LevelSpec, Manifest, OpenOptions, Plan, Projections,
    ReadOptions, RowId, Selection, Status, Store, Transcode, TranscodeCounters, TranscodeOptions,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

#[derive(Debug, Serialize)]
struct Summary {
    source: String,
    store: String,
    source_fingerprint: String,
    fingerprint: String,
    finished: bool,
    interrupted: bool,
    units_missing: usize,
    rows: u64,
    rows_this_run: u64,
    failed: u64,
    failures: Vec<FailedRow>,
    seconds: f64,
    rows_per_second: f64,
    /// Of features, in this run.
    bytes_read: u64,
    bytes_written: u64,
    bottleneck: String,
    /// Of all files.
    source_bytes: u64,
    /// Of all files, of a finished store.
    bytes: Option<u64>,
    /// `bytes` ÷ `source_bytes`.
    ratio: Option<f64>,
    levels: Vec<LevelSummary>,
    peak_rss_bytes: u64,
}

#[derive(Debug, Serialize)]
struct LevelSummary {
    name: String,
    source_encoding: String,
    encoding: String,
    source_bytes: u64,
    /// Of a finished store.
    bytes: Option<u64>,
    /// What this transcoding or, of a level that was copied, the source's making has lost.
    loss: Option<featcache_store::LevelLoss>,
    /// What the source had lost of a level that is now held otherwise: it stays lost.
    source_loss: Option<featcache_store::LevelLoss>,
}

pub(super) fn run(args: &TranscodeArgs, quiet: bool) -> Result<Report> {
    if let Some(threads) = args.threads {
        // Fails where the pool has been started, which nothing before this command does.
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let source = Store::open(&args.source, OpenOptions::default())?;
    let selection =
        Selection { levels: args.levels.clone(), views: args.views.clone(), splits: args.split.clone() };
    let usage = |error: featcache_store::Error| failure(ExitCode::Usage, error.to_string());
    let recipe = selection.recipe(&source).map_err(usage)?;
    let present = |level: &str| source.encodings().of(level);
    let encodings = Encodings::parse_over(&args.store, &recipe.levels, present)
        .map_err(|error| failure(ExitCode::Usage, format!("--store: {error}")))?;
    // The store speaks only of its own errors.
    let mut failed = None;
    let bases = |plan: &Plan, levels: &[LevelSpec]| {
        calibrate(&source, plan, levels, &encodings).map_err(|error| {
            let what = error.to_string();
            failed = Some(error);
            Error::invalid(what)
        })
    };
    let transcode = Transcode::create_or_resume(&source, &args.target, &selection, &encodings, bases);
    if let Some(error) = failed {
        return Err(error);
    }
    let transcode = transcode?;
    let summary = fill(args, &source, &transcode, quiet)?;
    let code = if !summary.finished || (args.strict && summary.failed > 0) {
        ExitCode::Incomplete
    } else {
        ExitCode::Done
    };
    Report::new(&summary, text(&summary)).map(|report| report.ending(code))
}

/// The bases of these levels, from some rows of the plan as the source has them.
fn calibrate(
    source: &Store,
    plan: &Plan,
    levels: &[LevelSpec],
    encodings: &Encodings,
) -> Result<Projections> {
    let mut calibration = Calibration::new(levels, encodings)?;
    let placed = plan.rows().iter().zip(0u64..).filter(|(row, _)| row.place.is_ok()).map(|(_, id)| id);
    let ids = calibration::sample(placed, DEFAULT_CALIBRATION_ROWS, CALIBRATION_SEED);
    log::info!("calibrating the bases of projected levels on {} rows", ids.len());
    let reader = source.reader(ReadOptions { dtype: Some(DType::F32), ..ReadOptions::default() })?;
    let numbers = levels.iter().map(|level| source.level(&level.name)).collect::<Result<Vec<_>, _>>()?;
    let mut batch = Batch::new();
    for row in ids.into_iter().filter_map(|id| plan.row(RowId(id))) {
        let row = source.find(Some(&row.split), &row.key.0, &row.view)?;
        // A row without features counts for nothing.
        if row.status != Status::Ok {
            continue;
        }
        reader.read(&[row.id], &numbers, None, &mut batch)?;
        for level in 0..levels.len() {
            let map = batch.level(level);
            let shape = map.shape.map(|side| side as i64); // [1, h, w, c]
            calibration.add(level, &tch::Tensor::f_from_data_size(map.bytes, &shape, tch::Kind::Float)?)?;
        }
    }
    calibration.finish()
}

/// Does the units that are missing, and finishes the store if none is left.
fn fill(args: &TranscodeArgs, source: &Store, transcode: &Transcode<'_>, quiet: bool) -> Result<Summary> {
    let writer = transcode.writer();
    let missing = writer.missing_units()?;
    let counters = Arc::new(TranscodeCounters::new(writer.plan(), &missing));
    let (fill, stop) = (counters.fill(), interrupt::flag()?);
    let started = Instant::now();
    if !missing.is_empty() {
        let mut notes = transcode.notes();
        // Where `verify --against-model` looks for the pictures.
        let root = machine::recorded_root(source);
        notes.extend(root.map(|root| (machine::NOTE_ROOT.to_owned(), root.display().to_string())));
        let mut record = machine::begun_run("cpu".to_owned(), notes);
        writer.record_run(&record)?;
        let progress = Progress::start(Arc::clone(&counters), quiet);
        let options = TranscodeOptions { memory_bytes: args.memory_mib << 20, stop };
        let result = transcode.run(options, &counters);
        drop(progress);
        result?;
        record.ended_unix_s = machine::unix_seconds();
        (record.units, record.rows, record.failed) = (fill.units(), fill.written(), fill.failed());
        writer.record_run(&record)?;
    }
    // A signal that came after the last unit has nothing left to stop.
    let left = writer.missing_units()?.len();
    let interrupted = stop.load(Ordering::Relaxed) && left > 0;
    let finish = if interrupted { Finish::Missing(left) } else { writer.finish()? };
    let seconds = started.elapsed().as_secs_f64();
    let made = match finish {
        Finish::Done => Some(Store::open(&args.target, OpenOptions::default())?),
        Finish::Missing(_) => None,
    };
    let made = made.as_ref().and_then(Store::manifest);
    let failures = failures(&args.target)?;
    let source_bytes = source.manifest().map_or(0, all_bytes);
    let made_bytes = made.map(all_bytes);
    Ok(Summary {
        source: args.source.display().to_string(),
        store: args.target.display().to_string(),
        source_fingerprint: source.fingerprint().to_string(),
        fingerprint: writer.spec().fingerprint.to_string(),
        finished: made.is_some(),
        interrupted,
        units_missing: match finish {
            Finish::Done => 0,
            Finish::Missing(units) => units,
        },
        rows: writer.plan().rows().len() as u64,
        rows_this_run: fill.written() + fill.failed(),
        failed: failures.len() as u64,
        failures,
        seconds,
        rows_per_second: fill.written() as f64 / seconds.max(1e-9),
        bytes_read: counters.bytes_read(),
        bytes_written: fill.bytes(),
        bottleneck: counters.bottleneck().to_owned(),
        source_bytes,
        bytes: made_bytes,
        ratio: made_bytes.map(|bytes| bytes as f64 / source_bytes.max(1) as f64),
        levels: levels(source, writer.spec(), made),
        peak_rss_bytes: machine::peak_rss_bytes(),
    })
}

fn levels(source: &Store, spec: &featcache_store::Spec, made: Option<&Manifest>) -> Vec<LevelSummary> {
    let before = source.manifest().map(level_bytes).unwrap_or_default();
    let after = made.map(level_bytes);
    let loss = |manifest: Option<&Manifest>, level: &str| manifest.and_then(|m| m.losses.get(level).cloned());
    let of_level = |level: &LevelSpec| {
        let name = level.name.as_str();
        let shown = |encodings: &Encodings| encodings.of(name).map_or(String::new(), |e| e.to_string());
        let numbers = |encodings: &Encodings| encodings.of(name).map(|e| (e.projection, e.format));
        let copied = numbers(source.encodings()) == numbers(&spec.encodings);
        LevelSummary {
            name: name.to_owned(),
            source_encoding: shown(source.encodings()),
            encoding: shown(&spec.encodings),
            source_bytes: before.get(name).copied().unwrap_or(0),
            bytes: after.as_ref().map(|after| after.get(name).copied().unwrap_or(0)),
            loss: loss(made, name),
            source_loss: loss(source.manifest(), name).filter(|_| !copied),
        }
    };
    spec.recipe.levels.iter().map(of_level).collect()
}

fn all_bytes(manifest: &Manifest) -> u64 {
    manifest.files.iter().map(|file| file.bytes).sum()
}

/// Bytes of each level's arrays, by name.
fn level_bytes(manifest: &Manifest) -> BTreeMap<&str, u64> {
    let mut levels: BTreeMap<&str, u64> =
        manifest.recipe.levels.iter().map(|level| (level.name.as_str(), 0)).collect();
    for file in &manifest.files {
        // features/SPLIT/VIEW/SIZE/ARRAY/FILE
        let Some(array) = file.path.split('/').nth(4).filter(|_| file.path.starts_with("features/")) else {
            continue;
        };
        let level = if levels.contains_key(array) { Some(array) } else { array.strip_suffix(".affine") };
        if let Some(bytes) = level.and_then(|level| levels.get_mut(level)) {
            *bytes += file.bytes;
        }
    }
    levels
}

fn text(summary: &Summary) -> String {
    let mut out = format!(
        "{}: {} of {} rows, {} failed\n",
        summary.store, summary.rows_this_run, summary.rows, summary.failed
    );
    out += &format!(
        "{} read, {} written in {}: {:.2} rows/s, {}\n",
        bytes(summary.bytes_read),
        bytes(summary.bytes_written),
        duration(summary.seconds),
        summary.rows_per_second,
        summary.bottleneck
    );
    out += &failure_lines(&summary.failures);
    let rows: Vec<Vec<String>> = summary.levels.iter().map(level_row).collect();
    out += &report::table(
        &["level", "from", "to", "before", "after", "ratio", "rel L2", "cosine", "worst rel L2"],
        &rows,
    );
    for level in &summary.levels {
        if let Some(loss) = &level.source_loss {
            let (name, from) = (&level.name, &level.source_encoding);
            out +=
                &format!("{name}: what {from} had lost stays lost: relative L2 {:.2e}\n", loss.relative_l2);
        } else if level.source_encoding != level.encoding && is_quantised(&level.source_encoding) {
            out += &format!("{}: what {} had lost stays lost\n", level.name, level.source_encoding);
        }
    }
    if let (Some(made), Some(ratio)) = (summary.bytes, summary.ratio) {
        out += &format!("{} → {}: {ratio:.3} of it\n", bytes(summary.source_bytes), bytes(made));
        out += &format!(
            "finished, fingerprint {}: every checksum of the source was checked, every shard read back from the \
             disk before it counted\n",
            &summary.fingerprint
        );
    } else {
        let why = if summary.interrupted { "interrupted: " } else { "" };
        out += &format!("{why}{} units missing: run the same command to go on\n", summary.units_missing);
    }
    out
}

/// Whether an encoding loses something of whatever it is given.
fn is_quantised(encoding: &str) -> bool {
    let encoding = encoding.parse::<featcache_store::Encoding>();
    encoding.is_ok_and(|encoding| encoding.is_quantised() || encoding.projection.is_some())
}

fn level_row(level: &LevelSummary) -> Vec<String> {
    let [relative, cosine, worst] = report::loss_columns(level.loss.as_ref());
    let after = level.bytes.map_or_else(String::new, bytes);
    let ratio = level.bytes.map(|after| after as f64 / level.source_bytes.max(1) as f64);
    vec![
        level.name.clone(),
        level.source_encoding.clone(),
        level.encoding.clone(),
        bytes(level.source_bytes),
        after,
        ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}")),
        relative,
        cosine,
        worst,
    ]
}
