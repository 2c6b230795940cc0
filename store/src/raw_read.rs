//! Plain reads of the file ranges that rows lie in: what reading is measured against. Checks nothing and
//! hands nothing out.

use crate::batch::AlignedBytes;
use crate::payload_file::{COLD_REQUEST_BYTES, DIRECT_ALIGNMENT};
use crate::plane::FileRange;
use crate::{Error, LevelId, PagePolicy, ReadOptions, Result, RowBand, RowId, Store};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

const DIRECT_REQUEST_BYTES: u64 = COLD_REQUEST_BYTES as u64;

/// Which bytes to read, and how.
#[derive(Debug, Clone, Copy)]
pub struct RawReadOptions<'a> {
    /// The rows, in this order.
    pub rows: &'a [RowId],
    /// Their levels.
    pub levels: &'a [LevelId],
    /// Rows of cells; whole maps if `None`.
    pub band: Option<RowBand>,
    /// `preadv` of every range through the page cache, or direct requests of 1 MiB.
    pub pages: PagePolicy,
    /// Threads; direct requests are four at least.
    pub threads: usize,
    /// Pieces of memory to read into in turn, each large enough for any row: a batch of as many rows takes
    /// as much.
    pub buffers: usize,
}

/// The file ranges of some rows, and memory to read them into.
#[derive(Debug)]
pub struct RawReads {
    /// Of each task of a thread: a row, or a request.
    tasks: Vec<Vec<FileRange>>,
    /// Each large enough for any of the tasks.
    buffers: Vec<Mutex<AlignedBytes>>,
    threads: usize,
    bytes: u64,
    ranges: usize,
}

impl RawReads {
    /// Finds the ranges.
    ///
    /// # Errors
    /// As [`Reader::read`](crate::Reader::read), but for payloads; memory that does not suffice.
    pub fn new(store: &Store, options: &RawReadOptions<'_>) -> Result<Self> {
        let RawReadOptions { rows, levels, band, pages, .. } = *options;
        let reader = store.reader(ReadOptions { pages, ..ReadOptions::default() })?;
        let tasks = rows.iter().map(|row| reader.file_ranges(&[*row], levels, band));
        let mut tasks: Vec<_> = tasks.collect::<Result<_>>()?;
        let (bytes, ranges) =
            (tasks.iter().map(|of_row| bytes_of(of_row)).sum(), tasks.iter().map(Vec::len).sum());
        let most = tasks.iter().map(|of_row| bytes_of(of_row)).max().unwrap_or(0);
        if pages == PagePolicy::Direct {
            tasks = tasks.iter().flatten().flat_map(requests).map(|range| vec![range]).collect();
        }
        let most = usize::try_from(most.max(DIRECT_REQUEST_BYTES));
        let most = most.map_err(|_| Error::invalid("a row larger than memory"))?;
        let threads = pages.threads(options.threads);
        let buffers = (0..options.buffers.max(threads)).map(|_| {
            let mut buffer = AlignedBytes::default();
            buffer.resize(most).map_err(|_| Error::invalid(format!("no memory for {most} bytes")))?;
            Ok(Mutex::new(buffer))
        });
        Ok(Self { tasks, buffers: buffers.collect::<Result<_>>()?, threads, bytes, ranges })
    }

    /// Bytes of a pass, checksums included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// File ranges of a pass, merged where contiguous.
    pub fn ranges(&self) -> usize {
        self.ranges
    }

    /// One pass over all rows: each thread takes the next row and reads its ranges, one `preadv` each; or the
    /// next direct request.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] for a file that has become shorter.
    pub fn pass(&self) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let buffer = self.buffers.get(number % self.buffers.len().max(1));
                let (Some(ranges), Some(buffer)) = (self.tasks.get(number), buffer) else { return Ok(()) };
                let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
                read_ranges(ranges, buffer.bytes_mut())?;
            }
        };
        on_threads(self.threads, work)
    }

    /// Makes the files clean and drops them from the page cache.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn drop_pages(&self) -> Result<()> {
        let mut files = BTreeMap::new();
        for FileRange { shard, .. } in self.tasks.iter().flatten() {
            files.entry(&shard.path).or_insert(shard);
        }
        for (path, shard) in files {
            let file = shard.file.file();
            file.sync_data().map_err(Error::io(path))?;
            rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)
                .map_err(|e| Error::io(path)(e.into()))?;
        }
        Ok(())
    }
}

/// Does the work on so many threads at a time, this one included; the first error.
pub(crate) fn on_threads(threads: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(&work)).collect();
        let first = work();
        let panicked = || Err(Error::invalid("a reading thread panicked"));
        let joined = others.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked()));
        joined.fold(first, Result::and)
    })
}

/// The pages of a range, in requests.
fn requests(range: &FileRange) -> impl Iterator<Item = FileRange> {
    let FileRange { shard, bytes: Range { start, end } } = range;
    let (start, end) = (start - start % DIRECT_ALIGNMENT, end.next_multiple_of(DIRECT_ALIGNMENT));
    (start..end).step_by(COLD_REQUEST_BYTES).map(move |at| {
        let bytes = at..(at + DIRECT_REQUEST_BYTES).min(end);
        FileRange { shard: std::sync::Arc::clone(shard), bytes }
    })
}

fn bytes_of(ranges: &[FileRange]) -> u64 {
    ranges.iter().map(|range| range.bytes.end - range.bytes.start).sum()
}

fn read_ranges(ranges: &[FileRange], mut memory: &mut [u8]) -> Result<()> {
    for FileRange { shard, bytes } in ranges {
        let length = usize::try_from(bytes.end - bytes.start).unwrap_or(usize::MAX);
        let (mut left, rest) = memory.split_at_mut(length.min(memory.len()));
        memory = rest;
        let mut at = bytes.start;
        // The last page of a direct request may lie beyond what is wanted, and beyond the file.
        while !left.is_empty() && at < shard.index.start() {
            match rustix::io::preadv(shard.file.file(), &mut [IoSliceMut::new(left)], at) {
                Ok(0) => return Err(Error::corrupt(&shard.path, format!("ends at byte {at}"))),
                Ok(read) => (left, at) = (left.split_at_mut(read).1, at + read as u64),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io(&shard.path)(errno.into())),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::unfinished;
    use crate::{OpenOptions, Status};

    #[test]
    fn every_byte_of_the_rows_is_read() {
        let folder = tempfile::tempdir().unwrap();
        drop(unfinished(folder.path()));
        let store = Store::open(folder.path(), OpenOptions { incomplete: true }).unwrap();
        let ok = store.rows().iter().filter(|row| row.status == Status::Ok);
        let rows: Vec<RowId> = ok.map(|row| row.id).collect();
        let levels = &[LevelId(0), LevelId(1)];
        let options =
            |rows, threads, pages| RawReadOptions { rows, levels, band: None, pages, threads, buffers: 2 };
        for threads in [0, 1, 3] {
            for pages in PagePolicy::ALL {
                let raw = RawReads::new(&store, &options(&rows, threads, pages)).unwrap();
                assert!(raw.bytes() > rows.len() as u64 && raw.ranges() >= rows.len());
                raw.pass().unwrap();
                raw.drop_pages().unwrap();
                raw.pass().unwrap();
            }
        }
        let failed = store.rows().iter().find(|row| matches!(row.status, Status::Failed(_))).unwrap();
        assert!(RawReads::new(&store, &options(&[failed.id], 1, PagePolicy::Buffered)).is_err());
    }
}
