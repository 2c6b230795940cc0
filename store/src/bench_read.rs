//! How fast random samples come back, as a ratio to plain reads of the very same file ranges and to copying
//! as many bytes, in the same run. Measures and returns numbers; draws nothing.

use crate::raw_read::{RawReadOptions, RawReads};
use crate::{
    Batch, Error, LevelId, PagePolicy, ReadOptions, Reader, Result, RowBand, RowId, Spread, Status, Store,
    Verify,
};
use copy::Copies;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

mod copy;

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchReadOptions {
    /// Rows read a pass, each once; all of the store's if it has fewer.
    pub samples: usize,
    /// Rows of a read call, of one bucket; fewer where a bucket has no more. Zero is one.
    pub batch: usize,
    /// Passes of each kind.
    pub repeats: usize,
    /// Thread counts.
    pub threads: Vec<usize>,
    /// Which rows, and in which order.
    pub seed: u64,
}

impl Default for BenchReadOptions {
    fn default() -> Self {
        Self { samples: 64, batch: 4, repeats: 7, threads: vec![1, 2], seed: 0 }
    }
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct ReadBench {
    /// Rows read a pass.
    pub samples: usize,
    /// Read calls a pass.
    pub batches: usize,
    /// Bytes of the files a pass over whole samples reads, checksums and gaps included.
    pub bytes: u64,
    /// Contiguous file ranges of such a pass.
    pub ranges: usize,
    /// One line for each kind of pass.
    pub measurements: Vec<ReadMeasurement>,
}

/// What is wanted of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Portion {
    /// All levels.
    Whole,
    /// The coarsest level alone.
    CoarseOnly,
    /// All levels of the middle quarter of the picture's rows.
    Crop,
}

impl std::fmt::Display for Portion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Whole => "whole",
            Self::CoarseOnly => "coarse only",
            Self::Crop => "crop",
        })
    }
}

/// One kind of pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReadKind {
    /// What is read of each sample.
    pub portion: Portion,
    /// What happens to the page cache.
    pub pages: PagePolicy,
    /// Whether the shard files were dropped from the page cache before each pass.
    pub cold: bool,
    /// Threads that read, ours and raw; reads around the page cache are four in flight at least.
    pub threads: usize,
    /// Whether checksums were verified.
    pub verify: bool,
}

/// Passes of one kind, against raw passes and copies that were interleaved with them.
#[derive(Debug, Clone, Serialize)]
pub struct ReadMeasurement {
    /// Which.
    #[serde(flatten)]
    pub kind: ReadKind,
    /// Our reads, 10⁹ bytes of files a second.
    pub gb_per_s: Spread,
    /// Rows a second.
    pub samples_per_s: Spread,
    /// Plain reads of the same ranges into as much reused memory: `preadv`, each thread its own samples;
    /// where pages are cold the faster of that and of direct requests of 1 MiB, four in flight.
    pub raw_gb_per_s: Spread,
    /// Raw time by our time, pass by pass: 1 is as fast as raw.
    pub ratio: Spread,
    /// Time of copying as many bytes as the batches hold, with as many threads, by our time.
    pub copy_ratio: Spread,
    /// Bytes by which the page cache grew in a pass, by the bytes read; of cold passes alone.
    pub cached: Option<Spread>,
}

/// Reads random samples, batch after batch, with a reader and raw: whole, coarse levels alone and crops;
/// warm and cold; with and without checks; at each thread count; by each page policy. Ours, raw and copying
/// alternate, so that what else the machine does meets them alike; all warm passes come before the cold ones,
/// because how a file came into the page cache (in one large read or in small ones) decides the size of its
/// folios, and that the speed of copying from them.
///
/// # Errors
/// [`Error::Invalid`] if the store has no features or there is nothing to do; what reading fails with.
pub fn bench_read(store: &Store, options: &BenchReadOptions) -> Result<ReadBench> {
    let rows = choose(store, options.samples, options.seed);
    if rows.is_empty() || options.repeats == 0 || options.threads.is_empty() {
        return Err(Error::invalid("nothing to measure: no rows with features, no repeats or no threads"));
    }
    let batch = options.batch.clamp(1, rows.len());
    let batches = batches(store, &rows, batch);
    let visited: Vec<RowId> = batches.iter().flatten().copied().collect();
    let mut measurements = Vec::new();
    let mut whole = (0, 0);
    for cold in [false, true] {
        for &threads in &options.threads {
            for kind in kinds(cold, threads.max(1)) {
                let mut lane = match Lane::new(store, kind, &batches, &visited, batch) {
                    // A file system that refuses a policy is measured without it.
                    Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::Unsupported => {
                        continue;
                    }
                    lane => lane?,
                };
                if kind.portion == Portion::Whole {
                    whole = lane.raw.first().map_or(whole, |raw| (raw.bytes(), raw.ranges()));
                }
                measurements.push(lane.measure(options.repeats, rows.len())?);
            }
        }
    }
    let (bytes, ranges) = whole;
    Ok(ReadBench { samples: rows.len(), batches: batches.len(), bytes, ranges, measurements })
}

