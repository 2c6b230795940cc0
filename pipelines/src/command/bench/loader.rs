//! `featcache bench loader`: shuffled batches as tensors against raw `preadv` of the very same ranges.

use super::{machine_line, show, write_section};
use crate::cli::BenchLoaderArgs;
use crate::machine;
use crate::progress::bytes;
use crate::report::{self, Report};
use anyhow::Result;
use featcache_heads::bench_loader::{LoaderBench, LoaderBenchOptions, bench_loader};
use featcache_store::{OpenOptions, Store};
use serde::Serialize;
use tch::Kind;

#[derive(Debug, Serialize)]
struct Outcome {
    machine: String,
    command: String,
    store: String,
    bench: LoaderBench,
}

pub(super) fn run(args: &BenchLoaderArgs) -> Result<Report> {
    let store = Store::open(&args.store, OpenOptions::default())?;
    let options = LoaderBenchOptions {
        samples: args.samples,
        batch: args.batch,
        repeats: args.repeats,
        threads: args.threads.clone(),
        seed: 0,
        kind: Kind::BFloat16,
    };
    let outcome = Outcome {
        machine: machine_line(),
        command: machine::command_line().into_iter().skip(1).collect::<Vec<_>>().join(" "),
        store: args.store.display().to_string(),
        bench: bench_loader(&store, &options)?,
    };
    let bench = &outcome.bench;
    let what = format!(
        "epochs of {} samples of {} in {} shuffled batches, read ahead and handed over as bf16 tensors, {} \
         repetitions, median (min–max)",
        bench.samples,
        bytes(bench.bytes / bench.samples.max(1) as u64),
        bench.batches,
        args.repeats
    );
    if let Some(path) = &args.markdown {
        let body = format!(
            "## Loading\n\n{}. `featcache {}`: {what}. Raw: `preadv` of the same file ranges into reused \
             memory, interleaved epoch by epoch with ours; ratio 1 is as fast.\n\n{}",
            outcome.machine,
            outcome.command,
            report::markdown_table(&HEADER, &rows(bench))
        );
        write_section(path, "bench loader", &body)?;
    }
    let text = format!("{}\n{what}\n\n{}", outcome.machine, report::table(&HEADER, &rows(bench)));
    Report::new(&outcome, text)
}

const HEADER: [&str; 7] = ["pages", "policy", "threads", "checksums", "GB/s", "raw preadv GB/s", "ratio"];

fn rows(bench: &LoaderBench) -> Vec<Vec<String>> {
    let cells = bench.measurements.iter().map(|m| {
        vec![
            if m.cold { "cold" } else { "warm" }.to_owned(),
            m.pages.to_string(),
            m.threads.to_string(),
            if m.verify { "verified" } else { "off" }.to_owned(),
            show(m.gb_per_s, 2),
            show(m.raw_gb_per_s, 2),
            show(m.ratio, 3),
        ]
    });
    cells.collect()
}
