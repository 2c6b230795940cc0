//! The memory that a batch of features is read into: one 64-byte-aligned block a level, reused from batch
//! to batch, its own or its owner's. Does no reading; never shows bytes that a read has not completed.

use crate::{DType, Error, Result, RowId};
use memmap2::{Advice, MmapMut};
use std::any::Any;
use std::fmt::Debug;

/// Cache-line size, and what vector loads of any width want.
pub const BATCH_ALIGNMENT: usize = 64;

/// Memory of one level of a batch, given by who wants to keep what is read where it lies: in the storage
/// of a tensor, say.
pub trait BatchMemory: Any + Debug + Send {
    /// All of its bytes; the first is 64-byte aligned.
    fn bytes(&self) -> &[u8];
    /// The same bytes, to be read into.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// Gives memory of at least so many bytes, more than none. What they are is unspecified.
pub type AllocateMemory = fn(usize) -> std::io::Result<Box<dyn BatchMemory>>;

/// Features of some rows of one bucket, level by level. Reading into the same batch again reuses its
/// memory, which only grows.
#[derive(Debug, Default)]
pub struct Batch {
    rows: Vec<RowId>,
    levels: Vec<LevelMemory>,
    /// Levels that hold a completed read; 0 while reading and after a failure.
    filled: usize,
    /// Where memory comes from; the system's pages if nobody gives it.
    allocate: Option<AllocateMemory>,
}

/// One level of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelBatch<'a> {
    /// Rows of the batch, height, width, channels.
    pub shape: [usize; 4],
    /// Element type of `bytes`.
    pub dtype: DType,
    /// Elements in the order of `shape`, little-endian; the first is 64-byte aligned.
    pub bytes: &'a [u8],
}

#[derive(Debug)]
struct LevelMemory {
    memory: AlignedBytes,
    shape: [usize; 4],
    dtype: DType,
}

impl Batch {
    /// A batch without memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch that takes its memory from `allocate`.
    pub fn with_memory(allocate: AllocateMemory) -> Self {
        Self { allocate: Some(allocate), ..Self::default() }
    }

    /// The rows it holds, in the order asked for; empty after a failed read.
    pub fn rows(&self) -> &[RowId] {
        if self.filled == 0 { &[] } else { &self.rows }
    }

    /// Number of levels it holds, in the order asked for; 0 after a failed read.
    pub fn level_count(&self) -> usize {
        self.filled
    }

    /// Level number `i` of those asked for. A level that the batch does not hold has shape zero and no
    /// bytes.
    pub fn level(&self, i: usize) -> LevelBatch<'_> {
        match self.levels.get(i).filter(|_| i < self.filled) {
            Some(level) => LevelBatch { shape: level.shape, dtype: level.dtype, bytes: level.memory.bytes() },
            None => LevelBatch { shape: [0; 4], dtype: DType::F32, bytes: &[] },
        }
    }

    /// The memory that [`level`](Self::level) number `i` lies at the start of; `None` for a level that the
    /// batch does not hold, or that takes no bytes.
    pub fn memory(&self, i: usize) -> Option<&dyn BatchMemory> {
        self.levels.get(i).filter(|_| i < self.filled)?.memory.memory.as_deref()
    }

    /// Bytes of memory that the batch owns.
    pub fn capacity_bytes(&self) -> usize {
        self.levels.iter().map(|level| level.memory.capacity()).sum()
    }

    /// Forgets the content and keeps the memory.
    pub(crate) fn begin(&mut self, rows: &[RowId]) {
        self.filled = 0;
        self.rows.clear();
        self.rows.extend_from_slice(rows);
    }

    /// Makes room for level `i`; levels are shaped in order. [`Error::Invalid`] if memory does not suffice.
    pub(crate) fn shape_level(&mut self, i: usize, shape: [usize; 4], dtype: DType) -> Result<()> {
        let bytes = shape.into_iter().try_fold(dtype.bytes(), usize::checked_mul);
        let bytes = bytes.ok_or_else(|| no_memory(shape))?;
        if i == self.levels.len() {
            let memory = AlignedBytes { allocate: self.allocate, ..AlignedBytes::default() };
            self.levels.push(LevelMemory { memory, shape, dtype });
        }
        let Some(level) = self.levels.get_mut(i) else {
            return Err(Error::invalid(format!("level {i} of a batch is shaped before its predecessors")));
        };
        (level.shape, level.dtype) = (shape, dtype);
        level.memory.resize(bytes).map_err(|_| no_memory(shape))
    }

    /// The memory of every row of the first `levels` levels, level by level: index `level · n + row`.
    pub(crate) fn slots(&mut self, levels: usize) -> impl Iterator<Item = &mut [u8]> {
        self.levels.iter_mut().take(levels).flat_map(|level| {
            let rows = level.shape[0].max(1);
            let row_bytes = (level.memory.bytes().len() / rows).max(1);
            level.memory.bytes_mut().chunks_exact_mut(row_bytes)
        })
    }

    /// Declares the first `levels` levels complete.
    pub(crate) fn complete(&mut self, levels: usize) {
        self.filled = levels.min(self.levels.len());
    }
}

