//! How fast shuffled batches become tensors, read ahead as a training loop reads them, as a ratio to plain
//! `preadv` of the very same file ranges in the same run. Measures and returns numbers; draws nothing.

use crate::loader::{Loader, LoaderOptions, Shared, Span};
use crate::order::{Order, OrderOptions, OrderRow, Position};
use crate::{Error, Result};
use featcache_store::raw_read::{RawReadOptions, RawReads};
use featcache_store::{LevelId, PagePolicy, ReadOptions, RowId, Spread, Status, Store, Verify};
use serde::Serialize;
use std::time::Instant;
use tch::{Device, Kind};

/// Batches that the loader may have read ahead, while none is held.
const AHEAD: u64 = 3;

/// What to measure.
#[derive(Debug, Clone)]
pub struct LoaderBenchOptions {
    /// Rows of an epoch; all of the store's if it has fewer.
    pub samples: usize,
    /// Rows of a batch.
    pub batch: usize,
    /// Epochs of each kind.
    pub repeats: usize,
    /// Thread counts.
    pub threads: Vec<usize>,
    /// Order of the rows.
    pub seed: u64,
    /// Element type of the tensors.
    pub kind: Kind,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct LoaderBench {
    /// Rows of an epoch.
    pub samples: usize,
    /// Batches of an epoch.
    pub batches: u64,
    /// Bytes read an epoch, checksums included.
    pub bytes: u64,
    /// One line for each thread count, warm or cold, with and without checks.
    pub measurements: Vec<LoaderMeasurement>,
}

/// Epochs of one kind, against raw passes that were interleaved with them.
#[derive(Debug, Clone, Serialize)]
pub struct LoaderMeasurement {
    /// Threads that read, ours and raw; the thread that takes the batches only waits.
    pub threads: usize,
    /// Whether the shard files were dropped from the page cache before each epoch.
    pub cold: bool,
    /// What the loader does with the page cache.
    pub pages: PagePolicy,
    /// Whether checksums were verified.
    pub verify: bool,
    /// Tensors of shuffled batches, 10⁹ bytes of files a second.
    pub gb_per_s: Spread,
    /// `preadv` of the same ranges into reused memory, each thread its own samples.
    pub raw_gb_per_s: Spread,
    /// Raw time by the loader's time, pass by pass: 1 is as fast as `preadv`.
    pub ratio: Spread,
}

/// Reads epochs of random rows through the loader and raw, in turn: warm, also mapped, and cold; with and
/// without checks; at each thread count. The loader has had one epoch to start its threads and touch its
/// memory before it is timed, reads at most three batches ahead, and the clock starts when what it had read
/// before the pages were dropped has been taken.
///
/// # Errors
/// A store without features; what reading fails with.
pub fn bench_loader(store: &Store, options: &LoaderBenchOptions) -> Result<LoaderBench> {
    let rows = choose(store, options)?;
    let batch = options.batch.clamp(1, rows.len().max(1));
    let order = OrderOptions { seed: options.seed, batch, shuffle: true, drop_last: false };
    let samples = rows.len();
    let order = Order::new(rows.into_iter().map(|row| vec![row]).collect(), order);
    let epoch = order.epoch(0);
    let visited: Vec<RowId> =
        (0..epoch.len()).filter_map(|cursor| epoch.batch(cursor)).flat_map(|batch| batch.rows).collect();
    if visited.is_empty() || options.repeats == 0 || options.threads.is_empty() {
        return Err(Error::invalid("nothing to measure: no rows with features, no repeats or no threads"));
    }
    let levels: Vec<LevelId> = (0..store.recipe().levels.len()).map(LevelId).collect();
    let mut measurements = Vec::new();
    let mut bytes = 0;
    for &threads in &options.threads {
        let (rows, levels, pages) = (&visited, &levels, PagePolicy::Buffered);
        let raw = RawReadOptions { rows, levels, band: None, pages, threads, buffers: batch };
        let raw = RawReads::new(store, &raw)?;
        bytes = raw.bytes();
        // What is mapped cannot be dropped; where it is cold, large chunks are read as by `buffered`.
        let (buffered, mapped) = (PagePolicy::Buffered, PagePolicy::Mapped);
        let kinds = [(false, buffered), (false, mapped), (true, buffered)];
        for ((cold, pages), verify) in kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let kind = Pass { store, order: &order, kind: options.kind, threads, batch, cold, pages, verify };
            let mut times = Vec::new();
            // The first round fills caches.
            for repeat in 0..=options.repeats {
                let mut pair = [0.0; 2];
                for ours in [repeat % 2 == 0, repeat % 2 != 0] {
                    pair[usize::from(!ours)] =
                        if ours { kind.seconds(&raw)? } else { kind.raw_seconds(&raw)? };
                }
                times.extend((repeat > 0).then_some(pair));
            }
            let rate = |i: usize| Spread::of(times.iter().map(|t| bytes as f64 / t[i] / 1e9).collect());
            let ratio = Spread::of(times.iter().map(|[ours, raw]| raw / ours).collect());
            let (gb_per_s, raw_gb_per_s) = (rate(0), rate(1));
            measurements.push(LoaderMeasurement {
                threads,
                cold,
                pages,
                verify,
                gb_per_s,
                raw_gb_per_s,
                ratio,
            });
        }
    }
    Ok(LoaderBench { samples, batches: epoch.len(), bytes, measurements })
}

