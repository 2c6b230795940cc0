//! The read plane: whole batches become sorted file ranges, read by a few threads straight into the
//! batch's memory. Knows arrays and rows of a bucket; row ids, statuses and keys are the reader's.
//!
//! Everything that a batch needs beside its own memory is kept for the next one: a batch of a size that was
//! there before allocates nothing.

use crate::array::StoreArrays;
use crate::band::{Part, RequestedLevel, RowBand};
use crate::batch::Batch;
use crate::fetch::{Piece, PiecePlace, Scratch, fetch};
use crate::mapped_file::Through;
use crate::open_shard::{ArrayPlace, OpenShard, ShardCache};
use crate::quantised::Affine;
use crate::read_pool::ReadPool;
use crate::streaming::STREAMED_BYTES;
use crate::{DType, Error, Projected, Result, RowId};
use failure::{Failure, no_features};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) mod failure;

/// Bytes that are worth another thread's attention.
const MIN_TASK_BYTES: usize = 512 << 10;
/// A thread takes so many'th part of its share of what is left at a time: large pieces of work at first, and at
/// the end small ones, so that all come to it together.
const SHARE_PARTS: usize = 2;

/// What to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// Number of the bucket.
    pub(crate) bucket: usize,
    /// Levels, by number.
    pub(crate) levels: &'a [usize],
    /// Ids of the rows.
    pub(crate) ids: &'a [RowId],
    /// Their rows in the bucket's arrays.
    pub(crate) rows: &'a [u64],
    /// Which rows of cells; all of them if `None`.
    pub(crate) band: Option<RowBand>,
}

/// Contiguous bytes of a shard.
#[derive(Debug)]
pub(crate) struct FileRange {
    pub(crate) shard: Arc<OpenShard>,
    pub(crate) bytes: Range<u64>,
}

/// How to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlaneOptions {
    pub(crate) verify: bool,
    /// Element type of the batch; the encoding's own if `None`.
    pub(crate) dtype: Option<DType>,
    /// As what levels that are held as coefficients are handed out.
    pub(crate) projected: Projected,
    /// What a batch may take at most.
    pub(crate) batch_bytes: u64,
}

/// The state that reading needs: open shards, threads, scratch memory.
#[derive(Debug)]
pub(crate) struct ReadPlane {
    shards: ShardCache,
    pool: ReadPool,
    /// One a thread, locked by it alone.
    scratch: Vec<Mutex<Scratch>>,
    order: Vec<Entry>,
    affine: AffineMemory,
    // Empty between batches, kept for their memory: see `recycled`.
    levels: Vec<RequestedLevel<'static>>,
    pieces: Vec<Piece<'static>>,
    slots: Vec<Option<&'static mut [u8]>>,
}

/// Scales and offsets of a batch: level by level of those that are quantised, row by row.
#[derive(Debug, Default)]
struct AffineMemory {
    bytes: Vec<u8>,
    values: Vec<f32>,
}

/// One row of one level, in file order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// Position of the level in the request.
    level: usize,
    shard: u64,
    /// Row of the shard.
    row: u64,
    /// Position of the row in the request.
    slot: usize,
}

/// One batch being read.
struct Reading<'a, 'b> {
    levels: &'b [RequestedLevel<'a>],
    request: &'b Request<'b>,
    options: PlaneOptions,
    /// Names a position of the request's rows.
    name: &'b dyn Fn(usize) -> String,
}

impl ReadPlane {
    pub(crate) fn new(shards: ShardCache, threads: usize) -> Self {
        Self {
            shards,
            pool: ReadPool::new(threads),
            scratch: Vec::new(),
            order: Vec::new(),
            affine: AffineMemory::default(),
            levels: Vec::new(),
            pieces: Vec::new(),
            slots: Vec::new(),
        }
    }

    /// Reads so far that were right only when done again, from the disk itself.
    pub(crate) fn mended(&self) -> u64 {
        self.scratch.iter().map(|scratch| lock(scratch).mended).sum()
    }

