//! What `bench peers` shows: a table of bare reads and one of loaders, as text, Markdown and JSON.

use super::lane::{Lane, Stage};
use super::race::Race;
use crate::command::bench::show;
use crate::progress::bytes;
use crate::report;
use featcache_store::Spread;
use serde::Serialize;

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    machine: String,
    command: String,
    store: String,
    samples: usize,
    sample_bytes: usize,
    batch: usize,
    repeats: usize,
    epochs: usize,
    contestants: Vec<Row>,
}

/// A contestant.
#[derive(Debug, Serialize)]
struct Row {
    title: String,
    version: String,
    settings: String,
    /// Why it did not take part to the end.
    failed: Option<String>,
    bare: Vec<Bare>,
    loader: Option<Measured>,
    /// The number of workers that was fastest, and is measured.
    workers: Option<usize>,
    /// 10⁹ bytes a second in one epoch, by workers.
    tried: Vec<(usize, f64)>,
}

#[derive(Debug, Serialize)]
struct Bare {
    threads: usize,
    cold: bool,
    measured: Option<Measured>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Measured {
    /// 10⁹ bytes of samples a second.
    gb_per_s: Spread,
    /// Raw time by its time, pass by pass: 1 is as fast as `preadv`.
    ratio: Spread,
}

impl Outcome {
    /// Of a race that is over.
    pub(super) fn new(race: &Race<'_>, machine: String, command: Vec<String>) -> Self {
        let samples = race.samples;
        let pass_bytes = (samples.rows.len() * samples.bytes) as f64;
        let measured = |lane: &Lane<'_>, stage, epochs: usize| {
            let (raw, times) = (race.lanes.first()?.of(stage), lane.of(stage));
            // A contestant that failed on the way has no median of all passes.
            (times.len() == race.args.repeats).then(|| Measured {
                gb_per_s: spread(times.iter().map(|time| pass_bytes * epochs as f64 / time * 1e-9)),
                ratio: spread(raw.iter().zip(times).map(|(raw, time)| raw / time)),
            })
        };
        let stages = |lane: &Lane<'_>| {
            let kinds = [false, true]
                .into_iter()
                .flat_map(|cold| race.args.threads.iter().map(move |&threads| Stage::Bare { threads, cold }));
            let bare = kinds.filter_map(|stage| match stage {
                Stage::Bare { threads, cold } if !race.lanes[0].of(stage).is_empty() => {
                    Some(Bare { threads, cold, measured: measured(lane, stage, 1) })
                }
                _ => None,
            });
            bare.collect()
        };
        let rows = race.lanes.iter().map(|lane| Row {
            title: lane.hello.title.clone(),
            version: lane.hello.version.clone(),
            settings: lane.hello.settings.clone(),
            failed: lane.contestant.as_ref().err().cloned(),
            bare: stages(lane),
            loader: measured(lane, Stage::Loader, race.args.epochs),
            workers: lane.best_workers(),
            tried: lane.tried.iter().map(|(workers, time)| (*workers, pass_bytes / time * 1e-9)).collect(),
        });
        Self {
            machine,
            command: command.into_iter().skip(1).collect::<Vec<_>>().join(" "),
            store: race.args.store.display().to_string(),
            samples: samples.rows.len(),
            sample_bytes: samples.bytes,
            batch: race.args.batch,
            repeats: race.args.repeats,
            epochs: race.args.epochs,
            contestants: rows.collect(),
        }
    }

    /// For a terminal.
    pub(super) fn text(&self) -> String {
        let [(bare_header, bare), (loader_header, loaders)] = self.tables();
        let mut text = format!("{}\n{}\n\nBare reads, GB/s\n", self.machine, self.what());
        text += &report::table(&borrowed(&bare_header), &bare);
        text += "\nAs a training loop gets it\n";
        text += &report::table(&borrowed(&loader_header), &loaders);
        text + &self.failures("\n", "\n")
    }

    /// For a page.
    pub(super) fn markdown(&self) -> String {
        let [(bare_header, bare), (loader_header, loaders)] = self.tables();
        let settings = self.contestants.iter().filter(|row| !row.settings.is_empty());
        let settings = settings
            .map(|row| format!("{}: {}", [&*row.title, &*row.version].join(" ").trim(), row.settings));
        format!(
            "## Peers, samples of {}\n\n{}. `featcache {}`: {}. Passes of all take turns; ÷ raw: `preadv` of the ranges \
             in our store into reused memory, in the same round. Cold: files are synced and dropped from the page cache \
             (`fadvise`) before each pass, and `/proc/vmstat` must show that the bytes came from the disk. Everyone's \
             bytes were compared with what was exported.\n\nBare reads, GB/s: random order, whole samples into owned \
             memory.\n\n{}\nAs a training loop gets it: {} epochs of shuffled batches as bf16 tensors, warm pages, the \
             number of workers (ours and raw: threads) that was fastest in a trial.\n\n{}{}\nSettings: {}.",
            bytes(self.sample_bytes as u64),
            self.machine,
            self.command,
            self.what(),
            report::markdown_table(&borrowed(&bare_header), &bare),
            self.epochs,
            report::markdown_table(&borrowed(&loader_header), &loaders),
            self.failures("\n- ", ""),
            settings.collect::<Vec<_>>().join("; "),
        )
    }

    fn what(&self) -> String {
        format!(
            "{} samples of {}, batches of {}, {} repetitions, median (min–max)",
            self.samples,
            bytes(self.sample_bytes as u64),
            self.batch,
            self.repeats
        )
    }

    fn tables(&self) -> [Table; 2] {
        let columns = self.contestants.first().map_or(&[][..], |row| &row.bare);
        let mut bare_header = vec![String::new()];
        for Bare { threads, cold, .. } in columns {
            let pages = if *cold { "cold" } else { "warm" };
            bare_header.extend([format!("{pages}, {threads} thr."), "÷ raw".to_owned()]);
        }
        let loader_header =
            ["", "GB/s", "÷ raw", "workers", "tried: workers → GB/s"].map(str::to_owned).to_vec();
        let (mut bare, mut loaders) = (Vec::new(), Vec::new());
        for row in &self.contestants {
            let mut line = vec![row.title.clone()];
            let missing = |line: &[String]| row.missing(line);
            for Bare { measured, .. } in &row.bare {
                let cells = cells(*measured).unwrap_or_else(|| missing(&line));
                line.extend(cells);
            }
            bare.push(line);
            let mut line = vec![row.title.clone()];
            let cells = cells(row.loader).unwrap_or_else(|| missing(&line));
            line.extend(cells);
            line.push(row.workers.map_or_else(|| "–".to_owned(), |workers| workers.to_string()));
            let tried = row.tried.iter().map(|(workers, rate)| format!("{workers} → {rate:.2}"));
            line.push(tried.collect::<Vec<_>>().join(", "));
            loaders.push(line);
        }
        [(bare_header, bare), (loader_header, loaders)]
    }

    /// A line each.
    fn failures(&self, before: &str, after: &str) -> String {
        let failed = self.contestants.iter().filter_map(|row| Some((&row.title, row.failed.as_ref()?)));
        failed.map(|(title, reason)| format!("{before}{title}: {reason}{after}")).collect()
    }
}

impl Row {
    /// The two cells of what was not measured: the first of a row says that it failed.
    fn missing(&self, line: &[String]) -> [String; 2] {
        let told = line.iter().any(|cell| cell == FAILED);
        let first = if self.failed.is_some() && !told { FAILED } else { "–" };
        [first.to_owned(), "–".to_owned()]
    }
}

/// In the place of a number; why is below the table.
const FAILED: &str = "failed";

/// Header and rows.
type Table = (Vec<String>, Vec<Vec<String>>);

fn cells(measured: Option<Measured>) -> Option<[String; 2]> {
    measured.map(|Measured { gb_per_s, ratio }| [show(gb_per_s, 2), format!("{:.2}", ratio.median)])
}

fn spread(values: impl Iterator<Item = f64>) -> Spread {
    Spread::of(values.collect())
}

fn borrowed(header: &[String]) -> Vec<&str> {
    header.iter().map(String::as_str).collect()
}