fn no_memory(shape: [usize; 4]) -> Error {
    let [n, h, w, c] = shape;
    Error::invalid(format!("no memory for a batch of {n}x{h}x{w}x{c}"))
}

/// Memory that grows and is reused. The first byte is 64-byte aligned.
#[derive(Debug, Default)]
pub(crate) struct AlignedBytes {
    memory: Option<Box<dyn BatchMemory>>,
    len: usize,
    allocate: Option<AllocateMemory>,
}

impl AlignedBytes {
    /// Sets the length; the content is unspecified. Memory is only ever replaced by larger memory.
    pub(crate) fn resize(&mut self, len: usize) -> std::io::Result<()> {
        if len > self.capacity() {
            // The old memory goes first, so that both need not fit.
            (self.memory, self.len) = (None, 0);
            self.memory = Some(self.allocate.unwrap_or(anonymous_pages)(len)?);
        }
        self.len = len;
        Ok(())
    }

    /// Makes the length at least `len`; the content is unspecified.
    pub(crate) fn grow(&mut self, len: usize) -> std::io::Result<()> {
        if len > self.len { self.resize(len) } else { Ok(()) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.as_ref().and_then(|memory| memory.bytes().get(..self.len)).unwrap_or_default()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().and_then(|memory| memory.bytes_mut().get_mut(..self.len)).unwrap_or_default()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.bytes().len())
    }
}

/// Anonymous pages, huge ones where the system has them: copying tens of megabytes out of the page cache
/// into small pages spends a third of its time on page-table walks.
fn anonymous_pages(len: usize) -> std::io::Result<Box<dyn BatchMemory>> {
    let memory = MmapMut::map_anon(len)?;
    // Advice: small pages do as well, only slower.
    let _advice = memory.advise(Advice::HugePage);
    Ok(Box::new(memory))
}

impl BatchMemory for MmapMut {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_reused() {
        let mut batch = Batch::new();
        for (n, h) in [(1, 3), (4, 7), (2, 5), (4, 7)] {
            batch.begin(&[RowId(1); 4][..n]);
            for (i, dtype) in [DType::Bf16, DType::F32].into_iter().enumerate() {
                batch.shape_level(i, [n, h, 5, 3], dtype).unwrap();
            }
            assert_eq!((batch.level(0).bytes, batch.rows()), (&[][..], &[][..]), "not complete yet");
            assert_eq!(batch.slots(2).count(), 2 * n);
            batch.complete(2);
            assert_eq!(batch.level(1).bytes.len(), n * h * 5 * 3 * 4);
            assert!(batch.level(0).bytes.as_ptr().addr().is_multiple_of(BATCH_ALIGNMENT));
            assert!(batch.capacity_bytes() >= 4 * h * 15 * 6 * n / 4);
        }
        let capacity = batch.capacity_bytes();
        batch.begin(&[RowId(1)]);
        batch.shape_level(0, [1, 7, 5, 3], DType::Bf16).unwrap();
        assert_eq!(batch.capacity_bytes(), capacity);
        assert!(batch.shape_level(0, [usize::MAX, 2, 1, 1], DType::Bf16).is_err());
        assert!(batch.shape_level(0, [1 << 60, 1, 1, 1], DType::Bf16).is_err());
    }

    /// Memory of another kind, which can be told apart.
    #[derive(Debug)]
    struct Given(MmapMut);

    impl BatchMemory for Given {
        fn bytes(&self) -> &[u8] {
            &self.0
        }

        fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }
    }

    #[test]
    fn a_batch_reads_into_the_memory_that_it_is_given() {
        let mut batch = Batch::with_memory(|len| Ok(Box::new(Given(MmapMut::map_anon(len)?))));
        batch.begin(&[RowId(1)]);
        batch.shape_level(0, [1, 2, 3, 4], DType::F16).unwrap();
        batch.slots(1).for_each(|slot| slot.fill(7));
        assert!(batch.memory(0).is_none(), "not complete yet");
        batch.complete(1);
        let memory: &dyn Any = batch.memory(0).unwrap();
        let Given(memory) = memory.downcast_ref().unwrap();
        assert_eq!(memory[..48], [7; 48]);
        assert_eq!(memory.as_ptr(), batch.level(0).bytes.as_ptr());
        assert!(batch.memory(1).is_none());

        let mut none = Batch::with_memory(|_| Err(std::io::ErrorKind::OutOfMemory.into()));
        none.begin(&[RowId(1)]);
        assert!(none.shape_level(0, [1, 2, 3, 4], DType::F16).is_err());
        assert_eq!((none.capacity_bytes(), none.slots(1).count()), (0, 0));
    }
}
