//! How fast random whole samples come back, as a ratio to plain `preadv` of the very same file ranges in
//! the same run. Measures and returns numbers; draws nothing.

use crate::batch::AlignedBytes;
use crate::plane::FileRange;
use crate::{Batch, Error, LevelId, ReadOptions, Reader, Result, RowId, Status, Store, Verify};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

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
    /// Bytes read a pass, checksums and gaps included.
    pub bytes: u64,
    /// Contiguous file ranges read a pass.
    pub ranges: usize,
    /// One line for each thread count, cold or warm, with and without checks.
    pub measurements: Vec<ReadMeasurement>,
}

/// One kind of pass, against raw passes that were interleaved with it.
#[derive(Debug, Clone, Serialize)]
pub struct ReadMeasurement {
    /// Threads that read, ours and raw.
    pub threads: usize,
    /// Whether the shard files were dropped from the page cache before each pass.
    pub cold: bool,
    /// Whether checksums were verified.
    pub verify: bool,
    /// Our reads, 10⁹ bytes a second.
    pub gb_per_s: Spread,
    /// `preadv` of the same ranges into as much reused memory, each thread its own samples.
    pub raw_gb_per_s: Spread,
    /// Raw time by our time, pass by pass: 1 is as fast as `preadv`.
    pub ratio: Spread,
}

/// Median and extremes of some measurements.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    /// The middle one (of an even number, the upper middle).
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of these values; all are NaN where there is none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
        Self { median: at(values.len() / 2), min: at(0), max: at(values.len().saturating_sub(1)) }
    }
}

/// Reads random whole samples, batch after batch, with a reader and raw: warm and cold, with and without
/// checks, at each thread count. Ours and raw alternate, so that what else the machine does meets them
/// alike; all warm passes come before the cold ones, because how a file came into the page cache (in one
/// large read or in small ones) decides the size of its folios, and that the speed of copying from them.
///
/// # Errors
/// [`Error::Invalid`] if the store has no features or there is nothing to do; what reading fails with.
pub fn bench_read(store: &Store, options: &BenchReadOptions) -> Result<ReadBench> {
    let rows = choose(store, options.samples, options.seed);
    if rows.is_empty() || options.repeats == 0 || options.threads.is_empty() {
        return Err(Error::invalid("nothing to measure: no rows with features, no repeats or no threads"));
    }
    let levels: Vec<LevelId> = (0..store.recipe().levels.len()).map(LevelId).collect();
    let finder = store.reader(ReadOptions::default())?;
    let batch = options.batch.clamp(1, rows.len());
    let batches = batches(store, &rows, batch);
    let ranges = batches.iter().flatten().map(|row| finder.file_ranges(&[*row], &levels));
    let ranges = ranges.collect::<Result<Vec<_>>>()?;
    let bytes = ranges.iter().flatten().map(|range| range.bytes.end - range.bytes.start).sum();

    let mut kinds = Vec::new();
    for threads in &options.threads {
        let mut lane = Lane::new(*threads, batch, &ranges)?;
        for verify in [Verify::Off, Verify::On] {
            let reader =
                store.reader(ReadOptions { verify, threads: lane.threads, ..ReadOptions::default() })?;
            for cold in [false, true] {
                kinds.push(Kind::new(lane.threads, cold, verify));
            }
            lane.readers.push((verify, reader, Batch::new()));
        }
        for cold in [false, true] {
            for repeat in 0..=options.repeats {
                for position in 0..lane.readers.len() {
                    // Raw before and after in turn: neither always finds the warmer machine.
                    let raw_first = (repeat + position) % 2 == 0;
                    let mut times = [0.0; 2];
                    for raw in [raw_first, !raw_first] {
                        if cold {
                            drop_pages(&ranges)?;
                        }
                        let [ours, of_raw] = &mut times;
                        *(if raw { of_raw } else { ours }) =
                            lane.time(raw, position, &batches, &levels, &ranges)?;
                    }
                    let verify = lane.readers.get(position).map(|(verify, _, _)| *verify);
                    let kind = kinds.iter_mut().find(|kind| {
                        (kind.threads, kind.cold, Some(kind.verify)) == (lane.threads, cold, verify)
                    });
                    // The first round fills caches, starts threads and touches memory.
                    if let (Some(kind), true) = (kind, repeat > 0) {
                        kind.times.push(times);
                    }
                }
            }
        }
    }
    let measurements = kinds.into_iter().map(|kind| kind.measurement(bytes)).collect();
    let ranges = ranges.iter().map(Vec::len).sum();
    Ok(ReadBench { samples: rows.len(), batches: batches.len(), bytes, ranges, measurements })
}

/// Passes of one kind.
struct Kind {
    threads: usize,
    cold: bool,
    verify: Verify,
    /// Seconds: ours, raw.
    times: Vec<[f64; 2]>,
}

