//! A shard's file as one page policy reads it: bytes of the file into memory. Knows no chunks.

use crate::batch::AlignedBytes;
use crate::mapped_file::{MappedFile, Through};
use crate::{Error, PagePolicy, Result};
use rustix::fs::{Advice, Mode, OFlags, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv, preadv2};
use std::fs::File;
use std::io::{ErrorKind, IoSliceMut};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// What offsets, lengths and addresses of direct reads are multiples of: no disk's sector is larger.
pub(crate) const DIRECT_ALIGNMENT: u64 = 4096;

/// Bytes of a read through the page cache: small enough to be still in the second-level cache when they are
/// checked or converted, and for the kernel to read ahead from disk while they are.
const BUFFERED_REQUEST_BYTES: usize = 256 << 10;
/// Bytes of a read that nobody reads ahead of: with few of them in flight a disk is busy.
pub(crate) const COLD_REQUEST_BYTES: usize = 1 << 20;

/// Bytes of a page, or a multiple of them.
const PAGE: u64 = 4096;

/// `RWF_DONTCACHE` of Linux 6.14, which rustix does not name.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// A file open for reading.
#[derive(Debug)]
pub(crate) struct PayloadFile {
    file: File,
    policy: PagePolicy,
    /// The system has refused `RWF_DONTCACHE`: pages are dropped after the read.
    drops: AtomicBool,
    /// What is in the page cache is copied out of it.
    map: Option<MappedFile>,
}

/// How bytes come to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The system reads them. So does the rest of a chunk whose beginning was read: the system reads ahead of
    /// who reads, and not of who copies.
    Read,
    /// They are copied out of a map, if there is one.
    Copy(Through),
}

/// Why bytes could not be read.
#[derive(Debug)]
pub(crate) enum ReadFailure {
    /// The operating system's own words, and where in the file.
    Io(std::io::Error, u64),
    /// The file ends at this byte.
    Ends(u64),
}

impl ReadFailure {
    /// As an error that names the file.
    pub(crate) fn error(self, path: &Path) -> Error {
        match self {
            Self::Io(error, _) => Error::io(path)(error),
            Self::Ends(at) => Error::corrupt(path, format!("the file ends at byte {at}")),
        }
    }
}

impl PayloadFile {
    /// Takes an open file over for reading by `policy`; `path` is for messages.
    pub(crate) fn new(file: File, policy: PagePolicy, path: &Path) -> Result<Self> {
        let file = match policy {
            PagePolicy::Buffered | PagePolicy::Mapped => file,
            PagePolicy::DontCache => {
                // Reading ahead would leave pages that nobody asked for. Advice: may be refused.
                let _advice = fadvise(&file, 0, None, Advice::Random);
                file
            }
            PagePolicy::Direct => direct(&file).map_err(|errno| {
                let what = format!("direct reads are refused here ({errno}): take another page policy");
                Error::io(path)(std::io::Error::new(ErrorKind::Unsupported, what))
            })?,
        };
        let map = if policy == PagePolicy::Mapped { MappedFile::of(&file) } else { None };
        Ok(Self { file, policy, drops: AtomicBool::new(false), map })
    }

    /// The same file read from disk, whatever the page cache holds of `range`.
    pub(crate) fn around_the_cache(&self, range: &Range<u64>) -> std::io::Result<Self> {
        if let Ok(file) = direct(&self.file) {
            return Ok(Self { file, policy: PagePolicy::Direct, drops: AtomicBool::new(false), map: None });
        }
        if let Some(map) = &self.map {
            map.let_go(range);
        }
        self.drop_pages(range);
        let file = self.file.try_clone()?;
        Ok(Self { file, policy: PagePolicy::Buffered, drops: AtomicBool::new(false), map: None })
    }

    /// Whether reads need memory, offsets and lengths that are aligned.
    pub(crate) fn is_direct(&self) -> bool {
        self.policy == PagePolicy::Direct
    }

    /// Whether pages come out of the page cache and stay there.
    pub(crate) fn is_buffered(&self) -> bool {
        self.policy.fills_the_cache()
    }

