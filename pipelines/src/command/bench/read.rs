//! `featcache bench read`: random whole samples against raw `preadv` of the very same ranges.

use super::{machine_line, show, write_section};
use crate::cli::BenchReadArgs;
use crate::machine;
use crate::progress::bytes;
use crate::report::{self, Report};
use anyhow::Result;
use featcache_store::bench_read::{BenchReadOptions, ReadBench, bench_read};
use featcache_store::{OpenOptions, Store};
use serde::Serialize;

#[derive(Debug, Serialize)]
struct Outcome {
    machine: String,
    command: String,
    store: String,
    /// Warm, one thread, checksums verified: what a training run gets.
    headline: Headline,
    bench: ReadBench,
}

#[derive(Debug, Serialize)]
struct Headline {
    gb_per_second: f64,
    ratio: f64,
}

pub(super) fn run(args: &BenchReadArgs) -> Result<Report> {
    let store = Store::open(&args.store, OpenOptions::default())?;
    let options = BenchReadOptions {
        samples: args.samples,
        batch: args.batch,
        repeats: args.repeats,
        threads: args.threads.clone(),
        seed: 0,
    };
    let bench = bench_read(&store, &options)?;
    let first = bench.measurements.iter().find(|m| !m.cold && m.verify);
    let headline = Headline {
        gb_per_second: first.map_or(f64::NAN, |m| m.gb_per_s.median),
        ratio: first.map_or(f64::NAN, |m| m.ratio.median),
    };
    let outcome = Outcome {
        machine: machine_line(),
        command: machine::command_line().into_iter().skip(1).collect::<Vec<_>>().join(" "),
        store: args.store.display().to_string(),
        headline,
        bench,
    };
    if let Some(path) = &args.markdown {
        write_section(path, "bench read", &markdown(&outcome, args.repeats))?;
    }
    Report::new(&outcome, text(&outcome, args.repeats))
}

const HEADER: [&str; 6] = ["pages", "threads", "checksums", "GB/s", "raw preadv GB/s", "ratio"];

fn rows(bench: &ReadBench) -> Vec<Vec<String>> {
    bench
        .measurements
        .iter()
        .map(|m| {
            vec![
                if m.cold { "cold" } else { "warm" }.to_owned(),
                m.threads.to_string(),
                if m.verify { "verified" } else { "off" }.to_owned(),
                show(m.gb_per_s, 2),
                show(m.raw_gb_per_s, 2),
                show(m.ratio, 3),
            ]
        })
        .collect()
}

fn what(outcome: &Outcome, repeats: usize) -> String {
    let samples = outcome.bench.samples.max(1) as u64;
    format!(
        "{} random whole samples of {} in {} ranges, {repeats} repetitions, median (min–max)",
        outcome.bench.samples,
        bytes(outcome.bench.bytes / samples),
        outcome.bench.ranges,
    )
}

fn text(outcome: &Outcome, repeats: usize) -> String {
    format!(
        "{}\n{}\n\n{}",
        outcome.machine,
        what(outcome, repeats),
        report::table(&HEADER, &rows(&outcome.bench))
    )
}

fn markdown(outcome: &Outcome, repeats: usize) -> String {
    format!(
        "## Reading\n\n{}. `featcache {}`: {}. Raw: `preadv` of the same file ranges into reused memory, \
         interleaved pass by pass with ours; ratio 1 is as fast.\n\n{}",
        outcome.machine,
        outcome.command,
        what(outcome, repeats),
        report::markdown_table(&HEADER, &rows(&outcome.bench))
    )
}
