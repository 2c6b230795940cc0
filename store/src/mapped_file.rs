//! A file in memory, for copying what the page cache holds of it already: for one thread half as fast again
//! as asking the system for it. Never reads from disk, and never trusts the file to keep its length.

use crate::bus_guard::{guarded, is_ready};
use crate::streaming::copy_streaming;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a file that the system is asked about at a time.
const WINDOW_BYTES: usize = 1 << 20;
/// Pages of a window at most: no system has smaller ones.
const WINDOW_PAGES: usize = WINDOW_BYTES / 4096;
/// For so long a window is taken to be in memory still, or not yet: asking for every small copy takes half of
/// its time. Who is wrong about it waits for the disk, or reads what could have been copied.
const TRUST: Duration = Duration::from_secs(1);

/// What copied bytes go through to where they are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Through {
    /// It stays in the processor's caches as long as it can: somebody will look at it at once.
    Caches,
    /// Past them.
    Memory,
}

/// A file that is mapped as a whole.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: MmapRaw,
    /// A page of the map had no file behind it any more: nothing of it is used again.
    torn: AtomicBool,
    mapped: Instant,
    /// Of each window: twice the nanoseconds since then until which an answer holds, and one more if it was
    /// that all of it is in memory.
    windows: Vec<AtomicU64>,
}

impl MappedFile {
    /// Maps an open file. `None` where that is of no use: it is empty, the system refuses, or tells nobody
    /// but the file's owner which of its pages are in memory.
    pub(crate) fn of(file: &File) -> Option<Self> {
        if !may_ask(file) || !is_ready() {
            return None;
        }
        let map = MmapOptions::new().map_raw_read_only(file).ok().filter(|map| map.len() > 0)?;
        let mut windows = Vec::new();
        windows.resize_with(map.len().div_ceil(WINDOW_BYTES), AtomicU64::default);
        Some(Self { map, torn: AtomicBool::new(false), mapped: Instant::now(), windows })
    }

    /// Whether all of these bytes are in the page cache, and can be copied from there.
    pub(crate) fn holds(&self, range: &Range<u64>) -> bool {
        let Some(range) = self.range(range) else { return false };
        if self.torn.load(Ordering::Acquire) {
            return false;
        }
        let mut windows = range.start / WINDOW_BYTES..range.end.div_ceil(WINDOW_BYTES);
        windows.all(|number| self.holds_window(number)) || (is_ready() && self.are_resident(&range))
    }

