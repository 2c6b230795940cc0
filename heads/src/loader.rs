//! Reads batches ahead of training: threads follow an order and fill memory with bytes, within a
//! budget; the training thread makes tensors of them. What comes out depends on the order and the
//! position alone, never on the number of threads or their timing. Batches are read into memory that torch
//! owns, so that their maps need no copy.

use crate::order::{BatchRows, Epoch, Order, Position};
use crate::read_levels::read_levels;
use crate::tensor::{channels_last, feature_map, torch_kind};
use crate::tensor_memory::TensorMemory;
use crate::{Error, Result};
use crossbeam_channel::{Receiver, Sender, unbounded};
use featcache_store::{Batch, LevelBatch, LevelId, LevelSpec, ReadOptions, Reader, RowId, Size, Store};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Threads that read ahead, by default.
pub const DEFAULT_PREFETCH_THREADS: usize = 1;

/// Bytes of features read ahead, by default.
pub const DEFAULT_PREFETCH_BYTES: u64 = 1 << 30;

/// Epochs in a row without a batch after which there is none to come.
pub const MAX_EMPTY_EPOCHS: u64 = 64;

/// How batches are read ahead.
#[derive(Debug, Clone)]
pub struct LoaderOptions {
    /// Reading threads; at least one is started.
    pub threads: usize,
    /// Bytes of features in memory at a time, the batch in use and idle memory included. A batch that
    /// is larger is read alone.
    pub bytes: u64,
    /// How the store is read.
    pub read: ReadOptions,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            threads: DEFAULT_PREFETCH_THREADS,
            bytes: DEFAULT_PREFETCH_BYTES,
            read: ReadOptions::default(),
        }
    }
}

/// Which batches a loader delivers.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// The first batch.
    pub start: Position,
    /// How many from there on, over as many epochs as it takes.
    pub batches: u64,
}

/// What a loader reads for the labels of a row; runs on its threads. The target holds no tensor.
pub type ReadTarget<'a, T> = dyn Fn(RowId) -> Result<T> + Sync + 'a;

/// A batch as bytes, handed from a reading thread to the training thread.
#[derive(Debug)]
pub struct LoadedBatch<T> {
    /// The rows and their padded size. Rows that are corrupt on disk are not among them if the read options
    /// say so; there may be none left.
    pub rows: BatchRows,
    /// Where training stands once this batch is done.
    pub next: Position,
    /// The last batch of its epoch.
    pub ends_epoch: bool,
    /// A target a row.
    pub targets: Vec<T>,
    /// Rows left out of it because they are corrupt on disk.
    skipped: u64,
    batch: Batch,
    bytes: u64,
}

/// Delivers the batches of a span in order.
#[derive(Debug)]
pub struct Loader<'a, T> {
    shared: &'a Shared<'a, T>,
    arrivals: Receiver<(u64, Result<LoadedBatch<T>>)>,
    early: BTreeMap<u64, Result<LoadedBatch<T>>>,
    delivered: u64,
    waited: Duration,
    bytes: u64,
    skipped: u64,
}

/// What reading threads and the loader share; it outlives both.
pub struct Shared<'a, T> {
    store: &'a Store,
    order: &'a Order,
    span: Span,
    levels: Vec<LevelId>,
    /// Bytes of a row are its area times this, summed over levels by stride.
    row_cost: Vec<(u32, u64)>,
    read_target: &'a ReadTarget<'a, T>,
    options: LoaderOptions,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Number of the next batch of the span to be read.
    sequence: u64,
    position: Position,
    epoch: Epoch,
    /// Bytes of the batches that are being read, wait or are in use.
    bytes_held: u64,
    stopped: bool,
    /// Number of the batch that somebody waits for in [`Loader::next_batch`]; none at first.
    awaited: Option<u64>,
    /// Memory of batches that are done, for those to come.
    spare: Vec<Batch>,
}

impl State {
    /// All memory of features, idle memory included.
    fn memory_bytes(&self) -> u64 {
        self.bytes_held + self.spare.iter().map(capacity).sum::<u64>()
    }

    /// Memory for a batch of `bytes` and what it counts as; `None` while the budget does not admit it.
    fn admit(&mut self, bytes: u64, budget: u64) -> Option<(Batch, u64)> {
        // Who waits while holding batches that fill the budget would wait for ever.
        let is_awaited = self.awaited == Some(self.sequence);
        if self.bytes_held > 0 && self.bytes_held + bytes > budget && !is_awaited {
            return None;
        }
        // It fits beside the batches held. Idle memory that does not fit beside it, or has grown too
        // large for it, goes back to the system.
        loop {
            let batch = self.spare.pop().unwrap_or_else(|| Batch::with_memory(TensorMemory::allocate));
            let cost = bytes.max(capacity(&batch));
            if self.memory_bytes() + cost <= budget || capacity(&batch) == 0 {
                self.bytes_held += cost;
                return Some((batch, cost));
            }
        }
    }
}

