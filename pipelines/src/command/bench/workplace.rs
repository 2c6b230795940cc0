//! The folder that a benchmark writes into. Removes only what was made here.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// A folder of this process alone; gone, with all that is in it, when this is dropped.
pub(super) struct Workplace {
    folder: PathBuf,
}

impl Workplace {
    /// A new folder in `parent`, which is created if need be.
    ///
    /// # Errors
    /// The file system's, with the path.
    pub(super) fn create(parent: &Path) -> Result<Self> {
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        let folder = parent.join(format!("featcache-bench-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self { folder })
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            log::warn!("{} stays: {error}", self.folder.display());
        }
    }
}