    /// Fills all vectors from `offset`. Where the file does not [hold](Self::holds) the bytes this waits for
    /// the disk. False if some of them are not the file's: they have to be read then.
    pub(crate) fn copy(&self, vectors: &mut [IoSliceMut<'_>], offset: u64, through: Through) -> bool {
        let bytes: u64 = vectors.iter().map(|vector| vector.len() as u64).sum();
        let Some(Range { start: mut at, .. }) = self.range(&(offset..offset.saturating_add(bytes))) else {
            return false;
        };
        guarded(&self.map, &self.torn, || {
            for vector in vectors {
                assert!(self.map.len() - at >= vector.len(), "the map ends before the vectors");
                #[expect(unsafe_code, reason = "no reference may lead to memory that others change")]
                // SAFETY: the map is long enough, and the vectors are the caller's alone. The bytes may
                // change while they are copied, which is for checksums to tell.
                unsafe {
                    let (from, to, bytes) = (self.map.as_ptr().add(at), vector.as_mut_ptr(), vector.len());
                    match through {
                        Through::Caches => std::ptr::copy_nonoverlapping(from, to, bytes),
                        Through::Memory => copy_streaming(from, to, bytes),
                    }
                }
                at += vector.len();
            }
        })
    }

    /// Whether it is known that some of these bytes are not in the page cache.
    pub(crate) fn lacks(&self, range: &Range<u64>) -> bool {
        !self.holds(range) && !self.torn.load(Ordering::Acquire) && is_ready()
    }

    /// Lets go of these pages, which the system does not drop from its cache before that. What is copied of
    /// them later comes anew.
    pub(crate) fn let_go(&self, range: &Range<u64>) {
        let Some(range) = self.range(range) else { return };
        let (page, bytes) = (page(), range.len());
        let start = range.start - range.start % page;
        #[expect(unsafe_code, reason = "of other maps this advice empties memory")]
        // SAFETY: the range is the map's, of a file and shared: its pages come back as the file has them.
        let _advice = unsafe {
            let from = self.map.as_mut_ptr().add(start);
            libc::madvise(from.cast(), bytes + (range.start - start), libc::MADV_DONTNEED)
        };
    }

    /// The part of the map; `None` if the file was not that long when it was mapped.
    fn range(&self, range: &Range<u64>) -> Option<Range<usize>> {
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        (start <= end && end <= self.map.len()).then_some(start..end)
    }

    /// Whether all of a window is in memory, with the handler in place; asks the system if what is known is
    /// old.
    fn holds_window(&self, number: usize) -> bool {
        let Some(known) = self.windows.get(number) else { return false };
        let (answer, now) = (known.load(Ordering::Relaxed), nanoseconds(self.mapped.elapsed()));
        if now < answer >> 1 {
            return answer & 1 == 1;
        }
        let start = number * WINDOW_BYTES;
        let holds = is_ready() && self.are_resident(&(start..self.map.len().min(start + WINDOW_BYTES)));
        known.store(((now + nanoseconds(TRUST)) << 1) | u64::from(holds), Ordering::Relaxed);
        holds
    }

    /// Whether all of it is in memory, if only of a moment ago.
    fn are_resident(&self, range: &Range<usize>) -> bool {
        let page = page();
        let (first, end) = (range.start / page, range.end.div_ceil(page));
        let mut states = [0_u8; WINDOW_PAGES];
        (first..end).step_by(WINDOW_PAGES).all(|window| {
            let pages = (end - window).min(WINDOW_PAGES);
            #[expect(unsafe_code, reason = "rustix has no mincore")]
            // SAFETY: the pages are the map's, and there is a byte for each.
            let asked = unsafe {
                let from = self.map.as_mut_ptr().add(window * page);
                libc::mincore(from.cast(), pages * page, states.as_mut_ptr())
            };
            asked == 0 && states.iter().take(pages).all(|state| state & 1 == 1)
        })
    }
}

/// Whether the system tells us truly which pages are in memory: since Linux 5.2 it says "all of them" of
/// files that are someone else's and cannot be written.
fn may_ask(file: &File) -> bool {
    let user = rustix::process::geteuid().as_raw();
    let is_owner = file.metadata().is_ok_and(|metadata| metadata.uid() == user);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    is_owner || accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn page() -> usize {
    rustix::param::page_size()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::folder_in_memory;
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::AtomicUsize;

    const BYTES: usize = 3 << 20;

    /// A file that is in memory, whatever the disk and its reading ahead do.
    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile_in(folder_in_memory().path()).unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn content() -> Vec<u8> {
        (0..BYTES).map(|i| ((i * 7919) >> 8) as u8).collect()
    }

    fn copy(map: &MappedFile, offset: usize, first: usize, second: usize) -> Option<Vec<u8>> {
        let range = offset as u64..offset.saturating_add(first + second) as u64;
        if !map.holds(&range) {
            return None;
        }
        let (mut a, mut b) = (vec![0; first], vec![0; second]);
        let through = if offset.is_multiple_of(2) { Through::Caches } else { Through::Memory };
        let copied =
            map.copy(&mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)], offset as u64, through);
        copied.then(|| [a, b].concat())
    }

    #[test]
    fn what_is_in_memory_is_copied_and_nothing_else() {
        let content = content();
        let file = file_of(&content);
        let map = MappedFile::of(&file).unwrap();
        for (offset, first, second) in
            [(0, BYTES, 0), (1, 4095, 1), (4096, 2 << 20, 5), (BYTES - 3, 1, 2), (7, 0, 0)]
        {
            assert!(copy(&map, offset, first, second).unwrap() == content[offset..offset + first + second]);
        }
        for (offset, bytes) in [(0, BYTES + 1), (BYTES, 1), (usize::MAX, 1)] {
            assert_eq!(copy(&map, offset, bytes, 0), None);
        }
        assert!(MappedFile::of(&file_of(&[])).is_none());
    }

