//! `featcache bench extract`: images a second, the share of the matrix-product peak, the cost of writing.
//!
//! Each repetition times, one after the other, the peak, a run into a null sink and a run into a store (the
//! two in turns first), so that a noisy machine hits all three alike; ratios are taken within a repetition.

use super::workplace::Workplace;
use super::{machine_line, show, write_section};
use crate::cli::{BenchExtractArgs, Cli, Command};
use crate::exit::{ExitCode, failure};
use crate::model::Model;
use crate::report::{self, Report};
use crate::{machine, scene};
use anyhow::{Context, Result};
use clap::Parser;
use featcache_extractor::counters::Counters;
use featcache_extractor::dataset::{Dataset, Folder};
use featcache_extractor::extract::{self, Extraction};
use featcache_extractor::gemm_peak::gemm_peak;
use featcache_extractor::source::Source;
use featcache_extractor::worker::Worker;
use featcache_store::{Encodings, FeatureSink, NullSink, Plan, Size, Spread, StoreWriter, WriterOptions};
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Longest side of a drawn picture: colours of 8192² pixels take 0.8 GB.
const MOST_SIDE: u32 = 8192;

/// Quality of the pictures' JPEG files.
const JPEG_QUALITY: i32 = 90;

#[derive(Debug, Serialize)]
struct Outcome {
    machine: String,
    command: String,
    size: String,
    images: usize,
    repeats: usize,
    backbones: Vec<BackboneOutcome>,
}

#[derive(Debug, Serialize)]
struct BackboneOutcome {
    name: String,
    compute: String,
    threads: i32,
    bytes_per_image: f64,
    images_per_second: Spread,
    tera_flops: Spread,
    peak_tera_flops: Spread,
    share_of_peak: Spread,
    /// Time into a store ÷ time into a null sink, of the same repetition.
    store_over_null: Spread,
    peak_rss_bytes: u64,
}

pub(super) fn run(args: &BenchExtractArgs) -> Result<Report> {
    let size = parse_size(&args.size)?;
    let workplace = Workplace::create(&args.dir)?;
    let folder = workplace.folder();
    let pictures = folder.join("pictures");
    std::fs::create_dir(&pictures).with_context(|| pictures.display().to_string())?;
    for index in 0..args.images {
        let scene = scene::draw(index as u64, size.width as usize, size.height as usize, false);
        let path = pictures.join(format!("{index}.jpg"));
        std::fs::write(&path, scene.picture.jpeg(JPEG_QUALITY)?)
            .with_context(|| path.display().to_string())?;
    }
    let mut backbones = Vec::new();
    for name in &args.backbone {
        log::info!("{name}");
        backbones.push(bench_backbone(args, name, &pictures, folder)?);
    }
    drop(workplace);
    let outcome = Outcome {
        machine: machine_line(),
        command: machine::command_line().into_iter().skip(1).collect::<Vec<_>>().join(" "),
        size: size.to_string(),
        images: args.images,
        repeats: args.repeats,
        backbones,
    };
    if let Some(path) = &args.markdown {
        write_section(path, "bench extract", &markdown(&outcome))?;
    }
    Report::new(&outcome, text(&outcome))
}