/// The kinds of passes over warm or cold pages. Around the page cache nothing is warm.
fn kinds(cold: bool, threads: usize) -> Vec<ReadKind> {
    let mut kinds = Vec::new();
    for pages in PagePolicy::ALL {
        for portion in [Portion::Whole, Portion::CoarseOnly, Portion::Crop] {
            for verify in [false, true] {
                let of_interest = pages != PagePolicy::DontCache || portion == Portion::Whole;
                if of_interest && (cold || pages.fills_the_cache()) {
                    kinds.push(ReadKind { portion, pages, cold, threads, verify });
                }
            }
        }
    }
    kinds
}

/// Everything that passes of one kind need.
struct Lane<'a> {
    kind: ReadKind,
    store: &'a Store,
    options: ReadOptions,
    reader: Reader,
    batch: Batch,
    batches: &'a [Vec<RowId>],
    levels: Vec<LevelId>,
    band: Option<RowBand>,
    /// Through the page cache; of cold passes also direct.
    raw: Vec<RawReads>,
    copies: Copies,
}

impl<'a> Lane<'a> {
    fn new(
        store: &'a Store,
        kind: ReadKind,
        batches: &'a [Vec<RowId>],
        visited: &[RowId],
        batch: usize,
    ) -> Result<Self> {
        let ReadKind { portion, pages, cold, threads, verify } = kind;
        let all = store.recipe().levels.len();
        let first = if portion == Portion::CoarseOnly { all.saturating_sub(1) } else { 0 };
        let levels: Vec<LevelId> = (first..all).map(LevelId).collect();
        let band = (portion == Portion::Crop).then(|| middle(store, batches)).flatten();
        let verify = if verify { Verify::On } else { Verify::Off };
        let options = ReadOptions { verify, threads, pages, ..ReadOptions::default() };
        let reader = store.reader(options)?;
        let policies: &[_] =
            if cold { &[PagePolicy::Buffered, PagePolicy::Direct] } else { &[PagePolicy::Buffered] };
        let mut raw = Vec::new();
        for &pages in policies {
            let options =
                RawReadOptions { rows: visited, levels: &levels, band, pages, threads, buffers: batch };
            match RawReads::new(store, &options) {
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::Unsupported => {}
                reads => raw.push(reads?),
            }
        }
        Ok(Self {
            kind,
            store,
            options,
            reader,
            batch: Batch::new(),
            batches,
            levels,
            band,
            raw,
            copies: Copies::new(threads),
        })
    }

    /// Passes of this kind; one more goes before them, which fills caches, starts threads and touches memory.
    fn measure(&mut self, repeats: usize, samples: usize) -> Result<ReadMeasurement> {
        let bytes = self.raw.first().map_or(0, RawReads::bytes);
        let (mut ours, mut raws, mut copies, mut cached) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for repeat in 0..=repeats {
            // Raw before and after in turn: neither always finds the warmer machine.
            let before = if repeat % 2 == 0 { Some(self.raw_pass()?) } else { None };
            let (time, out_bytes, grown) = self.pass()?;
            let raw = match before {
                Some(raw) => raw,
                None => self.raw_pass()?,
            };
            let copy = self.copies.time(out_bytes)?;
            if repeat > 0 {
                ours.push(time);
                raws.push(raw);
                copies.push(copy);
                cached.extend(grown.filter(|_| self.kind.cold).map(|grown| grown / bytes as f64));
            }
        }
        let rate = |times: &[f64], amount: f64| Spread::of(times.iter().map(|time| amount / time).collect());
        let by_ours =
            |times: &[f64]| Spread::of(times.iter().zip(&ours).map(|(time, ours)| time / ours).collect());
        Ok(ReadMeasurement {
            kind: self.kind,
            gb_per_s: rate(&ours, bytes as f64 / 1e9),
            samples_per_s: rate(&ours, samples as f64),
            raw_gb_per_s: rate(&raws, bytes as f64 / 1e9),
            ratio: by_ours(&raws),
            copy_ratio: by_ours(&copies),
            cached: (!cached.is_empty()).then(|| Spread::of(cached)),
        })
    }

