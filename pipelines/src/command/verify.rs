//! `featcache verify`: every byte of a store, or random rows against the live model.

use crate::cli::VerifyArgs;
use crate::exit::{ExitCode, failure, one_line};
use crate::machine;
use crate::model::Model;
use crate::progress::bytes;
use crate::report::{self, Report};
use anyhow::{Context, Result};
use featcache_extractor as extractor;
use featcache_extractor::extract::block;
use featcache_extractor::preprocess;
use featcache_extractor::source::Source;
use featcache_store::{
    Batch, Compute, DType, Encoding, NumberFormat, OpenOptions, Place, Projected, ReadOptions, RowId,
    SampleRow, Status, Store, VerifyOptions,
};
use serde::Serialize;
use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Time between two lines of progress.
const PROGRESS_LINE: Duration = Duration::from_secs(5);

pub(super) fn run(args: &VerifyArgs, quiet: bool) -> Result<Report> {
    match args.against_model {
        Some(rows) => against_model(args, rows),
        None => every_byte(args, quiet),
    }
}

fn every_byte(args: &VerifyArgs, quiet: bool) -> Result<Report> {
    let last = Cell::new(Instant::now());
    let findings = featcache_store::verify(
        &args.store,
        VerifyOptions { incomplete: args.incomplete },
        &|done, total| {
            if !quiet && last.get().elapsed() >= PROGRESS_LINE {
                last.set(Instant::now());
                log::info!("{} of {}", bytes(done), bytes(total));
            }
        },
    )?;
    let code = if findings.problems.is_empty() { ExitCode::Done } else { ExitCode::CorruptStore };
    let mut text = String::new();
    for problem in &findings.problems {
        text += &format!("{problem}\n");
    }
    text += &format!(
        "{}: {} files, {} rows, {}: {}\n",
        args.store.display(),
        findings.files,
        findings.rows,
        bytes(findings.bytes),
        match findings.problems.len() {
            0 => "every byte is as written".to_owned(),
            n => format!("{n} problems"),
        }
    );
    Report::new(&findings, text).map(|report| report.ending(code))
}

/// Differences of one level over the rows recomputed.
#[derive(Debug, Serialize)]
struct LevelDifference {
    level: String,
    /// ‖stored − live‖₂ / ‖live‖₂ of the worst row.
    worst_relative_l2: f64,
    worst_row: u64,
    worst_key: String,
    mean_relative_l2: f64,
    largest_absolute: f64,
    mean_absolute: f64,
    /// Cosine between stored and live of the worst row.
    least_cosine: f64,
}

#[derive(Debug, Serialize)]
struct Comparison {
    store: String,
    rows: Vec<u64>,
    tolerance: f64,
    levels: Vec<LevelDifference>,
    /// Rows whose picture could not be prepared now, and why: they are not compared.
    failed_now: Vec<String>,
    /// Every row that was recomputed is within the tolerance.
    within: bool,
}