fn capacity(batch: &Batch) -> u64 {
    batch.capacity_bytes() as u64
}

impl<T> std::fmt::Debug for Shared<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("span", &self.span).field("options", &self.options).finish()
    }
}

impl<T> Shared<'_, T> {
    /// Somebody waits for this batch.
    fn await_batch(&self, sequence: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).awaited = Some(sequence);
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.changed.notify_all();
    }
}

impl<'a, T: Send> Shared<'a, T> {
    /// The plan of a loader: nothing is read yet.
    pub fn new(
        store: &'a Store,
        order: &'a Order,
        span: Span,
        levels: &[LevelSpec],
        read_target: &'a ReadTarget<'a, T>,
        options: LoaderOptions,
    ) -> Result<Self> {
        let ids = levels.iter().map(|level| Ok(store.level(&level.name)?)).collect::<Result<_>>()?;
        let as_read = read_levels(store, options.read.projected);
        for level in levels {
            let found = as_read.iter().find(|found| found.name == level.name).map(|found| found.channels);
            if found != Some(level.channels) {
                return Err(Error::invalid(format!(
                    "level {}: expected {} channels, the store hands out {}",
                    level.name,
                    level.channels,
                    found.unwrap_or_default()
                )));
            }
        }
        // Four bytes an element: an upper bound for every encoding.
        let row_cost = levels.iter().map(|level| (level.stride, u64::from(level.channels) * 4)).collect();
        let epoch = order.epoch(span.start.epoch);
        let state = State {
            sequence: 0,
            position: span.start,
            epoch,
            bytes_held: 0,
            stopped: false,
            awaited: None,
            spare: Vec::new(),
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Ok(Self { store, order, span, levels: ids, row_cost, read_target, options, state, changed })
    }

    /// Starts the reading threads in `scope`; they end when the span is read or the loader dropped.
    pub fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Loader<'scope, T> {
        let (sender, arrivals) = unbounded();
        for _ in 0..self.options.threads.max(1) {
            let sender = sender.clone();
            scope.spawn(move || self.read_ahead(&sender));
        }
        let (early, waited) = (BTreeMap::new(), Duration::ZERO);
        Loader { shared: self, arrivals, early, delivered: 0, waited, bytes: 0, skipped: 0 }
    }

    /// One reading thread: takes the next batch once the budget admits it, reads it, hands it over.
    fn read_ahead(&self, sender: &Sender<(u64, Result<LoadedBatch<T>>)>) {
        let _guard = StopOnPanic(self);
        let mut reader = None;
        while let Some((sequence, job)) = self.next_job() {
            let loaded = self.load(&mut reader, job);
            let failed = loaded.is_err();
            if sender.send((sequence, loaded)).is_err() || failed {
                self.stop();
            }
        }
    }

    fn load(&self, reader: &mut Option<Reader>, job: Job) -> Result<LoadedBatch<T>> {
        let Job { mut rows, next, ends_epoch, bytes, mut batch } = job;
        let reader = match reader {
            Some(reader) => reader,
            None => reader.insert(self.store.reader(self.options.read)?),
        };
        reader.read(&rows.rows, &self.levels, None, &mut batch)?;
        let skipped = rows.rows.len().saturating_sub(batch.rows().len()) as u64;
        if skipped > 0 {
            rows.rows = batch.rows().to_vec();
        }
        let targets = rows.rows.iter().map(|&row| (self.read_target)(row)).collect::<Result<_>>()?;
        Ok(LoadedBatch { rows, next, ends_epoch, targets, skipped, batch, bytes })
    }

    /// The next batch of the order, admitted in order: so the batch that training waits for is always
    /// among those admitted. `None` when the span is read or the loader gone.
    fn next_job(&self) -> Option<(u64, Job)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.stopped || state.sequence == self.span.batches {
                return None;
            }
            let mut passed = 0;
            while state.position.cursor >= state.epoch.len() {
                // With views in buckets of their own and `drop_last` an epoch may have no whole batch.
                if passed == MAX_EMPTY_EPOCHS {
                    return None;
                }
                passed += 1;
                let epoch = state.position.epoch + 1;
                state.position = Position { epoch, cursor: 0 };
                state.epoch = self.order.epoch(epoch);
            }
            let rows = state.epoch.batch(state.position.cursor)?;
            let bytes = self.row_bytes(rows.size) * rows.rows.len() as u64;
            let Some((batch, bytes)) = state.admit(bytes, self.options.bytes) else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.position.cursor += 1;
            let sequence = state.sequence;
            state.sequence += 1;
            let ends_epoch = state.position.cursor == state.epoch.len();
            return Some((sequence, Job { rows, next: state.position, ends_epoch, bytes, batch }));
        }
    }

    fn row_bytes(&self, size: Size) -> u64 {
        let cells = |side: u32, stride: u32| u64::from(side.div_ceil(stride.max(1)));
        self.row_cost.iter().map(|&(s, cost)| cells(size.height, s) * cells(size.width, s) * cost).sum()
    }
}

