//! Our reader and our loader among the contestants, and the `preadv` that all are measured against.

use super::contestant::{Answer, Contestant, Pass, PassKind};
use super::samples::{Samples, check};
use anyhow::Result;
use featcache_heads::loader::{DEFAULT_PREFETCH_BYTES, LoadedBatch, LoaderOptions, Shared, Span};
use featcache_heads::order::{Order, OrderOptions, Position};
use featcache_store::raw_read::{RawReadOptions, RawReads};
use featcache_store::{Batch, PagePolicy, ReadOptions, Reader, RowId, Store, Verify};
use std::collections::BTreeMap;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Batches that the loader hands over before it is timed, at least: one more than it reads ahead.
const WARM_BATCHES: u64 = 4;

/// `preadv` of the ranges that the samples lie in. Hands nothing out.
pub(super) struct Raw<'a> {
    store: &'a Store,
    samples: &'a Samples,
    /// By thread count; each keeps the order and the memory of its first pass.
    reads: BTreeMap<usize, RawReads>,
}

/// featcache.
pub(super) struct Ours<'a> {
    store: &'a Store,
    samples: &'a Samples,
    verify: Verify,
    pages: PagePolicy,
    /// By thread count.
    readers: BTreeMap<usize, Reader>,
    batch: Batch,
}

impl<'a> Raw<'a> {
    /// Of these samples.
    pub(super) fn new(store: &'a Store, samples: &'a Samples) -> Self {
        Self { store, samples, reads: BTreeMap::new() }
    }
}

impl Contestant for Raw<'_> {
    fn rest(&mut self) -> Result<()> {
        Ok(())
    }

    fn pass(&mut self, pass: &Pass) -> Result<Answer> {
        if !self.reads.contains_key(&pass.threads) {
            let rows = self.samples.ids(&pass.order);
            let (rows, levels, pages) = (&rows, &self.samples.levels, PagePolicy::Buffered);
            let (threads, buffers) = (pass.threads, pass.batch);
            let reads = RawReadOptions { rows, levels, band: None, pages, threads, buffers };
            let reads = RawReads::new(self.store, &reads)?;
            // Its memory is there before the clock starts, as everybody's.
            reads.pass()?;
            self.reads.insert(pass.threads, reads);
        }
        let reads = &self.reads[&pass.threads];
        let start = Instant::now();
        for _ in 0..pass.epochs {
            reads.pass()?;
        }
        let seconds = start.elapsed().as_secs_f64();
        Ok(Answer { seconds, samples: pass.order.len() * pass.epochs, checks: Vec::new() })
    }
}

impl<'a> Ours<'a> {
    /// Of these samples.
    pub(super) fn new(store: &'a Store, samples: &'a Samples, verify: Verify, pages: PagePolicy) -> Self {
        Self { store, samples, verify, pages, readers: BTreeMap::new(), batch: Batch::new() }
    }

    fn options(&self, threads: usize) -> ReadOptions {
        ReadOptions { verify: self.verify, pages: self.pages, threads, ..ReadOptions::default() }
    }

