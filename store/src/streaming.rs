//! Copies into memory that is larger than the processor's caches: written past them, so that no line is
//! fetched only to be overwritten, and nothing that others need is pushed out.

/// Bytes that a batch takes from its files from which on they are written past the caches if nobody looks at
/// them on the way: by the time all of it is there, its beginning would have been pushed out anyway.
pub(crate) const STREAMED_BYTES: usize = 16 << 20;

/// Bytes that are written at a time.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Copies `bytes` bytes.
///
/// # Safety
/// As [`std::ptr::copy_nonoverlapping`].
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "no library stores past the caches")]
pub(crate) unsafe fn copy_streaming(source: *const u8, target: *mut u8, bytes: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    let head = target.align_offset(LINE).min(bytes);
    let lines = (bytes - head) / LINE;
    // SAFETY: `head`, the lines and what is left over are `bytes` together, and the lines start at multiples
    // of 64. SSE2 is part of the target.
    unsafe {
        std::ptr::copy_nonoverlapping(source, target, head);
        let (mut from, mut to) = (source.add(head).cast::<__m128i>(), target.add(head).cast::<__m128i>());
        for _ in 0..lines {
            let line = [0, 1, 2, 3].map(|i| _mm_loadu_si128(from.add(i)));
            for (i, quarter) in line.into_iter().enumerate() {
                _mm_stream_si128(to.add(i), quarter);
            }
            (from, to) = (from.add(4), to.add(4));
        }
        std::ptr::copy_nonoverlapping(from.cast(), to.cast::<u8>(), (bytes - head) % LINE);
        // Who is told that the copy is done sees it.
        _mm_sfence();
    }
}

/// Copies `bytes` bytes.
///
/// # Safety
/// As [`std::ptr::copy_nonoverlapping`].
#[cfg(not(target_arch = "x86_64"))]
#[expect(unsafe_code, reason = "there is no safe copy out of memory that others change")]
pub(crate) unsafe fn copy_streaming(source: *const u8, target: *mut u8, bytes: usize) {
    // SAFETY: the caller's.
    unsafe { std::ptr::copy_nonoverlapping(source, target, bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_place_is_copied_and_nothing_beside_it() {
        let source: Vec<u8> = (0..1000).map(|i| (i % 251) as u8 + 1).collect();
        for bytes in (0..200).chain([511, 512, 900]) {
            for (from, to) in [(0, 0), (1, 0), (0, 1), (3, 60), (63, 63), (64, 65)] {
                let mut target = vec![0; 1100];
                #[expect(unsafe_code, reason = "the function's contract")]
                // SAFETY: both vectors are long enough.
                unsafe {
                    copy_streaming(source.as_ptr().add(from), target.as_mut_ptr().add(to), bytes);
                }
                assert_eq!(target[to..to + bytes], source[from..from + bytes], "{bytes} from {from} to {to}");
                let beside = target[..to].iter().chain(&target[to + bytes..]);
                assert!(beside.copied().all(|byte| byte == 0), "{bytes} from {from} to {to}");
            }
        }
    }
}
