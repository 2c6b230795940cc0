//! A table's file, open: read by position, so that one handle serves many readers, threads and forked
//! processes, and so that what was checked is what is read, whatever the path names later.

use crate::layout::Layout;
use crate::open_shard::open;
use crate::{Digest, Error, Result, layout};
use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file of known length.
#[derive(Debug, Clone)]
pub(crate) struct TableFile {
    file: Arc<File>,
    path: PathBuf,
    bytes: u64,
}

impl TableFile {
    /// Opens a table. [`Error::Corrupt`] if it is missing: a store says that it is there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = Arc::new(open(path)?);
        let bytes = file.metadata().map_err(Error::io(path))?.len();
        Ok(Self { file, path: path.to_owned(), bytes })
    }

    /// Opens a table of a store whose hash must be this one.
    pub(crate) fn checked(layout: &Layout, name: &str, blake3: &str) -> Result<Self> {
        let file = Self::open(&layout.resolve(&layout.path(layout::ROOT), name)?)?;
        Digest::of_open(&file.file, &file.path)?.check(&file.path, blake3)?;
        Ok(file)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Length for TableFile {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for TableFile {
    type T = BufReader<ReadFrom>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(ReadFrom { file: Arc::clone(&self.file), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // The length is the footer's word: no memory before the file is known to have that much.
        if start.checked_add(length as u64).is_none_or(|end| end > self.bytes) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} of {}", self.bytes)));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// Reads on from a position of its own.
#[derive(Debug)]
pub(crate) struct ReadFrom {
    file: Arc<File>,
    at: u64,
}

impl Read for ReadFrom {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
