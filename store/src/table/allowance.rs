//! How much a table may decode to: rows and text are counted while they are kept, against the bytes of the
//! file. Reads nothing.

use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Bytes in memory that a byte of a file may become, rows and their text together. The tables of a store
/// stay below: each row has a key of its own, which takes more than a byte and a half even if keys are
/// consecutive numbers, and the reason that failed rows may share has at most 500 characters.
pub(crate) const MAX_EXPANSION: u64 = 2048;

/// Longest text in a column other than labels, in bytes.
pub(crate) use crate::plan::MAX_TEXT_BYTES;

/// What may still be kept of a table: a file of dictionaries and repetitions decodes to any amount of rows
/// and text.
#[derive(Debug)]
pub(crate) struct Allowance {
    bytes: u64,
    left: u64,
    path: PathBuf,
}

impl Allowance {
    /// What may be kept of a table of this many bytes; `path` is for messages.
    pub(crate) fn of_file(path: &Path, bytes: u64) -> Self {
        let bytes = bytes.saturating_mul(MAX_EXPANSION);
        Self { bytes, left: bytes, path: path.to_owned() }
    }

    /// Takes what a value of type `T` with these bytes of text takes in memory.
    pub(crate) fn take<T>(&mut self, text: &[Option<&str>]) -> Result<()> {
        self.take_bytes(
            text.iter().flatten().fold(size_of::<T>(), |sum, text| sum.saturating_add(text.len())),
        )
    }

    /// Takes this many bytes.
    pub(crate) fn take_bytes(&mut self, bytes: usize) -> Result<()> {
        self.left = self.left.checked_sub(bytes as u64).ok_or_else(|| {
            let limit = self.bytes;
            Error::corrupt(
                &self.path,
                format!("expected rows of at most {limit} bytes in memory, found more"),
            )
        })?;
        Ok(())
    }
}

/// A text that a table may hold in this column of this row.
pub(crate) fn bounded<'a>(text: &'a str, column: &str, row: usize, path: &Path) -> Result<&'a str> {
    if text.len() > MAX_TEXT_BYTES {
        let what = format!("expected at most {MAX_TEXT_BYTES} bytes, found {}", text.len());
        return Err(Error::corrupt(path, format!("row {row}: {column}: {what}")));
    }
    Ok(text)
}