fn bench_backbone(
    args: &BenchExtractArgs,
    name: &str,
    pictures: &Path,
    folder: &Path,
) -> Result<BackboneOutcome> {
    // The same parser as `extract` uses, so that defaults are the same.
    let words = [
        "featcache",
        "extract",
        "folder",
        "--root",
        ".",
        "--out",
        ".",
        "--random-weights",
        "0",
        "--resize",
        "none",
    ];
    let compute = match args.compute {
        crate::cli::ComputeArg::Fp32 => "fp32",
        crate::cli::ComputeArg::Bf16 => "bf16",
    };
    let words = words.into_iter().chain(["--backbone", name, "--compute", compute]);
    let Command::Extract(flags) = Cli::try_parse_from(words)?.command else {
        anyhow::bail!("extract did not parse as extract")
    };
    let model = Model::from_args(&flags.recipe, &flags.weights, &args.machine)?;
    let source = Source::new(pictures, &model.recipe)?;
    let dataset = Folder::new(pictures.to_owned(), &[])?;
    let encodings = Encodings::parse("bf16", &model.recipe.levels)?;
    let (mut null, mut stored, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for repeat in 0..=args.repeats {
        let peak = gemm_peak(model.recipe.backbone.compute, model.backbone.device())?;
        let into_null = || {
            let listing = dataset.list(&model.recipe.preprocess)?;
            let plan = Plan::new(&model.recipe, &listing, featcache_store::DEFAULT_SHARD_BYTES)?;
            timed(&model, &source, &NullSink::new(plan))
        };
        let into_store = || {
            let out = folder.join(format!("store-{repeat}"));
            let listing = dataset.list(&model.recipe.preprocess)?;
            let options = WriterOptions::default();
            let store =
                StoreWriter::create_or_resume(&out, &model.recipe, &encodings, || Ok(listing), options)?;
            let timing = timed(&model, &source, &store)?;
            drop(store);
            std::fs::remove_dir_all(&out).with_context(|| out.display().to_string())?;
            anyhow::Ok(timing)
        };
        // Taking turns at being first, so that a machine that slows down or speeds up favours neither.
        let (null_run, store_run) = match repeat % 2 {
            0 => {
                let null_run = into_null()?;
                (null_run, into_store()?)
            }
            _ => {
                let store_run = into_store()?;
                (into_null()?, store_run)
            }
        };
        // The first repetition warms caches, allocators and kernels.
        if repeat > 0 {
            null.push(null_run.0);
            stored.push(store_run.0);
            peaks.push(peak);
            bytes = null_run.1;
        }
    }
    let size = parse_size(&args.size)?.padded(model.backbone.divisor());
    let flops = model.backbone.flops(size) as f64 * args.images as f64;
    Ok(BackboneOutcome {
        name: name.to_owned(),
        compute: compute.to_owned(),
        threads: tch::get_num_threads(),
        bytes_per_image: bytes as f64 / args.images as f64,
        images_per_second: spread(null.iter().map(|s| args.images as f64 / s)),
        tera_flops: spread(null.iter().map(|s| flops / s * 1e-12)),
        peak_tera_flops: spread(peaks.iter().map(|p| p * 1e-12)),
        share_of_peak: spread(null.iter().zip(&peaks).map(|(s, peak)| flops / s / peak)),
        store_over_null: spread(stored.iter().zip(&null).map(|(stored, null)| stored / null)),
        peak_rss_bytes: machine::peak_rss_bytes(),
    })
}

fn spread(values: impl IntoIterator<Item = f64>) -> Spread {
    Spread::of(values.into_iter().collect())
}

static NEVER: AtomicBool = AtomicBool::new(false);

fn timed<S: FeatureSink>(model: &Model, source: &Source<'_>, sink: &S) -> Result<(f64, u64)> {
    let counters = Counters::new(sink.plan(), &sink.missing_units()?);
    let extraction = Extraction {
        worker: Worker { rank: 0, world: 1 },
        prepare: &|row| source.prepare(&row.source, &row.view, &row.place),
        recipe: &model.recipe,
        kept: &model.kept,
        batch: machine::default_batch(model.backbone.device()),
        decoders: machine::default_decoders(),
        stop: &NEVER,
        counters: &counters,
    };
    let started = Instant::now();
    extract::run(&extraction, model.backbone.as_ref(), sink)?;
    let seconds = started.elapsed().as_secs_f64();
    anyhow::ensure!(counters.failed() == 0, "{} pictures of the benchmark failed", counters.failed());
    Ok((seconds, counters.fill().bytes()))
}

fn parse_size(text: &str) -> Result<Size> {
    let parsed = text.split_once('x').and_then(|(h, w)| Some(Size::new(h.parse().ok()?, w.parse().ok()?)));
    let range = 1..=MOST_SIDE;
    let fits = |size: &Size| range.contains(&size.height) && range.contains(&size.width);
    parsed.filter(fits).ok_or_else(|| {
        let what = format!(
            "--size {text:?}: expected HEIGHTxWIDTH, such as 800x1216, of sides from 1 to {MOST_SIDE}"
        );
        failure(ExitCode::Usage, what)
    })
}

const HEADER: [&str; 8] = [
    "backbone",
    "compute",
    "MB/image",
    "img/s",
    "TFLOP/s",
    "GEMM peak TFLOP/s",
    "share of peak",
    "store ÷ null sink",
];

fn rows(outcome: &Outcome) -> Vec<Vec<String>> {
    outcome
        .backbones
        .iter()
        .map(|b| {
            vec![
                b.name.clone(),
                b.compute.clone(),
                format!("{:.1}", b.bytes_per_image * 1e-6),
                show(b.images_per_second, 3),
                show(b.tera_flops, 3),
                show(b.peak_tera_flops, 3),
                show(b.share_of_peak, 3),
                show(b.store_over_null, 3),
            ]
        })
        .collect()
}

fn text(outcome: &Outcome) -> String {
    format!(
        "{}\n{} pictures of {}, {} repetitions: median (min–max)\n\n{}",
        outcome.machine,
        outcome.images,
        outcome.size,
        outcome.repeats,
        report::table(&HEADER, &rows(outcome))
    )
}

fn markdown(outcome: &Outcome) -> String {
    let mut text = format!(
        "## Extraction\n\n{}. `featcache {}`: {} pictures of {}, {} repetitions, median (min–max). The peak, the run \
         into a null sink and the run into a store are timed in turn; ratios are within a repetition.\n\n",
        outcome.machine, outcome.command, outcome.images, outcome.size, outcome.repeats
    );
    text += &report::markdown_table(&HEADER, &rows(outcome));
    text
}
