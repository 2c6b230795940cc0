//! Provenance of a run: who computed what, when and where. Lies in `runs/`, outside the content hash, so
//! that equal inputs still give equal stores.

use crate::canonical::to_value;
use crate::zarr::document_bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One run of an extraction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Name of the file, unique: such as start, host and process.
    pub id: String,
    /// Program and version.
    pub program: String,
    /// Command line.
    pub command: Vec<String>,
    /// Host.
    pub host: String,
    /// Device that computed, such as `cpu` or `cuda:0 NVIDIA H100`.
    pub device: String,
    /// Start, seconds since 1970 UTC.
    pub started_unix_s: u64,
    /// End, seconds since 1970 UTC.
    pub ended_unix_s: u64,
    /// Units that this run committed.
    pub units: u64,
    /// Rows with features that this run wrote.
    pub rows: u64,
    /// Rows that failed in this run.
    pub failed: u64,
    /// Whatever else is worth knowing: libraries and their versions, threads.
    pub notes: BTreeMap<String, String>,
}

impl Run {
    /// The file's bytes.
    pub(crate) fn document(&self) -> Vec<u8> {
        document_bytes(&to_value(self))
    }
}