fn against_model(args: &VerifyArgs, count: usize) -> Result<Report> {
    let store = Store::open(&args.store, OpenOptions { incomplete: args.incomplete })?;
    let root = match &args.root {
        Some(root) => root.clone(),
        None => recorded_root(&store)?,
    };
    let model = Model::from_recipe(store.recipe(), &args.weights, &args.machine)?;
    let source = Source::new(&root, store.recipe())?;
    let rows = choose(&store, count, args.seed);
    if rows.is_empty() {
        let what = format!("{}: no row has features to compare with", args.store.display());
        return Err(failure(ExitCode::BadInput, what));
    }
    let tolerance = args.tolerance.unwrap_or_else(|| default_tolerance(&store));
    let reader = store.reader(ReadOptions { dtype: Some(DType::F32), ..ReadOptions::default() })?;
    let names: Vec<String> = store.recipe().levels.iter().map(|level| level.name.clone()).collect();
    let levels = names.iter().map(|name| store.level(name)).collect::<featcache_store::Result<Vec<_>>>()?;
    let mut totals: Vec<Total> = names.iter().map(|_| Total::default()).collect();
    let mut failed_now = Vec::new();
    let mut batch = Batch::default();
    for &id in &rows {
        let row = store.row(id)?;
        let prepared = match source.prepare(&row.source, &row.view, &place(&row)) {
            // An extraction must not go on without it; here it costs this row alone.
            Err(lost @ extractor::Error::SourceLost { .. }) => Err(one_line(&lost.into())),
            prepared => prepared?.input,
        };
        let input = match prepared {
            Ok(input) => input,
            Err(reason) => {
                failed_now.push(format!("{}/{}: {reason}", row.split, row.key));
                continue;
            }
        };
        let bucket = row.bucket.context("row without bucket")?;
        let pixels =
            preprocess::collate(&[input], bucket, &store.recipe().preprocess, model.backbone.device())?;
        let live = model.backbone.forward(&pixels)?;
        reader.read(&[id], &levels, None, &mut batch)?;
        for (position, total) in totals.iter_mut().enumerate() {
            let live =
                live[model.kept[position]].f_to_device(tch::Device::Cpu)?.f_to_kind(tch::Kind::Float)?;
            let live = in_its_basis(&store, &names[position], live)?;
            let stored =
                tch::Tensor::f_from_data_size(batch.level(position).bytes, &live.size(), tch::Kind::Float)?;
            total.add(id, &stored, &live)?;
        }
    }
    let levels: Vec<LevelDifference> = names
        .into_iter()
        .zip(totals)
        .map(|(name, total)| total.difference(name, &store))
        .collect::<Result<_>>()?;
    let within = levels.iter().all(|level| level.worst_relative_l2 <= tolerance);
    let comparison = Comparison {
        store: args.store.display().to_string(),
        rows: rows.iter().map(|row| row.0).collect(),
        tolerance,
        levels,
        failed_now,
        within,
    };
    let code = match (within, comparison.failed_now.is_empty()) {
        (false, _) => ExitCode::RecipeMismatch,
        // The features may be right; the pictures to tell it from are not what they were.
        (true, false) => ExitCode::BadInput,
        (true, true) => ExitCode::Done,
    };
    Report::new(&comparison, text(&comparison)).map(|report| report.ending(code))
}

/// What of live features the basis of their level keeps: nothing else can be in a store that holds coefficients.
fn in_its_basis(store: &Store, level: &str, live: tch::Tensor) -> Result<tch::Tensor> {
    let (projection, encoding) = (store.projections().of(level), store.encodings().of(level));
    let Some((projection, encoding)) = projection.zip(encoding) else { return Ok(live) };
    let exact = Encoding { format: NumberFormat::F32, ..encoding };
    let kept = exact.round_trip(&block(&live, 0)?, Some(projection), Projected::Channels, DType::F32)?;
    Ok(tch::Tensor::f_from_data_size(&kept, &live.size(), tch::Kind::Float)?)
}

/// Running sums of one level.
#[derive(Default)]
struct Total {
    rows: u64,
    worst: Option<(f64, RowId)>,
    sum: f64,
    largest: f64,
    sum_mean: f64,
    least_cosine: Option<f64>,
}

impl Total {
    fn add(&mut self, row: RowId, stored: &tch::Tensor, live: &tch::Tensor) -> Result<()> {
        let number = |tensor: tch::Tensor| -> Result<f64> { Ok(f64::try_from(tensor)?) };
        let (stored, live) = (stored.f_to_kind(tch::Kind::Double)?, live.f_to_kind(tch::Kind::Double)?);
        let difference = stored.f_sub(&live)?;
        let norm = number(live.f_norm()?)?;
        let relative = number(difference.f_norm()?)? / norm.max(f64::MIN_POSITIVE);
        // A NaN anywhere must not slip through a comparison.
        let relative = if relative.is_nan() { f64::INFINITY } else { relative };
        let cosine = number(stored.f_mul(&live)?.f_sum(None)?)?
            / (number(stored.f_norm()?)? * norm).max(f64::MIN_POSITIVE);
        self.rows += 1;
        self.sum += relative;
        self.largest = self.largest.max(number(difference.f_abs()?.f_max()?)?);
        self.sum_mean += number(difference.f_abs()?.f_mean(None)?)?;
        self.least_cosine = Some(self.least_cosine.map_or(cosine, |least| least.min(cosine)));
        if self.worst.is_none_or(|(worst, _)| relative > worst) {
            self.worst = Some((relative, row));
        }
        Ok(())
    }

