//! `featcache bench read`: random samples, whole and in part, against raw reads of the very same ranges.

use super::{machine_line, show, write_section};
use crate::cli::BenchReadArgs;
use crate::machine;
use crate::progress::bytes;
use crate::report::{self, Report};
use anyhow::Result;
use featcache_store::bench_read::{BenchReadOptions, Portion, ReadBench, ReadMeasurement, bench_read};
use featcache_store::{OpenOptions, Store};
use serde::Serialize;
use std::path::Path;

#[derive(Debug, Serialize)]
struct Outcome {
    machine: String,
    command: String,
    stores: Vec<OfStore>,
}

#[derive(Debug, Serialize)]
struct OfStore {
    store: String,
    /// How its levels are held.
    encodings: String,
    /// Warm whole samples, one thread, checksums verified: what a training run gets.
    headline: Headline,
    bench: ReadBench,
}

#[derive(Debug, Serialize)]
struct Headline {
    gb_per_second: f64,
    ratio: f64,
}

pub(super) fn run(args: &BenchReadArgs) -> Result<Report> {
    let options = BenchReadOptions {
        samples: args.samples,
        batch: args.batch,
        repeats: args.repeats,
        threads: args.threads.clone(),
        seed: 0,
    };
    let stores = args.stores.iter().map(|store| of_store(store, &options)).collect::<Result<_>>()?;
    let outcome = Outcome {
        machine: machine_line(),
        command: machine::command_line().into_iter().skip(1).collect::<Vec<_>>().join(" "),
        stores,
    };
    if let Some(path) = &args.markdown {
        write_section(path, "bench read", &markdown(&outcome, args.repeats))?;
    }
    Report::new(&outcome, text(&outcome, args.repeats))
}

fn of_store(path: &Path, options: &BenchReadOptions) -> Result<OfStore> {
    let store = Store::open(path, OpenOptions::default())?;
    let bench = bench_read(&store, options)?;
    let mut lines = bench.measurements.iter().map(|m| (m.kind, m));
    let first = lines.find(|(kind, _)| kind.portion == Portion::Whole && !kind.cold && kind.verify);
    let headline = Headline {
        gb_per_second: first.map_or(f64::NAN, |(_, m)| m.gb_per_s.median),
        ratio: first.map_or(f64::NAN, |(_, m)| m.ratio.median),
    };
    Ok(OfStore { store: path.display().to_string(), encodings: encodings(&store), headline, bench })
}

/// One name where all levels are held alike.
fn encodings(store: &Store) -> String {
    let mut all = store.encodings().iter().map(|(_, encoding)| encoding.to_string());
    let first = all.next().unwrap_or_default();
    if all.all(|other| other == first) { first } else { store.encodings().to_string() }
}

const HEADER: [&str; 10] = [
    "what",
    "pages",
    "policy",
    "threads",
    "checksums",
    "samples/s",
    "GB/s",
    "raw GB/s",
    "÷ raw",
    "÷ memcpy, into the page cache",
];

fn row(m: &ReadMeasurement) -> Vec<String> {
    let kind = m.kind;
    let copy = show(m.copy_ratio, 2);
    vec![
        kind.portion.to_string(),
        if kind.cold { "cold" } else { "warm" }.to_owned(),
        kind.pages.to_string(),
        kind.threads.to_string(),
        if kind.verify { "verified" } else { "off" }.to_owned(),
        format!("{:.1}", m.samples_per_s.median),
        format!("{:.2}", m.gb_per_s.median),
        format!("{:.2}", m.raw_gb_per_s.median),
        show(m.ratio, 3),
        match m.cached {
            Some(cached) => format!("{copy}, {:.0} %", (cached.median * 100.0).max(0.0)),
            None => copy,
        },
    ]
}

fn rows(of: &OfStore) -> Vec<Vec<String>> {
    of.bench.measurements.iter().map(row).collect()
}

fn what(of: &OfStore, repeats: usize) -> String {
    let samples = of.bench.samples.max(1) as u64;
    format!(
        "{}: {} random samples of {} in {} ranges, {repeats} repetitions, median (min–max)",
        of.encodings,
        of.bench.samples,
        bytes(of.bench.bytes / samples),
        of.bench.ranges,
    )
}

fn text(outcome: &Outcome, repeats: usize) -> String {
    let mut text = format!("{}\n", outcome.machine);
    for of in &outcome.stores {
        text += &format!("\n{}\n{}\n{}", of.store, what(of, repeats), report::table(&HEADER, &rows(of)));
    }
    text
}

fn markdown(outcome: &Outcome, repeats: usize) -> String {
    let mut text = format!(
        "## Reading\n\n{}. `featcache {}`. Raw: plain `preadv` of the same file ranges into reused memory, \
         interleaved pass by pass with ours; of cold pages the faster of that and of direct requests of 1 MiB, \
         four in flight. Ratio 1 is as fast. Memcpy: of as many bytes as the batches hold, with as many \
         threads. Into the page cache: bytes by which it grew, by the bytes read. A crop is the middle quarter \
         of the rows of all levels; raw reads the chunks that it touches, ours only the wanted rows of a large one if \
         nothing is verified, which is how it passes 1.\n",
        outcome.machine, outcome.command,
    );
    for of in &outcome.stores {
        text += &format!("\n{}.\n\n{}", what(of, repeats), report::markdown_table(&HEADER, &rows(of)));
    }
    text
}
