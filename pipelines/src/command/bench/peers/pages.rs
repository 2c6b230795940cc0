//! What of a contestant's files is in the page cache before a pass, and what came from the disk during it.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// How much is read at a time to warm a file.
const READ_BYTES: usize = 1 << 20;

/// Drops the pages of all files in `folder`, made clean first. Pages that a process has mapped stay.
///
/// # Errors
/// The file system's, with the path.
pub(super) fn drop_pages(folder: &Path) -> Result<()> {
    for path in files(folder)? {
        let context = || path.display().to_string();
        let file = File::open(&path).with_context(context)?;
        file.sync_data().with_context(context)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).with_context(context)?;
    }
    Ok(())
}

/// Reads all files in `folder` from front to back after dropping them: how a file came into the page cache decides
/// the size of its folios, and that the speed of copying from them, so all come in the same way.
///
/// # Errors
/// The file system's, with the path.
pub(super) fn warm(folder: &Path) -> Result<()> {
    drop_pages(folder)?;
    let mut buffer = vec![0; READ_BYTES];
    for path in files(folder)? {
        let context = || path.display().to_string();
        let mut file = File::open(&path).with_context(context)?;
        while file.read(&mut buffer).with_context(context)? > 0 {}
    }
    Ok(())
}

/// Bytes that this machine has read from its disks so far.
///
/// # Errors
/// `/proc/vmstat` cannot be read or does not tell.
pub(super) fn paged_in() -> Result<u64> {
    let path = "/proc/vmstat";
    let text = std::fs::read_to_string(path).context(path)?;
    let kib = text.lines().find_map(|line| line.strip_prefix("pgpgin ")?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path}: no pgpgin"))? * 1024)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        let context = || folder.display().to_string();
        for entry in std::fs::read_dir(&folder).with_context(context)? {
            let entry = entry.with_context(context)?;
            let kind = entry.file_type().with_context(context)?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}