    fn difference(self, level: String, store: &Store) -> Result<LevelDifference> {
        let rows = self.rows.max(1) as f64;
        let (worst, row) = self.worst.unwrap_or((0.0, RowId(0)));
        Ok(LevelDifference {
            level,
            worst_relative_l2: worst,
            worst_row: row.0,
            worst_key: store.row(row)?.key.0.clone(),
            mean_relative_l2: self.sum / rows,
            largest_absolute: self.largest,
            mean_absolute: self.sum_mean / rows,
            least_cosine: self.least_cosine.unwrap_or(1.0),
        })
    }
}

/// Rounding of the compute type and of the encoding, several times over: other machines sum in other orders.
fn default_tolerance(store: &Store) -> f64 {
    let compute: f64 = match store.recipe().backbone.compute {
        Compute::Fp32 => 1e-4,
        Compute::Bf16 => 2e-2,
    };
    let coarsest = store.encodings().iter().map(|(_, encoding)| match encoding.format {
        NumberFormat::F32 => 0.0,
        NumberFormat::F16 => 1e-3,
        NumberFormat::Bf16 => 4e-3,
        NumberFormat::Int8 | NumberFormat::E4m3fn => 5e-2,
        NumberFormat::Int4 => 2.5e-1,
    });
    coarsest.fold(compute, f64::max)
}

/// `count` different rows that have features, by seed.
fn choose(store: &Store, count: usize, seed: u64) -> Vec<RowId> {
    let mut rows: Vec<(blake3::Hash, RowId)> = store
        .rows()
        .iter()
        .filter(|row| row.status == Status::Ok)
        .map(|row| (blake3::hash(&[seed.to_le_bytes(), row.id.0.to_le_bytes()].concat()), row.id))
        .collect();
    rows.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    let mut rows: Vec<RowId> = rows.into_iter().take(count).map(|(_, row)| row).collect();
    rows.sort_unstable();
    rows
}

/// Root folder of the dataset as the latest run recorded it.
fn recorded_root(store: &Store) -> Result<PathBuf> {
    machine::recorded_root(store).filter(|root| root.is_dir()).ok_or_else(|| {
        let folder = store.root().join("runs");
        let what =
            format!("{}: no run names a dataset folder that is here: give --root DIR", folder.display());
        failure(ExitCode::BadInput, what)
    })
}

/// Where a row's picture lies in its bucket, as its plan said.
fn place(row: &SampleRow) -> Result<Place, String> {
    match (row.bucket, row.source_size, row.valid_size) {
        (Some(bucket), Some(source), Some(valid)) => Ok(Place { bucket, row: 0, source, valid }),
        _ => Err("no size is known".to_owned()),
    }
}

fn text(comparison: &Comparison) -> String {
    let rows: Vec<Vec<String>> = comparison
        .levels
        .iter()
        .map(|level| {
            vec![
                level.level.clone(),
                format!("{:.3e}", level.worst_relative_l2),
                format!("{:.3e}", level.mean_relative_l2),
                format!("{:.3e}", level.largest_absolute),
                format!("{:.3e}", level.mean_absolute),
                format!("{:.7}", level.least_cosine),
                format!("{} ({})", level.worst_row, level.worst_key),
            ]
        })
        .collect();
    let compared = comparison.rows.len() - comparison.failed_now.len();
    let mut text = format!("{compared} rows recomputed\n");
    if compared == 0 {
        return text + &not_recomputed(comparison);
    }
    text += &report::table(
        &["level", "worst rel", "mean rel", "largest abs", "mean abs", "least cosine", "worst row"],
        &rows,
    );
    text += &format!(
        "{} the tolerance {:.1e}\n",
        if comparison.within { "within" } else { "OUTSIDE" },
        comparison.tolerance
    );
    text + &not_recomputed(comparison)
}

fn not_recomputed(comparison: &Comparison) -> String {
    let failed = &comparison.failed_now;
    let mut text: String = failed.iter().map(|failed| format!("not recomputed: {failed}\n")).collect();
    if !failed.is_empty() {
        let (count, all) = (failed.len(), comparison.rows.len());
        text += &format!("{count} of {all} rows could not be compared: their pictures cannot be read now\n");
    }
    text
}
