//! The read plane: whole batches become sorted file ranges, read by a few threads straight into the
//! batch's memory. Knows arrays and rows of a bucket; row ids, statuses and keys are the reader's.

use crate::array::StoreArrays;
use crate::band::{Part, RequestedLevel, RowBand};
use crate::batch::Batch;
use crate::checksum::differs;
use crate::fetch::{Cause, Fault, Piece, PiecePlace, Scratch, fetch};
use crate::open_shard::{ArrayPlace, OpenShard, ShardCache};
use crate::quantised::Affine;
use crate::read_pool::ReadPool;
use crate::{DType, Error, Projected, Result, RowId};
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
    /// As what levels of coefficients are handed out.
    pub(crate) projected: Projected,
}

/// The state that reading needs: open shards, threads, scratch memory.
#[derive(Debug)]
pub(crate) struct ReadPlane {
    shards: ShardCache,
    pool: ReadPool,
    scratch: Vec<Scratch>,
    order: Vec<Entry>,
    affine: AffineMemory,
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

impl ReadPlane {
    pub(crate) fn new(shards: ShardCache, threads: usize) -> Self {
        let pool = ReadPool::new(threads);
        Self { shards, pool, scratch: Vec::new(), order: Vec::new(), affine: AffineMemory::default() }
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
        let levels = resolve_levels(arrays, request, options.dtype, options.projected)?;
        self.sort(&levels, request)?;
        // Chunks before memory: what a hostile spec claims is only believed once a file holds a row of that
        // size.
        for (position, level) in levels.iter().enumerate() {
            if let Some(first) = self.order.iter().find(|entry| entry.level == position).copied() {
                for part in [Part::Payload, Part::Affine] {
                    let Some(shard) = self.shard(request, level, part, first.shard)? else { continue };
                    if shard.index.chunk(first.row, 0).is_none() {
                        return Err(no_features(&shard, &name(first.slot), level));
                    }
                }
            }
            batch.shape_level(position, level.shape(request.rows.len()), level.read.dtype)?;
        }
        let order = std::mem::take(&mut self.order);
        let mut affine = std::mem::take(&mut self.affine);
        let done = self.read_affine(&order, &levels, request, options, &mut affine, name).and_then(|()| {
            let slots = batch.slots(levels.len()).map(Some).collect();
            self.read_part(Part::Payload, &order, &levels, request, options, &affine.values, slots, name)
        });
        (self.order, self.affine) = (order, affine);
        done?;
        batch.complete(levels.len());
        Ok(())
    }

    /// Reads scales and offsets of all rows of all levels that have them.
    fn read_affine(
        &mut self,
        order: &[Entry],
        levels: &[RequestedLevel<'_>],
        request: &Request<'_>,
        options: PlaneOptions,
        affine: &mut AffineMemory,
        name: &dyn Fn(usize) -> String,
    ) -> Result<()> {
        let rows = request.rows.len();
        let total: usize = levels.iter().map(|level| level.affine_values() * rows).sum();
        if total == 0 {
            return Ok(());
        }
        affine.bytes.resize(total * size_of::<f32>(), 0);
        affine.values.resize(total, 0.0);
        let mut slots: Vec<Option<&mut [u8]>> = Vec::with_capacity(levels.len() * rows);
        let mut rest = affine.bytes.as_mut_slice();
        for level in levels {
            for _ in 0..rows {
                let (row, behind) = rest.split_at_mut(level.affine_values() * size_of::<f32>());
                rest = behind;
                slots.push((!row.is_empty()).then_some(row));
            }
        }
        self.read_part(Part::Affine, order, levels, request, options, &[], slots, name)?;

        let mut at = 0;
        for level in levels {
            for (slot, row) in request.rows.iter().enumerate() {
                let end = at + level.affine_values();
                let bytes = affine.bytes.get(at * size_of::<f32>()..end * size_of::<f32>());
                let values = affine.values.get_mut(at..end);
                if let Err(what) = Affine::read(bytes.unwrap_or_default(), values.unwrap_or_default()) {
                    let shard = row / level.arrays.payload.unit_rows;
                    let path = match self.shard(request, level, Part::Affine, shard)? {
                        Some(shard) => shard.path.clone(),
                        None => Default::default(),
                    };
                    return Err(Error::corrupt(
                        path,
                        format!("{}, level {}: {what}", name(slot), level.name()),
                    ));
                }
                at = end;
            }
        }
        Ok(())
    }

    /// Reads one array of each level into `slots`, the memory of every row of every level.
    #[expect(clippy::too_many_arguments, reason = "what one batch is; a struct would be built for this call")]
    fn read_part<'a>(
        &mut self,
        part: Part,
        order: &[Entry],
        levels: &'a [RequestedLevel<'_>],
        request: &Request<'_>,
        options: PlaneOptions,
        affine: &'a [f32],
        mut slots: Vec<Option<&'a mut [u8]>>,
        name: &dyn Fn(usize) -> String,
    ) -> Result<()> {
        let mut rest = order;
        while !rest.is_empty() {
            let (pieces, done) = self.pieces(part, rest, levels, request, affine, &mut slots, name)?;
            self.run(pieces, options).map_err(|fault| error_of(fault, levels, name))?;
            rest = rest.get(done..).unwrap_or_default();
        }
        Ok(())
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
        let levels = resolve_levels(arrays, request, None, Projected::Channels)?;
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

    /// The chunks of the first entries, as many as files may be open; and how many entries those are.
    #[expect(clippy::too_many_arguments, reason = "what one batch is; a struct would be built for this call")]
    fn pieces<'a>(
        &mut self,
        part: Part,
        entries: &[Entry],
        levels: &'a [RequestedLevel<'_>],
        request: &Request<'_>,
        affine: &'a [f32],
        slots: &mut [Option<&'a mut [u8]>],
        name: &dyn Fn(usize) -> String,
    ) -> Result<(Vec<Piece<'a>>, usize)> {
        let mut pieces = Vec::with_capacity(entries.len());
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
                        return Ok((pieces, done));
                    }
                    let Some(shard) = self.shard(request, level, part, entry.shard)? else { continue };
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
                let chunk = chunk.ok_or_else(|| no_features(&shard, &name(entry.slot), level))?;
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
    projected: Projected,
) -> Result<Vec<RequestedLevel<'a>>> {
    RequestedLevel::resolve(arrays, request.bucket, request.levels, request.band, dtype, projected)
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
        Cause::Frame(what) => Error::corrupt(path, format!("{place}: {what}")),
    }
}

#[cfg(test)]
mod tests;
