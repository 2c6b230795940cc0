//! Helpers of the cases: where the samples and the built program are.

use std::path::{Path, PathBuf};

/// The folder of real samples: `FEATCACHE_SAMPLES`, or `../shared/samples` beside the workspace. Says
/// `skipped: no samples` and gives `None` where it is absent.
#[expect(clippy::print_stdout, reason = "a skipped case must say so")]
pub fn samples() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples");
    let folder = std::env::var_os("FEATCACHE_SAMPLES").map_or_else(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no samples");
    None
}
