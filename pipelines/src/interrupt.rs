//! Ctrl-C and SIGTERM as a flag that long work looks at: what is committed stays, the rest is left.

use anyhow::{Context, Result};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);
static INSTALLED: OnceLock<()> = OnceLock::new();

/// The flag; the first call installs the handler. A second signal ends the program at once,
/// with the shell's code 130.
///
/// # Errors
/// The handler cannot be installed.
pub fn flag() -> Result<&'static AtomicBool> {
    if INSTALLED.set(()).is_ok() {
        ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            log::warn!("stopping: what is committed stays; once more to stop at once");
        })
        .context("installing the signal handler")?;
    }
    Ok(&STOP)
}
