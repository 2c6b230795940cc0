//! Plain `preadv` of the file ranges that rows lie in: what reading is measured against. Checks nothing and
//! hands nothing out.

use crate::batch::AlignedBytes;
use crate::plane::FileRange;
use crate::{Error, LevelId, ReadOptions, Result, RowId, Store};
use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The file ranges of some rows, and memory to read them into.
#[derive(Debug)]
pub struct RawReads {
    /// Of each row.
    ranges: Vec<Vec<FileRange>>,
    /// Each large enough for any of the rows.
    buffers: Vec<Mutex<AlignedBytes>>,
    threads: usize,
}

impl RawReads {
    /// Reads of whole maps of these rows in this order, by so many threads, into `buffers` pieces of memory
    /// in turn, each large enough for any row: a batch of as many rows takes as much.
    ///
    /// # Errors
    /// As [`Reader::read`](crate::Reader::read), but for payloads; memory that does not suffice.
    pub fn new(
        store: &Store,
        rows: &[RowId],
        levels: &[LevelId],
        threads: usize,
        buffers: usize,
    ) -> Result<Self> {
        let reader = store.reader(ReadOptions::default())?;
        let ranges = rows.iter().map(|row| reader.file_ranges(&[*row], levels));
        let ranges: Vec<_> = ranges.collect::<Result<_>>()?;
        let most = usize::try_from(ranges.iter().map(|of_row| bytes_of(of_row)).max().unwrap_or(0));
        let most = most.map_err(|_| Error::invalid("a row larger than memory"))?;
        let threads = threads.max(1);
        let buffers = (0..buffers.max(threads)).map(|_| {
            let mut buffer = AlignedBytes::default();
            buffer.resize(most).map_err(|_| Error::invalid(format!("no memory for {most} bytes")))?;
            Ok(Mutex::new(buffer))
        });
        Ok(Self { ranges, buffers: buffers.collect::<Result<_>>()?, threads })
    }

    /// Bytes of a pass, checksums included.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|of_row| bytes_of(of_row)).sum()
    }

    /// One pass over all rows: each thread takes the next row and reads its ranges, one `preadv` each.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] for a file that has become shorter.
    pub fn pass(&self) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let buffer = self.buffers.get(number % self.buffers.len().max(1));
                let (Some(ranges), Some(buffer)) = (self.ranges.get(number), buffer) else { return Ok(()) };
                let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
                read_ranges(ranges, buffer.bytes_mut())?;
            }
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..self.threads).map(|_| scope.spawn(work)).collect();
            let first = work();
            let panicked = || Err(Error::invalid("a reading thread panicked"));
            let joined = others.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked()));
            joined.fold(first, Result::and)
        })
    }

    /// Makes the files clean and drops them from the page cache.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn drop_pages(&self) -> Result<()> {
        let mut files = BTreeMap::new();
        for FileRange { shard, .. } in self.ranges.iter().flatten() {
            files.entry(&shard.path).or_insert(shard);
        }
        for (path, shard) in files {
            shard.file.sync_data().map_err(Error::io(path))?;
            rustix::fs::fadvise(&shard.file, 0, None, rustix::fs::Advice::DontNeed)
                .map_err(|e| Error::io(path)(e.into()))?;
        }
        Ok(())
    }
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
        while !left.is_empty() {
            let read = rustix::io::preadv(&shard.file, &mut [IoSliceMut::new(left)], at);
            match read.map_err(|e| Error::io(&shard.path)(e.into()))? {
                0 => return Err(Error::corrupt(&shard.path, format!("ends at byte {at}"))),
                read => (left, at) = (left.split_at_mut(read).1, at + read as u64),
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
        let levels = [LevelId(0), LevelId(1)];
        for threads in [0, 1, 3] {
            let raw = RawReads::new(&store, &rows, &levels, threads, 2).unwrap();
            assert!(raw.bytes() > rows.len() as u64);
            raw.pass().unwrap();
            raw.drop_pages().unwrap();
            raw.pass().unwrap();
        }
        let failed = store.rows().iter().find(|row| matches!(row.status, Status::Failed(_))).unwrap();
        assert!(RawReads::new(&store, &[failed.id], &levels, 1, 1).is_err());
    }
}