    /// Reads into `batch`, which shows nothing if this fails. `name` names a position of the request's rows.
    pub(crate) fn read(
        &mut self,
        arrays: &StoreArrays,
        request: &Request<'_>,
        options: PlaneOptions,
        batch: &mut Batch,
        name: &dyn Fn(usize) -> String,
    ) -> Result<(), Failure> {
        batch.begin(request.ids);
        let mut levels = recycled(std::mem::take(&mut self.levels));
        let done = RequestedLevel::resolve(arrays, request, options.dtype, options.projected, &mut levels)
            .map_err(Failure::from)
            .and_then(|()| {
                let reading = Reading { levels: &levels, request, options, name };
                self.read_levels(&reading, batch)
            });
        let count = levels.len();
        self.levels = recycled(levels);
        done?;
        batch.complete(count);
        Ok(())
    }

    fn read_levels(&mut self, reading: &Reading<'_, '_>, batch: &mut Batch) -> Result<(), Failure> {
        let Reading { levels, request, options, name } = *reading;
        self.sort(levels, request)?;
        // Chunks before memory: what a hostile spec claims is only believed once a file holds a row of that
        // size.
        let mut left = options.batch_bytes;
        for (position, level) in levels.iter().enumerate() {
            if let Some(first) = self.order.iter().find(|entry| entry.level == position).copied() {
                for part in [Part::Payload, Part::Affine] {
                    let shard = self.shard(request, level, part, first.shard);
                    let Some(shard) = shard.map_err(Failure::of(first.slot))? else { continue };
                    if shard.index.chunk(first.row, 0).is_none() {
                        return Err(no_features(&shard, first.slot, name, level));
                    }
                }
            }
            let shape = level.shape(request.rows.len());
            let bytes = shape.into_iter().try_fold(level.read.dtype.bytes(), usize::checked_mul);
            left = bytes.and_then(|bytes| left.checked_sub(bytes as u64)).ok_or_else(|| {
                let [n, h, w, c] = shape;
                Error::invalid(format!(
                    "level {}: a batch of {n}x{h}x{w}x{c} passes the budget of {} bytes",
                    level.name(),
                    options.batch_bytes
                ))
            })?;
            batch.shape_level(position, shape, level.read.dtype)?;
        }
        let mut affine = std::mem::take(&mut self.affine);
        let done = self.read_affine(reading, &mut affine).and_then(|()| {
            let mut slots = recycled(std::mem::take(&mut self.slots));
            slots.extend(batch.slots(levels.len()).map(Some));
            self.read_part(Part::Payload, reading, &affine.values, slots)
        });
        self.affine = affine;
        done
    }

    /// Reads scales and offsets of all rows of all levels that have them.
    fn read_affine(&mut self, reading: &Reading<'_, '_>, affine: &mut AffineMemory) -> Result<(), Failure> {
        let Reading { levels, request, name, .. } = *reading;
        let rows = request.rows.len();
        let total: usize = levels.iter().map(|level| level.affine_values() * rows).sum();
        if total == 0 {
            return Ok(());
        }
        affine.bytes.resize(total * size_of::<f32>(), 0);
        affine.values.resize(total, 0.0);
        let mut slots = recycled(std::mem::take(&mut self.slots));
        let mut rest = affine.bytes.as_mut_slice();
        for level in levels {
            for _ in 0..rows {
                let (row, behind) = rest.split_at_mut(level.affine_values() * size_of::<f32>());
                rest = behind;
                slots.push((!row.is_empty()).then_some(row));
            }
        }
        self.read_part(Part::Affine, reading, &[], slots)?;

        let mut at = 0;
        for level in levels {
            for (slot, row) in request.rows.iter().enumerate() {
                let end = at + level.affine_values();
                let bytes = affine.bytes.get(at * size_of::<f32>()..end * size_of::<f32>());
                let values = affine.values.get_mut(at..end);
                if let Err(what) = Affine::read(bytes.unwrap_or_default(), values.unwrap_or_default()) {
                    let shard = row / level.arrays.payload.unit_rows;
                    let shard = self.shard(request, level, Part::Affine, shard)?;
                    let path = shard.map(|shard| shard.path.clone()).unwrap_or_default();
                    let what = format!("{}, level {}: {what}", name(slot), level.name());
                    return Err(Failure::of(slot)(Error::corrupt(path, what)));
                }
                at = end;
            }
        }
        Ok(())
    }