/// A reading thread that panics leaves a batch that never comes: the others must end too, or training
/// would wait for it for ever.
struct StopOnPanic<'a, T>(&'a Shared<'a, T>);

impl<T> Drop for StopOnPanic<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

struct Job {
    rows: BatchRows,
    next: Position,
    ends_epoch: bool,
    bytes: u64,
    batch: Batch,
}

impl<T: Send> Loader<'_, T> {
    /// The next batch of the span; `None` at its end.
    ///
    /// # Errors
    /// The first read or label that failed, at its place in the order.
    pub fn next_batch(&mut self) -> Result<Option<LoadedBatch<T>>> {
        if self.delivered == self.shared.span.batches {
            return Ok(None);
        }
        let begin = Instant::now();
        let loaded = loop {
            if let Some(loaded) = self.early.remove(&self.delivered) {
                break loaded;
            }
            self.shared.await_batch(self.delivered);
            let Ok((sequence, loaded)) = self.arrivals.recv() else {
                return Err(Error::invalid(
                    "no more batches: a reading thread stopped or the order is empty",
                ));
            };
            self.early.insert(sequence, loaded);
        };
        self.waited += begin.elapsed();
        self.delivered += 1;
        self.skipped += loaded.as_ref().map_or(0, |loaded| loaded.skipped);
        loaded.map(Some)
    }

    /// Gives a batch's memory back: only then do the threads read further ahead of it. They read into it
    /// again, so the maps that it lent must not be used any more.
    pub fn recycle(&mut self, done: LoadedBatch<T>) {
        self.bytes += done.bytes();
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bytes_held -= done.bytes;
        // A batch keeps the memory of the largest that it ever held: what passes the budget is let go.
        if state.memory_bytes() + capacity(&done.batch) <= self.shared.options.bytes {
            state.spare.push(done.batch);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Time spent waiting in [`Loader::next_batch`] so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Bytes of memory for features: of the batches that are being read, wait or are in use, and idle.
    pub fn memory_bytes(&self) -> u64 {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).memory_bytes()
    }

    /// Rows so far that were left out because they are corrupt on disk.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Bytes of features in the batches given back so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl<T> Drop for Loader<'_, T> {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl<T> LoadedBatch<T> {
    /// The levels as maps `[n, c, h, w]` in channels_last memory, in the loader's level order.
    ///
    /// Maps of the kind that was read, on the CPU, are lent: they are the batch's memory. They have these
    /// values until [`Loader::recycle`] gives it to another batch, so whatever keeps them, a graph that waits
    /// for its backward pass included, must be gone by then. They are not to be written to. Maps of another
    /// kind or device are copies.
    pub fn maps(&self, kind: Kind, device: Device) -> Result<Vec<Tensor>> {
        (0..self.batch.level_count()).map(|i| self.map(i, kind, device)).collect()
    }

    /// Level number `i` as in [`LoadedBatch::maps`].
    pub(crate) fn map(&self, i: usize, kind: Kind, device: Device) -> Result<Tensor> {
        let LevelBatch { shape, dtype, bytes } = self.batch.level(i);
        let memory = self.batch.memory(i).and_then(|memory| {
            let memory: &dyn Any = memory;
            memory.downcast_ref::<TensorMemory>()
        });
        match memory {
            Some(memory) if device == Device::Cpu && torch_kind(dtype) == kind => {
                channels_last(&memory.view(shape, kind)?)
            }
            _ => feature_map(bytes, shape, dtype, kind, device),
        }
    }

    /// Whether maps of this kind and device are lent: the batch must then be kept until they are done with.
    pub fn lends(&self, kind: Kind, device: Device) -> bool {
        let read = |i| torch_kind(self.batch.level(i).dtype);
        device == Device::Cpu && (0..self.batch.level_count()).any(|i| read(i) == kind)
    }

    /// Level number `i` in the loader's level order, as it was read.
    pub(crate) fn level(&self, i: usize) -> LevelBatch<'_> {
        self.batch.level(i)
    }

    /// Bytes of its features.
    pub fn bytes(&self) -> u64 {
        (0..self.batch.level_count()).map(|i| self.batch.level(i).bytes.len() as u64).sum()
    }
}
