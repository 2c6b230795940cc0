//! A shard's file as one page policy reads it: bytes of the file into memory. Knows no chunks.

use crate::batch::AlignedBytes;
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
            PagePolicy::Buffered => file,
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
        Ok(Self { file, policy, drops: AtomicBool::new(false) })
    }

    /// The same file read from disk, whatever the page cache holds of `range`.
    pub(crate) fn around_the_cache(&self, range: &Range<u64>) -> std::io::Result<Self> {
        if let Ok(file) = direct(&self.file) {
            return Ok(Self { file, policy: PagePolicy::Direct, drops: AtomicBool::new(false) });
        }
        self.drop_pages(range);
        let file = self.file.try_clone()?;
        Ok(Self { file, policy: PagePolicy::Buffered, drops: AtomicBool::new(false) })
    }

    /// Whether reads need memory, offsets and lengths that are aligned.
    pub(crate) fn is_direct(&self) -> bool {
        self.policy == PagePolicy::Direct
    }

    /// Whether pages come out of the page cache and stay there.
    pub(crate) fn is_buffered(&self) -> bool {
        self.policy == PagePolicy::Buffered
    }

    /// Bytes to ask for at a time.
    pub(crate) fn request_bytes(&self) -> usize {
        match self.policy {
            PagePolicy::Buffered => BUFFERED_REQUEST_BYTES,
            PagePolicy::DontCache | PagePolicy::Direct => COLD_REQUEST_BYTES,
        }
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Fills all vectors from `offset`, whatever the kernel hands out at a time. Not for direct reads.
    pub(crate) fn scatter(
        &self,
        mut vectors: &mut [IoSliceMut<'_>],
        mut offset: u64,
    ) -> Result<(), ReadFailure> {
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
    ) -> Result<&'s mut [u8], ReadFailure> {
        let length = usize_of(range.end - range.start);
        let failed = |error| ReadFailure::Io(error, range.start);
        if !self.is_direct() {
            scratch.grow(length).map_err(failed)?;
            let bytes = scratch.bytes_mut().get_mut(..length).unwrap_or_default();
            self.scatter(&mut [IoSliceMut::new(bytes)], range.start)?;
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