    /// Reads one array of each level into `slots`, the memory of every row of every level.
    fn read_part<'a>(
        &mut self,
        part: Part,
        reading: &'a Reading<'_, '_>,
        affine: &'a [f32],
        mut slots: Vec<Option<&'a mut [u8]>>,
    ) -> Result<(), Failure> {
        let order = std::mem::take(&mut self.order);
        let mut pieces = recycled(std::mem::take(&mut self.pieces));
        let (mut rest, mut outcome) = (order.as_slice(), Ok(()));
        while let (false, Ok(())) = (rest.is_empty(), &outcome) {
            pieces.clear();
            outcome = self.pieces(part, rest, reading, affine, &mut slots, &mut pieces).and_then(|done| {
                rest = rest.get(done..).unwrap_or_default();
                self.run(&mut pieces, reading)
            });
        }
        (self.order, self.pieces, self.slots) = (order, recycled(pieces), recycled(slots));
        outcome
    }

    /// A shard of one of a level's arrays; `None` if the level has no such array.
    fn shard(
        &mut self,
        request: &Request<'_>,
        level: &RequestedLevel<'_>,
        part: Part,
        shard: u64,
    ) -> Result<Option<Arc<OpenShard>>> {
        let Some((array, _)) = level.array(part) else { return Ok(None) };
        let (bucket, affine) = (request.bucket, part == Part::Affine);
        self.shards.get(ArrayPlace { bucket, level: level.number, affine }, array, shard).map(Some)
    }

    /// The file ranges that a request touches, merged where contiguous: what `bench read` compares with.
    pub(crate) fn ranges(&mut self, arrays: &StoreArrays, request: &Request<'_>) -> Result<Vec<FileRange>> {
        let mut levels = Vec::new();
        RequestedLevel::resolve(arrays, request, None, Projected::Channels, &mut levels)?;
        self.sort(&levels, request)?;
        let mut ranges: Vec<FileRange> = Vec::new();
        let order = std::mem::take(&mut self.order);
        for part in [Part::Affine, Part::Payload] {
            for entry in &order {
                let Some(level) = levels.get(entry.level) else { continue };
                let Some(shard) = self.shard(request, level, part, entry.shard)? else { continue };
                let Some((array, _)) = level.array(part) else { continue };
                for band in level.bands_of(part) {
                    let Some(chunk) = shard.index.chunk(entry.row, band) else { continue };
                    match ranges.last_mut() {
                        Some(last)
                            if Arc::ptr_eq(&last.shard, &shard)
                                && array.geometry.next_offset(last.bytes.end) == chunk.start =>
                        {
                            last.bytes.end = chunk.end;
                        }
                        _ => ranges.push(FileRange { shard: Arc::clone(&shard), bytes: chunk }),
                    }
                }
            }
        }
        self.order = order;
        Ok(ranges)
    }

    fn sort(&mut self, levels: &[RequestedLevel<'_>], request: &Request<'_>) -> Result<()> {
        self.order.clear();
        for (position, level) in levels.iter().enumerate() {
            for (slot, row) in request.rows.iter().enumerate() {
                let array = &level.arrays.payload;
                if *row >= array.rows {
                    return Err(Error::invalid(format!(
                        "row {row} of {}: expected less than {}",
                        array.path, array.rows
                    )));
                }
                let (shard, row) = (row / array.unit_rows, row % array.unit_rows);
                self.order.push(Entry { level: position, shard, row, slot });
            }
        }
        self.order.sort_unstable();
        Ok(())
    }

    /// Adds the chunks of the first entries to `pieces`, as many as files may be open; and says how many
    /// entries those are.
    fn pieces<'a>(
        &mut self,
        part: Part,
        entries: &[Entry],
        reading: &'a Reading<'_, '_>,
        affine: &'a [f32],
        slots: &mut [Option<&'a mut [u8]>],
        pieces: &mut Vec<Piece<'a>>,
    ) -> Result<usize, Failure> {
        let Reading { levels, request, name, .. } = *reading;
        let mut open: Option<((usize, u64), Arc<OpenShard>)> = None;
        let mut files = 0;
        for (done, entry) in entries.iter().enumerate() {
            let Some(level) = levels.get(entry.level) else { continue };
            let Some((_, read)) = level.array(part) else { continue };
            let key = (entry.level, entry.shard);
            let shard = match &open {
                Some((at, shard)) if *at == key => Arc::clone(shard),
                _ => {
                    files += 1;
                    if files > self.shards.max_files() {
                        return Ok(done);
                    }
                    let shard = self.shard(request, level, part, entry.shard);
                    let Some(shard) = shard.map_err(Failure::of(entry.slot))? else { continue };
                    open = Some((key, Arc::clone(&shard)));
                    shard
                }
            };
            let before: usize = levels.iter().take(entry.level).map(RequestedLevel::affine_values).sum();
            let at = before * request.rows.len() + entry.slot * level.affine_values();
            let affine = affine.get(at..at + level.affine_values()).unwrap_or_default();
            let slot = slots.get_mut(entry.level * request.rows.len() + entry.slot);
            let Some(mut target) = slot.and_then(Option::take) else { continue };
            for band in level.bands_of(part) {
                let chunk = shard.index.chunk(entry.row, band);
                let chunk = chunk.ok_or_else(|| no_features(&shard, entry.slot, name, level))?;
                let (window, bytes) = level.window_of(part, band);
                let (now, later) = target.split_at_mut(bytes.min(target.len()));
                target = later;
                let place = PiecePlace { slot: entry.slot, level: entry.level, band };
                pieces.push(Piece {
                    shard: Arc::clone(&shard),
                    offset: chunk.start,
                    bytes: usize::try_from(chunk.end - chunk.start).unwrap_or(usize::MAX),
                    level: read,
                    affine,
                    window,
                    target: now,
                    place,
                });
            }
        }
        Ok(entries.len())
    }

    /// Reads all pieces, which are in file order.
    fn run(&mut self, pieces: &mut [Piece<'_>], reading: &Reading<'_, '_>) -> Result<(), Failure> {
        let bytes: usize = pieces.iter().map(Piece::file_bytes).sum();
        let threads = self.pool.threads().min(bytes.div_ceil(MIN_TASK_BYTES)).max(1);
        self.scratch.resize_with(self.scratch.len().max(threads), Mutex::default);
        pieces.iter().for_each(Piece::announce);
        let verify = reading.options.verify;
        let is_looked_at = verify || bytes < STREAMED_BYTES;
        let through = if is_looked_at { Through::Caches } else { Through::Memory };
        let rest = Mutex::new(Rest { pieces, bytes });
        let (fault, scratch) = (Mutex::new(None), &self.scratch);
        self.pool.run(threads, &|number| {
            let Some(scratch) = scratch.get(number) else { return };
            let scratch = &mut *lock(scratch);
            loop {
                let task = lock(&rest).next_task(threads);
                if task.is_empty() {
                    return;
                }
                if let Err(found) = fetch(task, verify, through, scratch) {
                    // A thread that fails takes the remaining tasks away from all.
                    *lock(&rest) = Rest { pieces: &mut [], bytes: 0 };
                    lock(&fault).get_or_insert(found);
                }
            }
        })?;
        match fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(fault) => Err(Failure::of_piece(fault, reading.levels, reading.name)),
            None => Ok(()),
        }
    }
}

/// Pieces that no thread has taken yet.
struct Rest<'p, 'a> {
    pieces: &'p mut [Piece<'a>],
    bytes: usize,
}

impl<'p, 'a> Rest<'p, 'a> {
    /// Splits the first pieces off for one of so many threads; none if there are no more.
    fn next_task(&mut self, threads: usize) -> &'p mut [Piece<'a>] {
        let most = (self.bytes / (threads * SHARE_PARTS)).max(MIN_TASK_BYTES);
        let mut sum = 0;
        let fits = |piece: &Piece<'_>| {
            sum += piece.file_bytes();
            sum <= most
        };
        let pieces = std::mem::take(&mut self.pieces);
        let count = pieces.iter().map(fits).take_while(|fits| *fits).count().max(1).min(pieces.len());
        let (task, later) = pieces.split_at_mut(count);
        self.pieces = later;
        self.bytes -= task.iter().map(Piece::file_bytes).sum::<usize>();
        task
    }
}

/// The memory of a vector for elements of another lifetime: collecting nothing in place keeps it.
fn recycled<T, U>(mut vector: Vec<T>) -> Vec<U> {
    vector.clear();
    vector.into_iter().filter_map(|_| None).collect()
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