    #[test]
    fn a_file_that_shrinks_is_no_end_of_the_process() {
        let content = content();
        let file = file_of(&content);
        let map = MappedFile::of(&file).unwrap();
        file.set_len(4096).unwrap();
        assert_eq!(copy(&map, 0, BYTES, 0), None, "what is gone is told before it is touched");
        assert!(copy(&map, 0, 4096, 0).unwrap() == content[..4096]);
        // A copy that is under way goes on to its end.
        for through in [Through::Caches, Through::Memory] {
            let map = MappedFile::of(&file_of(&content)).unwrap();
            let other = MappedFile::of(&file).unwrap();
            let (mut whole, mut gone) = (vec![1; BYTES], vec![1; 4097]);
            assert!(map.copy(&mut [IoSliceMut::new(&mut whole)], 0, through) && whole == content);
            file.set_len(0).unwrap();
            assert!(!other.copy(&mut [IoSliceMut::new(&mut gone[..4096])], 0, through));
            assert!(gone[..4096].iter().all(|byte| *byte == 0) && gone[4096] == 1);
            file.set_len(4096).unwrap();
            assert_eq!(copy(&other, 0, 4096, 0), None, "nothing of a map that was torn is used again");
        }
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_trusted() {
        let content = content();
        let file = file_of(&content);
        let map = MappedFile::of(&file).unwrap();
        assert!(copy(&map, 0, BYTES, 0).is_some());
        map.windows.iter().for_each(|window| window.store(u64::MAX, Ordering::Relaxed));
        file.set_len(4096).unwrap();
        assert!(map.holds(&(4096..BYTES as u64)));
        assert_eq!(copy(&map, 4096, BYTES - 4096, 0), None);
        assert!(map.torn.load(Ordering::Relaxed));
        assert_eq!(copy(&map, 0, 4096, 0), None);
    }

    #[test]
    fn windows_are_trusted_when_all_of_them_is_in_memory() {
        let (file, page) = (file_of(&content()), page());
        // What has never been written or read is nowhere.
        file.set_len((BYTES + page + 1) as u64).unwrap();
        let map = MappedFile::of(&file).unwrap();
        let trusted = || -> Vec<bool> {
            map.windows.iter().map(|window| window.load(Ordering::Relaxed) & 1 == 1).collect()
        };
        assert_eq!(trusted(), [false; 4]);
        assert!(copy(&map, WINDOW_BYTES - 1, 2, 0).is_some());
        assert_eq!(trusted(), [true, true, false, false]);
        assert!(copy(&map, BYTES - 5, 5, 0).is_some() && copy(&map, BYTES - 5, 6, 0).is_none());
        assert_eq!(trusted(), [true, true, true, false]);
        assert!(map.lacks(&(BYTES as u64 - 5..BYTES as u64 + 1)) && !map.lacks(&(0..BYTES as u64)));
        file.write_all_at(&vec![7; page], BYTES as u64).unwrap();
        // Of a window that is there in part, that part can be copied.
        assert!(copy(&map, BYTES, page, 0).is_some() && copy(&map, BYTES, page + 1, 0).is_none());
        assert_eq!(trusted(), [true, true, true, false]);
    }

    #[test]
    fn pages_that_were_let_go_come_back() {
        let mut content = content();
        let file = file_of(&content);
        let map = MappedFile::of(&file).unwrap();
        assert!(copy(&map, 0, BYTES, 0).is_some());
        map.let_go(&(5000..70_000));
        content[6000] ^= 1;
        file.write_all_at(&content[6000..6001], 6000).unwrap();
        assert!(copy(&map, 0, BYTES, 0).unwrap() == content);
    }

    /// Threads copy while the file shrinks and grows: each copy is right or refused, and nothing crashes.
    #[test]
    fn a_file_that_shrinks_under_copies() {
        let content = content();
        let file = file_of(&content);
        let (refused, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        let copies = || {
            while !done.load(Ordering::Relaxed) {
                let Some(map) = MappedFile::of(&file) else { continue };
                while let (false, Some(bytes)) = (done.load(Ordering::Relaxed), copy(&map, 0, BYTES, 0)) {
                    // Between shrinking and writing again there are zeros in the file.
                    assert!(bytes.iter().zip(&content).all(|(a, b)| a == b || *a == 0));
                }
                refused.fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            let threads = [scope.spawn(copies), scope.spawn(copies)];
            while refused.load(Ordering::Relaxed) < 50 && !threads.iter().any(|thread| thread.is_finished()) {
                file.set_len(1 << 20).unwrap();
                file.write_all_at(&content, 0).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