    /// Seconds of a pass of ours, bytes that it handed out, and bytes by which the page cache grew.
    fn pass(&mut self) -> Result<(f64, u64, Option<f64>)> {
        self.let_go()?;
        self.drop_pages()?;
        self.batches.iter().try_for_each(|rows| self.reader.prepare(rows, &self.levels))?;
        let (before, start, mut out_bytes) = (page_cache_bytes(), Instant::now(), 0);
        for rows in self.batches {
            self.reader.read(rows, &self.levels, self.band, &mut self.batch)?;
            out_bytes +=
                (0..self.batch.level_count()).map(|i| self.batch.level(i).bytes.len() as u64).sum::<u64>();
        }
        let seconds = start.elapsed().as_secs_f64();
        let grown = before.zip(page_cache_bytes()).map(|(before, after)| after as f64 - before as f64);
        Ok((seconds, out_bytes, grown))
    }

    /// Seconds of the faster of the raw passes.
    fn raw_pass(&mut self) -> Result<f64> {
        let mut least = f64::INFINITY;
        self.let_go()?;
        for raw in &self.raw {
            self.drop_pages()?;
            let start = Instant::now();
            raw.pass()?;
            least = least.min(start.elapsed().as_secs_f64());
        }
        Ok(least)
    }

    /// What is mapped cannot be dropped: a new reader has mapped nothing yet.
    fn let_go(&mut self) -> Result<()> {
        if self.kind.cold && self.kind.pages == PagePolicy::Mapped {
            self.reader = self.store.reader(self.options)?;
        }
        Ok(())
    }

    fn drop_pages(&self) -> Result<()> {
        self.raw.first().filter(|_| self.kind.cold).map_or(Ok(()), RawReads::drop_pages)
    }
}

/// The middle quarter of the rows of cells of the coarsest level, one at least; of the lowest bucket.
fn middle(store: &Store, batches: &[Vec<RowId>]) -> Option<RowBand> {
    let level = store.recipe().levels.iter().max_by_key(|level| level.stride)?;
    let sizes = batches.iter().flatten().filter_map(|row| store.row(*row).ok()?.bucket);
    let height = sizes.map(|size| level.cells(size).height).min()?;
    let start = height * 3 / 8;
    Some(RowBand { start, end: (height * 5 / 8).max(start + 1) })
}

/// Bytes of files in the page cache, as the system counts them.
fn page_cache_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Cached:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// The rows in batches of one bucket each, in the order of their first rows.
fn batches(store: &Store, rows: &[RowId], size: usize) -> Vec<Vec<RowId>> {
    let mut batches: Vec<Vec<RowId>> = Vec::new();
    let mut open = BTreeMap::new();
    for row in rows {
        let bucket = store.bucket_of(*row);
        let number = *open.entry(bucket).or_insert_with(|| {
            batches.push(Vec::with_capacity(size));
            batches.len() - 1
        });
        if let Some(batch) = batches.get_mut(number) {
            batch.push(*row);
            if batch.len() == size {
                open.remove(&bucket);
            }
        }
    }
    batches
}

/// Up to `count` rows with features, in an order that depends on `seed` alone.
fn choose(store: &Store, count: usize, seed: u64) -> Vec<RowId> {
    let ok = store.rows().iter().filter(|row| row.status == Status::Ok);
    let draw = |id: RowId| blake3::hash(&[seed.to_le_bytes(), id.0.to_le_bytes()].concat());
    let mut rows: Vec<_> = ok.map(|row| (*draw(row.id).as_bytes(), row.id)).collect();
    rows.sort_unstable_by_key(|(draw, _)| *draw);
    rows.into_iter().take(count).map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenOptions;
    use crate::fixture::unfinished;

    #[test]
    fn bench_read_measures_every_kind() {
        let folder = tempfile::tempdir().unwrap();
        drop(unfinished(folder.path()));
        let store = Store::open(folder.path(), OpenOptions { incomplete: true }).unwrap();
        let options = BenchReadOptions { samples: 9, batch: 2, repeats: 2, threads: vec![1, 2], seed: 3 };
        let bench = bench_read(&store, &options).unwrap();
        // Warm: three portions, with and without checks, also mapped; cold: these, also direct, and whole
        // samples by dontcache.
        assert_eq!((bench.samples, bench.measurements.len()), (9, 2 * (12 + 18 + 2)));
        assert!(bench.ranges >= 18 && bench.batches >= 5 && bench.bytes > 0, "{bench:?}");
        for measurement in &bench.measurements {
            for spread in [measurement.ratio, measurement.copy_ratio, measurement.samples_per_s] {
                assert!(spread.min > 0.0 && spread.min <= spread.median && spread.median <= spread.max);
            }
            assert!(measurement.raw_gb_per_s.median.is_finite() && measurement.gb_per_s.median > 0.0);
            assert_eq!(measurement.cached.is_some(), measurement.kind.cold);
        }
        assert!(bench_read(&store, &BenchReadOptions { repeats: 0, ..options }).is_err());
    }
}
