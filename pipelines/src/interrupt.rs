//! Ctrl-C and SIGTERM as a flag that long work looks at: what is committed stays, the rest is left.

use anyhow::{Context, Result};
use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);
static INSTALLED: OnceLock<()> = OnceLock::new();

/// The shell's code for what Ctrl-C ended.
const STOPPED_AT_ONCE: c_int = 130;

// SAFETY: this is POSIX's `_exit` of the C library that std links; it takes any status and has no
// precondition.
#[expect(unsafe_code, reason = "std ends a process by `exit` and `abort` alone")]
unsafe extern "C" {
    safe fn _exit(status: c_int) -> !;
}

/// The flag; the first call installs the handler. A second signal ends the program at once,
/// with the shell's code 130.
///
/// # Errors
/// The handler cannot be installed.
pub fn flag() -> Result<&'static AtomicBool> {
    if INSTALLED.set(()).is_ok() {
        ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::Relaxed) {
                // Not `exit`, which destroys libtorch's statics while its threads still compute with them.
                _exit(STOPPED_AT_ONCE);
            }
            log::warn!("stopping: what is committed stays; once more to stop at once");
        })
        .context("installing the signal handler")?;
    }
    Ok(&STOP)
}
