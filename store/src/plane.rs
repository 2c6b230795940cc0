//! The read plane: whole batches become sorted file ranges, read by a few threads straight into the
//! batch's memory. Knows arrays and rows of a bucket; row ids, statuses and keys are the reader's.

use crate::array::StoreArrays;
use crate::band::{RequestedLevel, RowBand};
use crate::batch::Batch;
use crate::checksum::differs;
use crate::fetch::{Cause, Fault, Piece, PiecePlace, Scratch, fetch};
use crate::open_shard::{OpenShard, ShardCache};
use crate::read_pool::ReadPool;
use crate::{DType, Error, Result, RowId};
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are worth another thread's attention.
const MIN_TASK_BYTES: usize = 1 << 20;
/// Tasks a thread, so that one that is slow (a cold page, a busy core) does not hold up the others.
const TASKS_PER_THREAD: usize = 8;

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
    /// Drop what was read from the page cache.
    pub(crate) drop_pages: bool,
    /// Element type of the batch; the encoding's own if `None`.
    pub(crate) dtype: Option<DType>,
}

/// The state that reading needs: open shards, threads, scratch memory.
#[derive(Debug)]
pub(crate) struct ReadPlane {
    shards: ShardCache,
    pool: ReadPool,
    scratch: Vec<Scratch>,
    order: Vec<Entry>,
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

impl ReadPlane {
    pub(crate) fn new(shards: ShardCache, threads: usize) -> Self {
        let pool = ReadPool::new(threads);
        Self { shards, pool, scratch: Vec::new(), order: Vec::new() }
    }

    /// Reads into `batch`, which shows nothing if this fails. `name` names a position of the request's rows.
    pub(crate) fn read(
        &mut self,
        arrays: &StoreArrays,
        request: &Request<'_>,
        options: PlaneOptions,
        batch: &mut Batch,
        name: &dyn Fn(usize) -> String,
    ) -> Result<()> {
        batch.begin(request.ids);
        let levels = resolve_levels(arrays, request, options.dtype)?;
        self.sort(&levels, request)?;
        // Chunks before memory: what a hostile spec claims is only believed once a file holds a row of that
        // size.
        for (position, level) in levels.iter().enumerate() {
            if let Some(first) = self.order.iter().find(|entry| entry.level == position) {
                let shard = self.shards.get((request.bucket, level.number), level.array, first.shard)?;
                if shard.index.chunk(first.row, 0).is_none() {
                    return Err(no_features(&shard, &name(first.slot), level));
                }
            }
            batch.shape_level(position, level.shape(request.rows.len()), level.read.dtype)?;
        }
        let mut slots: Vec<Option<&mut [u8]>> = batch.slots(levels.len()).map(Some).collect();
        let order = std::mem::take(&mut self.order);
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let (pieces, done) = self.pieces(rest, &levels, request, &mut slots, name)?;
            self.run(pieces, options).map_err(|fault| error_of(fault, &levels, name))?;
            rest = rest.get(done..).unwrap_or_default();
        }
        drop(slots);
        self.order = order;
        batch.complete(levels.len());
        Ok(())
    }

    /// The file ranges that a request touches, merged where contiguous: what `bench read` compares with.
    pub(crate) fn ranges(&mut self, arrays: &StoreArrays, request: &Request<'_>) -> Result<Vec<FileRange>> {
        let levels = resolve_levels(arrays, request, None)?;
        self.sort(&levels, request)?;
        let mut ranges: Vec<FileRange> = Vec::new();
        for entry in &self.order {
            let Some(level) = levels.get(entry.level) else { continue };
            let shard = self.shards.get((request.bucket, level.number), level.array, entry.shard)?;
            for band in level.bands() {
                let Some(offset) = shard.index.chunk(entry.row, band) else { continue };
                let end = offset + level.array.geometry.chunk_bytes();
                match ranges.last_mut() {
                    Some(last)
                        if Arc::ptr_eq(&last.shard, &shard)
                            && level.array.geometry.next_offset(last.bytes.end) == offset =>
                    {
                        last.bytes.end = end;
                    }
                    _ => ranges.push(FileRange { shard: Arc::clone(&shard), bytes: offset..end }),
                }
            }
        }
        Ok(ranges)
    }