impl Kind {
    fn new(threads: usize, cold: bool, verify: Verify) -> Self {
        Self { threads, cold, verify, times: Vec::new() }
    }

    fn measurement(self, bytes: u64) -> ReadMeasurement {
        let rate = |of: fn(&[f64; 2]) -> f64| {
            self.times.iter().map(|times| bytes as f64 / of(times) / 1e9).collect()
        };
        ReadMeasurement {
            threads: self.threads,
            cold: self.cold,
            verify: self.verify == Verify::On,
            gb_per_s: Spread::of(rate(|[ours, _]| *ours)),
            raw_gb_per_s: Spread::of(rate(|[_, raw]| *raw)),
            ratio: Spread::of(self.times.iter().map(|[ours, raw]| raw / ours).collect()),
        }
    }
}

/// What reads with one number of threads.
struct Lane {
    threads: usize,
    readers: Vec<(Verify, Reader, Batch)>,
    /// One a row of a batch, large enough for any sample: the memory that a batch has.
    buffers: Vec<Mutex<AlignedBytes>>,
}

impl Lane {
    fn new(threads: usize, batch: usize, ranges: &[Vec<FileRange>]) -> Result<Self> {
        let threads = threads.max(1);
        let sample =
            |ranges: &Vec<FileRange>| ranges.iter().map(|range| range.bytes.end - range.bytes.start).sum();
        let most = usize::try_from(ranges.iter().map(sample).max().unwrap_or(0u64)).unwrap_or(usize::MAX);
        let mut buffers = Vec::new();
        for _ in 0..batch.max(threads) {
            let mut buffer = AlignedBytes::default();
            buffer.resize(most).map_err(|_| Error::invalid(format!("no memory for {most} bytes")))?;
            buffers.push(Mutex::new(buffer));
        }
        Ok(Self { threads, readers: Vec::new(), buffers })
    }

    /// Seconds of one pass over all samples.
    fn time(
        &mut self,
        raw: bool,
        position: usize,
        batches: &[Vec<RowId>],
        levels: &[LevelId],
        ranges: &[Vec<FileRange>],
    ) -> Result<f64> {
        let start = Instant::now();
        match self.readers.get_mut(position) {
            Some((_, reader, batch)) if !raw => {
                for rows in batches {
                    reader.read(rows, levels, None, batch)?;
                }
            }
            _ => read_raw(ranges, &self.buffers, self.threads)?,
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Each thread takes the next sample and reads its ranges, one `preadv` each.
fn read_raw(ranges: &[Vec<FileRange>], buffers: &[Mutex<AlignedBytes>], threads: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let buffer = buffers.get(number % buffers.len().max(1));
            let (Some(sample), Some(buffer)) = (ranges.get(number), buffer) else { return Ok(()) };
            let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
            let mut memory = buffer.bytes_mut();
            for FileRange { shard, bytes } in sample {
                let length = usize::try_from(bytes.end - bytes.start).unwrap_or(usize::MAX);
                let (target, rest) = memory.split_at_mut(length.min(memory.len()));
                memory = rest;
                let mut done = 0;
                while let Some(left) = target.get_mut(done..).filter(|left| !left.is_empty()) {
                    let at = bytes.start + done as u64;
                    let read = rustix::io::preadv(&shard.file, &mut [IoSliceMut::new(left)], at);
                    match read.map_err(|e| Error::io(&shard.path)(e.into()))? {
                        0 => return Err(Error::corrupt(&shard.path, format!("ends at byte {at}"))),
                        read => done += read,
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let first = work();
        let joined = others
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(Error::invalid("a reading thread panicked"))));
        joined.fold(first, Result::and)
    })
}

/// Makes the files clean and drops them from the page cache.
fn drop_pages(ranges: &[Vec<FileRange>]) -> Result<()> {
    let mut files = BTreeMap::new();
    for FileRange { shard, .. } in ranges.iter().flatten() {
        files.entry(&shard.path).or_insert(shard);
    }
    for (path, shard) in files {
        shard.file.sync_data().map_err(Error::io(path))?;
        rustix::fs::fadvise(&shard.file, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(|e| Error::io(path)(e.into()))?;
    }
    Ok(())
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
        assert_eq!((bench.samples, bench.measurements.len()), (9, 8));
        assert!(bench.ranges >= 18 && bench.batches >= 5, "{bench:?}");
        for measurement in &bench.measurements {
            let ratio = measurement.ratio;
            assert!(ratio.min > 0.0 && ratio.min <= ratio.median && ratio.median <= ratio.max);
            assert!(measurement.raw_gb_per_s.median.is_finite() && measurement.gb_per_s.median > 0.0);
        }
        assert!(bench_read(&store, &BenchReadOptions { repeats: 0, ..options }).is_err());
    }
}