    fn bare(&mut self, pass: &Pass) -> Result<Answer> {
        if !self.readers.contains_key(&pass.threads) {
            let reader = self.store.reader(self.options(pass.threads))?;
            // Its files are open before the clock starts, as everybody's.
            reader.prepare(&self.samples.ids(&pass.order), &self.samples.levels)?;
            self.readers.insert(pass.threads, reader);
        }
        let (reader, batch) = (&self.readers[&pass.threads], &mut self.batch);
        let batches: Vec<_> =
            pass.order.chunks(pass.batch).map(|numbers| self.samples.ids(numbers)).collect();
        let mut checks = Vec::new();
        let start = Instant::now();
        for rows in &batches {
            reader.read(rows, &self.samples.levels, None, batch)?;
            if pass.all {
                checks.extend(batch_checks(batch, pass.stride));
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        if !pass.all {
            checks = batch_checks(batch, pass.stride);
        }
        Ok(Answer { seconds, samples: batches.iter().map(Vec::len).sum(), checks })
    }

    /// The loader as training uses it, from its second epoch on: the first starts its threads.
    fn load(&self, pass: &Pass) -> Result<Answer> {
        let options = OrderOptions { seed: 0, batch: pass.batch, shuffle: true, drop_last: false };
        let order = Order::new(self.samples.rows.iter().map(|row| vec![*row]).collect(), options);
        let epoch = order.epoch(0).len();
        // All of its memory has been touched before the clock starts, also where an epoch is two batches.
        let warm = WARM_BATCHES.div_ceil(epoch.max(1)) * epoch;
        let span = Span { start: Position::default(), batches: epoch * pass.epochs as u64 + warm };
        // Beside the one that is kept below, two on their way, each counted at four bytes an element.
        let bytes = 3 * 2 * self.samples.bytes as u64 * pass.batch as u64;
        let bytes = bytes.max(DEFAULT_PREFETCH_BYTES);
        let options = LoaderOptions { threads: 1, bytes, read: self.options(pass.threads) };
        let no_target = |_: RowId| Ok(());
        let levels = &self.store.recipe().levels;
        let shared = Shared::new(self.store, &order, span, levels, &no_target, options)?;
        std::thread::scope(|scope| {
            let mut loader = shared.start(scope);
            for _ in 0..warm {
                if let Some(batch) = loader.next_batch()? {
                    loader.recycle(batch);
                }
            }
            let (mut samples, mut checks, mut last) = (0, Vec::new(), None);
            let start = Instant::now();
            while let Some(batch) = loader.next_batch()? {
                let maps = batch.maps(Kind::BFloat16, Device::Cpu)?;
                samples += batch.rows.rows.len();
                if pass.all {
                    checks.extend(tensor_checks(&maps, &batch, pass.stride)?);
                }
                drop(maps);
                // The last batch stays, to be looked at when the clock has stopped.
                if let Some(before) = last.replace(batch) {
                    loader.recycle(before);
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            if let Some(batch) = last.filter(|_| !pass.all) {
                checks = tensor_checks(&batch.maps(Kind::BFloat16, Device::Cpu)?, &batch, pass.stride)?;
            }
            Ok(Answer { seconds, samples, checks })
        })
    }
}

impl Contestant for Ours<'_> {
    /// Pages of files that are only read can be dropped while they are open, those of a map cannot.
    fn rest(&mut self) -> Result<()> {
        if self.pages == PagePolicy::Mapped {
            self.readers.clear();
        }
        Ok(())
    }

    fn pass(&mut self, pass: &Pass) -> Result<Answer> {
        match pass.kind {
            PassKind::Bare => self.bare(pass),
            PassKind::Loader => self.load(pass),
        }
    }
}

fn batch_checks(batch: &Batch, stride: usize) -> Vec<u64> {
    let levels: Vec<_> = (0..batch.level_count()).map(|i| batch.level(i).bytes).collect();
    sample_checks(&levels, batch.rows().len(), stride)
}

/// Of maps `[n, c, h, w]`, a sample being its rows `[h, w, c]` one level after the other.
fn tensor_checks<T: Send>(maps: &[Tensor], batch: &LoadedBatch<T>, stride: usize) -> Result<Vec<u64>> {
    let mut levels = Vec::new();
    for map in maps {
        let cells = map.f_permute([0, 2, 3, 1])?.f_contiguous()?; // [n, h, w, c]
        let mut bytes = vec![0; cells.numel() * cells.f_kind()?.elt_size_in_bytes()];
        cells.f_copy_data_u8(&mut bytes, cells.numel())?;
        levels.push(bytes);
    }
    let levels: Vec<_> = levels.iter().map(Vec::as_slice).collect();
    Ok(sample_checks(&levels, batch.rows.rows.len(), stride))
}

fn sample_checks(levels: &[&[u8]], rows: usize, stride: usize) -> Vec<u64> {
    let of_row = |row: usize| {
        let parts = levels.iter().flat_map(|level| level.chunks_exact((level.len() / rows).max(1)).nth(row));
        check(&parts.flatten().copied().collect::<Vec<_>>(), stride)
    };
    (0..rows).map(of_row).collect()
}
