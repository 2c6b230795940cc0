//! Copying out of a memory map that may lose its file on the way: a page that is gone, because the file has
//! shrunk or its disk fails, raises SIGBUS at whoever touches it. Here the map becomes one of zeros and the
//! copy goes on, to be told afterwards that it is worth nothing.
//!
//! The handler is the process's, and stays: a signal that is not about a copy of ours goes on to whoever
//! handled it before, or does what it would have done. A thread that blocks SIGBUS is not helped: the system
//! ends its process without asking anyone.

use memmap2::MmapRaw;
use std::cell::Cell;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering, compiler_fence, fence};

thread_local! {
    /// Start and bytes of the map that this thread copies from, and its flag; no bytes at other times. Plain
    /// memory without a destructor, which a handler may look at. In a library that is opened at run time the
    /// first look of a thread may allocate: that is then a thread of others, about to be passed on.
    static COPYING: Cell<(usize, usize, *const AtomicBool)> = const { Cell::new((0, 0, null())) };
}

/// What handled the signal before ours; null before that. Never freed: a handler may be reading it.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(null_mut());

/// Does `copy`, in which pages of the map may turn out to be gone. False if they did, or had before: `torn`
/// is the map's own flag, set before its pages are replaced.
pub(crate) fn guarded(map: &MmapRaw, torn: &AtomicBool, copy: impl FnOnce()) -> bool {
    /// Also after a panic, no thread is left with an address that may be someone else's by then.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            compiler_fence(Ordering::SeqCst);
            COPYING.set((0, 0, null()));
        }
    }
    let end = End;
    // The system maps whole pages; what lies behind the file's end in the last one is the map's as well.
    let bytes = map.len().next_multiple_of(rustix::param::page_size());
    COPYING.set((map.as_mut_ptr() as usize, bytes, torn));
    // The handler runs on this thread, and in the middle of `copy`: what it looks at has to be written by
    // then.
    compiler_fence(Ordering::SeqCst);
    copy();
    drop(end);
    // Zeros that another thread's handler has put there were read after it had set the flag.
    fence(Ordering::Acquire);
    !torn.load(Ordering::Relaxed)
}

/// Whether the handler is in place: the first call puts it there, and another that has taken its place since
/// is left alone. Waits for nobody, as a process forked off in the middle of it may have nobody to wait for.
pub(crate) fn is_ready() -> bool {
    handler().is_some_and(|current| current.sa_sigaction == our_handler() || install(current))
}

fn our_handler() -> usize {
    on_bus_error as extern "C" fn(_, _, _) as usize
}

fn install(current: libc::sigaction) -> bool {
    let previous = Box::into_raw(Box::new(current));
    // Before ours is there, so that it finds it; and once in the life of a process.
    if PREVIOUS.compare_exchange(null_mut(), previous, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        #[expect(unsafe_code, reason = "nobody has seen this one")]
        // SAFETY: the box was made above and its address went nowhere.
        drop(unsafe { Box::from_raw(previous) });
        return false;
    }
    let mut action = current;
    action.sa_sigaction = our_handler();
    // On the stack that a thread has for signals, if it has one; calls that it interrupts go on if they did
    // before.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | (current.sa_flags & libc::SA_RESTART);
    #[expect(unsafe_code, reason = "no library lends a signal handler that repairs and returns")]
    // SAFETY: a handler that looks at memory of its thread and calls only what may be called from a handler.
    unsafe {
        libc::sigaction(libc::SIGBUS, &raw const action, null_mut()) == 0
    }
}

/// What handles the signal at the moment.
fn handler() -> Option<libc::sigaction> {
    #[expect(unsafe_code, reason = "the system's signals")]
    // SAFETY: a structure of integers, of which zero is an empty set and no flag, that the call fills.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(libc::SIGBUS, null(), &raw mut action) == 0).then_some(action)
    }
}

extern "C" fn on_bus_error(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let (start, bytes, torn) = COPYING.get();
    #[expect(unsafe_code, reason = "what the system hands to a handler")]
    // SAFETY: with SA_SIGINFO the system hands a handler a filled structure.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    // Codes above zero are the processor's and not another process's, which has no address to tell; no page
    // makes good an address that is not aligned.
    let is_of_a_page = code > 0 && code != libc::BUS_ADRALN;
    let is_ours = !torn.is_null() && is_of_a_page && address.checked_sub(start).is_some_and(|at| at < bytes);
    if !(is_ours && replace(start, bytes, torn)) {
        pass_on(signal, info, context);
    }
}

/// Puts zeros in place of the whole map: a part would be one map more, of which a process may only have so
/// many. False if the system has no memory even for that.
fn replace(start: usize, bytes: usize, torn: *const AtomicBool) -> bool {
    #[expect(unsafe_code, reason = "pages of a map are replaced")]
    // SAFETY: `guarded`, in the middle of which this thread is, has borrowed the map and the flag. The pages
    // are the map's own and nobody has references into them: it hands out addresses only. Unmapping it
    // includes what is put there. Who else copies from it sees the flag.
    unsafe {
        (*torn).store(true, Ordering::SeqCst);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        libc::mmap(start as *mut libc::c_void, bytes, libc::PROT_READ, flags, -1, 0) != libc::MAP_FAILED
    }
}

/// Does what would have been done without us.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    type WithInfo = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
    #[expect(unsafe_code, reason = "whoever handled the signal before is known by address alone")]
    // SAFETY: what PREVIOUS points to is never freed. The system has held this address as a handler of this
    // kind, of a program that expects to be called with these very values. The information is the system's,
    // as above.
    unsafe {
        let (previous, code) = (PREVIOUS.load(Ordering::SeqCst).as_ref(), (*info).si_code);
        match previous {
            // A fault cannot be ignored, and is not by the system either.
            Some(previous) if previous.sa_sigaction == libc::SIG_IGN && code <= 0 => {}
            Some(previous) if ![libc::SIG_DFL, libc::SIG_IGN].contains(&previous.sa_sigaction) => {
                if previous.sa_flags & libc::SA_SIGINFO != 0 {
                    std::mem::transmute::<usize, WithInfo>(previous.sa_sigaction)(signal, info, context);
                } else {
                    std::mem::transmute::<usize, extern "C" fn(i32)>(previous.sa_sigaction)(signal);
                }
            }
            _ => {
                libc::signal(signal, libc::SIG_DFL);
                // A fault comes again by itself, and says where.
                if code <= 0 {
                    libc::raise(signal);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::MmapOptions;

    #[test]
    fn a_panic_leaves_no_record_behind() {
        let map = MmapRaw::from(MmapOptions::new().len(4096).map_anon().unwrap());
        let torn = AtomicBool::new(false);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            guarded(&map, &torn, || {
                assert_eq!(COPYING.get().0, map.as_ptr() as usize);
                panic!("in the middle of a copy");
            })
        }));
        assert!(outcome.is_err() && COPYING.get() == (0, 0, null()) && !torn.into_inner());
    }
}