    /// Bytes to ask for at a time.
    pub(crate) fn request_bytes(&self) -> usize {
        match self.policy {
            PagePolicy::Buffered | PagePolicy::Mapped => BUFFERED_REQUEST_BYTES,
            PagePolicy::DontCache | PagePolicy::Direct => COLD_REQUEST_BYTES,
        }
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// How these bytes, or parts of them, best come to memory now; `through` what if they are copied.
    pub(crate) fn way(&self, range: &Range<u64>, through: Through) -> Way {
        let is_held = self.map.as_ref().is_some_and(|map| map.holds(range));
        if is_held { Way::Copy(through) } else { Way::Read }
    }

    /// Whether the file still goes on to this byte. What lies behind its end in its last page copies as
    /// zeros, without a word.
    pub(crate) fn reaches(&self, end: u64) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.len() >= end)
    }

    /// Asks for bytes that will be read soon, if it is known that they are not in the page cache: the disk
    /// gets many small requests at a time.
    pub(crate) fn announce(&self, range: &Range<u64>) {
        if self.map.as_ref().is_some_and(|map| map.lacks(range)) {
            // Advice: who does not take it reads later.
            let length = NonZeroU64::new(range.end - range.start);
            let _advice = fadvise(&self.file, range.start, length, Advice::WillNeed);
        }
    }

    /// Fills all vectors from `offset`, whatever the kernel hands out at a time. Not for direct reads.
    pub(crate) fn scatter(
        &self,
        mut vectors: &mut [IoSliceMut<'_>],
        mut offset: u64,
        way: Way,
    ) -> Result<(), ReadFailure> {
        if let (Way::Copy(through), Some(map)) = (way, &self.map)
            && map.copy(vectors, offset, through)
        {
            return Ok(());
        }
        let start = offset;
        IoSliceMut::advance_slices(&mut vectors, 0);
        while !vectors.is_empty() {
            match self.read_some(vectors, offset) {
                Ok(0) => return Err(ReadFailure::Ends(offset)),
                Ok(read) => {
                    offset += read as u64;
                    IoSliceMut::advance_slices(&mut vectors, read);
                }
                Err(errno) if errno == Errno::INTR => {}
                Err(errno) => return Err(ReadFailure::Io(errno.into(), offset)),
            }
        }
        if self.policy == PagePolicy::DontCache && self.drops.load(Ordering::Relaxed) {
            self.drop_pages(&(start..offset));
        }
        Ok(())
    }

    /// The bytes of a range of the file, in scratch memory that grows to hold them.
    pub(crate) fn read<'s>(
        &self,
        range: Range<u64>,
        scratch: &'s mut AlignedBytes,
        way: Way,
    ) -> Result<&'s mut [u8], ReadFailure> {
        let length = usize_of(range.end - range.start);
        let failed = |error| ReadFailure::Io(error, range.start);
        if !self.is_direct() {
            scratch.grow(length).map_err(failed)?;
            let bytes = scratch.bytes_mut().get_mut(..length).unwrap_or_default();
            // Whoever reads to scratch memory looks at it next.
            let way = if way == Way::Read { way } else { Way::Copy(Through::Caches) };
            self.scatter(&mut [IoSliceMut::new(bytes)], range.start, way)?;
            return Ok(bytes);
        }
        let start = range.start - range.start % DIRECT_ALIGNMENT;
        let end = range.end.next_multiple_of(DIRECT_ALIGNMENT);
        scratch.grow(usize_of(end - start)).map_err(failed)?;
        let memory = scratch.bytes_mut().get_mut(..usize_of(end - start)).unwrap_or_default();
        let mut at = 0;
        // The file may end inside the last page, but not before the range does.
        while start + (at as u64) < range.end {
            let place = start + at as u64;
            let rest = memory.get_mut(at..).unwrap_or_default();
            match preadv(&self.file, &mut [IoSliceMut::new(rest)], place) {
                Ok(0) => return Err(ReadFailure::Ends(place)),
                Ok(read) => at += read,
                Err(errno) if errno == Errno::INTR => {}
                // What follows a read that was cut off at the end of the file is not aligned any more.
                Err(_) if !place.is_multiple_of(DIRECT_ALIGNMENT) => return Err(ReadFailure::Ends(place)),
                Err(errno) => return Err(ReadFailure::Io(errno.into(), place)),
            }
        }
        let from = usize_of(range.start - start);
        Ok(memory.get_mut(from..from + length).unwrap_or_default())
    }

    fn read_some(&self, vectors: &mut [IoSliceMut<'_>], offset: u64) -> std::result::Result<usize, Errno> {
        if self.policy == PagePolicy::DontCache && !self.drops.load(Ordering::Relaxed) {
            match preadv2(&self.file, vectors, offset, DONTCACHE) {
                // Of a kernel or a file system that does not have it.
                Err(errno) if [Errno::OPNOTSUPP, Errno::INVAL, Errno::NOSYS].contains(&errno) => {
                    self.drops.store(true, Ordering::Relaxed);
                }
                outcome => return outcome,
            }
        }
        preadv(&self.file, vectors, offset)
    }

    fn drop_pages(&self, range: &Range<u64>) {
        drop_pages(&self.file, range);
    }
}

/// Tells the kernel that a range of a file is not needed in the page cache. Advice: a file system that does
/// not take it is no reason to fail.
pub(crate) fn drop_pages(file: &File, range: &Range<u64>) {
    // The kernel keeps a page of which it is told a part only.
    let start = range.start - range.start % PAGE;
    if let Some(length) = NonZeroU64::new(range.end.next_multiple_of(PAGE) - start) {
        let _advice = fadvise(file, start, Some(length), Advice::DontNeed);
    }
}

/// The open file once more, for direct reads: the same file, whatever has its name by now.
fn direct(file: &File) -> std::result::Result<File, Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Lengths of what is read into memory.
fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_memory_is_copied_by_one_policy_alone() {
        let folder = crate::fixture::folder_in_memory();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 5000]).unwrap();
        let way = |pages, end| {
            let file = PayloadFile::new(File::open(&path).unwrap(), pages, &path).unwrap();
            (file.way(&(1..end), Through::Memory), file.reaches(end))
        };
        assert_eq!(way(PagePolicy::Mapped, 5000), (Way::Copy(Through::Memory), true));
        assert_eq!(way(PagePolicy::Mapped, 5001), (Way::Read, false));
        for pages in [PagePolicy::Buffered, PagePolicy::DontCache] {
            assert_eq!(way(pages, 5000), (Way::Read, true));
        }
    }
}
