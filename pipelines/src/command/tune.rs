//! `featcache tune`: what a head loses on candidate encodings of a store, and which of them to take.

mod heads;
mod rows;

use crate::cli::{DEFAULT_MAX_LOSS, TuneArgs};
use crate::command::train;
use crate::exit::{ExitCode, failure};
use crate::report::Report;
use crate::tune::bases::Bases;
use crate::tune::candidate::{Candidates, Origin, TARGETS, UNIFORM, path, projected, store_text};
use crate::tune::choice::Budget;
use crate::tune::curve::{Loss, Point};
use crate::tune::measure::{Footprint, LevelMeasure, bytes_per_image, measure};
use crate::tune::page::Tuned;
use crate::{interrupt, model};
use anyhow::{Context, Result};
use featcache_heads::checkpoint::replace;
use featcache_heads::recipe::TrainRecipe;
use featcache_store::{Encoding, Encodings, NumberFormat, OpenOptions, RowId, Spread, Store};
use heads::{Heads, Scores};
use rows::Rows;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

pub(super) fn run(args: &TuneArgs, quiet: bool) -> Result<Report> {
    let recipe = TrainRecipe::read(&args.head)?;
    let store = Store::open(&args.store, OpenOptions { incomplete: args.incomplete })?;
    let (device, stop) = (model::device(&args.machine)?, interrupt::flag()?);
    let threads = model::set_threads(&args.machine);
    // Where the process has a pool already, that is the one.
    drop(rayon::ThreadPoolBuilder::new().num_threads(threads).build_global());
    let rows = Rows::choose(args, &store, &recipe)?;

    let begin = Instant::now();
    let measured_rows = rows.measured(args.measure_rows);
    let (candidates, bases, levels) = candidates(args, &store, &measured_rows, stop)?;
    let versions = candidates
        .all()
        .iter()
        .map(|candidate| bases.version(&candidate.encodings))
        .collect::<Result<_>>()?;
    let measured = begin.elapsed().as_secs_f64();

    let begin = Instant::now();
    let heads = Heads { args, store: &store, recipe: &recipe, rows: &rows, versions, device, stop, quiet };
    let trained = heads.train()?;
    let train_seconds = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let scores = heads.score()?;
    let seconds = [measured, train_seconds, begin.elapsed().as_secs_f64()];

    if scores.own.first().is_some_and(|of_reference| of_reference.iter().all(|score| score.metric <= 0.0)) {
        let what =
            format!("heads on the store as it is score a {} of 0: there is nothing to lose", scores.metric);
        return Err(failure(ExitCode::BadInput, what));
    }
    let points = points(&store, &candidates, &levels, &scores);
    let budget = budget(args);
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let files = ["tune.json", "curve.png"].map(|name| args.out.join(name));
    let tuned = Tuned {
        store: args.store.display().to_string(),
        head: args.head.display().to_string(),
        metric: scores.metric.to_owned(),
        train_split: rows.train_split.clone(),
        eval_split: rows.eval_split.clone(),
        held_out: rows.held.is_some().then_some(args.hold_out),
        train_samples: trained.samples,
        eval_samples: scores.samples,
        steps: trained.steps,
        skipped_rows: trained.skipped_rows,
        seeds: heads.seeds().collect(),
        measured_rows: measured_rows.len(),
        choice: budget.choose(&points),
        points,
        levels,
        budget,
        seconds,
        written: files.iter().map(|path| path.display().to_string()).collect(),
    };
    let [json, curve] = &files;
    let text = serde_json::to_vec_pretty(&tuned)?;
    replace(json, |path| std::fs::write(path, &text).map_err(featcache_heads::Error::io(path)))?;
    tuned.plot().draw().write_png(curve)?;
    let met = tuned.choice.as_ref().is_some_and(|choice| choice.meets);
    let code = if met { ExitCode::Done } else { ExitCode::BadInput };
    Report::new(&tuned, tuned.text()).map(|report| report.ending(code))
}

/// What the flags allow; without any, [`DEFAULT_MAX_LOSS`].
fn budget(args: &TuneArgs) -> Budget {
    let default = args.bytes_per_image.is_none().then_some(DEFAULT_MAX_LOSS);
    Budget { bytes_per_image: args.bytes_per_image, max_loss: args.max_loss.or(default) }
}

/// The candidates, the bases that they need, and what the encodings in them lose on every level.
fn candidates<'a>(
    args: &TuneArgs,
    store: &'a Store,
    rows: &[RowId],
    stop: &AtomicBool,
) -> Result<(Candidates, Bases<'a>, Vec<LevelMeasure>)> {
    let specs = &store.recipe().levels;
    let mut candidates = Candidates::new(store.encodings());
    candidates.add_given(&args.candidate, specs)?;
    let searches = args.candidate.is_empty();
    if searches {
        for format in UNIFORM {
            candidates.add(Encodings::uniform(specs, format), Origin::Uniform);
        }
    }
    let mut wanted = candidates.wanted(specs);
    if searches {
        wanted.extend(projected(specs));
    }
    let read = train::loader(&args.loader, store)?.read;
    let bases = Bases::calibrate(store, &wanted, read)?;
    let measures = measure(store, &bases, rows, &wanted, read, stop)?;
    if searches {
        let targets = TARGETS.iter().map(|share| share * bf16_bytes(store)).chain(args.bytes_per_image);
        candidates.add_searched(&path(specs, &measures)?, targets);
    }
    Ok((candidates, bases, measures))
}

fn points(store: &Store, candidates: &Candidates, measures: &[LevelMeasure], scores: &Scores) -> Vec<Point> {
    let (reference, bf16) = (bytes_per_image(measures, store.encodings()), bf16_bytes(store));
    let of_reference = scores.own.first().map_or(&[][..], Vec::as_slice);
    let values = |scores: &[heads::Score]| scores.iter().map(|score| score.metric).collect::<Vec<_>>();
    let expected = values(of_reference);
    let loss = |scores: &[heads::Score]| Loss::of(&expected, &values(scores));
    let scored = candidates.all().iter().zip(&scores.own).zip(&scores.untrained);
    let points = scored.map(|((candidate, own), untrained)| {
        let bytes = bytes_per_image(measures, &candidate.encodings);
        let masks: Option<Vec<f64>> = own.iter().map(|score| score.mask_ap).collect();
        Point {
            store: store_text(&candidate.encodings),
            origin: candidate.origin,
            bytes_per_image: bytes,
            of_reference: bytes / reference,
            of_bf16: bytes / bf16,
            scores: values(own),
            metric: Spread::of(values(own)),
            mask_ap: masks.map(Spread::of),
            loss: loss(own).filter(|_| candidate.origin != Origin::Reference),
            loss_untrained: loss(untrained),
        }
    });
    points.collect()
}

/// Bytes of an image with all levels in bf16.
fn bf16_bytes(store: &Store) -> f64 {
    let (footprint, bf16) = (Footprint::of(store), Encoding::of(NumberFormat::Bf16));
    (0..store.recipe().levels.len()).map(|level| footprint.bytes_per_image(store, level, bf16)).sum()
}