    fn sort(&mut self, levels: &[RequestedLevel<'_>], request: &Request<'_>) -> Result<()> {
        self.order.clear();
        for (position, level) in levels.iter().enumerate() {
            for (slot, row) in request.rows.iter().enumerate() {
                if *row >= level.array.rows {
                    return Err(Error::invalid(format!(
                        "row {row} of {}: expected less than {}",
                        level.array.path, level.array.rows
                    )));
                }
                let (shard, row) = (row / level.array.unit_rows, row % level.array.unit_rows);
                self.order.push(Entry { level: position, shard, row, slot });
            }
        }
        self.order.sort_unstable();
        Ok(())
    }

    /// The chunks of the first entries, as many as files may be open; and how many entries those are.
    fn pieces<'a>(
        &mut self,
        entries: &[Entry],
        levels: &'a [RequestedLevel<'_>],
        request: &Request<'_>,
        slots: &mut [Option<&'a mut [u8]>],
        name: &dyn Fn(usize) -> String,
    ) -> Result<(Vec<Piece<'a>>, usize)> {
        let mut pieces = Vec::with_capacity(entries.len());
        let mut open: Option<((usize, u64), Arc<OpenShard>)> = None;
        let mut files = 0;
        for (done, entry) in entries.iter().enumerate() {
            let Some(level) = levels.get(entry.level) else { continue };
            let key = (entry.level, entry.shard);
            let shard = match &open {
                Some((at, shard)) if *at == key => Arc::clone(shard),
                _ => {
                    files += 1;
                    if files > self.shards.max_files() {
                        return Ok((pieces, done));
                    }
                    let shard = self.shards.get((request.bucket, level.number), level.array, entry.shard)?;
                    open = Some((key, Arc::clone(&shard)));
                    shard
                }
            };
            let slot = slots.get_mut(entry.level * request.rows.len() + entry.slot);
            let Some(mut target) = slot.and_then(Option::take) else { continue };
            for band in level.bands() {
                let offset = shard.index.chunk(entry.row, band);
                let offset = offset.ok_or_else(|| no_features(&shard, &name(entry.slot), level))?;
                let (window, bytes) = level.window(band);
                let (now, later) = target.split_at_mut(bytes.min(target.len()));
                target = later;
                let place = PiecePlace { slot: entry.slot, level: entry.level, band };
                pieces.push(Piece {
                    shard: Arc::clone(&shard),
                    offset,
                    level: &level.read,
                    window,
                    target: now,
                    place,
                });
            }
        }
        Ok((pieces, entries.len()))
    }

    /// Reads all pieces, which are in file order.
    fn run(&mut self, mut pieces: Vec<Piece<'_>>, options: PlaneOptions) -> Result<(), RunFault> {
        let bytes: usize = pieces.iter().map(Piece::file_bytes).sum();
        let threads = self.pool.threads().min(bytes.div_ceil(MIN_TASK_BYTES)).max(1);
        self.scratch.resize_with(self.scratch.len().max(threads), Scratch::new);
        let fault: Mutex<Option<Fault>> = Mutex::new(None);
        if let (1, Some(scratch)) = (threads, self.scratch.first_mut()) {
            fetch(&mut pieces, options.verify, scratch)?;
        } else {
            let tasks = tasks(&mut pieces, (bytes / (threads * TASKS_PER_THREAD)).max(MIN_TASK_BYTES));
            let tasks = Mutex::new(tasks.into_iter());
            let workers: Vec<_> = self.scratch.iter_mut().take(threads).collect();
            // A closure, so that the lock is let go before the task is worked on.
            let next = || lock(&tasks).next();
            self.pool.run(workers, |scratch| {
                while let Some(task) = next() {
                    if let Err(found) = fetch(task, options.verify, scratch) {
                        // A worker that fails takes the remaining tasks away from all.
                        lock(&tasks).by_ref().for_each(drop);
                        lock(&fault).get_or_insert(found);
                    }
                }
            })?;
        }
        if let Some(fault) = fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(fault.into());
        }
        if options.drop_pages {
            for piece in &pieces {
                let length = NonZeroU64::new(piece.file_bytes() as u64);
                // Advice: a file system that does not take it is no reason to fail.
                let _advice = rustix::fs::fadvise(
                    &piece.shard.file,
                    piece.offset,
                    length,
                    rustix::fs::Advice::DontNeed,
                );
            }
        }
        Ok(())
    }
}

fn resolve_levels<'a>(
    arrays: &'a StoreArrays,
    request: &Request<'_>,
    dtype: Option<DType>,
) -> Result<Vec<RequestedLevel<'a>>> {
    RequestedLevel::resolve(arrays, request.bucket, request.levels, request.band, dtype)
}

fn no_features(shard: &OpenShard, name: &str, level: &RequestedLevel<'_>) -> Error {
    Error::corrupt(&shard.path, format!("{name}, level {}: no features", level.name()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum RunFault {
    Piece(Fault),
    Other(Error),
}

impl From<Fault> for RunFault {
    fn from(fault: Fault) -> Self {
        Self::Piece(fault)
    }
}

impl From<Error> for RunFault {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Cuts the pieces into tasks of about `bytes`, at best where a read would end anyway.
fn tasks<'p, 'a>(mut pieces: &'p mut [Piece<'a>], bytes: usize) -> Vec<&'p mut [Piece<'a>]> {
    let mut tasks = Vec::new();
    while !pieces.is_empty() {
        let mut sum = 0;
        let fits = |piece: &Piece<'_>| {
            sum += piece.file_bytes();
            sum <= bytes
        };
        let count = pieces.iter().map(fits).take_while(|fits| *fits).count().max(1);
        let (task, rest) = pieces.split_at_mut(count);
        tasks.push(task);
        pieces = rest;
    }
    tasks
}

fn error_of(fault: RunFault, levels: &[RequestedLevel<'_>], name: &dyn Fn(usize) -> String) -> Error {
    let fault = match fault {
        RunFault::Piece(fault) => fault,
        RunFault::Other(error) => return error,
    };
    let path = fault.shard.path.clone();
    let place = format!(
        "{}, level {}, band {}",
        name(fault.place.slot),
        levels.get(fault.place.level).map_or("?", |level| level.name()),
        fault.place.band
    );
    match fault.cause {
        Cause::Io(source) => Error::Io { path, source },
        Cause::Ends(at) => Error::corrupt(path, format!("{place}: the file ends at byte {at}")),
        Cause::Checksum { expected, found } => {
            Error::corrupt(path, format!("{place}: {}", differs(expected, found)))
        }
    }
}

#[cfg(test)]
mod tests;