/// One kind of pass.
struct Pass<'a> {
    store: &'a Store,
    order: &'a Order,
    kind: Kind,
    threads: usize,
    batch: usize,
    cold: bool,
    pages: PagePolicy,
    verify: bool,
}

impl Pass<'_> {
    /// Seconds of an epoch, from those of the second one of a loader but for its first batches.
    fn seconds(&self, raw: &RawReads) -> Result<f64> {
        let verify = if self.verify { Verify::On } else { Verify::Off };
        let read = ReadOptions { verify, pages: self.pages, threads: self.threads, ..ReadOptions::default() };
        let batches = self.order.epoch(0).len();
        let span = Span { start: Position::default(), batches: 3 * batches };
        let options = LoaderOptions { threads: 1, bytes: AHEAD * self.batch_bytes(), read };
        let no_target = |_: RowId| Ok(());
        let levels = &self.store.recipe().levels;
        let shared = Shared::new(self.store, self.order, span, levels, &no_target, options)?;
        std::thread::scope(|scope| {
            let mut loader = shared.start(scope);
            let epoch = self.take(&mut loader, batches)?;
            if self.cold {
                raw.drop_pages()?;
            }
            // As many may have been read before the pages were dropped.
            let before = AHEAD.min(batches.saturating_sub(1));
            self.take(&mut loader, before)?;
            let start = Instant::now();
            let timed = self.take(&mut loader, batches - before)?;
            Ok(start.elapsed().as_secs_f64() * epoch as f64 / timed.max(1) as f64)
        })
    }

    /// Takes so many batches as tensors; their bytes.
    fn take(&self, loader: &mut Loader<'_, ()>, batches: u64) -> Result<u64> {
        let mut bytes = 0;
        for _ in 0..batches {
            let Some(batch) = loader.next_batch()? else { break };
            std::hint::black_box(batch.maps(self.kind, Device::Cpu)?);
            bytes += batch.bytes();
            loader.recycle(batch);
        }
        Ok(bytes)
    }

    /// What the loader counts for the largest batch: four bytes an element.
    fn batch_bytes(&self) -> u64 {
        let elements = |bucket: &featcache_store::Bucket| -> u64 {
            let levels = self.store.recipe().levels.iter();
            levels.map(|level| level.shape(bucket.size).iter().product::<usize>() as u64).sum()
        };
        let largest = self.store.buckets().iter().map(elements).max().unwrap_or(1);
        4 * largest * self.batch as u64
    }

    fn raw_seconds(&self, raw: &RawReads) -> Result<f64> {
        if self.cold {
            raw.drop_pages()?;
        }
        let start = Instant::now();
        raw.pass()?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// The rows of an epoch: the store's first ones that have features, whatever their split and view.
fn choose(store: &Store, options: &LoaderBenchOptions) -> Result<Vec<OrderRow>> {
    let ok = store.rows().iter().filter(|row| row.status == Status::Ok).take(options.samples);
    let place = |row: featcache_store::SampleRow| {
        let no_place = || Error::invalid(format!("row {} has features and no place", row.id));
        let bucket = store.bucket_of(row.id).ok_or_else(no_place)?;
        Ok(OrderRow { row: row.id, bucket, size: row.bucket.ok_or_else(no_place)? })
    };
    ok.map(place).collect()
}
